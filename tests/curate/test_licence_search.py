"""The search for licences is as defined, and takes bounded time."""

import time

import numpy as np
import pytest

from cairn.curate.licences import detect, header
from cairn.curate.licences.blocks import Work, blocks
from cairn.curate.licences.table import table

from .fixtures.licence_texts import mit


def _whole_texts() -> list[int]:
    rules = table()
    spdx = [place for place, name in enumerate(rules.expressions) if name in {"Zlib", "ISC"}]
    return [rule for rule in range(len(rules.length)) if rules.expression[rule] in spdx][:20]


def test_the_index_finds_every_rule_in_its_own_words():
    rules = table()
    assert len(rules.length) > 30_000
    assert int(rules.starts[-1] + rules.length[-1]) == len(rules.tokens)
    from cairn.curate.licences.exact import _runs
    from cairn.curate.licences.words import Text

    for rule in _whole_texts():
        ids = rules.words_of(rule).astype(np.int64)
        zeros = np.zeros(len(ids), np.int64)
        found, starts = _runs(Text(ids, zeros, zeros), rules)
        assert rule in found[starts == 0]


def _slow_blocks(one: list[int], two: list[int], telling: int) -> list[tuple[int, int, int]]:
    """The definition: the longest run of telling words first, grown, then what is left of it."""

    def seek(a: int, b: int, c: int, d: int) -> list[tuple[int, int, int]]:
        best = (0, 0, 0)
        for end in range(a, b):
            for last in range(c, d):
                size = 0
                while (
                    end - size >= a
                    and last - size >= c
                    and one[end - size] == two[last - size]
                    and one[end - size] < telling
                ):
                    size += 1
                if size > best[2]:
                    best = (end - size + 1, last - size + 1, size)
        i, j, size = best
        if not size:
            return []
        while i > a and j > c and one[i - 1] == two[j - 1]:
            i, j, size = i - 1, j - 1, size + 1
        while i + size < b and j + size < d and one[i + size] == two[j + size]:
            size += 1
        return [*seek(a, i, c, j), (i, j, size), *seek(i + size, b, j + size, d)]

    found, begin = [], 0
    while made := seek(begin, len(one), 0, len(two)):
        found += made
        begin = made[-1][0] + made[-1][2]
    return found


@pytest.mark.parametrize("seed", range(60))
def test_blocks_are_as_defined(seed: int):
    random = np.random.default_rng(seed)
    one, two = random.integers(0, 8, 40), random.integers(0, 8, 25)
    free = np.ones(40, bool)
    found = blocks(one, free, two, 4, (0, 40), Work(10**9))
    expected: list[tuple[int, int, int]] = []
    for i, j, size in _slow_blocks(one.tolist(), two.tolist(), 4):
        last = expected[-1] if expected else (-1, -1, 0)
        if last[2] and (last[0] + last[2], last[1] + last[2]) == (i, j):
            expected[-1] = (last[0], last[1], last[2] + size)
        else:
            expected.append((i, j, size))
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "gpl " * 2_500_000,
        "licensed under the gpl " * 440_000,
        "redistribute foo " * 600_000,
        mit() * 9_000,
        mit().replace("Software", "License software") * 9_000,
        "SPDX-License-Identifier: (" * 400_000,
        "SPDX-License-Identifier: " + "MIT OR " * 1_400_000,
        "permission is hereby granted free of charge to any person " * 170_000,
        "license" * 1_500_000,
    ],
    ids=range(9),
)
def test_ten_million_characters_of_fragments_take_bounded_time(text: str):
    begin = time.perf_counter()
    detect(text)
    header(text)
    assert time.perf_counter() - begin < 20


def test_a_file_without_signs_costs_next_to_nothing():
    text = "def add(one, two):\n    return one + two\n" * 250
    header(text)
    begin = time.perf_counter()
    for _ in range(100):
        assert header(text) == frozenset()
    assert time.perf_counter() - begin < 0.1  # a megabyte
