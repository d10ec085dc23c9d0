"""Near duplicates against exact Jaccard similarity, and whatever may not choose among them."""

import importlib.util
import re
import sys
import sysconfig
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from cairn.curate.annotate import Annotation, annotate
from cairn.curate.near import (
    BANDS,
    PERMUTATIONS,
    ROWS,
    SEED,
    band_keys,
    components,
    links,
    shingles,
    signature,
    similarity,
    sketch,
)
from cairn.curate.rendering import Limits, Rendering
from cairn.curate.rules import Thresholds
from cairn.sources.record import Origin, SourceFile, to_batch
from cairn.sources.swhid import content_hash


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
    assert [band_keys(text) for text in texts[:9]] == [keys_of(text, SEED) for text in texts[:9]]
    odds = 1 - (1 - similarity**ROWS) ** BANDS
    collide = []
    for seed in (SEED, *range(30)):
        keys = np.array([keys_of(text, seed) for text in texts])
        assert keys.shape == (len(texts), BANDS)
        collide.append((keys[ones] == keys[others]).any(axis=1))
    collide = np.array(collide)
    assert (similarity >= 0.8).sum() >= 50
    for low, high in ((0.3, 0.5), (0.5, 0.8), (0.8, 1.01)):
        inside = (similarity >= low) & (similarity < high)
        shares = collide[:, inside].mean(axis=1)
        # Pairs of one family collide together, so the seeds themselves tell how shares vary; at
        # least as pairs would that knew nothing of each other.
        alone = np.sqrt((odds[inside] * (1 - odds[inside])).sum()) / inside.sum()
        margin = 4 * max(shares.std(ddof=1), alone) / np.sqrt(len(shares))
        assert abs(shares.mean() - odds[inside].mean()) < margin, low


def keys_of(text: str, seed: int) -> list[int]:
    found = sketch(text, seed)
    assert found is not None
    return found.keys.tolist()


def test_short_texts_have_no_keys():
    assert band_keys("one two three four") is None
    assert band_keys("one two three four five") is not None


def test_components_are_named_by_their_smallest():
    pairs = np.array([[5, 3], [3, 1], [7, 8]], np.int64)
    assert components(pairs, 9).tolist() == [0, 1, 2, 1, 4, 1, 6, 7, 7]


def crowd(families: int, members: int, alike: float) -> np.ndarray:
    """Signatures of families: a member shares about `alike` of its bytes with its family's."""
    rng = np.random.default_rng(3)
    made = np.repeat(rng.integers(0, 256, (families, PERMUTATIONS), np.uint8), members, 0)
    return np.where(
        rng.random(made.shape) < alike, made, rng.integers(0, 256, made.shape, np.uint8)
    )


def test_members_of_a_bucket_are_linked_to_whom_they_resemble():
    compact = crowd(families=6, members=5, alike=0.95)[np.random.default_rng(4).permutation(30)]
    every = np.arange(1, 30)
    one = np.stack([0 * every, 0 * every, every], 1)
    two = np.stack([0 * every + 1, 0 * every + 7, every], 1)[1:]
    found = links(np.concatenate([two, one])[::-1], compact, 0.65)
    estimate = similarity(compact[:, None], compact[None])
    assert (estimate[found[:, 0], found[:, 1]] >= 0.65).all()
    parts = components(found, 30)
    assert ((parts[:, None] == parts[None]) == (estimate >= 0.65)).all()
    assert len(np.unique(parts)) == 6
    assert np.array_equal(found, links(np.concatenate([one, two]), compact, 0.65))


def test_without_verification_a_band_is_enough():
    buckets = np.array([[0, 2, 4], [1, 2, 3], [0, 9, 4]])
    assert links(buckets, np.empty((0, 0), np.uint8), 0).tolist() == [[0, 4], [1, 3]]
    assert links(np.empty((0, 3), np.int64), np.empty((0, 0), np.uint8), 0.65).shape == (0, 2)


def test_a_bucket_of_strangers_is_left_after_64_leaders():
    compact = np.random.default_rng(5).integers(0, 256, (3_000, PERMUTATIONS), np.uint8)
    compact[2_999], compact[50] = compact[2_998], compact[2_997]
    every = np.arange(1, 3_000)
    buckets = np.stack([0 * every, 0 * every, every], 1)
    assert links(buckets, compact, 0.65).tolist() == [[50, 2_997]]  # 2,998 leads too late


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """bench/neardup.py, which finds all similar pairs exactly."""
    path = Path(__file__).parents[2] / "bench" / "neardup.py"
    spec = importlib.util.spec_from_file_location("neardup", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["neardup"] = module
    spec.loader.exec_module(module)
    return module


def add(found: dict[str, SourceFile], path: str, raw: bytes) -> None:
    name = content_hash(raw)
    origin = Origin(repo_name="stdlib", origin_url="", directory_id="")
    found[name] = SourceFile(
        origin=origin, path=path, content_id=name, blob_id=name, mode=0o100644,
        length_bytes=len(raw), raw=raw,
    )  # fmt: skip


def standard_library(files: int) -> pa.Table:
    """Files of the standard library under 30 kB as curation annotates them, and edited copies."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = (p for p in sorted(library.rglob("*.py")) if "site-packages" not in p.parts)
    found: dict[str, SourceFile] = {}
    for path in paths:
        raw = path.read_bytes()
        if 0 < len(raw) < 30_000 and len(found) < files:
            add(found, str(path.relative_to(library)), raw)
            if len(found) % 5 == 0:  # every 60th word: a similarity of about 0.85
                words = re.split(rb"(\W+)", raw)
                edited = (b"zz" if i % 120 == 0 else w for i, w in enumerate(words))
                add(found, f"edited/{path.relative_to(library)}", b"".join(edited))
    wanted = Annotation(2**20, Thresholds(), Rendering(Limits()))
    table = pa.Table.from_batches([annotate(to_batch(list(found.values())), wanted)])
    return table.filter(table["bands"].is_valid())


def test_all_similar_pairs_are_found_exactly(bench: ModuleType):
    texts = [text for text in real_texts()[::2] if len(exact(text))]
    grams = [exact(text) for text in texts]
    pairs, shares = bench.similar(bench.word_grams(texts))
    found = {tuple(pair): share for pair, share in zip(pairs.tolist(), shares, strict=True)}
    true = {
        (i, j): len(grams[i] & grams[j]) / len(grams[i] | grams[j])
        for i, j in combinations(range(len(texts)), 2)
    }
    assert found == {pair: share for pair, share in true.items() if share >= 0.6}
    assert len(found) > 20


def test_recall_and_precision_of_files_of_the_standard_library(bench: ModuleType):
    table = standard_library(2_000)
    assert len(table) > 500
    done = bench.compare(table)
    counts = bench.total(done, bench.VERIFIED)
    assert counts["alike"] >= 100
    recall, precision = bench.rates(counts)
    assert recall >= bench.RECALL
    assert precision >= bench.PRECISION
    clusters, differ = bench.invariance(table, None)
    assert clusters
    assert differ == []
