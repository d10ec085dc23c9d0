"""Manual pages of the mdoc(7) macros as text: a line of macros is words with rules for blanks."""

from collections.abc import Iterator

from cairn.curate.documents.roff import Roff, arguments
from cairn.curate.documents.sheet import Sheet

CLOSING, OPENING = frozenset({".", ",", ":", ";", ")", "]", "?", "!"}), frozenset({"(", "["})
# Around what follows on the line; the pairs of macros below may stand lines apart.
ENCLOSED = {
    "Op": "[]", "Aq": "<>", "Bq": "[]", "Brq": "{}", "Pq": "()", "Dq": "“”", "Qq": '""',
    "Sq": "‘’", "Ql": "‘’",
}  # fmt: skip
BEGIN = {"Oo": "[", "Ao": "<", "Bo": "[", "Bro": "{", "Po": "(", "Do": "“", "Qo": '"', "So": "‘"}
END = {"Oc": "]", "Ac": ">", "Bc": "]", "Brc": "}", "Pc": ")", "Dc": "”", "Qc": '"', "Sc": "’"}
SYSTEMS = {
    "At": "AT&T UNIX", "Bx": "BSD", "Bsx": "BSD/OS", "Fx": "FreeBSD", "Nx": "NetBSD",
    "Ox": "OpenBSD", "Dx": "DragonFly", "Ux": "UNIX",
}  # fmt: skip
PLAIN = frozenset(
    {"Ad", "An", "Ar", "Cd", "Cm", "Dv", "Em", "Er", "Ev", "Fa", "Ft", "Ic", "In", "Li", "Lk", "Ms"}
    | {"Mt", "No", "Pa", "Sx", "Sy", "Tn", "Va", "Vt", "Fn", "Fl", "Nm", "Nd", "Xr", "Ap", "Ns"}
    | {"Pf", "Cx", "Ef", "Es", "En", "Fr", "Xo", "Xc", "St", "Lb", "Ot", "Ta"}
)
CALLABLE = PLAIN | set(ENCLOSED) | set(BEGIN) | set(END) | set(SYSTEMS)
_JOIN = "\2"  # no blank here


class Mdoc:
    """Renders one page."""

    def __init__(self, text: str) -> None:
        self.roff = Roff(text)
        self.sheet = Sheet()
        self.name = ""
        self.section = ""
        self.spaced = True
        self.displays: list[bool] = []  # of each display whether its lines are kept

    def render(self) -> str:
        for name, rest in self.roff.read():
            if name:
                self._macro(name, arguments(rest))
            else:
                self.sheet.text(self.roff.plain(rest))
        return self.sheet.done()

    def _macro(self, name: str, given: list[str]) -> None:
        sheet = self.sheet
        if name in ("Sh", "Ss"):
            self.section = self._shown(given)
            sheet.heading(2 if name == "Sh" else 3, self.section)
        elif name == "Dt" and given:
            section = f"({given[1]})" if len(given) > 1 else ""
            sheet.heading(1, self.roff.plain(given[0]) + section)
        elif name in ("Pp", "Lp", "br", "sp", "El", "Bl", "Rs", "Re", "Ed", "Bd"):
            self._block(name, given)
        elif name == "It":
            sheet.flush()
            sheet.text(self._shown(given))
            if given and sheet.code is None:
                sheet.flush()
        elif name in ("Dl", "D1"):
            sheet.begin_code()
            sheet.text(self._shown(given))
            sheet.end_code()
        elif name == "Ex":
            sheet.text(f"The {self.name} utility exits 0 on success, and >0 if an error occurs.")
        elif name == "Sm":
            self.spaced = given[:1] != ["off"] if given else not self.spaced
        elif name == "Fo":
            sheet.text(self._shown(given) + "(")
        elif name == "Fc":
            sheet.text(")")
        elif name.startswith("%"):
            sheet.text(self._shown(given))
        elif name in CALLABLE:
            if self.section == "SYNOPSIS" and name in ("Nm", "Fn", "Ft", "In", "Vt", "Fd"):
                sheet.flush()
            sheet.text(self._shown([name, *given]))
        elif name in ("nf", "fi") or (name in self.roff.defined and given):
            sheet.text(self._shown(given))

    def _block(self, name: str, given: list[str]) -> None:
        sheet = self.sheet
        if name == "Bd":
            kept = bool({"-literal", "-unfilled"} & set(given))
            self.displays.append(kept)
            sheet.begin_code() if kept else sheet.flush()
        elif name == "Ed" and self.displays:
            sheet.end_code() if self.displays.pop() else sheet.flush()
        elif sheet.code is not None:
            sheet.text("")
        else:
            sheet.flush()

    def _shown(self, given: list[str]) -> str:
        """A line of macros and their arguments as text."""
        made: list[str] = []
        for word in self._words(given):
            tight = not made or not self.spaced or made[-1] in (_JOIN, *OPENING)
            if word != _JOIN and word not in CLOSING and not tight:
                made.append(" ")
            made.append(word)
        return "".join(made).replace(_JOIN, "")

    def _words(self, given: list[str]) -> Iterator[str]:
        """Words, with _JOIN where no blank may stand."""
        closing: list[str] = []  # what is enclosed to the end of the line
        current, bare, tail = "", False, []
        ends = len(given)
        while ends and given[ends - 1] in CLOSING:
            ends -= 1
        body, tail = given[:ends], given[ends:]
        for word in body:
            if word in CALLABLE:
                if bare:
                    yield from self._alone(current)
                current, bare = word, True
                if word in ENCLOSED:
                    yield from (ENCLOSED[word][0], _JOIN)
                    closing.append(ENCLOSED[word][1])
                    current, bare = "", False
                elif word in BEGIN:
                    yield from (BEGIN[word], _JOIN)
                    current, bare = "", False
                elif word in END:
                    yield from (_JOIN, END[word])
                    current, bare = "", False
                elif word in ("Ns", "Ap"):
                    yield from (_JOIN, *(["'", _JOIN] if word == "Ap" else []))
                    current, bare = "", False
                continue
            yield from self._argument(current, self.roff.plain(word), bare)
            bare = False
            current = {"Xr": "Xr)", "Pf": "", "Fn": "Fn(", "Fn(": "Fn,"}.get(current, current)
            current = "" if word in CLOSING else current
        if bare:
            yield from self._alone(current)
        if current in ("Fn(", "Fn,"):
            yield from (_JOIN, ")")
        for one in reversed(closing):
            yield from (_JOIN, one)
        yield from tail

    def _alone(self, name: str) -> Iterator[str]:
        """What a macro without arguments shows."""
        shown = {"Nm": self.name, "Fl": "-", "Ar": "file ...", "Pa": "~"} | SYSTEMS
        if shown.get(name):
            yield shown[name]

    def _argument(self, name: str, word: str, first: bool) -> Iterator[str]:
        if word in CLOSING or word in OPENING or word == "|":
            yield word
        elif name == "Fl":
            yield "-" + word
        elif name == "Nm" and first:
            self.name = self.name or word
            yield word
        elif name == "Nd" and first:
            yield from ("–", word)
        elif name == "In":
            yield f"#include <{word}>" if self.section == "SYNOPSIS" else f"<{word}>"
        elif name == "Xr)":
            yield from (_JOIN, f"({word})")
        elif name == "Fn":
            yield from (word, _JOIN, "(", _JOIN)
        elif name == "Fn,":
            yield from (",", word)
        elif name in SYSTEMS and first:
            yield from (word, SYSTEMS[name]) if name == "Bx" else (SYSTEMS[name], word)
        elif name == "Pf":
            yield from (word, _JOIN)
        else:
            yield word
