"""Shards: what goes in comes out, licences travel, killed runs go on, damage is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cairn.base import Ref, UserError, Work, read_manifest
from cairn.base.make import make
from cairn.tokens import LearnTokenizer, Tokenize, Tokenizer, TokenShards, tokenizing
from cairn.tokens.shards import token_type
from cairn.tokens.tokenizing import is_held_out, tokenize

from .conftest import LICENCES, PLAN, blob_id, write_corpus


def test_every_file_comes_back_once(made: Path, tokenizer: Tokenizer, texts: dict):
    found = {}
    for split in ("train", "heldout"):
        shards = TokenShards.open(made / "shards" / split)
        for row in shards.documents.to_pylist():
            ids = shards.document(row["document"])
            text = tokenizer.decode(ids.tolist())
            assert row["length"] == len(ids) == len(tokenizer.encode(text))
            assert row["bytes"] == len(text.encode("utf-8"))
            assert row["content_id"] == blob_id(text)
            assert row["path_tokens"] == len(tokenizer.encode(row["path"] + "\n"))
            assert is_held_out(row["content_id"], 0.1) == (split == "heldout")
            found[row["repo_name"], row["path"]] = text
    assert found == texts


def test_licences_and_ledger_rows_travel(made: Path, texts: dict):
    places = {key: 3 * place + 1 for place, key in enumerate(sorted(texts))}
    for split in ("train", "heldout"):
        for row in TokenShards.open(made / "shards" / split).documents.to_pylist():
            assert row["detected_licenses"] == LICENCES[row["repo_name"]]
            assert (row["license_type"] == "permissive") == bool(LICENCES[row["repo_name"]])
            assert row["ledger_row"] == places[row["repo_name"], row["path"]]


def test_facts_and_headline(made: Path):
    manifest = read_manifest(made / "shards")
    train = TokenShards.open(made / "shards" / "train")
    heldout = TokenShards.open(made / "shards" / "heldout")
    facts = manifest.facts
    assert facts["tokens"] == len(train.tokens) == train.lengths.sum()
    assert facts["heldout_tokens"] == len(heldout.tokens) > 0
    assert facts["documents"] + facts["heldout_documents"] == len(train) + len(heldout)
    assert facts["bytes_per_token"] == round(facts["bytes"] / facts["tokens"], 4)
    assert facts["vocab_size"] == train.vocab_size == 2048
    assert f"{facts['tokens']:,} tokens" in manifest.headline
    assert manifest.headline.endswith("bytes per token")


def test_the_tokenizer_travels(made: Path, tokenizer: Tokenizer):
    assert Tokenizer.load(made / "shards").digest == tokenizer.digest
    index = json.loads((made / "shards" / "train" / "index.json").read_text(encoding="utf-8"))
    assert index["tokenizer_sha256"] == tokenizer.digest


def test_token_type_is_the_smallest_that_fits():
    assert token_type(65_536).itemsize == 2
    assert token_type(65_537).itemsize == 4
    assert token_type(70_000).str == "<u4"


def test_the_share_held_out_is_about_as_asked():
    keys = [blob_id(str(number)) for number in range(20_000)]
    assert np.mean([is_held_out(key, 0.05) for key in keys]) == pytest.approx(0.05, abs=0.005)
    assert not any(is_held_out(key, 0.0) for key in keys)
    some = {key for key in keys if is_held_out(key, 0.05)}
    assert some < {key for key in keys if is_held_out(key, 0.1)}


def _tokenize(made: Path, out: Path, **arguments) -> dict:
    out.mkdir(exist_ok=True)
    work = Work(out, {})
    words = Tokenizer.load(made / "words")
    return tokenize(work, made / "corpus", words, 0.1, **arguments)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "resume" not in path.parts
    }


def test_a_killed_run_goes_on_to_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokenizing, "_grouped", _by_ten)
    facts = _tokenize(made, tmp_path / "whole")
    real, written = tokenizing._write_part, []

    def dies(folder: Path, *rest) -> None:
        if len(written) == 2:
            folder.mkdir()
            (folder / "train.bin").write_bytes(b"half")
            raise KeyboardInterrupt
        real(folder, *rest)
        written.append(folder)

    monkeypatch.setattr(tokenizing, "_write_part", dies)
    with pytest.raises(KeyboardInterrupt):
        _tokenize(made, tmp_path / "killed")
    later = []
    monkeypatch.setattr(
        tokenizing, "_write_part", lambda folder, *rest: (later.append(1), real(folder, *rest))
    )
    assert _tokenize(made, tmp_path / "killed") == facts
    assert _bytes(tmp_path / "killed") == _bytes(tmp_path / "whole")
    assert len(written) + len(later) == -(-57 // 10)  # no part was written twice


def _by_ten(corpus: Path, part_bytes: int):
    import pyarrow as pa

    from cairn.curate.corpus import read_files

    whole = pa.Table.from_batches(list(read_files(corpus, columns=tokenizing.COLUMNS)))
    for start in range(0, whole.num_rows, 10):
        yield whole.slice(start, 10)


def test_making_again_gives_the_same_digests(made: Path, tmp_path: Path):
    again = {one.name: one.manifest.digest for one in make(PLAN, tmp_path)}
    assert again == {name: read_manifest(made / name).digest for name in PLAN}


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "shards" / "train", tmp_path / "shards" / "train"))


def _refusal(folder: Path, **arguments) -> str:
    with pytest.raises(UserError) as caught:
        TokenShards.open(folder, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["tokens.bin", "documents.parquet", "index.json"])
def test_a_missing_or_truncated_file_is_named(copy: Path, name: str):
    path = copy / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    for verify in (True, False):  # seen without reading the tokens, too
        assert str(path) in _refusal(copy, verify=verify)
    path.unlink()
    assert name in _refusal(copy)
    path.write_bytes(whole)
    assert len(TokenShards.open(copy)) > 0


@pytest.mark.parametrize("name", ["tokens.bin", "documents.parquet"])
def test_a_flipped_bit_is_named(copy: Path, name: str):
    path = copy / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    assert str(path) in _refusal(copy)


def test_a_table_of_other_documents_is_named(copy: Path):
    table = pq.read_table(copy / "documents.parquet")
    pq.write_table(table.slice(1), copy / "documents.parquet")
    assert "documents.parquet lists" in _refusal(copy, verify=False)
    shifted = table.set_column(
        1, "offset", table["offset"].combine_chunks().take(np.roll(np.arange(len(table)), 1))
    )
    pq.write_table(shifted, copy / "documents.parquet")
    assert "does not fit" in _refusal(copy, verify=False)


def test_an_index_of_another_kind_is_named(copy: Path):
    path = copy / "index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    for changed in ({**index, "version": 99}, {**index, "dtype": "<u4"}, {}, [1]):
        path.write_text(json.dumps(changed), encoding="utf-8")
        assert str(path) in _refusal(copy)


def test_the_whole_folder_is_pointed_to_its_splits(made: Path):
    assert str(made / "shards" / "train") in _refusal(made / "shards")


def test_nothing_held_out_is_an_empty_split(made: Path, tmp_path: Path):
    out = tmp_path / "all"
    out.mkdir()
    facts = tokenize(Work(out, {}), made / "corpus", Tokenizer.load(made / "words"), 0.0)
    assert facts["heldout_documents"] == 0
    empty = TokenShards.open(out / "heldout")
    assert len(empty) == len(empty.tokens) == 0


def test_mistakes_of_recipes_are_named(made: Path, tmp_path: Path):
    words = Tokenizer.load(made / "words")
    for share, problem in ((1.0, "heldout=1.0"), (-0.1, "heldout=-0.1"), (1e-9, "one side empty")):
        out = tmp_path / str(share)
        out.mkdir()
        with pytest.raises(UserError, match=problem):
            tokenize(Work(out, {}), made / "corpus", words, share)


def test_a_sample_is_drawn_by_content(made: Path, tmp_path: Path):
    plan = {
        "corpus": PLAN["corpus"],
        "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=512, sample_bytes=50_000),
    }
    facts = make(plan, tmp_path)[-1].manifest.facts
    assert 50_000 <= facts["sample_bytes"] < facts["corpus_bytes"]
    assert 0 < facts["documents"] < 57
    assert facts["measured_bytes"] == facts["sample_bytes"]
    assert facts["vocab_size"] == 512


def test_an_empty_corpus_is_refused(tmp_path: Path, made: Path):
    from cairn.tokens.learning import learn_from_corpus

    empty = write_corpus(tmp_path / "empty", [], parts=1)
    with pytest.raises(UserError, match="no files"):
        learn_from_corpus(Work(tmp_path, {}), empty, 400, 1000, 2, False)
    with pytest.raises(UserError, match="one side empty"):
        tokenize(Work(tmp_path, {}), empty, Tokenizer.load(made / "words"), 0.1)


def test_recipes_refuse_by_name(tmp_path: Path):
    plan = {"corpus": PLAN["corpus"], "words": LearnTokenizer(corpus=Ref("corpus"), vocab_size=99)}
    with pytest.raises(UserError, match="vocab_size=99"):
        make(plan, tmp_path)
    assert not (tmp_path / "words").exists()
    assert Tokenize(corpus=Ref("a"), tokenizer=Ref("b")).heldout == 0.05
