"""Near duplicates against exact Jaccard similarity, and whatever may not choose among them."""

import random
import re
import sysconfig
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cairn.curate.annotate import ANNOTATED, Rules, annotate
from cairn.curate.decide import decide
from cairn.curate.near import BANDS, ROWS, band_keys, components, shingles, signature
from cairn.curate.rules import Thresholds
from cairn.sources import SourceFile, to_batch
from cairn.sources.record import Origin


def exact(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_minhash_estimates_jaccard_without_bias():
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(150):
        shared = rng.integers(50, 400)
        own = rng.integers(5, 150, 2)
        base = [f"w{n}" for n in rng.integers(0, 10**6, shared)]
        one = " ".join(base + [f"a{n}" for n in rng.integers(0, 10**6, own[0])])
        two = " ".join(base + [f"b{n}" for n in rng.integers(0, 10**6, own[1])])
        a, b = exact(one), exact(two)
        assert len(shingles(one)) == len(a)
        estimate = np.mean(signature(shingles(one)) == signature(shingles(two)))
        errors.append(estimate - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 4 * 0.03 / np.sqrt(len(errors))
    assert np.std(errors) < 0.035


def real_texts() -> list[str]:
    """A few hundred files of the standard library; its code pages resemble each other."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [*sorted(library.glob("*.py"))[:90], *sorted((library / "encodings").glob("*.py"))]
    return [path.read_text(encoding="utf-8") for path in paths]


def test_on_real_files_the_estimate_has_no_bias_and_similar_ones_collide():
    texts = real_texts()
    for text in list(texts[:25]):  # copies with every 100th, or every 4th word changed
        words = re.split(r"(\W+)", text)
        for step in (200, 8):
            texts.append("".join("zz" if i % step == 0 else w for i, w in enumerate(words)))
    texts = [text for text in texts if len(shingles(text))]
    grams, hashed = [exact(text) for text in texts], [shingles(text) for text in texts]
    pairs, similarity = [], []
    for i, j in combinations(range(len(texts)), 2):
        small, large = sorted((len(grams[i]), len(grams[j])))
        if small >= 0.3 * large:  # others cannot be similar
            share = len(grams[i] & grams[j]) / len(grams[i] | grams[j])
            if share > 0.3:
                pairs.append((i, j))
                similarity.append(share)
    ones, others = np.array(pairs).T
    similarity = np.array(similarity)
    assert len(pairs) > 1000
    errors = []
    for seed in range(3):  # pairs of one seed err together: files of one family share shingles
        signed = np.stack([signature(one, seed) for one in hashed])
        errors.append((signed[ones] == signed[others]).mean(axis=1) - similarity)
    for low, high in ((0.3, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (similarity >= low) & (similarity <= high)
        assert abs(np.mean(errors, axis=0)[inside].mean()) < 0.025, low
    keys = np.array([band_keys(text) for text in texts])
    assert keys.shape == (len(texts), BANDS)
    collide = (keys[ones] == keys[others]).any(axis=1)
    odds = 1 - (1 - similarity**ROWS) ** BANDS
    similar = similarity >= 0.8
    assert similar.sum() >= 50
    assert collide[similar].sum() > 0.97 * odds[similar].sum()
    assert collide[similarity < 0.5].mean() < 0.01


def test_neither_order_nor_partitions_choose_what_stays(tmp_path: Path):
    origins = [
        Origin(repo_name=name, origin_url=name, directory_id="0" * 40, star_events_count=stars)
        for name, stars in (("a", 1), ("b", 5), ("c", 5))
    ]
    files = [
        SourceFile(
            origin=origins[number % 3],
            path=f"m{number}.py",
            content_id=f"{number:040x}",
            blob_id=f"{number:040x}",
            mode=0o100644,
            length_bytes=len(text.encode()),
            raw=text.encode(),
        )
        for number, text in enumerate(real_texts()[100:])
    ]
    rules = Rules(10**7, Thresholds(), redact=False)
    rows = annotate(to_batch(files), rules).to_pylist()
    rng = random.Random(11)
    results = []
    for trial in range(6):
        parts = []
        rng.shuffle(rows)
        cuts = sorted(rng.sample(range(len(rows)), trial))
        for start, stop in pairwise([0, *cuts, len(rows)]):
            path = tmp_path / f"{trial}-{start}.parquet"
            pq.write_table(pa.Table.from_pylist(rows[start:stop], ANNOTATED), path)
            parts.append(str(path))
        rng.shuffle(parts)
        decided = tmp_path / f"{trial}.parquet"
        decide(parts, ("no_license", "permissive"), True, decided, tmp_path / "spill")
        table = pq.read_table(decided)
        results.append(table.drop_columns(["filename", "file_row_number"]))
    dropped = [rule for rule in results[0]["rule"].to_pylist() if rule == "near_duplicate"]
    assert len(dropped) > 20
    assert all(result.equals(results[0]) for result in results)


def test_of_near_duplicates_the_preferred_stays_over_chains(tmp_path: Path):
    def row(path: str, stars: int, bands: list[int] | None, language: str = "C") -> dict:
        origin = {"repo_name": "r", "origin_url": "u", "directory_id": "0" * 40}
        counts = {"star_events_count": stars, "fork_events_count": 0, "length_bytes": 1}
        found = {"path": path, "content_id": path, "blob_id": path, "language": language}
        bands = None if bands is None else bands + [1000 * ord(path) + n for n in range(3, BANDS)]
        return origin | counts | found | {"said_here": [], "bands": bands, "verdict": "keep"}

    rows = [
        row("a", 1, [1, 2, 91]),
        row("b", 9, [92, 2, 3]),  # meets a in the second band
        row("c", 9, [93, 94, 3]),  # meets b in the third, never a
        row("d", 0, [2, 95, 96]),  # a's key, but in another band
        row("e", 0, [1, 2, 3], "C++"),  # another language
        row("f", 0, None),  # too short to have keys
        row("g", 0, None),
    ]
    part, decided = tmp_path / "part.parquet", tmp_path / "decided.parquet"
    pq.write_table(pa.Table.from_pylist(rows, ANNOTATED), part)
    decide([str(part)], ("no_license",), True, decided, tmp_path / "spill")
    found = pq.read_table(decided, columns=["verdict", "reason"]).to_pylist()
    reasons = [row["reason"] if row["verdict"] == "drop" else "kept" for row in found]
    assert reasons == ["of r:b", "kept", "of r:b", "kept", "kept", "kept", "kept"]


def test_short_texts_have_no_keys():
    assert band_keys("one two three four") is None
    assert band_keys("one two three four five") is not None


def test_components_are_named_by_their_smallest():
    pairs = np.array([[5, 3], [3, 1], [7, 8]], np.int64)
    assert components(pairs, 9).tolist() == [0, 1, 2, 1, 4, 1, 6, 7, 7]
