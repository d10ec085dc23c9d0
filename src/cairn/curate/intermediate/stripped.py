"""LLVM IR without what tells of the machine, the compiler and the file instead of the program."""

import re

# What stands before a comment: anything, with `;` only inside quotes (LLVM escapes quotes in them).
_CODE = re.compile(r'(?:[^";]++|"[^"]*+")*+')
_GONE = re.compile(
    r"target |source_filename = |attributes #\d|\^\d"  # the last: a summary for linkers
    # says nothing without its metadata
    r"|(?:declare|\s*+(?:tail )?call) void @llvm\.experimental\.noalias\.scope\.decl\("
)
_GROUP = re.compile(r"\s#\d++")
_ATTACHED = re.compile(r",? ![A-Za-z_][\w.]*+ !\d++")
_NODE = re.compile(r"!(\d++) = ")
_NAMED = re.compile(r"![A-Za-z_][\w.]*+ = ")
_USED = re.compile(r"!(\d++)")


def stripped(intermediate: str) -> str:
    """IR of the same functions, types and data, which LLVM still reads.

    Gone are comments, the module's name, the target's lines, groups of attributes (processor and
    its features), and metadata but for what an instruction has as an operand. Linear time.
    """
    lines: list[str] = []
    nodes: dict[str, str] = {}
    for line in intermediate.strip("\n").split("\n"):
        code = _uncommented(line)
        if (node := _NODE.match(code)) is not None:
            nodes[node[1]] = code
        elif not _GONE.match(code) and not _NAMED.match(code):
            code = _unattached(code)
            if code or (lines and lines[-1]):  # one empty line at most
                lines.append(code)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join([*lines, *_used(lines, nodes)]) + "\n"


def _uncommented(line: str) -> str:
    found = _CODE.match(line)
    end = found.end() if found else 0
    return line[:end].rstrip() if line[end : end + 1] == ";" else line.rstrip()


def _unattached(code: str) -> str:
    """A line without its references to groups of attributes and to metadata."""
    parts = code.split('"')
    for place in range(0, len(parts), 2):  # what is not in quotes
        if "#" in parts[place]:
            parts[place] = _GROUP.sub("", parts[place])
        if "!" in parts[place]:
            parts[place] = _ATTACHED.sub("", parts[place])
    return '"'.join(parts)


def _used(lines: list[str], nodes: dict[str, str]) -> list[str]:
    """The nodes of metadata that lines name, and those that these name, in their order."""
    found: set[str] = set()
    outside = ("".join(line.split('"')[::2]) for line in lines if "!" in line)
    ahead = [number for line in outside for number in _USED.findall(line)]
    while ahead:
        number = ahead.pop()
        if number in nodes and number not in found:
            found.add(number)
            ahead += _USED.findall(nodes[number].partition("=")[2])
    return [node for number, node in nodes.items() if number in found]
