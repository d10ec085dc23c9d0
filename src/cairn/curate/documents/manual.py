"""Manual pages of the man(7) macros as text: sections as headings, examples verbatim."""

import re

from cairn.curate.documents.mdoc import Mdoc
from cairn.curate.documents.roff import Roff, arguments
from cairn.curate.documents.sheet import Sheet

FONTS = {"B": " ", "I": " ", "SM": " ", "SB": " ", "R": " "}
FONTS |= dict.fromkeys(("BR", "BI", "IR", "IB", "RB", "RI"), "")
_APART = "PP LP P br sp Sp RS RE HP UNINDENT INDENT in ti bp"
PARAGRAPHS = frozenset(_APART.split())
CODE, TEXT = frozenset({"nf", "EX", "Vb"}), frozenset({"fi", "EE", "Ve"})


def manual_text(text: str) -> str:
    """The page as text, of man(7) or of mdoc(7), whichever it is written in."""
    if re.search(r"^\.\s{0,9}(?:Dd|Sh)\s", text, re.MULTILINE):
        return Mdoc(text).render()
    return _Man(text).render()


class _Man:
    def __init__(self, text: str) -> None:
        self.roff = Roff(text)
        self.page = Sheet()
        self.waiting = ""  # the macro that takes the next line of text for its argument
        self.table = ""  # what of a table is being read: its layout, its rows
        self.link = ""

    def render(self) -> str:
        for name, rest in self.roff.read():
            if self.table:
                self._table(name, rest)
            elif name:
                self._macro(name, rest)
            else:
                self._text(self.roff.plain(rest))
        return self.page.done()

    def _text(self, text: str) -> None:
        if self.waiting in ("TP", "SH", "SS", "TQ"):
            if not text.strip():
                return
            level = {"SH": 2, "SS": 3}.get(self.waiting)
            self.waiting = ""
            if level:
                self.page.heading(level, text)
                return
            self.page.text(text)
            if self.page.code is None:
                self.page.flush()
            return
        if text.startswith((" ", "\t")) and self.page.code is None:
            self.page.flush()  # a line that begins with white space is set on its own
        self.page.text(text)

    def _macro(self, name: str, rest: str) -> None:
        page = self.page
        given = [self.roff.plain(one) for one in arguments(rest)]
        if name in ("SH", "SS"):
            if given:
                page.heading(2 if name == "SH" else 3, " ".join(given))
            else:
                self.waiting = name
        elif name == "TH" and given:
            section = f"({given[1]})" if len(given) > 1 else ""
            page.heading(1, given[0] + section)
        elif name in FONTS:
            if given:
                self._text(FONTS[name].join(given))
        elif name in ("TP", "TQ"):
            page.flush()
            self.waiting = name
        elif name == "IP":
            page.flush()
            if given and given[0]:
                page.text(given[0])
                if len(given[0]) > 2 and page.code is None:  # a bullet stands before its text
                    page.flush()
        elif name in PARAGRAPHS:
            page.text("") if page.code is not None and name == "sp" else page.flush()
        elif name in CODE:
            page.begin_code()
        elif name in TEXT:
            page.end_code()
        elif name in ("UR", "MT"):
            self.link = given[0] if given else ""
        elif name in ("UE", "ME"):
            page.text(f"<{self.link}>{given[0] if given else ''}" if self.link else "")
            self.link = ""
        elif name in ("SY", "YS", "OP"):
            page.flush() if name != "OP" else page.text(f"[{' '.join(given)}]")
            page.text(" ".join(given)) if name == "SY" else None
        elif name == "TS":
            page.flush()
            self.table = "layout"
        elif name in ("URL", "MTO") and given:
            target, shown, after = (*given, "", "")[:3]
            page.text(f"{shown} <{target}>{after}")
        elif (
            name in self.roff.defined and name != "IX" and given
        ):  # what it prints of them is not known
            page.text(" ".join(given))

    def _table(self, name: str, rest: str) -> None:
        """Rows of tbl(1): cells between tabs, or between T{ and T}."""
        if name == "TE":
            self.table = ""
            self.page.flush()
        elif self.table == "layout":
            if not name and rest.rstrip().endswith("."):
                self.table = "rows"
        elif name == "T&":
            self.table = "layout"
        elif name:
            self._macro(name, rest)
        else:
            row = self.roff.plain(rest)
            cells = [cell.strip() for cell in row.replace("T{", "").replace("T}", "").split("\t")]
            if set(row.strip()) <= {"_", "="}:
                return
            self.page.text("  ".join(cell for cell in cells if cell))
            if not row.rstrip().endswith("T{"):
                self.page.flush()
