"""Run untrusted programs with limits: no network, no secrets, a private folder, nothing left over.

Harm reduction, not a security boundary: the kernel is shared. `Sandbox.unprotected` says, in
words, what the backend in use leaves open.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.base.sandbox.program import Limits, Outcome, Program, python_program
    from cairn.base.sandbox.run import Sandbox, SandboxError

__all__ = ["Limits", "Outcome", "Program", "Sandbox", "SandboxError", "python_program"]


def __getattr__(name: str) -> Any:  # lazy, for the child loads this package in a bare interpreter
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "run" if name in {"Sandbox", "SandboxError"} else "program"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
