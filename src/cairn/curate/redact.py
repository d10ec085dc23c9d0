"""Personal data and secrets by rules; replacement as in StarCoder2 (arXiv 2402.19173), section 3.

Byte-level prefilters come first, so that clean code costs a few substring searches. Addresses at
example domains, private and reserved IP addresses and well-known resolvers stay: they name nobody.
"""

import hashlib
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable

EMAIL, KEY, PASSWORD, IP = "email", "key", "password", "ip"

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])"
)
_EXAMPLES = re.compile(
    r"(?:^|[.@])(?:example\.(?:com|org|net|edu)|example|invalid|localhost|test|domain\.com|foo\.com|bar\.com)$",
    re.IGNORECASE,
)
_PEM = re.compile(r"-----(BEGIN|END) ([A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?)-----")
LONGEST_PEM = 20_000  # characters
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,90}"
    r"|glpat-[A-Za-z0-9_-]{20,22}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,120}"
    r"|AIza[0-9A-Za-z_-]{35}"
    r"|[sr]k_(?:live|test)_[0-9a-zA-Z]{20,99}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,250}"
    r"|sk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,180}|hf_[A-Za-z0-9]{30,40}"
    r"|(?<!-)eyJ[A-Za-z0-9_-]{15,2000}\.eyJ[A-Za-z0-9_-]{15,4000}\.[A-Za-z0-9_-]{20,1000}"
    r")(?![A-Za-z0-9_])"
)
_TOKEN_STARTS = (
    "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "AIza",
    "sk_", "rk_", "npm_", "pypi-", "sk-", "hf_", "eyJ",
)  # fmt: skip
_ASSIGNED = re.compile(
    r"(?i)\b[a-z_]{0,30}(api_?key|secret_?key|access_?key|auth_?token|access_?token|client_?secret|"
    r"private_?key|passw(?:or)?d|passwd|pwd)[a-z_]{0,10}[\"']?\s{0,4}(?:=|:|=>)\s{0,4}([\"'])([^\"'\s]{4,200})\2"
)
_URL_PASSWORD = re.compile(
    r"(://[^\s/:@\"'<>{}$%]{1,64}:)([^\s/:@\"'<>{}$%]{4,128})(@[A-Za-z0-9.-]+)"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
# All addresses that were ever given to anybody are in 2000::/3.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?<=[0-9A-Fa-f])(?!\w|:[0-9A-Fa-f:])"
)
_VERSION = re.compile(
    r"(?i)(?:version|ver|v|release|sections?|§|chapter|and|rfc|python|oid)[\s:=\"'(]{0,4}$"
)

# Fourteen that everybody uses.
RESOLVERS = frozenset(
    {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "149.112.112.112", "208.67.222.222"}
    | {"208.67.220.220", "76.76.19.19", "76.223.122.150", "94.140.14.14", "94.140.15.15"}
    | {"64.6.64.6", "64.6.65.6"}
)
SYNTHETIC_V4 = ("172.16.31.10", "172.16.58.3", "192.168.127.12", "192.168.3.11", "10.0.42.17")
SYNTHETIC_V6 = tuple(f"fd00:{n:x}::{n + 1:x}" for n in (0x1A, 0x2B, 0x3C, 0x4D, 0x5E))


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with personal data and secrets replaced, and how many of each kind there were.

    Keys: email, key, password, ip. The same address always gets the same replacement.
    """
    counts: Counter[str] = Counter()
    if "PRIVATE KEY" in text:
        text = _private_keys(text, counts)
    if any(start in text for start in _TOKEN_STARTS):
        text = _replace(_TOKENS, text, counts, KEY, lambda found: "<KEY>")
    lower = text.lower()
    if any(word in lower for word in ("key", "secret", "token", "passw", "pwd")):
        text = _assignments(text, counts)
    if "@" in text:
        if "://" in text:
            text = _replace(_URL_PASSWORD, text, counts, PASSWORD, _url_password)
        text = _replace(_EMAIL, text, counts, EMAIL, _email)
    text = _replace(_IPV4, text, counts, IP, _ipv4)
    text = _replace(_IPV6, text, counts, IP, _ipv6)
    return text, dict(sorted(counts.items()))


def _replace(
    pattern: re.Pattern[str],
    text: str,
    counts: Counter[str],
    kind: str,
    chosen: Callable[[re.Match[str]], str | None],
) -> str:
    """`chosen` gives the replacement, or None to leave the text."""

    def swap(found: re.Match[str]) -> str:
        new = chosen(found)
        if new is None:
            return found[0]
        counts[kind] += 1
        return new

    return pattern.sub(swap, text)


def _private_keys(text: str, counts: Counter[str]) -> str:
    """Blocks from BEGIN to the END of the same kind, in one pass over such lines."""
    pieces: list[str] = []
    place = 0
    begun: re.Match[str] | None = None
    for mark in _PEM.finditer(text):
        if mark[1] == "BEGIN":
            begun = mark
        elif begun and begun[2] == mark[2] and mark.start() - begun.end() <= LONGEST_PEM:
            if mark.start() - begun.end() >= 40:  # less is no key: an example, or a parser's code
                pieces += [text[place : begun.start()], "<KEY>"]
                place = mark.end()
                counts[KEY] += 1
            begun = None
    return "".join([*pieces, text[place:]])


def _url_password(found: re.Match[str]) -> str | None:
    return f"{found[1]}<PASSWORD>{found[3]}" if looks_secret(found[2]) else None


def _email(found: re.Match[str]) -> str | None:
    domain = found[0].rpartition("@")[2]
    return None if _EXAMPLES.search(domain) else "<EMAIL>"


def _assignments(text: str, counts: Counter[str]) -> str:
    def swap(found: re.Match[str]) -> str:
        name, quote, value = found[1].lower(), found[2], found[3]
        password = name.startswith(("passw", "pwd"))
        if not (looks_secret(value) if password else len(value) > 8 and looks_gibberish(value)):
            return found[0]
        counts[PASSWORD if password else KEY] += 1
        start = found.start(3) - found.start()
        return found[0][:start] + ("<PASSWORD>" if password else "<KEY>") + quote

    return _ASSIGNED.sub(swap, text)


def looks_secret(value: str) -> bool:
    """Whether a password's value is one, and no placeholder: letters beside digits or marks."""
    kinds = [any(map(test, value)) for test in (str.isalpha, str.isdigit)]
    kinds.append(any(not c.isalnum() and c not in "_-." for c in value))
    formatted = any(mark in value for mark in ("{", "}", "%s", "%(", "$(", "<", ">", "*", "://"))
    return len(value) >= 6 and sum(kinds) >= 2 and not formatted


def looks_gibberish(value: str) -> bool:
    """Whether a key's value looks random: mixed kinds of characters and high entropy."""
    if not re.fullmatch(r"[A-Za-z0-9+/=_.~-]+", value) or not any(map(str.isdigit, value)):
        return False
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    words = re.findall(r"[a-z]{5,}|[A-Z]{5,}", value)
    return (
        entropy >= 0.75 * math.log2(min(len(value), 64)) and sum(map(len, words)) < len(value) / 2
    )


def _ipv4(found: re.Match[str]) -> str | None:
    before = found.string[max(0, found.start() - 16) : found.start()]
    if _VERSION.search(before) or any(part != str(int(part)) for part in found[0].split(".")):
        return None
    return _address(found[0], SYNTHETIC_V4)


def _ipv6(found: re.Match[str]) -> str | None:
    groups = [group for group in found[0].split(":") if group]
    if len(groups) < 3:
        return None  # a slice, a prefix
    return _address(found[0], SYNTHETIC_V6)


def _address(text: str, synthetic: tuple[str, ...]) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    small = isinstance(address, ipaddress.IPv4Address) and int(address) >> 24 < 5
    if text in RESOLVERS or not address.is_global or address.is_multicast or small:
        return None  # 1.2.3.4 and the like are section or version numbers
    digest = hashlib.sha256(address.packed).digest()
    return synthetic[digest[0] % len(synthetic)]
