"""Questions on long documents: where they come from, that they are right, and what is refused."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cairn.align import AskDocuments
from cairn.align.questions import WRITTEN, ask_documents, asked, line_question
from cairn.base import Ref, UserError, Work, read_manifest
from cairn.base.make import make
from cairn.tokens import Tokenizer, TokenShards

RECIPE = AskDocuments(
    shards=Ref("shards"), minimum_tokens=2_000, maximum_tokens=6_000, chunk_tokens=200, sampled=0.5
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from .conftest import PLAN

    folder = tmp_path_factory.mktemp("asked")
    make({name: PLAN[name] for name in ("corpus", "words", "shards")} | {"asked": RECIPE}, folder)
    return folder


def test_documents_end_in_questions_whose_answers_stand_in_them(run):
    words = Tokenizer.load(run / "asked")
    source = {}
    for split in ("train", "heldout"):
        shards = TokenShards.open(run / "shards" / split)
        for number, row in enumerate(shards.documents.to_pylist()):
            source[split, row["ledger_row"]] = shards.document(number)
    total = 0
    for split in ("train", "heldout"):
        shards = TokenShards.open(run / "asked" / split)
        for number, row in enumerate(shards.documents.to_pylist()):
            ids = shards.document(number)
            before = source[split, row["ledger_row"]]
            kept = min(len(before), RECIPE.maximum_tokens)
            assert np.array_equal(ids[:kept], before[:kept])
            assert len(before) >= RECIPE.minimum_tokens
            assert row["kind"] == "text"
            text = words.decode(ids[:kept].tolist())
            pairs = words.decode(ids[kept:].tolist()).strip().split("\n\n")
            for pair in pairs:
                question, answer = pair.split("\nAnswer: ")
                shown = question.split("`", 1)[1].rsplit("`", 1)[0]
                assert answer.startswith(shown)
                assert [line.strip() for line in text.splitlines()].count(answer) == 1
            total += len(pairs)
    facts = read_manifest(run / "asked").facts
    assert facts["questions"] + facts["heldout_questions"] == total
    assert total > 20


def test_a_seed_gives_the_same_questions(run, tmp_path):
    shards = TokenShards.open(run / "shards" / "train")
    words = Tokenizer.load(run / "shards")
    ids = shards.document(int(np.argmax(shards.lengths)))
    first, again, other = (
        asked(ids, words, RECIPE, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other
    few = asked(ids, words, replace(RECIPE, most_questions=3), np.random.default_rng(1))
    assert few == first[:3]


def test_a_line_whose_beginning_is_shared_is_not_asked_about():
    chunk = "edge\nvalue_one = compute(7)\nvalue_two = compute(8)\nvalue_two = compute(9)\nedge"
    lines = Counter(line.strip() for line in chunk.splitlines())
    for seed in range(20):
        found = line_question(chunk, lines, np.random.default_rng(seed))
        assert found is not None
        assert found[1] == "value_one = compute(7)"
    assert line_question("a\nb", Counter("ab"), np.random.default_rng(0)) is None


def test_what_a_writer_says_is_read():
    found = WRITTEN.search("Sure.\nQuestion: What is it?\nAnswer: A cairn.\n")
    assert found
    assert found.groups() == ("What is it?", "A cairn.\n")
    assert WRITTEN.search("I do not know.") is None


def test_a_model_writes_the_questions(run, tmp_path, monkeypatch):
    """The engine is asked once for each document; what holds no answer is left out."""
    from types import SimpleNamespace

    from cairn.align import questions

    class Engine:
        tokenizer = Tokenizer.load(run / "shards")

        def __init__(self, folder):
            assert folder == run / "words"

        def generate(self, prompts, params):
            texts = ["Question: Who?\nAnswer: They.", "nothing"] * len(prompts)
            return [SimpleNamespace(text=text) for text in texts[: len(prompts)]]

    monkeypatch.setattr("cairn.engine.Engine", Engine)
    manifests = {n: (run / n, read_manifest(run / n)) for n in ("shards", "words")}
    recipe = replace(RECIPE, writer=Ref("words"))
    facts = ask_documents(recipe, Work(tmp_path, manifests))
    assert facts["questions"] > 0
    text = questions.Tokenizer.load(tmp_path)
    shards = TokenShards.open(tmp_path / "train")
    assert text.decode(shards.document(0).tolist()).endswith("Question: Who?\nAnswer: They.\n")


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(UserError, match=r"sampled=0"):
        replace(RECIPE, sampled=0.0)
    with pytest.raises(UserError, match=r"chunk_tokens=0"):
        replace(RECIPE, chunk_tokens=0)
    manifests = {"shards": (run / "shards", read_manifest(run / "shards"))}
    with pytest.raises(UserError, match="minimum_tokens=1000000"):
        ask_documents(replace(RECIPE, minimum_tokens=1_000_000), Work(tmp_path, manifests))


def test_held_out_documents_stay_held_out(run):
    rows = [
        set(TokenShards.open(run / name / "heldout").documents["ledger_row"].to_pylist())
        for name in ("asked", "shards")
    ]
    assert rows[0] <= rows[1]
