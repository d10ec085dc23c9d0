"""Layouts of all kinds of documents in the token stream: exact ids, and what is drawn."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cairn.base import UserError, Work
from cairn.curate.pieces import Piece, to_content
from cairn.tokens import (
    Formats,
    PretrainingStream,
    Tokenizer,
    TokenShards,
    files_in_batch,
)
from cairn.tokens.attribution import Attribution
from cairn.tokens.indexing import index_shards
from cairn.tokens.learning import _texts, learn
from cairn.tokens.tokenizing import is_held_out, tokenize

from .conftest import blob_id

NOISE = "spelled <|endoftext|><file_sep><issue_comment><code_to_intermediate>"
ANSWERS: list[Piece] = [
    ("<issue_start>", f"How? {NOISE}"),
    ("<issue_comment>", "so\nUpvotes: 3 [selected answer]"),
    ("<issue_comment>", "or so\nUpvotes: 1"),
    ("<issue_comment>", "no\nUpvotes: -1"),
]
PULL: list[Piece] = [
    ("<pr>", "Title: Mend it\nusername_0: It broke"),
    ("<pr_status>", "opened"),
    ("<repo_name>", "one/two"),
    ("<pr_base>", ""),
    ("<pr_file>", "a.py"),
    ("<pr_base_code>", "x = 1\n"),
    ("<pr_diff>", ""),
    ("<pr_file>", "a.py"),
    ("<pr_diff_hunk>", "@@ -1 +1 @@\n-x = 1\n+x = 2\n"),
    ("<pr_comment>", "username_1: good"),
    ("<pr_event_id>", "17"),
    ("<pr_review>", "username_1: fine\n"),
    ("<pr_event_id>", "18"),
    ("<pr_review_state>", "approved"),
    ("<pr_review_comment>", ""),
    ("<pr_event_id>", "19"),
    ("<pr_in_reply_to_review_id>", "18"),
    ("<pr_in_reply_to_comment_id>", "17"),
    ("<pr_file>", "a.py"),
    ("<pr_diff_hunk_comment_line>", "1"),
    ("<pr_diff_hunk>", "@@ -1 +1 @@"),
    ("<pr_comment>", "username_0: thanks"),
    ("<pr>", "username_1"),
    ("<pr_status>", "closed"),
    ("<pr_is_merged>", "True"),
]
DOCUMENTS: dict[str, list[Piece]] = {
    "issue": [
        ("<issue_start>", f"Title: It breaks\nusername_0: {NOISE}"),
        ("<issue_comment>", "username_1: größe 🙂"),
        ("<issue_closed>", ""),
        ("<issue_comment>", "username_0: thanks"),
    ],
    "pull_request": PULL,
    "notebook_script": [("<jupyter_script>", "# a title\nimport os\n")],
    "notebook": [
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "# Title"),
        ("<jupyter_code>", "print(1)"),
        ("<jupyter_output>", "1\n"),
        ("<jupyter_text>", "more"),
        ("<jupyter_code>", "x = 2"),
        ("<jupyter_output>", ""),
        ("<empty_output>", ""),
    ],
    "kaggle": [
        ("<jupyter_start>", ""),
        ("<jupyter_text>", "Boats\nWho sailed.\nKaggle dataset identifier: ann/boats"),
        ("<jupyter_code>", "import pandas as pd\n\ndf = pd.read_csv('b.csv')\ndf.info()"),
        ("<jupyter_output>", "RangeIndex: 5 entries, 0 to 4"),
        ("<jupyter_text>", 'Examples:\n{"id": "1"}'),
        ("<jupyter_script>", "x = 1\n"),
    ],
    "documentation": [("", f"# Manual\n\nUse `x`. {NOISE}\n")],
    "intermediate": [
        ("", "int f() { return 1; }\n"),
        ("<code_to_intermediate>", "define i32 @f()"),
    ],
    "answers": ANSWERS,
    "text": [("", "Plain words.\n")],
}
SOURCES = [("one/two", "a.py", "x = 1\n"), ("one/two", "b.py", f"y = '{NOISE}'\n"), ("k", "c", "")]
EVERYTHING = Formats(infilling_rate=1.0, file_infilling_rate=1.0, metadata_rate=1.0)
PLAIN = Formats(infilling_rate=0.0, metadata_rate=0.0)


def write_corpus(folder: Path, documents: list[tuple[str, list[Piece]]]) -> Path:
    """SOURCES and the documents, each of a repository that has files too."""
    rows = [("source", repository, path, text) for repository, path, text in SOURCES]
    rows += [
        (kind, "one/two", f"{kind}/{n}", to_content(kind, pieces))
        for n, (kind, pieces) in enumerate(documents)
    ]
    table = pa.table(
        {
            "ledger_row": pa.array(range(len(rows)), pa.int64()),
            "content_id": [blob_id(f"{kind} {text}") for kind, _, _, text in rows],
            "repo_name": [repository for _, repository, _, _ in rows],
            "path": [path for _, _, path, _ in rows],
            "language": ["" if kind != "source" else "Python" for kind, _, _, _ in rows],
            "license_type": ["permissive"] * len(rows),
            "detected_licenses": pa.array([["MIT"]] * len(rows), pa.list_(pa.string())),
            "length_bytes": pa.array([len(text.encode()) for _, _, _, text in rows], pa.int64()),
            "content": [text for _, _, _, text in rows],
            "kind": [kind for kind, _, _, _ in rows],
        }
    )
    (folder / "files").mkdir(parents=True)
    pq.write_table(table, folder / "files" / "part-00000.parquet")
    return folder


def encoded(folder: Path, documents: list[tuple[str, list[Piece]]], words: Tokenizer) -> Path:
    corpus = write_corpus(folder / "corpus", documents)
    (folder / "shards").mkdir()
    tokenize(Work(folder / "shards", {}), corpus, words, 0.0)
    return folder / "shards"


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return learn(["int define return username Title words"] * 3, 400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, words: Tokenizer) -> Path:
    """Shards with every kind once."""
    return encoded(tmp_path_factory.mktemp("kinds"), list(DOCUMENTS.items()), words)


@pytest.fixture(scope="module")
def shards(folder: Path) -> TokenShards:
    return TokenShards.open(folder / "train")


def ids_of(pieces: list[Piece], words: Tokenizer) -> list[int]:
    """The layout by hand: a sentinel's id, then the text's, over and over."""
    found: list[int] = []
    for mark, text in pieces:
        found += [words.id(mark)] if mark else []
        found += words.encode(text)
    return found


def spans_of(stream: PretrainingStream, epoch: int = 0) -> list[list[int]]:
    """The texts of one epoch in one window, each to its <|endoftext|>."""
    batch = stream.batch([stream.epochs.first(epoch)])
    spans = itertools.pairwise(batch.bounds.tolist())
    return [batch.tokens[a:b].tolist() for a, b in spans if batch.weights[a:b].any()]


def stream_of(
    shards: TokenShards, words: Tokenizer, formats: Formats = PLAIN, length: int = 4_000, seed=0
) -> PretrainingStream:
    return PretrainingStream(shards, words, length, seed, formats)


def test_marks_become_sentinels_and_nothing_else_does(shards: TokenShards, words: Tokenizer):
    for row in shards.documents.to_pylist():
        ids = shards.document(row["document"]).tolist()
        if row["kind"] == "source":
            expected: list[Piece] = [("", SOURCES[row["ledger_row"]][2])]
        else:
            expected = DOCUMENTS[row["kind"]]
        assert ids == ids_of(expected, words)
        marks = [mark for mark, _ in expected if mark]
        assert [i for i in ids if words.is_special(i)] == [words.id(mark) for mark in marks]


def test_golden_ids_of_an_issue(shards: TokenShards, words: Tokenizer):
    """Table 5's numbers, and bytes as the tokens of a tokenizer that merged nothing here."""
    rows = shards.documents.to_pylist()
    number = next(row["document"] for row in rows if row["kind"] == "issue")
    ids = shards.document(number).tolist()
    assert ids[0] == 7
    assert [i for i in ids if i < 34] == [7, 8, 9, 8]
    closed = ids.index(9)
    assert ids[closed + 1] == 8  # nothing between, no line end and no blank
    assert words.decode(ids[closed + 2 :]) == "username_0: thanks"


@pytest.mark.parametrize("formats", [PLAIN, EVERYTHING])
def test_each_document_is_a_context_of_its_own(shards, words, formats):
    stream = stream_of(shards, words, formats)
    spans = spans_of(stream)
    forbidden = ["<file_sep>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    for kind, pieces in DOCUMENTS.items():
        mine = [*ids_of(pieces, words), 0]
        if kind in ("intermediate", "answers"):  # in an order that is drawn: see below
            continue
        assert spans.count(mine) == 1
        for mark in forbidden:
            assert words.id(mark) not in mine
    sources = [span for span in spans if words.id("<file_sep>") in span]
    assert len(sources) == 2  # of the two repositories, and none has a document in it
    assert len(spans) == len(DOCUMENTS) + len(sources)
    for span in sources:
        assert not {words.id(mark) for mark in ("<issue_start>", "<pr>")} & set(span)
        assert (words.id("<repo_name>") in span) == (formats is EVERYTHING)


def test_pairs_of_code_and_intermediate_go_both_ways(shards, words):
    code, intermediate = (text for _, text in DOCUMENTS["intermediate"])
    forward = [*ids_of([("", code), ("<code_to_intermediate>", intermediate)], words), 0]
    backward = [*ids_of([("", intermediate), ("<intermediate_to_code>", code)], words), 0]
    found = Counter()
    for epoch in range(200):
        spans = spans_of(stream_of(shards, words), epoch)
        assert spans.count(forward) + spans.count(backward) == 1
        found[spans.count(forward)] += 1
    assert 70 < found[1] < 130


def test_answers_come_in_any_order_after_the_question(shards, words):
    question, *answers = ANSWERS
    orders = [[*ids_of([question, *order], words), 0] for order in itertools.permutations(answers)]
    found = Counter()
    for epoch in range(240):
        spans = spans_of(stream_of(shards, words), epoch)
        found.update(place for place, order in enumerate(orders) if order in spans)
    assert sum(found.values()) == 240
    assert set(found) == set(range(6))
    assert max(found.values()) < 70


def test_documents_draw_apart_from_each_other(tmp_path, words):
    pairs = [
        ("intermediate", [("", f"code {n}"), ("<code_to_intermediate>", f"ir {n}")])
        for n in range(400)
    ]
    shards = TokenShards.open(encoded(tmp_path, pairs, words) / "train")
    mark = words.id("<intermediate_to_code>")
    turned = []
    for epoch in (0, 1):
        spans = spans_of(stream_of(shards, words, length=40_000), epoch)
        assert len(spans) == 402
        turned.append({words.decode(span).split("code ")[1] for span in spans if mark in span})
        assert 160 < len(turned[-1]) < 240
    assert 60 < len(turned[0] & turned[1]) < 140


@pytest.mark.parametrize("length", [5, 17, 64, 301])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_window_sees_the_same_order(shards, words, length, epoch):
    """A window may begin inside a document: all windows together are the whole run once."""
    whole = np.concatenate([np.asarray(s) for s in _ordered(stream_of(shards, words), epoch)])
    stream = stream_of(shards, words, length=length)
    layout, edges, _ = stream._plan(epoch)
    count = -(-int(layout.starts[-1]) // length)
    numbers = np.random.default_rng(3).permutation(count)  # whoever reads them, in any order
    windows = {int(n): stream._window(epoch, layout, edges, int(n)) for n in numbers}
    parts = [windows[n].tokens[: windows[n].used] for n in range(count)]
    assert np.array_equal(np.concatenate(parts), whole)


def _ordered(stream: PretrainingStream, epoch: int) -> list[np.ndarray]:
    """Every stretch of the epoch's run, from the layout and the documents alone."""
    layout = stream._plan(epoch)[0]
    found = []
    for place, document in enumerate(layout.documents.tolist()):
        separator = [] if layout.bare[place] else [stream.tokenizer.id("<file_sep>")]
        end = [0] if layout.closes[place] else []
        found.append(np.concatenate([separator, stream._told(epoch, document), end]))
    assert sum(map(len, found)) == layout.starts[-1]
    return found


def test_resuming_and_seeds(shards, words):
    streams = [stream_of(shards, words, EVERYTHING, 50) for _ in range(2)]
    samples = [streams[0].epochs.first(epoch) + at for epoch in range(3) for at in (0, 2, 5)]
    forward = [streams[0].window(sample).tokens for sample in samples]
    backward = [streams[1].window(sample).tokens for sample in samples[::-1]][::-1]
    assert all(map(np.array_equal, forward, backward))
    other = stream_of(shards, words, EVERYTHING, 50, seed=1)
    assert not all(map(np.array_equal, forward, [other.window(s).tokens for s in samples]))


def test_files_in_a_batch_name_documents_too(shards, words):
    batch = stream_of(shards, words).batch([0])
    files = files_in_batch(batch, shards)
    assert {file["path"] for file in files} >= {f"{kind}/{n}" for n, kind in enumerate(DOCUMENTS)}
    lengths = {row["path"]: row["length"] for row in shards.documents.to_pylist()}
    for file in files:
        if file["path"].startswith("answers"):
            assert file["tokens"] == lengths[file["path"]]


def test_the_index_holds_the_plain_text(folder, shards, words, tmp_path):
    index_shards(Work(tmp_path, {}), folder, 1_000)
    index = Attribution.open(tmp_path)
    rows = {row["kind"]: row for row in shards.documents.to_pylist()}
    for kind, pieces in DOCUMENTS.items():
        texts = [text for _, text in pieces if text]
        assert rows[kind]["bytes"] == len("\n".join(texts).encode())
        for text in texts:
            if len(text.encode()) > 14:
                places = [
                    place.path
                    for match in index.matches(text, minimum=14)
                    if match.text == text
                    for place in match.occurrences
                ]
                assert rows[kind]["path"] in places
    joined = "fine\n\n18\napproved"  # as lines of the plain text, without marks
    assert index.matches(joined, minimum=len(joined))[0].occurrences[0].path == "pull_request/1"


def test_documents_of_one_notebook_are_held_out_together(tmp_path, words):
    """What is made of one file has its content id, so both go to the same side."""
    assert is_held_out("a" * 40, 0.5) == is_held_out("a" * 40, 0.5)
    corpus = write_corpus(tmp_path / "corpus", [])
    path = corpus / "files" / "part-00000.parquet"
    rows = []
    for number in range(40):
        for kind in ("notebook", "notebook_script"):
            content = to_content(kind, [("<jupyter_script>", f"{kind} {number}")])
            rows.append({"content_id": blob_id(str(number)), "kind": kind, "content": content})
    base = {"ledger_row": 0, "repo_name": "r", "path": "n.ipynb", "language": "Python"}
    base |= {"license_type": "permissive", "detected_licenses": ["MIT"]}
    pq.write_table(pa.Table.from_pylist([base | row for row in rows]), path)
    (tmp_path / "shards").mkdir()
    facts = tokenize(Work(tmp_path / "shards", {}), corpus, words, 0.3)
    sides = [
        set(TokenShards.open(tmp_path / "shards" / split).documents["content_id"].to_pylist())
        for split in ("train", "heldout")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 40
    half = facts["documents"] // 2
    assert facts["kinds"] == {"notebook": half, "notebook_script": half}
    assert len(sides[0]) == half


def test_a_tokenizer_is_learned_from_what_is_written(folder):
    texts = list(_texts(folder.parent / "corpus", None))
    assert "Title: It breaks" in texts[3]
    assert "<issue_start>" not in texts[3]
    assert "größe" in texts[3]
    assert texts[:3] == [text for _, _, text in SOURCES]


def test_mistakes_are_named(tmp_path, words, folder):
    broken = write_corpus(tmp_path / "corpus", [("issue", [("<issue_start>", "x")])])
    rows = pq.read_table(broken / "files" / "part-00000.parquet").to_pylist()
    rows[-1]["content"] = "{"
    pq.write_table(pa.Table.from_pylist(rows), broken / "files" / "part-00000.parquet")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="holds no pieces"):
        tokenize(Work(tmp_path / "out", {}), broken, words, 0.0)
    with pytest.raises(UserError, match=r"'<no_mark>'.*not in the tokenizer's vocabulary"):
        encoded(tmp_path / "a", [("issue", [("<no_mark>", "x")])], words)
    with pytest.raises(UserError, match="mark='a': is no sentinel"):
        encoded(tmp_path / "b", [("issue", [("a", "x")])], words)
    index = folder / "train" / "index.json"
    old = json.loads(index.read_text())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "index.json").write_text(json.dumps({**old, "version": 1}))
    with pytest.raises(UserError, match="earlier version of cairn: delete"):
        TokenShards.open(tmp_path / "old")
