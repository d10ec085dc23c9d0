"""What a page shows, gathered into Markdown's blocks: paragraphs, headings, lists, tables, code."""

import re
from dataclasses import dataclass, field

HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
DEEPEST = 8  # levels of lists that are indented, and of tables that are taken apart
_QUOTES = re.compile(r"`++")
ANCHORS = frozenset("#¶§🔗")  # links of a heading to itself
_GONE = dict.fromkeys(map(ord, "\u200b\u200c\u2060\ufeff\xad"))
_SPACES = _GONE | {0xA0: " "}


@dataclass
class _List:
    """A list, or a quotation, that is open; marker: what its next block begins with."""

    ordered: bool
    count: int = 0
    marker: str = ""
    width: int = 2


@dataclass
class _Table:
    """A table that is open: rows of cells, each the blocks in it."""

    rows: list[list[list[str]]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # the blocks before it
    lists: list[_List] = field(default_factory=list)  # what was open around it
    stray: list[str] = field(default_factory=list)  # a caption, and all else beside cells
    plain: bool = True  # nothing in it but running text


class Blocks:
    """Takes what a page shows in order; `done` gives the Markdown."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.line: list[str] = []  # of the block that is being read
        self.lists: list[_List] = []
        self.tables: list[_Table] = []
        self.deep = 0  # tables below DEEPEST, which are no tables
        self.heading = ""
        self.code: list[str] | None = None
        self.code_language = ""
        self.pre = 0

    def text(self, text: str) -> None:
        (self.line if self.code is None else self.code).append(text)

    def void(self, name: str) -> None:
        """An element without content."""
        if name == "br":
            self.text("\n" if self.code is not None else "\0")  # kept where blanks are merged
        elif name in ("p", "hr") and self.code is None:
            self.flush()

    def start(self, name: str, language: str, block: bool) -> None:
        if self.code is not None:
            self.pre += name == "pre"
            if name == "code":
                self.code_language = self.code_language or language
                self._new_line()
            return
        if block:
            self.flush()
        if name in ("pre", "xmp"):
            self.flush()
            self.code, self.code_language, self.pre = [], language, 1
        elif name in HEADINGS:
            self.heading = HEADINGS[name]
        elif name in ("ul", "ol", "menu", "dir"):
            self.lists.append(_List(name == "ol"))
        elif name == "li" and self.lists:
            last = self.lists[-1]
            last.count += 1
            last.marker = f"{last.count}. " if last.ordered else "- "
            last.width = len(last.marker)
        elif name == "table":
            self._start_table()
        elif self.tables and not self.deep:
            self._start_cell(name)
        if name in ("code", "kbd", "samp", "tt"):
            self.line.append("\1")

    def end(self, name: str, block: bool) -> None:
        if self.code is not None:
            self._end_in_code(name, block)
            return
        if name in ("code", "kbd", "samp", "tt"):
            self.line.append("\1")
        elif name == "a" and self.line and self.line[-1].strip() in ANCHORS:
            self.line.pop()
        if block:
            self.flush()
        if name in HEADINGS:
            self.heading = ""
        elif name in ("ul", "ol", "menu", "dir") and self.lists:
            self.lists.pop()
        elif name == "table":
            self._end_table()

    def _end_in_code(self, name: str, block: bool) -> None:
        assert self.code is not None, "asked by `end`"
        if name not in ("pre", "xmp"):
            if block:
                self._new_line()
            return
        self.pre -= 1
        if self.pre:
            return
        text = "".join(self.code).translate(_SPACES).replace("\r\n", "\n")
        text = text.removeprefix("\n").rstrip()
        self.code = None
        if not text.strip():
            return
        run = "`" * max(3, 1 + max(map(len, _QUOTES.findall(text)), default=0))
        self._add(f"{run}{self.code_language}\n{text}\n{run}")
        if self.tables:
            self.tables[-1].plain = False

    def _new_line(self) -> None:
        if self.code and not self.code[-1].endswith("\n"):
            self.code.append("\n")

    def flush(self) -> None:
        """End the block that is being read."""
        text = "".join(self.line)
        self.line.clear()
        lines = [" ".join(line.split()) for line in text.translate(_SPACES).split("\0")]
        text = "\n".join(line for line in lines if line.strip("\1 "))
        if not text:
            return
        text = _code_spans(text)
        if self.heading:
            text = self.heading + text.replace("\n", " ")
            if self.tables:
                self.tables[-1].plain = False
        self._add(text)

    def _add(self, text: str) -> None:
        """A block, below the lists that it stands in."""
        shown = self.lists[-DEEPEST:]
        if shown:
            indent = " " * sum(one.width for one in shown[:-1] if one.count)
            last = shown[-1]
            first = indent + (last.marker or " " * (last.width if last.count else 0))
            last.marker = ""
            rest = "\n" + indent + " " * last.width
            text = first + text.replace("\n", rest)
            for one in shown[:-1]:  # a list in an item without text of its own
                one.marker = ""
        self.blocks.append(text)

    def _start_table(self) -> None:
        if len(self.tables) >= DEEPEST:
            self.deep += 1
            return
        if self.tables:
            self.tables[-1].plain = False
        table = _Table(outside=self.blocks, lists=self.lists)
        self.tables.append(table)
        self.blocks, self.lists = table.stray, []

    def _start_cell(self, name: str) -> None:
        table = self.tables[-1]
        if name == "tr" or (name in ("td", "th") and not table.rows):
            table.rows.append([])
        if name in ("td", "th"):
            self.blocks, self.lists = [], []
            table.rows[-1].append(self.blocks)

    def _end_table(self) -> None:
        if self.deep:
            self.deep -= 1
            return
        table = self.tables.pop()
        self.blocks, self.lists = table.outside, table.lists
        self.blocks += table.stray
        rows = [row for row in table.rows if any(row)]
        if table.plain and len(rows) > 1 and max(map(len, rows)) > 1:
            self.blocks.append(_grid(rows))
        else:
            for row in rows:
                for cell in row:
                    self.blocks += cell

    def done(self) -> str:
        """The whole as Markdown, with a line end."""
        self.flush()
        while self.tables:
            self._end_table()
        made: list[str] = []
        for before, block in zip(["", *self.blocks], self.blocks, strict=False):
            tight = _is_item(before) and _is_item(block)
            made += ["\n" if tight else "\n\n"] if before else []
            made.append(block)
        return "".join(made) + "\n" if made else ""


def _is_item(block: str) -> bool:
    text = block.lstrip(" ")
    return "\n" not in block and (text.startswith("- ") or text.partition(". ")[0].isdecimal())


def _code_spans(text: str) -> str:
    """Marks around code as back quotes, where the code holds none itself."""
    if "\1" not in text:
        return text
    made: list[str] = []
    inside = False
    for number, part in enumerate(text.split("\1")):
        if number % 2 == 0 or not part.strip() or "`" in part or inside:
            made.append(part)
        else:
            made.append(f"`{part}`")
    return "".join(made)


def _grid(rows: list[list[list[str]]]) -> str:
    """A Markdown table; its first row is the head."""
    width = min(max(map(len, rows)), 100)
    lines: list[str] = []
    for row in rows:
        cells = [" ".join(" ".join(cell).split()).replace("|", "\\|") for cell in row[:width]]
        cells += [""] * (width - len(cells)) if len(rows) * width < 100_000 else []
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + " --- |" * width)
    return "\n".join(lines)
