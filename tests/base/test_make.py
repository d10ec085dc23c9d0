"""Digest or refuse, continue, verify, lineage."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cairn.base import Recipe, Ref, UserError, Work, read_manifest, write_text
from cairn.base.artifact import lineage
from cairn.base.config import FREE
from cairn.base.files import sha256_of
from cairn.base.make import make
from cairn.base.plan import apply_overrides, as_sibling, load_plan, order_of


@dataclass(frozen=True, kw_only=True)
class Count(Recipe):
    upto: int = 3

    def run(self, work: Work) -> dict[str, Any]:
        if self.upto < 0:
            (work.out / "half.txt").write_text("half")
            raise UserError("upto", self.upto, "is negative", "count up")
        write_text(work.out / "numbers.txt", " ".join(map(str, range(self.upto))))
        (work.out / "metrics.jsonl").write_text("{}\n")
        return {"numbers": self.upto}

    def headline(self, facts: dict[str, Any]) -> str:
        return f"{facts['numbers']} numbers"


@dataclass(frozen=True, kw_only=True)
class Double(Recipe):
    source: Ref
    fail: bool = False

    def run(self, work: Work) -> dict[str, Any]:
        if not work.has("copy.txt"):
            with work.part("copy.txt") as path:
                path.write_text((work.input(self.source) / "numbers.txt").read_text() * 2)
        if self.fail:
            raise RuntimeError("a crash, not a person's mistake")
        return {}


def plan() -> dict[str, Recipe]:
    return {"numbers": Count(), "twice": Double(source=Ref("numbers"))}


def test_makes_what_is_missing_and_only_that(tmp_path: Path):
    assert [one.status for one in make(plan(), tmp_path)] == ["made", "made"]
    assert [one.status for one in make(plan(), tmp_path)] == ["skipped", "skipped"]
    manifest = read_manifest(tmp_path / "twice")
    assert manifest.parents["numbers"]["digest"] == read_manifest(tmp_path / "numbers").digest
    assert set(manifest.files) == {"copy.txt"}
    assert read_manifest(tmp_path / "numbers").headline == "3 numbers"
    assert not list(tmp_path.rglob(".*")), "no lock, marker or temporary file stays behind"


def test_a_target_makes_only_its_ancestors(tmp_path: Path):
    assert [one.name for one in make(plan(), tmp_path, "numbers")] == ["numbers"]
    assert not (tmp_path / "twice").exists()


def test_a_changed_recipe_is_refused_by_the_name_of_what_changed(tmp_path: Path):
    make(plan(), tmp_path)
    changed = apply_overrides(plan(), ["numbers.upto=4"])
    with pytest.raises(UserError, match=r"numbers\.upto was 3 and is now 4.*--as NAME"):
        make(changed, tmp_path)
    assert (tmp_path / "numbers" / "numbers.txt").read_text() == "0 1 2"


def test_a_parent_made_anew_is_refused(tmp_path: Path):
    make(plan(), tmp_path)
    for path in (tmp_path / "numbers").iterdir():
        path.unlink()
    (tmp_path / "numbers").rmdir()
    with pytest.raises(UserError, match="parent numbers was made anew"):
        make(apply_overrides(plan(), ["numbers.upto=4"]), tmp_path)


def test_as_makes_a_sibling(tmp_path: Path):
    make(plan(), tmp_path)
    sibling = as_sibling(plan(), "numbers", "more", ["numbers.upto=5"])
    assert [one.name for one in make(sibling, tmp_path, "more")] == ["more"]
    assert (tmp_path / "more" / "numbers.txt").read_text() == "0 1 2 3 4"
    assert make(plan(), tmp_path)[0].status == "skipped"


def test_a_users_mistake_leaves_nothing_behind(tmp_path: Path):
    with pytest.raises(UserError, match="upto=-1: is negative"):
        make(apply_overrides(plan(), ["numbers.upto=-1"]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_keeps_finished_parts_and_the_next_run_continues(tmp_path: Path):
    failing = apply_overrides(plan(), ["twice.fail=true"])
    with pytest.raises(RuntimeError):
        make(failing, tmp_path)
    assert (tmp_path / "twice" / "copy.txt").exists()
    with pytest.raises(UserError, match=r"twice\.fail was True and is now False"):
        make(plan(), tmp_path)
    with pytest.raises(RuntimeError):  # the same recipe goes on with the finished part
        make(failing, tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_parent_is_named(tmp_path: Path, damage: str):
    make(plan(), tmp_path, "numbers")
    victim = tmp_path / "numbers" / "numbers.txt"
    if damage == "truncate":
        victim.write_text("0 1")
    elif damage == "flip":
        victim.write_text("0 1 3")
    else:
        victim.unlink()
    with pytest.raises(UserError, match=r"numbers\.txt.*delete .*numbers and make it again"):
        make(plan(), tmp_path)
    assert not (tmp_path / "twice").exists()


def test_a_damaged_manifest_is_named(tmp_path: Path):
    make(plan(), tmp_path)
    (tmp_path / "numbers" / "manifest.json").write_text('{"name": ')
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        make(plan(), tmp_path)


def test_foreign_files_are_not_overwritten(tmp_path: Path):
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that cairn did not make"):
        make(plan(), tmp_path)


def test_lineage_reaches_the_roots(tmp_path: Path):
    make(plan(), tmp_path)
    assert [(d, p.name) for d, p, _ in lineage(tmp_path / "twice")] == [
        (0, "twice"),
        (1, "numbers"),
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["numberz.upto=1"], "unknown artifact 'numberz'.*did you mean 'numbers'"),
        (["numbers.uptoo=1"], "did you mean 'upto'"),
        (["numbers"], "is not artifact.field=value"),
    ],
)
def test_wrong_overrides(overrides: list[str], message: str):
    with pytest.raises(UserError, match=message):
        apply_overrides(plan(), overrides)


def test_plans_in_circles_or_with_unknown_targets_are_refused():
    circle: dict[str, Recipe] = {"a": Double(source=Ref("b")), "b": Double(source=Ref("a"))}
    with pytest.raises(UserError, match="a -> b -> a"):
        order_of(circle, None)
    with pytest.raises(UserError, match="did you mean 'twice'"):
        order_of(plan(), "twise")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plan = 3", "does not define the dictionary"),
        ("plan = {'a': 1}", "not a recipe"),
        ("plan = {", "SyntaxError"),
        ("import nothing_like_this", "ModuleNotFoundError"),
    ],
)
def test_bad_plans_are_told_in_one_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "plan.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_plan(path)
    assert "\n" not in str(error.value)


def test_a_missing_plan_suggests_its_neighbour(tmp_path: Path):
    (tmp_path / "pico.py").write_text("plan = {}")
    with pytest.raises(UserError, match=r"did you mean .*pico\.py"):
        load_plan(tmp_path / "pica.py")


SLOW_PLAN = textwrap.dedent("""
    import time
    from dataclasses import dataclass
    from cairn.base import Recipe

    @dataclass(frozen=True, kw_only=True)
    class Slow(Recipe):
        def run(self, work):
            for number in range(6):
                if not work.has(f"{number}.txt"):
                    with work.part(f"{number}.txt") as path:
                        path.write_text(str(number))
                        time.sleep(0.15)
            return {}

    plan = {"slow": Slow()}
""")


def test_kill_minus_nine_and_again_gives_the_same_digest(tmp_path: Path):
    path = tmp_path / "plan.py"
    path.write_text(SLOW_PLAN)
    command = [sys.executable, "-m", "cairn", "make", str(path), "--runs"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    for delay in (0.5, 0.8):
        child = subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.DEVNULL)
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    subprocess.run([*command, str(tmp_path / "cut")], check=True, capture_output=True)
    digests = [
        json.loads((tmp_path / runs / "plan" / "slow" / "manifest.json").read_text())["digest"]
        for runs in ("whole", "cut")
    ]
    assert digests[0] == digests[1]


def test_an_override_to_an_unknown_artifact_is_refused():
    with pytest.raises(UserError, match="twice refers to 'numbrs': did you mean 'numbers'"):
        apply_overrides(plan(), ["twice.source=numbrs"])


def test_lineage_refuses_a_parent_that_was_made_anew(tmp_path: Path):
    make(plan(), tmp_path)
    for path in (tmp_path / "numbers").iterdir():
        path.unlink()
    (tmp_path / "numbers").rmdir()
    make(apply_overrides(plan(), ["numbers.upto=9"]), tmp_path, "numbers")
    with pytest.raises(UserError, match=r"numbers was made anew since .*twice"):
        lineage(tmp_path / "twice")


@pytest.mark.parametrize("text", ["{bad", "[]", "{}"])
def test_a_damaged_beginning_is_told(tmp_path: Path, text: str):
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / ".begun.json").write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        make(plan(), tmp_path)


@dataclass(frozen=True, kw_only=True)
class Copy(Recipe):
    path: str
    workers: int = field(default=1, metadata={FREE: True})

    def inputs(self) -> dict[str, str]:
        return {"path": sha256_of(Path(self.path))}

    def run(self, work: Work) -> dict[str, Any]:
        write_text(work.out / "copy.txt", Path(self.path).read_text())
        return {}


def test_what_does_not_change_the_result_is_not_of_the_digest(tmp_path: Path):
    (tmp_path / "list").write_text("one")
    for workers in (1, 4):
        recipe = Copy(path=str(tmp_path / "list"), workers=workers)
        make({"copy": recipe}, tmp_path / str(workers))
    digests = {read_manifest(tmp_path / str(n) / "copy").digest for n in (1, 4)}
    assert len(digests) == 1
    recipe = Copy(path=str(tmp_path / "list"), workers=2)
    assert [one.status for one in make({"copy": recipe}, tmp_path / "1")] == ["skipped"]


def test_a_list_that_has_changed_since_is_noticed(tmp_path: Path):
    (tmp_path / "list").write_text("one")
    recipe = Copy(path=str(tmp_path / "list"))
    make({"copy": recipe}, tmp_path)
    (tmp_path / "list").write_text("two")
    with pytest.raises(UserError, match=r"what copy\.path names has changed"):
        make({"copy": recipe}, tmp_path)
