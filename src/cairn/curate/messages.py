"""What people write in issues and pull requests, freed of what programs put there.

The Stack v2 (arXiv 2402.19173), sections 2.2 and 2.3. Every function takes linear time.
"""

import re
from collections.abc import Iterable

TRUNCATED, CODECOV = "[TRUNCATED]", "[OMITTED]CodeCov"

_WROTE = re.compile(r"\s{0,8}On\b.{1,300}\bwrote:\s*+$", re.IGNORECASE)
_WROTE_BEGINS = re.compile(r"\s{0,8}On\b.{1,300}$", re.IGNORECASE)
_ORIGINAL = re.compile(r"\s{0,8}-{2,20}\s?Original Message\s?-{2,20}\s*+$", re.IGNORECASE)
_FROM = re.compile(r"\s{0,8}\*{0,2}From:", re.IGNORECASE)
_FIELD = re.compile(r"\s{0,8}\*{0,2}(?:Sent|To|Date|Cc|Subject|Reply-To):", re.IGNORECASE)
_RULE = re.compile(r"\s{0,8}_{8,200}\s*+$")
_REPLY = ("reply to this email directly", "you are receiving this because")
_MOBILE = re.compile(r"\s{0,8}(?:Sent from (?:my|Mail|Yahoo)\b|Get Outlook for\b)", re.IGNORECASE)
_SEPARATORS = frozenset({"", "—", "-", "--", "---", "–", "&mdash;"})

_COVERAGE = re.compile(
    r"^[>#\s]{0,8}(?:\[?Codecov\]?(?:\([^)\n]{0,200}\))? Report\b|\[!\[Coverage Status\])",
    re.IGNORECASE | re.MULTILINE,
)

_SIGN = re.compile(r"\s{0,8}(?:#{1,6}\s|[-*+] \[ \]|\*\*[^*\n]{1,200}\*\*:?\s*+$)")
_FORM = re.compile(
    r"\s{0,8}(?:\*{3,}+|_{3,}+|`{3,}+\w{0,20}|~{3,}+|[|:\s-]{3,}+|(?:[-*+]|\d{1,3}[.)])|"
    r"\.{3}|n/?a|none|_no response_|#{1,6})\s*+$",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[^\n]{1,80}:\s*+$")
_EXAMPLE = re.compile(r"[\[(]e\.g\.|'\.{3,4}'", re.IGNORECASE)
_ASKS = (  # how the lines of the templates that GitHub offers begin
    "a clear and concise description",
    "add any other context",
    "if applicable, add",
    "is your feature request related to",
    "steps to reproduce",
    "see error",
    "4. see error",
)


def without_html_comments(text: str) -> str:
    """Text less each `<!-- ... -->`; one that never ends stays."""
    parts: list[str] = []
    place = 0
    while (start := text.find("<!--", place)) >= 0:
        end = text.find("-->", start + 4)
        if end < 0:
            break
        parts.append(text[place:start])
        place = end + 3
    return "".join(parts) + text[place:] if parts or place else text


def without_email(text: str) -> str:
    """Text less what mail programs add to a reply: the quoted message and the lines around it.

    What is quoted by hand in between stays, unless GitHub's own footer follows it.
    """
    lines = text.split("\n")
    kept: list[str] = []
    head = -1  # where in `kept` a quoted message begins
    skipping = False
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if any(one in line.lower() for one in _REPLY):
            if head >= 0:
                del kept[head:]
            while kept and kept[-1].strip("> \t") in _SEPARATORS:
                kept.pop()
            head, skipping = -1, True
        elif skipping and (not line.strip() or line.lstrip().startswith(">")):
            continue
        else:
            skipping = False
            if head < 0 and _begins_quote(line, after):
                head = len(kept)
            kept.append(line)
    if head >= 0 and _only_quoted(kept[head:]):
        del kept[head:]
    while kept and (not kept[-1].strip() or _MOBILE.match(kept[-1])):
        kept.pop()
    return "\n".join(kept)


def _begins_quote(line: str, after: str) -> bool:
    if _WROTE.match(line) or _ORIGINAL.match(line):
        return True
    if _WROTE_BEGINS.match(line) and after.strip().lower().endswith("wrote:") and len(after) < 300:
        return True
    return bool(
        (_RULE.match(line) and _FROM.match(after)) or (_FROM.match(line) and _FIELD.match(after))
    )


def _only_quoted(lines: list[str]) -> bool:
    """Whether a quoted message goes on to the end: marked by `>`, or as Outlook has it."""
    if not _WROTE.match(lines[0]) and not _WROTE_BEGINS.match(lines[0]):
        return True
    rest = [line for line in lines[1:] if line.strip() and not _MOBILE.match(line)]
    if rest and rest[0].strip().lower().endswith("wrote:"):
        rest = rest[1:]
    return bool(rest) and all(line.lstrip().startswith(">") for line in rest)


def without_coverage(text: str) -> str:
    """Text with the report of a coverage service, which goes on to the end, as a marker."""
    found = _COVERAGE.search(text)
    return text[: found.start()] + CODECOV if found else text


def clean(text: str) -> str:
    """A message without HTML comments, e-mail and coverage boilerplate; lines end in \\n."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return without_coverage(without_email(without_html_comments(text))).strip()


def cut_lines(text: str, first: int, last: int) -> str:
    """Text of at most `first` + `last` lines: of more, those at both ends around a marker."""
    lines = text.split("\n")
    if len(lines) <= first + last:
        return text
    return "\n".join([*lines[:first], TRUNCATED, *lines[len(lines) - last :]])


def cut_characters(text: str, most: int) -> str:
    """Text of at most `most` characters, and a marker where it had more."""
    return text if len(text) <= most else text[:most] + TRUNCATED


def unfilled(text: str) -> bool:
    """Whether a description is a template in which nothing was written.

    It shows a template's signs (headings, open check boxes, bold labels, HTML comments) and has no
    line beside them but labels, rules, examples and the phrases of GitHub's own templates.
    """
    shown = without_html_comments(text)
    signs = shown != text
    for line in shown.split("\n"):
        if _SIGN.match(line):
            signs = True
        elif line.strip() and not _is_form(line):
            return False
    return signs


def _is_form(line: str) -> bool:
    bare = line.strip().lstrip("-*+>#_ ").lower()
    return bool(
        not bare
        or _FORM.match(line)
        or _LABEL.match(line)
        or _EXAMPLE.search(line)
        or bare.startswith(_ASKS)
    )


_MENTION = re.compile(r"(?<![\w@/.-])@([A-Za-z0-9][A-Za-z0-9-]{0,38})(?![\w-])")
_PROFILE = re.compile(r"(github\.com/)([A-Za-z0-9][A-Za-z0-9-]{0,38})(?![\w-])", re.IGNORECASE)


class Participants:
    """Those who take part in a thread, as username_0, username_1, ... in order of appearance."""

    def __init__(self, logins: Iterable[str]) -> None:
        order = dict.fromkeys(login.lower() for login in logins)
        self._names = {login: f"username_{number}" for number, login in enumerate(order)}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, login: str) -> str:
        """What a participant is called."""
        return self._names[login.lower()]

    def hide(self, text: str) -> str:
        """Text with participants' names replaced in @mentions and in addresses of GitHub's pages.

        Others who are mentioned stay, as in section 3 of the report.
        """
        text = _MENTION.sub(lambda m: "@" + self._names.get(m[1].lower(), m[1]), text)
        return _PROFILE.sub(lambda m: m[1] + self._names.get(m[2].lower(), m[2]), text)
