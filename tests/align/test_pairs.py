"""Pairs: which functions make one, what it says, and where it is from."""

import ast
import sysconfig
from pathlib import Path

import pytest

from cairn.align.limits import PairLimits
from cairn.align.pairs import (
    PAIR_SCHEMA,
    Source,
    find_pairs,
    functions_of,
    pair_table,
    sample,
)

LIMITS = PairLimits()

MODULE = '''"""A module."""
import os


@decorated
def mean(numbers):
    """Return the arithmetic mean of the numbers."""
    # of at least one number
    total = sum(numbers)
    return total / len(numbers)


class Stack:
    """A stack."""

    async def push(
        self,
        item: int,  # what to keep
    ) -> None:
        """Put an item on top of the stack.

        It stays there until it is taken.
        """
        self.items.append(item)

        self.count += 1

    def empty(self):
        """Whether nothing is left on the stack."""
        raise NotImplementedError


def undocumented(a):
    return [a, a, a, a, a, a]


def stub(a):
    """Do something that is explained at length."""
    ...
'''


def source(content: str, row: int = 7, path: str = "pkg/mod.py") -> Source:
    return Source(
        ledger_row=row, content_id=f"id{row}", repo_name="repo", path=path, content=content
    )


def pairs_of(*contents: str, limits: PairLimits = LIMITS):
    return find_pairs([source(text, row) for row, text in enumerate(contents)], limits)[0]


def test_functions_and_methods_with_something_to_say():
    pairs, _ = find_pairs([source(MODULE)], LIMITS)
    assert [pair.name for pair in pairs] == ["mean", "push"]
    mean, push = pairs
    assert mean.response == (
        "```python\ndef mean(numbers):\n    # of at least one number\n    total = sum(numbers)\n"
        "    return total / len(numbers)\n```"
    )
    assert "Return the arithmetic mean of the numbers." in mean.prompt
    assert "def mean(numbers):" in mean.prompt
    assert "total" not in mean.prompt
    assert "async def push(self, item: int) -> None:" in push.prompt
    assert "It stays there until it is taken." in push.prompt
    code = push.response.removeprefix("```python\n").removesuffix("\n```")
    assert isinstance(ast.parse(code).body[0], ast.AsyncFunctionDef)
    assert "self.items.append(item)\n\n    self.count += 1" in code
    assert '"""' not in code


def test_provenance_points_at_the_lines():
    pairs, _ = find_pairs([source(MODULE)], LIMITS)
    lines = MODULE.split("\n")
    for pair in pairs:
        assert (pair.ledger_row, pair.content_id) == (7, "id7")
        assert (pair.repo_name, pair.path) == ("repo", "pkg/mod.py")
        assert f"def {pair.name}(" in lines[pair.first_line - 1]
        last = pair.response.splitlines()[-2].strip()
        assert lines[pair.last_line - 1].strip() == last
    table = pair_table(pairs)
    assert table.schema == PAIR_SCHEMA
    assert table["name"].to_pylist() == ["mean", "push"]


def test_messages():
    pair = pairs_of(MODULE)[0]
    assert [message["role"] for message in pair.messages] == ["user", "assistant"]
    assert pair.messages[1]["content"] == pair.response


def test_the_same_function_is_taken_once():
    other = MODULE.replace("arithmetic mean", "mean value").replace("# of at least", "# from")
    renamed = MODULE.replace("total", "subtotal").replace("arithmetic mean", "average")
    assert len(pairs_of(MODULE, MODULE)) == 2
    assert len(pairs_of(MODULE, other)) == 2  # the bodies are equal
    assert len(pairs_of(MODULE, renamed)) == 3
    known = find_pairs([source(MODULE)], LIMITS)[1]
    assert find_pairs([source(other)], LIMITS, known)[0] == []


@pytest.mark.parametrize(
    "content",
    [
        "def broken(:\n    pass\n",
        "def f(a):\n    'short doc'\n    return [a, a, a, a, a, a, a]\n",
        "def f(a): 'A docstring that is long enough'; return [a, a, a, a, a, a, a]\n",
        'def f(a):\n    """A docstring that is long enough."""\n    return None\n',
        'def f(a):\n    """A docstring that is long enough."""\n',
        'def f(a):\n    """Show ```code``` in a fence, at length."""\n    return [a] * 30 + [a]\n',
        'def f(a):\n    """Say /no_think as loud as you can."""\n    return [a] * 30 + [a] * 3\n',
        'def f(a):\n    """A docstring that is long enough."""\n    return "' + "x" * 2000 + '"\n',
        "x = 1\0\n",
        "(" * 500 + ")" * 500,
    ],
)
def test_unfit_files_and_functions_make_no_pair(content):
    assert pairs_of(content) == []


def test_a_string_that_reaches_over_the_margin_is_not_shifted():
    text = (
        "class A:\n    def f(self):\n"
        '        """A docstring that is long enough."""\n'
        '        return """\nat the margin\n"""\n'
    )
    assert pairs_of(text) == []


def test_long_docstrings_give_their_first_paragraph():
    text = (
        'def f(a):\n    """What it is for, in a sentence.\n\n    '
        + "Much more. " * 80
        + '\n    """\n    return [a, a, a, a, a, a, a]\n'
    )
    (pair,) = pairs_of(text)
    assert "What it is for, in a sentence." in pair.prompt
    assert "Much more." not in pair.prompt


def test_windows_line_ends():
    (pair, _) = pairs_of(MODULE.replace("\n", "\r\n"))
    assert "\r" not in pair.prompt + pair.response


def test_limits():
    many = "\n".join(
        f'def f{n}(a):\n    """Return item number {n} of a list."""\n    return a[{n}] + {n} * 99\n'
        for n in range(30)
    )
    assert len(pairs_of(many)) == LIMITS.most_per_file
    assert len(pairs_of(many, limits=PairLimits(most_per_file=100))) == 30


def test_real_files_make_pairs_that_parse_and_do_not_depend_on_chance():
    library = Path(sysconfig.get_paths()["stdlib"])
    names = ["argparse.py", "inspect.py", "tarfile.py", "shutil.py", "ast.py"]
    sources = [
        source((library / name).read_text("utf-8"), row, name) for row, name in enumerate(names)
    ]
    limits = PairLimits(most_per_file=1000)
    pairs, keys = find_pairs(sources, limits)
    assert len(pairs) > 150
    assert (pairs, keys) == find_pairs(sources, limits)
    for pair in pairs:
        code = pair.response.removeprefix("```python\n").removesuffix("\n```")
        (function,) = functions_of(code)
        assert function.name == pair.name
    some = sample(pairs, 40)
    assert len(some) == 40
    assert some == [pair for pair in pairs if pair in some]
    assert {pair.path for pair in some} > {"argparse.py"}
    assert sample(pairs, None) == sample(pairs, 10_000) == pairs
    spread = {pair.prompt.split()[0] for pair in pairs}
    assert {"Write", "Implement", "I"} < spread
