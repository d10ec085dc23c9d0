"""Roff's lines and escapes, as far as manual pages need them; linear in the length of a page.

Macros that a page defines for itself are passed over: what they print is printed plainly.
"""

import re
from collections.abc import Iterator

_ESCAPE = re.compile(
    r"\\(?:(?P<special>\((?P<two>..)|\[(?P<long>[^\]\n]{0,80})\]|C'(?P<named>[^'\n]{0,80})')"
    r"|\*(?P<string>\[[^\]\n]{0,80}\]|\(..|[^\[(\n])"
    r"|(?P<gone>[fFgkMmnVY](?:[+-]?\[[^\]\n]{0,80}\]|[+-]?\(..|[+-]?[^\[(\n])"
    r"|s[+-]?(?:\[[^\]\n]{0,20}\]|\(..|'[^'\n]{0,20}'|[1-3][0-9]|[0-9])"
    r"|[bDhHlLNRSvwxXAB]'[^'\n]{0,200}'|[zcpud]|[&|^/,)%:!{}a]|\n)"
    r"|o'(?P<over>[^'\n]{0,20})'|(?P<one>.))"
)
_COMMENT = re.compile(r"\\[\"#].*+")
_PLAIN = {"-": "-", " ": " ", "~": " ", "0": " ", "e": "\\", "\\": "\\", "E": "\\", "t": "\t"}
_PLAIN |= {"'": "'", "`": "`", "_": "_", ".": "."}
_TABLE = (
    "aq ' dq \" lq “ rq ” oq ‘ cq ’ bu • em — en – hy - mi − co © rg ® tm ™ ga ` ha ^ ti ~ rs \\"
    " at @ sh # Do $ ul _ bv | ba | or | br │ lB [ rB ] lC { rC } la ⟨ ra ⟩ <- ← -> → <> ↔ da ↓"
    " ua ↑ <= ≤ >= ≥ != ≠ == ≡ ~~ ≈ +- ± mu × di ÷ de ° sc § dg † dd ‡ fm ′ sd ″ sl / *a α *b β"
    " *g γ *d δ *m μ *l λ *p π *s σ *W Ω if ∞ sr √ ci ○ sq □ fo ‹ fc › Fo « Fc » r! ¡ r? ¿ ss ß"
    " :a ä :o ö :u ü :A Ä :O Ö :U Ü 'e é 'a á 'i í 'o ó 'u ú `e è `a à ^e ê ^a â ^o ô ,c ç ~n ñ"
    " oa å /o ø /O Ø ae æ AE Æ oA Å :e ë :i ï 'E É Cs ¤ Eu € Po £ 12 ½ 14 ¼ 34 ¾ pl + eq ="
    " aa ´ a^ ^ a~ ~ OK ✓ no ¬ CR ↵ lh ☜ rh ☞ tno ¬ hA ⇔ rA ⇒ lA ⇐ bb ¦ 'c ć vs š vc č vz ž"
)
_NAMES = _TABLE.split()
SPECIAL: dict[str, str] = dict(zip(_NAMES[::2], _NAMES[1::2], strict=True))
_LONGEST = 200  # characters of a string that a page defines
_STRINGS = {"R": "®", "Tm": "™", "lq": "“", "rq": "”", "Aq": "'", 'L"': '"', 'R"': '"'}
_CONDITION = re.compile(
    r"(?P<not>!?)\s*+(?:(?P<flag>[note])(?=[\s\\]|$)"
    r"|\((?P<group>[^\s]{0,80})|(?P<text>'[^'\n]{0,80}'[^'\n]{0,80}')"
    r"|(?P<register>\\n(?:\[[^\]\n]{0,40}\]|\(..|.)(?:[<>=]\S{0,40})?)|(?P<other>\S{0,80}))\s*+"
)


class Roff:
    """A page's lines, with what it defines on the way."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.strings = dict(_STRINGS)
        self.defined: set[str] = set()  # macros of the page's own
        self.taken = False  # whether the last `.ie` held
        self.place = 0

    def read(self) -> Iterator[tuple[str, str]]:
        """(macro, what follows it) and ("", text), in order, without definitions and comments."""
        while self.place < len(self.lines):
            line = self.lines[self.place]
            self.place += 1
            yield from self._line(line)

    def _line(self, line: str) -> Iterator[tuple[str, str]]:
        for _ in range(8):  # conditions that stand behind one another
            if not line.startswith((".", "'")):
                text = _COMMENT.sub("", line)
                if text or not line:
                    yield "", text
                return
            name, rest = _split(line[1:])
            if name in ("if", "ie", "el", "while"):
                line = self._condition(name, rest)
                if not line:
                    return
                continue
            if name in ("de", "de1", "dei", "am", "am1", "ami", "ig"):
                given = _COMMENT.sub("", rest).split()
                self.defined |= set() if name == "ig" else set(given[:1])
                self._skip(given[:1] if name == "ig" else given[1:2])
            elif name in ("ds", "ds1", "as"):
                key, value = _split(rest)
                self.strings[key] = self.plain(value.removeprefix('"'))[:_LONGEST]
            elif name not in ("", "\\}", '\\"', "\\#"):
                yield name, rest.strip(" \t")
            return

    def _skip(self, end: list[str]) -> None:
        """Past a definition, which two dots end, or what it names."""
        closing = end[0] if end else "."
        while self.place < len(self.lines):
            line = self.lines[self.place]
            self.place += 1
            if line.startswith(".") and _split(line[1:])[0] == closing:
                return

    def _condition(self, name: str, rest: str) -> str:
        """What stands behind a condition that holds; one that does not is passed over."""
        if name == "el":
            holds, rest = not self.taken, rest.lstrip()
        else:
            found = _CONDITION.match(rest)
            assert found is not None, "it matches anything"
            holds, rest = _holds(found), rest[found.end() :]
            self.taken = holds if name == "ie" else self.taken
        if name == "while":
            holds = False
        body = rest.replace("\\{\\", "").replace("\\{", "") if holds else ""
        if not holds:
            depth = rest.count("\\{") - rest.count("\\}")
            while depth > 0 and self.place < len(self.lines):
                line = self.lines[self.place]
                depth += line.count("\\{") - line.count("\\}")
                self.place += 1
        return body.replace("\\}", "").strip()

    def plain(self, text: str) -> str:
        """The characters that a text with escapes stands for."""
        return _ESCAPE.sub(self._escape, text) if "\\" in text else text

    def _escape(self, found: re.Match[str]) -> str:
        if found["special"] is not None:
            name = found["two"] or found["long"] or found["named"] or ""
            return SPECIAL.get(name) or _unicode(name)
        if found["string"] is not None:
            return self.strings.get(found["string"].strip("[(]"), "")
        if found["gone"] is not None:
            return ""
        if found["over"] is not None:
            return found["over"][:1]
        return _PLAIN.get(found["one"], found["one"])


def _holds(found: re.Match[str]) -> bool:
    """Whether a terminal's roff with GNU's extensions takes the condition for true."""
    if found["flag"] is not None:
        holds = found["flag"] in "no"
    elif found["text"] is not None:
        _, one, other, _ = found["text"].split("'")
        holds = one == other
    elif found["group"] is not None:
        holds = found["group"].startswith(("\\n(.g", "\\n[.g]"))
    else:
        holds = (found["register"] or "").startswith(("\\n(.g", "\\n[.g]"))
    return holds != bool(found["not"])


def _unicode(name: str) -> str:
    if re.fullmatch(r"u[0-9A-F]{4,6}", name) and int(name[1:], 16) < 0x110000:
        character = chr(int(name[1:], 16))
        return "" if "\ud800" <= character <= "\udfff" else character
    if re.fullmatch(r"char[0-9]{1,3}", name):
        return chr(int(name[4:]))
    return ""


def _split(text: str) -> tuple[str, str]:
    """The first word, and the rest."""
    parts = text.strip(" \t").split(None, 1)
    return (parts[0], parts[1]) if len(parts) > 1 else (parts[0] if parts else "", "")


_ARGUMENT = re.compile(r'"((?:[^"]++|"")*+)"?+|((?:[^\s\\]|\\.)++\\?+|\\)', re.DOTALL)


def arguments(text: str) -> list[str]:
    """The arguments of a macro; a quoted one may hold blanks, and a quote as two."""
    found = _ARGUMENT.finditer(_COMMENT.sub("", text))
    return [(one[1] or "").replace('""', '"') if one[2] is None else one[2] for one in found]
