"""A self-contained program and its LLVM IR as one document: section 2.6 of arXiv 2402.19173."""

import hashlib
from dataclasses import dataclass

from cairn.base.sandbox import Limits, Outcome
from cairn.curate.intermediate.compilers import COMMANDS, Workshop, workshop
from cairn.curate.intermediate.stripped import stripped
from cairn.curate.pieces import Document
from cairn.curate.rules import Verdict
from cairn.sources.record import INTERMEDIATE

CODE_TO_INTERMEDIATE = "<code_to_intermediate>"
LONGEST_REASON = 200
# fmt: off
EXTENSIONS = {
    "c": "C", "cpp": "C++", "cc": "C++", "cxx": "C++", "c++": "C++", "m": "Objective-C",
    "rs": "Rust", "d": "D", "f90": "Fortran", "f95": "Fortran", "f03": "Fortran", "f08": "Fortran",
    "hs": "Haskell", "swift": "Swift", "go": "Go", "py": "Python",
}
# fmt: on


@dataclass(frozen=True, kw_only=True)
class IntermediateLimits:
    """What a compiler may use, and where pairs begin to drop."""

    size_share: float = 0.8
    """Share of programs compiled for size; the others for speed."""
    seconds: int = 20
    """Processor time of the compiler."""
    wall_seconds: float = 120.0
    """Wall time; well above `seconds`, for it depends on the load of the machine."""
    memory: int = 2 << 30
    """Bytes of the compiler's memory."""
    most_source: int = 100_000
    """Most bytes of a program."""
    most_written: int = 16 << 20
    """Most bytes that the compiler may write."""
    most_characters: int = 1_000_000
    """Most characters of the IR, once stripped."""


def language_of(path: str) -> str:
    """The language of a program by its name, or nothing where no compiler gives IR for it."""
    if path.endswith(".C"):
        return "C++"
    return EXTENSIONS.get(path.rpartition(".")[2].lower(), "") if "." in path else ""


def intermediate_document(
    raw: bytes,
    path: str,
    seed: int,
    limits: IntermediateLimits,
    room: Workshop | None = None,
) -> Document:
    """The pair of a program and its IR, or a verdict with no pieces.

    Whether it is compiled for size or for speed is drawn by `seed` and its bytes. Verdicts:
    intermediate_language (none by the path's extension), intermediate_source (not UTF-8, or too
    long), intermediate_no_compiler, intermediate_timeout, intermediate_memory,
    intermediate_crashed, intermediate_does_not_compile (with the compiler's first line of an
    error), intermediate_empty (no function is left), intermediate_long. `room` is by default that
    of the PATH's compilers. SandboxError where the sandbox itself fails.
    """
    language = language_of(path)
    if not language:
        return _dropped("", "language", "a name without the extension of a compiled language")
    if len(raw) > limits.most_source:
        return _dropped(language, "source", f"{len(raw):,} bytes")
    try:
        code = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return _dropped(language, "source", str(error))
    room = room or workshop()
    if language not in room.compilers:
        wanted = COMMANDS[language].names[0]
        return _dropped(language, "no_compiler", f"{wanted} is not here, or does not run")
    allowed = Limits(
        seconds=limits.wall_seconds,
        cpu_seconds=limits.seconds,
        memory=limits.memory,
        file_bytes=limits.most_written,
        output_bytes=limits.most_written,
    )
    small = is_small(raw, seed, limits.size_share)
    outcome = room.compile(language, raw, small=small, limits=allowed)
    if outcome.status != "ok":
        return _failed(language, outcome, limits)
    made = stripped(outcome.stdout.decode("utf-8", errors="replace"))
    if "\ndefine " not in "\n" + made:
        return _dropped(language, "empty", "no function is left of it")
    if len(made) > limits.most_characters:
        return _dropped(language, "long", f"{len(made):,} characters of IR")
    return Document(INTERMEDIATE, language, (("", code), (CODE_TO_INTERMEDIATE, made)))


def is_small(raw: bytes, seed: int, share: float) -> bool:
    """Whether a program is compiled for size: as drawn by a hash of seed and bytes."""
    drawn = hashlib.sha256(f"{seed}\0".encode() + raw).digest()
    return int.from_bytes(drawn[:8], "big") < share * 2**64


def _failed(language: str, outcome: Outcome, limits: IntermediateLimits) -> Document:
    if outcome.status == "timeout":
        return _dropped(language, "timeout", f"compiled for more than {limits.seconds} s")
    if outcome.status == "memory" or b"out of memory" in outcome.stderr:
        return _dropped(language, "memory", f"took more than {limits.memory:,} bytes")
    if outcome.status == "output":
        return _dropped(language, "long", f"more than {limits.most_written:,} bytes were written")
    lines = [line.strip() for line in outcome.stderr.decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    first = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
    if outcome.status == "killed" or (outcome.exit_code or 0) > 127:
        return _dropped(language, "crashed", first or "ended by a signal")
    return _dropped(language, "does_not_compile", first or f"exit code {outcome.exit_code}")


def _dropped(language: str, rule: str, reason: str) -> Document:
    verdict = Verdict(False, f"intermediate_{rule}", reason[:LONGEST_REASON])
    return Document(INTERMEDIATE, language, (), verdict)
