"""The command line on the whole life of a very small model: what it prints, and what it refuses."""

import json
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLAN = str(ROOT / "plans" / "pico.py")
SMALL = [
    "corpus.sources=python:rich",
    "words.vocab_size=512",
    "base.model.hidden_size=32",
    "base.model.intermediate_size=64",
    "base.model.pattern=M*-M-",
    *(
        f"{name}.settings.{field}"
        for name in ("base", "chat", "child", "twin")
        for field in ("steps=4", "sequences=2", "sequence_length=64", "warmup=1")
    ),
    "chat.settings.sequence_length=256",
    "pruned.hidden_size=24",
    "pruned.intermediate_size=32",
    "scores.limit=2",
    "child_scores.limit=2",
]
pytestmark = pytest.mark.xdist_group("whole_life")


def cairn(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line; the exit code must be `code`."""
    command = [sys.executable, "-m", "cairn", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done


def refused(*arguments: object) -> str:
    """The one line on standard error that a user's mistake gives."""
    lines = cairn(*arguments, code=2).stderr.strip().splitlines()
    assert lines[-1].startswith("cairn: ")
    return lines[-1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the pico plan in miniature."""
    runs = tmp_path_factory.mktemp("runs")
    done = cairn("make", PLAN, *SMALL, "--runs", runs)
    for name in ("corpus", "base", "child", "release"):
        assert name in done.stdout
    return runs / "pico"


def test_making_again_skips_everything(run: Path):
    done = cairn("make", PLAN, *SMALL, "--runs", run.parent)
    assert done.stdout.count("skipped") == len(list(run.glob("*/manifest.json")))


def test_a_changed_recipe_is_refused_and_as_makes_a_sibling(run: Path):
    changed = [text.replace("base.settings.steps=4", "base.settings.steps=5") for text in SMALL]
    line = refused("make", PLAN, *changed, "--runs", run.parent)
    assert "base.settings.steps was 4 and is now 5" in line
    cairn("make", PLAN, "base", *changed, "--as", "longer", "--runs", run.parent)
    assert json.loads((run / "longer" / "manifest.json").read_text())["facts"]["steps"] == 5


def test_a_typo_in_an_override_gets_the_nearest_name():
    assert "did you mean 'steps'" in refused("make", PLAN, "base.settings.stepz=3")
    assert "did you mean 'base'" in refused("make", PLAN, "bace.seed=3")
    assert "did you mean 'pruned'" in refused("make", PLAN, "prunned")


def test_the_child_is_a_quarter_smaller_and_compared_with_three_others(run: Path):
    facts = {
        name: json.loads((run / name / "manifest.json").read_text())["facts"]
        for name in ("base", "pruned", "child", "twin")
    }
    assert facts["child"]["parameters"] <= 0.75 * facts["base"]["parameters"]
    assert facts["twin"]["parameters"] == facts["child"]["parameters"]
    assert facts["twin"]["tokens"] == facts["child"]["tokens"]


def test_trace_tells_lineage_batch_and_text(run: Path):
    lineage = cairn("trace", run / "release").stdout
    assert all(name in lineage for name in ("child", "pruned", "base", "shards", "corpus"))
    files = json.loads(cairn("trace", run / "base", "--step", 2, "--json").stdout)
    assert files
    assert all(file["swhid"].startswith("swh:1:cnt:") and file["path"] for file in files)
    text = "from __future__ import annotations\n\nimport sys\nfrom "
    found = json.loads(cairn("trace", run / "release", "--text", text, "--json").stdout)
    place = found[0]["occurrences"][0]
    assert place["repo_name"]
    assert place["detected_licenses"] == ["MIT"]
    blob = place["swhid"].removeprefix("swh:1:cnt:")
    assert blob in (run / "release" / "swhids.txt").read_text()
    assert "step" in refused("trace", run / "base", "--step", 99)


def test_lookup_finds_kept_and_dropped_files(run: Path):
    found = json.loads(cairn("lookup", run / "corpus", "rich/table.py", "--json").stdout)
    assert found[0]["verdict"] == "keep"
    assert "never seen" in cairn("lookup", run / "corpus", "rich/no_such_file.py").stdout


def test_generate_completes_infills_and_traces(run: Path):
    plain = ["generate", run / "release", "--prompt", "import ", "--max-tokens", 8]
    done = json.loads(cairn(*plain, "--json").stdout)
    assert done["finish_reason"] in {"stop", "length"}
    assert len(done["tokens"]) <= 8
    assert json.loads(cairn(*plain, "--json").stdout) == done
    cairn(*plain, "--suffix", "\nprint(sys.argv)", "--trace")


def test_the_release_says_what_it_is(run: Path):
    folder = run / "release"
    card = (folder / "README.md").read_text()
    assert "logits verified with transformers" in card
    assert "| MIT | permissive |" in (folder / "DATA.md").read_text()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert not (folder / "resume").exists()


def test_show_of_plan_preset_and_checkpoint(run: Path):
    assert "Optimizer" in cairn("show", PLAN, "base").stdout
    facts = json.loads(cairn("show", "nemotron-h-8b", "--json").stdout)
    assert facts["parameters"] == 8_100_852_736
    small = json.loads(cairn("show", run / "child", "--json").stdout)
    assert small["parameters"] < facts["parameters"]
    assert "did you mean 'nemotron-h-8b'" in refused("show", "nemotron-h-8bb")


def test_evaluate_prints_scores_with_n(run: Path):
    report = json.loads(
        cairn("evaluate", run / "child", "functions", "--limit", 2, "--json").stdout
    )
    assert report["scores"][0]["n"] == 2
    assert "did you mean 'functions'" in refused("evaluate", run / "child", "function")


# -- bad input: one clear line, exit code 2, nothing half-written left behind ------------------


def corpus_refused(tmp_path: Path, source: Path | str) -> str:
    line = refused("make", PLAN, "corpus", f"corpus.sources={source}", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs" / "pico" / "corpus").exists()
    assert not list((tmp_path / "runs").rglob("*.part"))
    return line


def test_a_missing_path(tmp_path: Path):
    assert "nowhere" in corpus_refused(tmp_path, tmp_path / "nowhere")


def test_a_binary_file_as_source(tmp_path: Path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\0\0" * 64)
    assert "picture.png" in corpus_refused(tmp_path, tmp_path / "picture.png")


def test_a_truncated_archive(tmp_path: Path):
    whole = tmp_path / "whole.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(ROOT / "src", "src")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cut.tar.gz" in corpus_refused(tmp_path, cut)


def test_an_archive_that_climbs_out(tmp_path: Path):
    path = tmp_path / "climb.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside.py", "print('out')\n")
    assert "climb.zip" in corpus_refused(tmp_path, path)
    assert not (tmp_path / "outside.py").exists()


def test_a_corrupt_shard(run: Path, tmp_path: Path):
    victim = run / "shards" / "train" / "tokens.bin"
    whole = victim.read_bytes()
    try:
        victim.write_bytes(whole[:-10] + bytes(10))
        line = refused("make", PLAN, "index", *SMALL, "--as", "index2", "--runs", run.parent)
        assert "tokens.bin" in line
        assert "make it again" in line
        assert not (run / "index2").exists()
    finally:
        victim.write_bytes(whole)


def test_a_truncated_safetensors_file(run: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (run / "release").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused("generate", broken, "--prompt", "x")


def test_a_port_in_use(run: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("serve", run / "release", "--port", port)


def test_no_checkpoint_and_no_plan(tmp_path: Path):
    assert "config.json" in refused("generate", tmp_path, "--prompt", "x")
    assert "no such file" in refused("make", tmp_path / "plan.py")
    assert "manifest" in refused("trace", tmp_path)


@pytest.mark.slow
def test_killed_ten_times_gives_the_same_digests():
    script = [sys.executable, str(ROOT / "bench" / "interruptions.py"), PLAN, *SMALL]
    done = subprocess.run(
        script, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "random"}
    )
    line = json.loads(done.stdout)
    assert line["different"] == []
    assert line["kills"] >= 5
    assert done.returncode == 0
