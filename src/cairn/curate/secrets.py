"""Keys and passwords by their form, or by the name of what they are assigned to.

Every search begins at a literal word, found by the fastest search there is, so that clean text
costs little; and each pattern begins where no run of its own characters goes on, so that hostile
text costs no more than its length.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

Span = tuple[int, int]

_BEFORE = r"(?<![A-Za-z0-9_-])"
_AFTER = r"(?![A-Za-z0-9_-])"
# How a key begins -> its whole form; the digits are those that its maker gives.
_FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("AKIA", "ASIA"), r"(?:AKIA|ASIA)[0-9A-Z]{16}"),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,255}+"),
    (("github_pat_",), r"github_pat_[A-Za-z0-9_]{60,90}+"),
    (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,22}+"),
    (("xox",), r"xox[abprs]-[A-Za-z0-9-]{10,120}+"),
    (("AIza",), r"AIza[0-9A-Za-z_-]{35}"),
    (("GOCSPX-",), r"GOCSPX-[A-Za-z0-9_-]{28}"),
    (("sk_live_", "sk_test_", "rk_live_", "rk_test_"), r"[sr]k_(?:live|test)_[0-9a-zA-Z]{20,99}+"),
    (("npm_",), r"npm_[A-Za-z0-9]{36}"),
    (("pypi-",), r"pypi-[A-Za-z0-9_-]{50,250}+"),
    (("sk-",), r"sk-(?=[A-Za-z_-]*+[0-9])[A-Za-z0-9_-]{32,180}+"),
    (("hf_",), r"hf_[A-Za-z0-9]{30,40}+"),
    (("SG.",), r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}+"),
    (("dop_v1_",), r"dop_v1_[0-9a-f]{64}"),
    (("shpat_", "shpss_"), r"shp(?:at|ss)_[0-9a-fA-F]{32}"),
    (("SK",), r"SK[0-9a-f]{32}"),
    (("sq0csp-", "sq0atp-"), r"sq0(?:csp|atp)-[A-Za-z0-9_-]{22,43}+"),
    (("AKCp",), r"AKCp[A-Za-z0-9]{60,80}+"),
    (("ya29.",), r"ya29\.[A-Za-z0-9_-]{30,250}+"),
    ((":AA",), r":AA[A-Za-z0-9_-]{33}"),  # of a Telegram bot, whose number stands before
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{15,2000}+\.eyJ[A-Za-z0-9_-]{15,4000}+\.[A-Za-z0-9_-]{20,1000}+"),
)
FORMS = tuple(
    (starts, re.compile((_BEFORE if starts[0][0] != ":" else r"(?<=\d{8})") + form + _AFTER))
    for starts, form in _FORMS
)
# Where a key's mark is not at its beginning: the mark, how far before it the key begins, the form.
_INSIDE: tuple[tuple[str, int, str], ...] = (
    ("-us", 32, r"[0-9a-f]{32}-us[0-9]{1,2}"),  # Mailchimp
    ("hooks.slack.com/", 0, r"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9/]{30,100}+)"),
    (":_authToken=", 0, r":_authToken=([A-Za-z0-9+/=_-]{20,400}+)"),  # npm
    (":_auth=", 0, r":_auth=([A-Za-z0-9+/=]{16,400}+)"),
)
INSIDE = tuple((mark, back, re.compile(form + _AFTER)) for mark, back, form in _INSIDE)
_MIDDLE = re.compile(r"\.[A-Za-z0-9_-]{6}\.")
_DISCORD = re.compile(
    _BEFORE + r"[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}+"
)
_STORAGE = re.compile(r"AccountKey=([A-Za-z0-9+/]{86}==)")
_BEARER = re.compile(r"(?:Bearer|Basic|token) ([A-Za-z0-9+/=_.~-]{16,2000}+)")
_PEM = re.compile(r"-----(BEGIN|END) ([A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?)-----")
_BODY = re.compile(r"[A-Za-z0-9+/]{32,}+")
LONGEST_PEM = 20_000  # characters
_URL_PASSWORD = re.compile(r"([^\s/:@\"'<>{}$%]{0,64}+):([^\s/:@\"'<>{}$%]{4,128}+)@[A-Za-z0-9.-]")

# What a name ends with, and what stands before that in the name of a key.
_KEYS = {
    "key": (
        *("api", "secret", "access", "private", "priv", "encryption", "signing", "account", "auth"),
        *("service", "client", "master", "db", "database", "shared", "consumer"),
    ),
    "pass": (
        *("db", "database", "key", "mysql", "smtp", "mail", "email", "ftp", "redis", "ldap"),
        *("admin", "root", "user", "auth", "proxy"),
    ),
}
_JOINED = {
    word: tuple(before + joint for before in known for joint in ("", "_", "-"))
    for word, known in _KEYS.items()
}
_NAMES = {"key": _JOINED["key"], "secret": ("",), "token": ("",)}
_PASSWORDS: dict[str, tuple[str, ...]] = {
    **{word: ("",) for word in ("password", "passwd", "passphrase", "pwd")},
    "pass": _JOINED["pass"],
}
_REST = r"[a-z0-9_-]{0,12}+"  # of the name
_QUOTED = re.compile(
    _REST + r"[\"']?\]?(?: ?: ?[a-z]{1,12})?\s{0,4}+(?:=>|:=|={1,3}|!==?|:)\s{0,4}+[brf@]?"
    r"([\"'`])([^\"'`\s]{4,200}+)\1",
    re.IGNORECASE,
)
_BARE = re.compile(
    _REST + r"( {0,2}+[=:] {0,2}+)([^\s\"'`<>{}()\[\],;$%&|\\]{6,200}+)[ \t]{0,8}+"
    r"(?=\r?\n|\Z|#)",
    re.IGNORECASE,
)
_RANDOM = re.compile(r"[A-Za-z0-9+/=_.~!@#^:-]++")
_HEXADECIMAL = re.compile(r"[0-9a-f-]++|[0-9A-F-]++")
_EXAMPLES = ("example", "0123456789", "1234567890", "abcdefgh", "change", "your")
_PLACEHOLDER = re.compile(r"[a-z_.-]*?pass[a-z_-]*+\d?", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"[a-z_]\w*+(?:\.\w++)+", re.IGNORECASE)
_PATH = re.compile(r"(?:[.~]{0,2}|[A-Za-z]:)/[a-z._-]{2,40}+(?:/|\Z)")
SHORTEST_RANDOM = 10  # characters of a bare value: of fewer, sha256 looks random
LONGEST_ATTRIBUTE = 40  # characters of a bare a.b.c that may be code: tokens are longer
_PLAIN = re.compile(r"(?=[^/:]*+\Z)[^=~.*@-]", re.IGNORECASE)
_MARKED = re.compile(r"\w[!?#@]+\w")
_VARIABLE = re.compile(
    r"pass|pwd|secret|token|user|(?:\A|[^a-z])key|(?:\A|[^0-9])(?:2|4|6|8|16|32|64|128|256|384|512)\Z",
    re.IGNORECASE,
)


def keys_by_form(text: str) -> Iterator[Span]:
    """Where keys stand that their makers' marks tell."""
    for starts, pattern in FORMS:
        for start in starts:
            for place in occurrences(text, start):
                found = pattern.match(text, place)
                if found is not None and (len(start) > 2 or looks_gibberish(found[0][2:])):
                    yield (found.start() + (start[0] == ":"), found.end())
    yield from _keys_by_middle(text)
    for place in occurrences(text, "AccountKey="):
        if found := _STORAGE.match(text, place):
            yield found.span(1)
    for place in occurrences(text, "Authorization"):
        found = _BEARER.search(text, place, place + 60)
        found = found and _BEARER.match(text, found.start())
        if found and looks_gibberish(found[1]):
            yield found.span(1)


def _keys_by_middle(text: str) -> Iterator[Span]:
    """Where keys stand whose marks are inside them or before them."""
    for mark, back, pattern in INSIDE:
        for place in occurrences(text, mark):
            found = pattern.match(text, place - back) if place >= back else None
            if found is not None and not (
                back and text[found.start() - 1 : found.start()].isalnum()
            ):
                yield found.span(pattern.groups)
    for middle in _MIDDLE.finditer(text):
        for length in (24, 25, 26):
            found = _DISCORD.match(text, max(middle.start() - length, 0))
            if found is not None and looks_gibberish(found[0]):
                yield found.span()


def private_keys(text: str) -> Iterator[Span]:
    """Blocks from BEGIN to the END of the same kind, in one pass over such lines."""
    if "PRIVATE KEY" not in text:
        return
    begun: re.Match[str] | None = None
    for mark in _PEM.finditer(text):
        if mark[1] == "BEGIN":
            begun = mark
        elif begun and begun[2] == mark[2] and mark.start() - begun.end() <= LONGEST_PEM:
            # Else it is an example, or code that reads or writes keys.
            if any(len(set(run)) >= 4 for run in _BODY.findall(text, begun.end(), mark.start())):
                yield begun.start(), mark.end()
            begun = None


def keys_by_name(text: str, lower: str) -> Iterator[Span]:
    """Values that look random and are assigned to a name that says they are a key."""
    yield from _assigned(text, lower, _NAMES, lambda v: len(v) > 8 and looks_gibberish(v))


def passwords(text: str, lower: str) -> Iterator[Span]:
    """Values that are assigned to a password, and passwords inside addresses."""
    yield from _assigned(text, lower, _PASSWORDS, looks_secret)
    for place in occurrences(text, "://"):
        found = _URL_PASSWORD.match(text, place + 3)
        if found and looks_secret(found[2]):
            yield found.span(2)


def _assigned(
    text: str, lower: str, names: dict[str, tuple[str, ...]], wanted: Callable[[str], bool]
) -> Iterator[Span]:
    for word, before in names.items():
        for place in occurrences(lower, word):
            if not lower.endswith(before, 0, place):
                continue
            after = place + len(word)
            found = _QUOTED.match(text, after)
            if found is not None:
                if wanted(found[2]):
                    yield found.span(2)
            elif (found := _BARE.match(text, after)) and _is_setting(text, place):
                value = found[2]
                if looks_secret(value) and (_is_random(value) or _is_plain(value, found[1])):
                    yield found.span(2)


def _is_random(value: str) -> bool:
    """Whether a bare value looks random, and is neither an attribute nor a path."""
    if len(value) < LONGEST_ATTRIBUTE and _ATTRIBUTE.fullmatch(value):
        return False
    return len(value) >= SHORTEST_RANDOM and not _PATH.match(value) and looks_gibberish(value)


def _is_plain(value: str, joint: str) -> bool:
    """Whether a bare value is a password that people think of, and not the name of a variable.

    Spaced as settings are (`a=b`, `a: b`) or with a mark that code has not between its letters, it
    is no path, and neither named like what it is nor like a type (`uint64`, `sha256`).
    """
    if joint not in ("=", ": ") and not _MARKED.search(value):
        return False
    return bool(_PLAIN.match(value)) and not _VARIABLE.search(value)


def _is_setting(text: str, place: int) -> bool:
    """Whether a name is the first of its line, as in .env, INI and YAML files."""
    start = text.rfind("\n", max(place - 60, 0), place) + 1
    before = text[start or max(place - 60, 0) : place]
    return re.fullmatch(r"\s*(?:export\s+|- )?[A-Za-z0-9_.-]*", before) is not None


def occurrences(text: str, word: str) -> Iterator[int]:
    """Every place of a word."""
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + 1)


def looks_secret(value: str) -> bool:
    """Whether a password's value is one, and no placeholder: letters beside digits or marks."""
    kinds = [any(map(test, value)) for test in (str.isalpha, str.isdigit)]
    kinds.append(any(not c.isalnum() and c not in "_-." for c in value))
    formatted = any(mark in value for mark in ("{", "}", "%s", "%(", "$(", "<", ">", "*", "://"))
    code = value[0] in "),;]" or _PLACEHOLDER.fullmatch(value) is not None
    mixed = sum(kinds) >= 2 or _is_mixed(value)
    return len(value) >= 6 and mixed and not formatted and not code and not _is_example(value)


def _is_example(value: str) -> bool:
    return any(sign in value.lower() for sign in _EXAMPLES)


def _is_mixed(value: str) -> bool:
    """Whether letters alone look random: small and large ones that form no words."""
    words = re.search(r"[a-z]{5}|[A-Z]{5}", value) is not None
    return len(value) >= 10 and not words and len(re.findall(r"[a-z][A-Z]", value)) >= 3


def looks_gibberish(value: str) -> bool:
    """Whether a key's value looks random: mixed kinds of characters and high entropy."""
    if not _RANDOM.fullmatch(value) or not any(map(str.isdigit, value)):
        return False
    if _is_example(value):
        return False
    if _HEXADECIMAL.fullmatch(value):  # and numbers of such groups
        value = value.replace("-", "")
        return not value.isdigit() and _entropy(value) >= 0.75 * math.log2(min(len(value), 16))
    entropy = _entropy(value)
    words = re.findall(r"[a-z]{5,}|[A-Z]{5,}", value)
    return (
        entropy >= 0.75 * math.log2(min(len(value), 64)) and sum(map(len, words)) < len(value) / 2
    )


def _entropy(value: str) -> float:
    """Bits a character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
