"""The stream: layout, shares, spans, provenance, exact resume, speed."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError
from cairn.tokens import (
    Batch,
    Formats,
    PretrainingStream,
    Tokenizer,
    TokenShards,
    files_in_batch,
)
from cairn.tokens.contexts import lay_out, repositories
from cairn.tokens.infilling import restore
from cairn.tokens.learning import learn

PLAIN = Formats(metadata_rate=0.0, infilling_rate=0.0)
NAMED = Formats(metadata_rate=1.0, infilling_rate=0.0)
FILLED = Formats(metadata_rate=1.0, infilling_rate=1.0, file_infilling_rate=1.0)


def _stream(shards, tokenizer, length=128, seed=0, formats=None) -> PretrainingStream:
    return PretrainingStream(shards, tokenizer, length, seed, formats)


def _equal(one: Batch, two: Batch) -> bool:
    return one.rows == two.rows and all(
        np.array_equal(getattr(one, name), getattr(two, name))
        for name in ("tokens", "targets", "weights", "bounds")
    )


def _epoch(stream: PretrainingStream) -> list[np.ndarray]:
    """All windows of epoch 0 in the order of the run, padding left off."""
    layout, edges, order = stream._plan(0)
    windows = [stream._window(0, layout, edges, number) for number in range(len(order))]
    return [window.tokens[: window.used] for window in windows]


def _spans(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.bounds[:-1].tolist(), batch.bounds[1:].tolist(), strict=True))


def test_shapes_and_types(shards: TokenShards, tokenizer: Tokenizer):
    batch = _stream(shards, tokenizer).batch(range(4))
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (512,)
    types = [getattr(batch, name).dtype for name in ("tokens", "targets", "weights", "bounds")]
    assert types == [np.int64, np.int64, np.float32, np.int32]


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(2, 300),
    sequences=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 3),
)
def test_spans_targets_and_rows(shards, tokenizer, length, sequences, seed, epoch):
    stream = _stream(shards, tokenizer, length, seed)
    last = stream.epochs.first(epoch + 1) - 1
    batch = stream.batch(range(last, last + sequences))
    total = length * sequences
    assert batch.bounds[0] == 0
    assert batch.bounds[-1] == total
    assert (np.diff(batch.bounds) > 0).all()
    assert set(range(0, total, length)) <= set(batch.bounds.tolist())
    assert set(np.unique(batch.weights)) <= {0.0, 1.0}
    for start, stop in _spans(batch):
        assert batch.weights[stop - 1] == 0
        assert np.array_equal(batch.targets[start : stop - 1], batch.tokens[start + 1 : stop])
        end = np.flatnonzero(batch.tokens[start:stop] == 0)
        assert len(end) == 0 or end[0] == stop - 1 - start or (batch.tokens[start:stop] == 0).all()
    last = 0
    for row, start, stop in batch.rows:
        assert last <= start < stop <= total
        assert row in shards.documents["ledger_row"].to_pylist()
        last = stop


@pytest.mark.parametrize("formats", [PLAIN, NAMED], ids=["plain", "named"])
def test_an_epoch_tells_every_file_once(shards, tokenizer, texts, formats):
    run = np.concatenate(_epoch(_stream(shards, tokenizer, formats=formats)))
    contexts = tokenizer.decode(run.tolist())
    assert np.count_nonzero(run == 0) > 3  # contexts end
    told = []
    ends = np.flatnonzero(run == 0)
    for context in np.split(run, ends + 1)[:-1]:
        files = np.split(context[:-1], np.flatnonzero(context[:-1] == tokenizer.id("<file_sep>")))
        head = tokenizer.decode(files[0].tolist())
        assert (head != "") == (formats is NAMED)
        for file in files[1:]:
            text = tokenizer.decode(file[1:].tolist())
            told.append((head.removeprefix("<repo_name>"), text))
    kept = shards.documents.select(["repo_name", "path"]).to_pylist()
    if formats is NAMED:
        expected = [
            (f["repo_name"], f"{f['path']}\n" + texts[f["repo_name"], f["path"]]) for f in kept
        ]
    else:
        expected = [("", texts[f["repo_name"], f["path"]]) for f in kept]
    assert sorted(told) == sorted(expected)
    assert told != sorted(told)
    assert contexts.endswith("<|endoftext|>")


def test_rows_say_where_tokens_come_from(shards, tokenizer, texts):
    files = {row["ledger_row"]: row for row in shards.documents.to_pylist()}
    stream = _stream(shards, tokenizer, 200, formats=NAMED)
    batch = stream.batch(range(4))
    covered = np.zeros(len(batch.tokens), bool)
    for row, start, stop in batch.rows:
        covered[start:stop] = True
        file = files[row]
        whole = f"<file_sep>{file['path']}\n" + texts[file["repo_name"], file["path"]]
        raw = tokenizer.decode_bytes(batch.tokens[start:stop].tolist())
        assert raw in whole.encode("utf-8")
    for start, stop in _spans(batch):  # only repository names, ends and padding have no file
        bare = batch.tokens[start:stop][~covered[start:stop]]
        text = tokenizer.decode(bare.tolist()).replace("<|endoftext|>", "")
        assert (
            text == ""
            or text[:11] == "<repo_name>"
            or any(f"<repo_name>{name}".endswith(text) for name in ("alpha", "beta/two", "gamma"))
        )


def test_contexts_keep_to_their_cap_and_their_repository(shards, tokenizer):
    repository, _ = repositories(shards)
    headers = np.zeros(repository.max() + 1, np.int64)
    formats = Formats(context_tokens=5_000)
    layout = lay_out(shards, repository, headers, formats, np.random.default_rng(0))
    assert sorted(layout.documents.tolist()) == list(range(len(shards)))
    for context in range(layout.contexts.max() + 1):
        inside = layout.documents[layout.contexts == context]
        assert len(set(repository[inside])) == 1
        assert len(inside) == 1 or (shards.lengths[inside] + 1).sum() <= 5_000
    assert layout.opens.sum() == layout.closes.sum() == len(layout.metadata)
    # repositories mix: the contexts of one do not stand in one run
    changes = np.count_nonzero(np.diff(repository[layout.documents[layout.opens]]))
    assert changes > len(headers)


def test_files_of_a_repository_are_shuffled_anew_in_every_epoch(shards, tokenizer):
    stream = _stream(shards, tokenizer)
    orders = [stream._plan(epoch)[0].documents.tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    small = [[d for d in order if shards.lengths[d] < 100] for order in orders]
    assert small[0] != small[1]
    assert small[0] != sorted(small[0])


def test_infilled_files_come_back(shards, tokenizer, texts):
    stream = _stream(shards, tokenizer, 4096, formats=FILLED)
    opens, closes = tokenizer.id("<fim_prefix>"), tokenizer.id("<fim_middle>")
    files = {row["ledger_row"]: row for row in shards.documents.to_pylist()}
    seen = whole = cut = orders = 0
    for sample in range(stream.windows(0) + 1):
        batch = stream.batch([sample])
        for row, start, stop in batch.rows:
            file = files[row]
            text = f"{file['path']}\n" + texts[file["repo_name"], file["path"]]
            ids = batch.tokens[start:stop].tolist()
            if opens not in ids:
                continue
            seen += 1
            assert tokenizer.id("<repo_name>") not in ids
            headed = ids[0] == tokenizer.id("<file_sep>")
            told = restore(ids[1:] if headed else ids, tokenizer)
            assert told in text
            assert not headed or told.startswith(f"{file['path']}\n")
            orders += ids[1 + headed] == tokenizer.id("<fim_suffix>")
            assert ids.count(closes) == 1
            if told == text:
                whole += 1
            else:
                cut += 1
                if stop < len(batch.tokens):  # a middle always ends
                    assert batch.tokens[stop] in (0, tokenizer.id("<file_sep>"))
    assert whole > 20
    assert cut > 20
    assert 0.3 < orders / seen < 0.7


@pytest.mark.parametrize("length", [17, 40, 256])
def test_a_middle_always_ends_in_its_window(shards, tokenizer, length):
    stream = _stream(shards, tokenizer, length, formats=FILLED)
    batch = stream.batch(range(50))
    found = 0
    for window in batch.tokens.reshape(50, length):
        for place in np.flatnonzero(window == tokenizer.id("<fim_middle>")):
            rest = window[place:].tolist()
            found += 1
            assert 0 in rest or tokenizer.id("<file_sep>") in rest
    assert found > (10 if length > 17 else -1)


def test_shares_are_as_asked(shards, tokenizer):
    formats = Formats(context_tokens=1, metadata_rate=0.25)  # every file a context of its own
    named = filled = total = 0
    for epoch in range(40):
        stream = _stream(shards, tokenizer, formats=formats)
        layout = stream._plan(epoch)[0]
        total += len(layout.metadata)
        named += layout.metadata.sum()
        filled += layout.infilling.sum()
    assert named / total == pytest.approx(0.25, abs=0.03)
    assert filled / total == pytest.approx(0.5, abs=0.03)


def test_about_a_quarter_of_files_is_infilled(shards, tokenizer):
    stream = _stream(shards, tokenizer, 512, formats=Formats(context_tokens=1))
    pieces = filled = 0
    for sample in range(3_200):
        batch = stream.batch([sample])
        for _, start, stop in batch.rows:
            pieces += 1
            filled += tokenizer.id("<fim_prefix>") in batch.tokens[start:stop]
    assert filled / pieces == pytest.approx(0.25, abs=0.04)


def test_little_is_padding(shards, tokenizer):
    used = sum(map(len, _epoch(_stream(shards, tokenizer, 256, formats=FILLED))))
    stream = _stream(shards, tokenizer, 256, formats=FILLED)
    assert used / (stream.windows(0) * 256) > 0.97


@settings(max_examples=30, deadline=None)
@given(samples=st.lists(st.integers(0, 120), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_a_window_depends_on_its_number_alone(shards, tokenizer, samples, seed):
    """Any order of reading, by any number of readers, over several epochs."""
    stream = _stream(shards, tokenizer, 2_000, seed)
    together = stream.batch(samples).tokens.reshape(len(samples), -1)
    for sample, expected in zip(samples[::-1], together[::-1], strict=True):
        found = _stream(shards, tokenizer, 2_000, seed).batch([sample])
        assert np.array_equal(found.tokens, expected)


def test_samples_are_numbered_through_epochs(shards, tokenizer):
    stream = _stream(shards, tokenizer, 2_000)
    first, second = stream.windows(0), stream.windows(1)
    assert stream.epochs.place(first + second) == (2, 0)
    assert stream.epochs.place(first + second - 1) == (1, second - 1)
    assert _stream(shards, tokenizer, 2_000).epochs.place(first) == (1, 0)
    with pytest.raises(UserError, match="sample=-1"):
        stream.window(-1)


def test_seeds_and_epochs_differ(shards, tokenizer):
    streams = [_stream(shards, tokenizer, seed=seed) for seed in (0, 1)]
    batches = [
        stream.batch(range(first, first + 4))
        for stream in streams
        for first in (0, stream.epochs.first(1))
    ]
    assert len({batch.tokens.tobytes() for batch in batches}) == 4


def test_both_backends_give_one_stream(shards, tokenizer, made, monkeypatch):
    import sys

    fast = _stream(shards, tokenizer, 256).batch(range(8))
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    slow = Tokenizer.load(made / "words")
    assert _equal(fast, _stream(shards, slow, 256).batch(range(8)))
    assert slow.backend == "tokenizers"


def test_golden_window(tmp_path: Path, monkeypatch):
    """Two files of one repository, by hand."""
    from cairn.base import Work
    from cairn.tokens.tokenizing import tokenize

    from .conftest import write_corpus

    words = learn(["ab"], 300)
    rows = [("gamma", "a", "xyz"), ("gamma", "b", "é")]
    out = tmp_path / "shards"
    out.mkdir()
    tokenize(Work(out, {}), write_corpus(tmp_path / "corpus", rows, parts=1), words, 0.0)
    shards = TokenShards.open(out / "train")
    stream = PretrainingStream(shards, words, 32, 0, NAMED)
    batch = stream.batch([0])
    orders = ("<file_sep>a\nxyz<file_sep>b\né", "<file_sep>b\né<file_sep>a\nxyz")
    expected = [f"<repo_name>gamma{order}<|endoftext|>" for order in orders]
    start, stop = _spans(batch)[0]
    assert words.decode(batch.tokens[start:stop].tolist()) in expected
    assert (start, stop) == (0, 6 + 6 + 5 + 1)
    assert batch.bounds.tolist() == [0, 18, 32]
    assert batch.weights.tolist() == [1.0] * 17 + [0.0] * 15
    assert sorted((stop - start, row) for row, start, stop in batch.rows) == [(5, 4), (6, 1)]
    assert stream.windows(0) == 1


def test_the_stream_is_faster_than_training(shards, tokenizer):
    stream = _stream(shards, tokenizer, 512)
    begin, told, at = time.process_time(), 0, 0
    while time.process_time() - begin < 0.5:
        told, at = told + len(stream.batch(range(at, at + 16)).tokens), at + 16
    assert told / (time.process_time() - begin) > 300_000


def test_files_in_a_batch(shards, tokenizer):
    batch = _stream(shards, tokenizer, 200).batch(range(8))
    files = files_in_batch(batch, shards)
    by_row = {file["ledger_row"]: file for file in files}
    assert len(by_row) == len(files) == len({row for row, _, _ in batch.rows})
    assert [file["ledger_row"] for file in files] == list(
        dict.fromkeys(r for r, _, _ in batch.rows)
    )
    documents = {row["ledger_row"]: row for row in shards.documents.to_pylist()}
    for row, file in by_row.items():
        assert file["tokens"] == sum(b - a for r, a, b in batch.rows if r == row)
        assert file["swhid"] == "swh:1:cnt:" + documents[row]["content_id"]
        for key in ("repo_name", "path", "license_type", "detected_licenses"):
            assert file[key] == documents[row][key]
    json.dumps(files)
    with pytest.raises(UserError, match="other ledger rows"):
        files_in_batch(dataclasses.replace(batch, rows=[(10**6, 0, 3)]), shards)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"length": 1}, "sequence_length=1"),
        ({"seed": -1}, "seed=-1"),
        ({"formats": Formats(spm_rate=1.5)}, r"spm_rate=1\.5"),
        ({"formats": Formats(context_tokens=0)}, "context_tokens=0"),
    ],
)
def test_mistakes_are_named(shards, tokenizer, arguments, named):
    with pytest.raises(UserError, match=named):
        _stream(shards, tokenizer, **arguments)


def test_another_tokenizer_is_refused(shards, tokenizer):
    with pytest.raises(UserError, match="did not write these shards"):
        _stream(shards, learn(["ab"], 300))
