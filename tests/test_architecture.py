"""The house's rules, held by a test: budgets, names, laziness, and that every test is collected."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import cairn

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "cairn").rglob("*.py"))
FORBIDDEN = {"utils", "helpers", "common", "misc", "manager", "util", "helper"}
TORCH_FREE = (
    "cairn.cli",
    "cairn.base",
    "cairn.sources",
    "cairn.curate",
    "cairn.tokens",
    "cairn.model",
    "cairn.model.config",
    "cairn.train",
    "cairn.engine",
    "cairn.engine.scheduler",
    "cairn.evaluate",
    "cairn.align",
    "cairn.compress",
    "cairn.release",
    "cairn.serve",
)


def _imports_torch(code: str) -> bool:
    probe = f"{code}\nimport sys\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return done.stdout.strip().endswith("True")


def test_front_doors_and_data_rooms_import_no_torch():
    assert not _imports_torch("\n".join(f"import {name}" for name in TORCH_FREE))


def test_plans_import_no_torch():
    plans = sorted(str(path) for path in (ROOT / "plans").glob("*.py"))
    assert plans
    assert not _imports_torch(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'plans')!r})\n"
        f"for path in {plans!r}: runpy.run_path(path)"
    )


def test_every_module_imports():
    for module in pkgutil.walk_packages(cairn.__path__, "cairn."):
        kernels = module.name.startswith("cairn.ops.triton.") and not find_spec("triton")
        if not module.name.endswith("__main__") and not kernels:
            importlib.import_module(module.name)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_files_and_functions_keep_their_budget(path: Path):
    text = path.read_text(encoding="utf-8")
    assert path.stem not in FORBIDDEN
    kernels = "triton" in path.parts  # a kernel is one pass, and names an argument a line
    assert len(text.splitlines()) <= (600 if kernels else 400), "split it by meaning"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(d) for d in node.decorator_list]
            kernel = kernels and any(d.startswith(("triton.jit", "gluon.jit")) for d in decorators)
            first = node.body[0].lineno if kernel else node.lineno
            lines = (node.end_lineno or 0) - first + 1
            assert lines <= (80 if kernel else 60), f"{node.name} has {lines} lines"


def test_every_module_says_what_it_is_for():
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_every_test_file_is_collected():
    for path in (ROOT / "tests").rglob("*.py"):
        assert (
            path.name == "conftest.py"
            or path.name.startswith("test_")
            or path.stem == "__init__"
            or "fixtures" in path.parts
        ), path
