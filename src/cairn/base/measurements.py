"""Measurements: scripts of the checkout's bench/, which are not in the wheel."""

import runpy
import sys
from pathlib import Path

from cairn.base.config import nearest
from cairn.base.errors import UserError


def run_measurement(name: str) -> None:
    """Run bench/NAME.py, of this folder or of the checkout that cairn runs from.

    UserError where there is no such script.
    """
    folders = [Path("bench"), Path(__file__).resolve().parents[3] / "bench"]
    folder = next((found for found in folders if found.is_dir()), None)
    if folder is None:
        raise UserError("bench/ is not here: run `cairn bench` in a checkout of cairn")
    scripts = [path for path in folder.glob("*.py") if "__main__" in path.read_text("utf-8")]
    known = sorted(path.stem for path in scripts)  # others only serve these
    if name not in known:
        raise UserError("bench", name, "is no measurement", nearest(name, known))
    sys.argv = [str(folder / f"{name}.py")]
    sys.path.insert(0, str(folder))  # as `python FILE` does: they import each other
    runpy.run_path(sys.argv[0], run_name="__main__")
