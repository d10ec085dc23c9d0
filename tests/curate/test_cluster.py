"""The driver for a cluster: a local Ray cluster of four workers makes the same bytes."""

import random
from pathlib import Path

import pytest

from cairn.base import read_manifest
from cairn.base.make import make
from cairn.curate import Curate

pytest.importorskip("daft", reason="the extra cluster is not installed: make test-cluster")
pytest.importorskip("ray", reason="the extra cluster is not installed: make test-cluster")


def plant(root: Path, number: int) -> Path:
    """A tree with copies of files of its neighbours, exact and near."""
    rng = random.Random(number)
    tree = root / f"tree{number}"
    tree.mkdir(parents=True)
    for file in range(40):
        shared = random.Random(file if file % 4 else 1000 * number + file)
        lines = [f"name_{shared.randrange(10**6)} = call(other)" for _ in range(80)]
        if file % 4 == 1:
            lines.insert(rng.randrange(80), f"changed_{number} = here")
        (tree / f"m{file:03d}.py").write_text("\n".join(lines))
    (tree / "LICENSE").write_text("SPDX-License-Identifier: MIT\n")
    return tree


def test_a_cluster_makes_the_same_bytes(tmp_path: Path):
    sources = tuple(str(plant(tmp_path / "sources", number)) for number in range(6))
    digests = {}
    for driver in ("local", "ray"):
        recipe = Curate(sources=sources, driver=driver, workers=4 if driver == "ray" else 1)
        make({"corpus": recipe}, tmp_path / driver)
        manifest = read_manifest(tmp_path / driver / "corpus")
        digests[driver] = manifest.files
        rules = manifest.facts["seen"]["files"], manifest.facts["kept"]["files"]
        assert rules[0] == 246
        assert 60 <= rules[1] <= 120
    assert digests["local"] == digests["ray"]
