"""The membership sketch: what is in is found, what is not is denied at the rate of theory."""

import json
import math
import random
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.base import UserError, Work
from cairn.curate.sketch import FILE, Match, Sketch, SketchCorpus, sketch_corpus

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n中é🙂"


def text_of(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices(LETTERS, k=length))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    length=st.integers(0, 700),
    start=st.integers(0, 700),
    stop=st.integers(0, 700),
    before=st.integers(0, 99),
)
def test_a_long_enough_piece_is_always_found(seed, length, start, stop, before):
    text = text_of(seed, length)
    sketch = Sketch.build([text, text_of(seed + 5_000, 333)], 40, error=1e-6)
    piece = text[start:stop]
    asked = text_of(seed + 9_000, before) + piece + text_of(seed + 8_000, 60)
    found = sketch.longest_match(asked)
    if len(piece) >= 149:
        assert found is not None
        assert before <= found.start < found.stop <= before + len(piece)
        assert found.stop - found.start >= len(piece) - 98
        assert found.stop - found.start == 50 * found.runs
        assert sketch.share(asked) == pytest.approx((found.stop - found.start) / len(asked))
    elif len(piece) < 100:
        assert found is None
        assert sketch.share(asked) == 0.0


def test_hits_are_the_set_of_runs():
    """Against a plain set, every place of a text that has some of them."""
    texts = [text_of(seed, 500) for seed in range(4)]
    runs = {text[k : k + 50] for text in texts for k in range(0, 451, 50)}
    sketch = Sketch.build(texts, 40, error=1e-9)
    asked = texts[2][37:260] + texts[0][:149] + texts[3][250:]
    expected = [asked[k : k + 50] in runs for k in range(len(asked) - 49)]
    assert sketch.hits(asked).tolist() == expected
    assert sum(expected) >= 10


@pytest.mark.parametrize("error", [0.1, 0.01, 0.003])
def test_false_hits_are_as_many_as_theory_says(error: float):
    rng = random.Random(1)
    made = [f"{rng.getrandbits(200):050x}"[:50] for _ in range(20_000)]
    sketch = Sketch.build(made, len(made), error=error)
    theory = (1 - math.exp(-sketch.hashes * len(made) / sketch.size)) ** sketch.hashes
    assert theory == pytest.approx(error, rel=0.05)
    assert sketch.error_rate() == pytest.approx(theory, rel=0.05)
    asked = "".join(f"{rng.getrandbits(200):050x}" for _ in range(4_000))
    found = sketch.hits(asked)
    deviation = math.sqrt(theory * len(found))
    assert abs(found.sum() - theory * len(found)) < 5 * deviation
    # places that lie side by side are independent, or a chain would be likelier than it should
    pairs = (found[:-50] & found[50:]).sum()
    assert pairs < theory**2 * len(found) + 6 * math.sqrt(theory**2 * len(found)) + 1
    assert all(sketch.hits(text)[0] for text in made[:500])


def test_it_takes_about_three_percent():
    texts = [text_of(seed, 5_000) for seed in range(100)]
    sketch = Sketch.build(texts, 100 * 100)
    assert 0.028 < sketch.bits.nbytes / 500_000 < 0.032


def test_one_character_breaks_the_chain():
    text = text_of(1, 1_000)
    sketch = Sketch.build([text], 20, error=1e-6)
    assert sketch.longest_match(text) == Match(0, 1_000, 20)
    assert sketch.share(text) == 1.0
    changed = text[:520] + "#" + text[521:]
    assert sketch.longest_match(changed) == Match(0, 500, 10)
    assert sketch.share(changed) == pytest.approx(0.95)
    assert sketch.longest_match(changed, minimum=11) is None
    for other in ("", "x", text_of(2, 49), text_of(2, 4_000)):
        assert sketch.longest_match(other) is None
        assert sketch.share(other) == 0.0


def test_a_file_comes_back(tmp_path: Path):
    texts = [text_of(seed, 777) for seed in range(20)]
    sketch = Sketch.build(texts, 300)
    sketch.save(tmp_path / FILE)
    loaded = Sketch.load(tmp_path / FILE)
    assert (loaded.size, loaded.hashes, loaded.width, loaded.runs) == (
        *(sketch.size, sketch.hashes, sketch.width),
        20 * 15,
    )
    assert np.array_equal(loaded.bits, sketch.bits)
    assert loaded.longest_match(texts[3]) == sketch.longest_match(texts[3])
    loaded.save(tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / FILE).read_bytes()


def test_what_is_no_sketch_is_refused(tmp_path: Path):
    path = tmp_path / FILE
    Sketch.build([text_of(0, 900)], 18).save(path)
    whole = path.read_bytes()
    kind, header, bits = whole.split(b"\n", 2)
    facts = json.loads(header)
    bad = [whole[:-1], whole + b"x", b"", b"PK\x03\x04" + whole, kind + b"\n{}\n" + bits]
    for changed in ({"hashes": 0}, {"hashes": 10**9}, {"bits": -8}, {"width": "50"}, {"runs": -1}):
        bad.append(kind + b"\n" + json.dumps({**facts, **changed}).encode() + b"\n" + bits)
    for raw in bad:
        path.write_bytes(raw)
        with pytest.raises(UserError, match="sketch"):
            Sketch.load(path)
    with pytest.raises(UserError, match="is no sketch"):
        Sketch.load(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"width": 3}, "width=3"), ({"error": 0.0}, "error=0"), ({"error": 1.0}, "error=1")],
)
def test_mistakes_are_named(arguments: dict, named: str):
    with pytest.raises(UserError, match=named):
        Sketch.empty(10, **arguments)


def test_a_corpus_is_sketched(tmp_path: Path):
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [(library / name).read_text() for name in ("abc.py", "ast.py", "csv.py", "heapq.py")]
    said = "username_0: " + text_of(4, 300)
    thread = json.dumps([["<issue_start>", said], ["<issue_closed>", ""]])
    (tmp_path / "corpus" / "files").mkdir(parents=True)
    table = pa.table({"content": [*texts, thread], "kind": ["source"] * 4 + ["issue"]})
    pq.write_table(table, tmp_path / "corpus" / "files" / "part-00000.parquet")
    facts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        facts.append(sketch_corpus(Work(tmp_path / name, {}), tmp_path / "corpus", 50, 0.003))
    assert facts[0] == facts[1]
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()
    assert facts[0]["corpus_bytes"] == sum(len(t.encode()) for t in (*texts, said))
    assert 0.02 < facts[0]["bytes"] / facts[0]["corpus_bytes"] < 0.032
    assert facts[0]["error"] <= 0.0033
    sketch = Sketch.load(tmp_path / "one" / FILE)
    for text in (*texts, said):
        assert sketch.share(text) > 0.8
    assert sketch.share((library / "zipfile.py").read_text()) < 0.02
    from cairn.base import Ref

    recipe = SketchCorpus(corpus=Ref("corpus"))
    assert "% of 0.1 MB" in recipe.headline(facts[0])
