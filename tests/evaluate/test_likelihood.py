"""Bits per byte against a plain computation, and the compressors beside it."""

import gzip
import lzma
import math

import pytest
import torch

from cairn.evaluate.heldout import File, HeldOut
from cairn.evaluate.likelihood import BitsPerByte, concatenated_bits, likelihood_scores
from cairn.evaluate.speaker import Speaker
from cairn.evaluate.task import Setting, mean, ratio
from cairn.model.likelihood import windows
from cairn.tokens import TokenShards


@pytest.fixture(scope="module")
def speaker(made):
    return Speaker.load(made / "base", "cpu")


@pytest.fixture(scope="module")
def heldout(made):
    return HeldOut.open(made / "shards")


def plain_bits(speaker: Speaker, ids: list[int]) -> float:
    """All at once, from whole logits."""
    given = torch.tensor([[speaker.tokenizer.id("<file_sep>"), *ids]])
    with torch.inference_mode():
        scores = torch.log_softmax(speaker.model.logits(given)[0, :-1].double(), -1)
    return -scores.gather(1, given[0, 1:, None]).sum().item() / math.log(2)


def test_bits_of_short_documents_are_exact(speaker):
    texts = ["def f(x):\n    return x\n", "é", "", "# 中文 🙂\r\n" * 9]
    documents = speaker.tokenizer.encode_batch(texts)
    found = speaker.bits(documents)
    for bits, ids in zip(found, documents, strict=True):
        assert bits == pytest.approx(plain_bits(speaker, ids) if ids else 0.0, rel=1e-4)


def test_an_untrained_model_spends_about_the_logarithm_of_the_vocabulary(speaker):
    ids = speaker.tokenizer.encode("import os\n" * 40)
    (bits,) = speaker.bits([ids])
    assert bits / len(ids) == pytest.approx(math.log2(speaker.tokenizer.vocab_size), rel=0.05)


def test_long_documents_do_not_depend_on_the_batch(speaker):
    ids = speaker.tokenizer.encode("".join(f"value_{n} = {n * n}\n" for n in range(300)))
    assert len(ids) > 2 * speaker.context
    alone = speaker.bits([ids])
    among = speaker.bits([ids[:50], ids, ids[:700]])
    assert among[1] == pytest.approx(alone[0], rel=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 100])
def test_windows_count_each_token_once_with_enough_before_it(length):
    counted = []
    for begin, end, count in windows(length, 8):
        assert 0 <= begin <= end - count
        assert end - begin <= 8
        for place in range(end - count, end):
            counted.append(place)
            assert place - begin >= min(place, 4)
    assert counted == list(range(1, length))


def test_heldout_files_are_whole_and_in_an_order_of_their_own(made, heldout):
    from .conftest import texts

    written = {path: text.encode() for _, path, text in texts()}
    assert len(heldout.files) == len(TokenShards.open(made / "shards" / "heldout"))
    for file in heldout.files:
        assert file.content == written[file.path]
    assert heldout.take(2) == heldout.files[:2]
    assert HeldOut(list(reversed(heldout.files))).files == heldout.files


def test_task_against_the_files_themselves(made, speaker, heldout):
    result = BitsPerByte().run(Setting(speaker=speaker, heldout=heldout))
    scores = {score.metric: score for score in result.scores}
    files = heldout.files
    size = sum(len(file.content) for file in files)
    spent = sum(speaker.bits(speaker.tokenizer.encode_batch([f.text for f in files])))
    assert scores["bits_per_byte"].value == pytest.approx(spent / size, rel=1e-5)
    assert scores["bits_per_byte"].n == len(files)
    assert not scores["bits_per_byte"].higher_is_better
    languages = {file.language for file in files}
    assert languages == {"Python", "Markdown"}
    for language in languages:
        mine = [file for file in files if file.language == language]
        ordered = b"".join(f.content for f in sorted(mine, key=lambda f: f.path))
        whole = 8 * len(gzip.compress(ordered, 9, mtime=0)) / len(ordered)
        assert scores[f"gzip_9_concatenated/{language}"].value == pytest.approx(whole)
        each = sum(8 * len(lzma.compress(f.content, preset=9)) for f in mine) / len(ordered)
        assert scores[f"xz_9_per_file/{language}"].value == pytest.approx(each)
    assert scores["gzip_9_concatenated"].value < scores["gzip_9_per_file"].value
    assert scores["gzip_9_concatenated"].standard_error is None
    assert [record["id"] for record in result.records] == [file.content_id for file in files]
    assert result.conditions["bytes"] == size


def test_limit_takes_the_first_files(speaker, heldout):
    result = BitsPerByte().run(Setting(speaker=speaker, heldout=heldout, limit=3))
    assert len(result.records) == 3
    assert {score.n for score in result.scores if "/" not in score.metric} == {3}


def test_repetition_shows_in_the_concatenated_size_only():
    content = "".join(chr(97 + (n * n + n // 7) % 26) for n in range(3000)).encode()
    files = [File(str(n), "r", f"{n}", "X", content) for n in range(6)]
    records = [
        {
            "language": "X",
            "bytes": 3000,
            "tokens": 10,
            "bits": 1.0,
            "gzip_9_bits": 8,
            "xz_9_bits": 8,
        }
    ] * 6
    scores = {s.metric: s.value for s in likelihood_scores(BitsPerByte(), files, records)}
    assert scores["gzip_9_concatenated"] == concatenated_bits(files)["gzip_9"] / 18_000
    assert "bits_per_byte/X" not in scores  # one language: the whole says it
    assert scores["bytes_per_token"] == 300


def test_standard_errors():
    assert mean([1.0, 0.0, 0.0, 1.0]) == (0.5, pytest.approx(math.sqrt(1 / 3 / 4)))
    assert mean([0.25]) == (0.25, None)
    value, error = ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert (value, error) == (0.5, pytest.approx(0.0))
    equal, error = ratio([1.0, 0.0, 2.0], [1.0, 1.0, 1.0])
    assert (equal, error) == (1.0, pytest.approx(mean([1.0, 0.0, 2.0])[1]))
