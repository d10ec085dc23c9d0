"""Which language a file is in, by linguist's strategies in order: name, first line, extension."""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_MODELINE = re.compile(
    r"-\*-.*?\bmode:\s*([\w+#-]+)|-\*-\s*([\w+#-]+)\s*-\*-|"
    r"\b(?:vim|ex):.*?\b(?:ft|filetype)=([\w+#-]+)"
)
_SHEBANG = re.compile(r"^#!\s*(\S+)(?:[ \t]+(.*))?")


@dataclass(frozen=True)
class Table:
    """languages.json, by what a file shows; keys are lower case but for file names."""

    names: dict[str, str]
    filenames: dict[str, str]
    extensions: dict[str, str]
    interpreters: dict[str, str]


@cache
def table() -> Table:
    """The shipped table; of two languages with one extension the first by name has it."""
    text = files("cairn.curate").joinpath("languages.json").read_text(encoding="utf-8")
    known = json.loads(text)["languages"]
    found = Table({}, {}, {}, {})
    for language, shown in sorted(known.items()):
        found.names.setdefault(language.lower(), language)
        for kind, into in (
            ("filenames", found.filenames),
            ("extensions", found.extensions),
            ("interpreters", found.interpreters),
        ):
            for key in shown[kind]:
                into.setdefault(key, language)
    return found


def extension_of(path: str) -> str:
    """The part after the last dot of the file's name, lower case; empty where there is none."""
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    return extension.lower() if dot and stem else ""


def language_of(path: str, text: str) -> str:
    """The language by linguist's name; empty where the table knows none."""
    known = table()
    name = path.rpartition("/")[2]
    modeline = _by_modeline(text, known)
    if modeline:
        return modeline
    if name in known.filenames:
        return known.filenames[name]
    shebang = _by_shebang(text, known)
    if shebang:
        return shebang
    return known.extensions.get(extension_of(path), "")


def _by_modeline(text: str, known: Table) -> str:
    edges = text[:500].splitlines()[:5] + text[-500:].splitlines()[-5:]
    for line in edges:
        found = _MODELINE.search(line[:300])
        if found:
            return known.names.get((found[1] or found[2] or found[3]).lower(), "")
    return ""


def _by_shebang(text: str, known: Table) -> str:
    found = _SHEBANG.match(text[:300].partition("\n")[0])
    if not found:
        return ""
    words = [found[1], *(found[2] or "").split()]
    program = words[0].rpartition("/")[2]
    if program == "env":
        rest = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        program = rest[0].rpartition("/")[2] if rest else ""
    return known.interpreters.get(program) or known.interpreters.get(
        program.rstrip("0123456789."), ""
    )


_VENDORED = re.compile(
    r"(?:^|/)(?:vendor|vendors|vendored|_vendor|node_modules|bower_components|third[-_]?party|"
    r"external|externals|deps|dist|Godeps|Pods|Carthage|\.yarn|wwwroot/lib)/|"
    r"(?:^|/)(?:jquery|bootstrap|angular|d3|react)[-.\w]*\.(?:js|css)$|[-.]min\.(?:js|css)$|"
    r"(?:^|/)(?:gradlew(?:\.bat)?|mvnw(?:\.cmd)?|configure|config\.(?:guess|sub)|ltmain\.sh)$"
)
_GENERATED = re.compile(
    r"(?:^|/)(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|composer\.lock|"
    r"Cargo\.lock|poetry\.lock|uv\.lock|Pipfile\.lock|go\.sum|Gemfile\.lock|flake\.lock)$|"
    r"(?:_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|\.g\.dart|\.designer\.cs|[-.]min\.(?:js|css)|"
    r"\.(?:js|css)\.map|\.xcworkspacedata|\.nib|\.feature\.cs)$|(?:^|/)__generated__/"
)


def is_vendored(path: str) -> bool:
    """Whether the path is one where copies of other projects lie. A flag: nothing is dropped."""
    return _VENDORED.search(path) is not None


def is_generated(path: str) -> bool:
    """Whether the name is one that programs write; the marker words are a rule of their own."""
    return _GENERATED.search(path) is not None
