"""Personal data and secrets by rules; replacement as in StarCoder2 (arXiv 2402.19173), section 3.

Addresses at example domains, private and reserved IP addresses and well-known resolvers stay: they
name nobody.
"""

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from cairn.curate.domains import is_top_level
from cairn.curate.secrets import (
    Span,
    keys_by_form,
    keys_by_name,
    looks_secret,
    passwords,
    private_keys,
)

EMAIL, KEY, PASSWORD, IP = "email", "key", "password", "ip"
Find = tuple[int, int, str, str]  # start, end, kind, replacement
PASSES = 8

_AT = re.compile(r"@(?=[A-Za-z0-9])")
_DOMAIN = re.compile(r"((?:[A-Za-z0-9-]{1,63}+\.){1,8})([A-Za-z]{2,24}+)(?![\w@])")
_LOCAL = "".join(map(chr, range(0x30, 0x3A))) + "._%+-" + "abcdefghijklmnopqrstuvwxyz"
_LOCAL += _LOCAL[-26:].upper()
LONGEST_LOCAL = 64
_USER = re.compile(r"://[^\s/:@]{0,64}:\Z")
_EXAMPLES = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|invalid|localhost|test|domain\.com|foo\.com|bar\.com)$",
    re.IGNORECASE,
)
_CODE = frozenset({"self", "cls", "this", "np", "torch", "jnp"})  # x@self.weight multiplies
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
# All addresses that were ever given to anybody are in 2000::/3.
_IPV6 = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?<=[0-9A-Fa-f])(?!\w|:[0-9A-Fa-f:])"
)
# What the searches begin at, since they are fast where a pattern begins with one letter.
_OCTET = re.compile(r"\.\d{1,3}\.")
_GROUP = re.compile(r":[0-9A-Fa-f]{0,4}:")
SMALL = 40  # four parts below this are a section of a standard or a version
_VERSION = re.compile(
    r"(?i)(?:(?<![a-z])(?:version|ver|v|release|sections?|chapter|and|rfc|python|oid)|§)"
    r"[\s:=\"'(]{0,4}$"
)

# Fourteen that everybody uses.
RESOLVERS = frozenset(
    {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "149.112.112.112", "208.67.222.222"}
    | {"208.67.220.220", "76.76.19.19", "76.223.122.150", "94.140.14.14", "94.140.15.15"}
    | {"64.6.64.6", "64.6.65.6"}
)
SYNTHETIC_V4 = ("172.16.31.10", "172.16.58.3", "192.168.127.12", "192.168.3.11", "10.0.42.17")
SYNTHETIC_V6 = tuple(f"fd00:{n:x}::{n + 1:x}" for n in (0x1A, 0x2B, 0x3C, 0x4D, 0x5E))


def redact(
    text: str, kinds: frozenset[str] | None = None, more: Iterable[Find] = ()
) -> tuple[str, dict[str, int]]:
    """The text with personal data and secrets replaced, and how many of each kind there were.

    Keys: email, key, password, ip, and the kinds of what else was found (`more`); with `kinds`
    only those are replaced. The same address always gets the same replacement. What was redacted
    by rules stays as it is when it is redacted again.
    """
    total: Counter[str] = Counter()
    for _ in range(PASSES):  # what touched a secret may show itself once that is gone
        found = [one for one in (*_found(text), *more) if kinds is None or one[2] in kinds]
        if not found:
            break
        text, counts = _replaced(text, found)
        total.update(counts)
        more = ()
    return text, dict(sorted(total.items()))


def _found(text: str) -> list[Find]:
    lower = text.replace("\u0130", "I").lower()  # the one letter whose small form is two
    found: list[Find] = []
    for kind, mark, spans in (
        (KEY, "<KEY>", private_keys(text)),
        (KEY, "<KEY>", keys_by_form(text)),
        (KEY, "<KEY>", keys_by_name(text, lower)),
        (PASSWORD, "<PASSWORD>", passwords(text, lower)),
        (EMAIL, "<EMAIL>", _emails(text)),
    ):
        found += ((*span, kind, mark) for span in spans)
    for addresses in (_fourth(text), _sixth(text)):
        found += ((*span, IP, address) for span, address in addresses)
    return found


def _replaced(text: str, found: Iterable[Find]) -> tuple[str, dict[str, int]]:
    """The text with finds replaced; of what overlaps, the first and longest. How many of a kind."""
    counts: Counter[str] = Counter()
    pieces: list[str] = []
    place = 0
    for start, end, kind, mark in sorted(found, key=lambda one: (one[0], -one[1])):
        if start >= place:
            pieces += [text[place:start], mark]
            counts[kind] += 1
            place = end
    return "".join([*pieces, text[place:]]), dict(sorted(counts.items()))


def _emails(text: str) -> Iterator[Span]:
    if "@" not in text:
        return
    for at in _AT.finditer(text):
        place = at.start()
        domain = _DOMAIN.match(text, place + 1)
        if domain is None or not is_top_level(domain[2]) or _EXAMPLES.search(domain[0]):
            continue
        if domain[1].split(".", 1)[0] in _CODE:
            continue
        begin = max(place - LONGEST_LOCAL - 1, 0)
        before = text[begin:place]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip("._%+-")
        start = place - len(local)
        if not local or len(local) > LONGEST_LOCAL or local == "git":  # everybody's, as in git@host
            continue
        if start and (text[start - 1].isalnum() or text[start - 1] in "_.+-"):
            continue
        if _is_password(text, start, local):
            continue
        yield start, domain.end()


def _is_password(text: str, start: int, local: str) -> bool:
    """Whether what stands before the `@` is the password of an address: scheme://user:it@host."""
    before = _USER.search(text, max(start - 68, 0), start)
    return before is not None and looks_secret(local)


def _fourth(text: str) -> Iterator[tuple[Span, str]]:
    for octet in _OCTET.finditer(text):
        place = octet.start()
        found = None
        for start in range(max(place - 3, 0), place):  # at most one is where no digit stands before
            found = found or _IPV4.match(text, start)
        if found is None:
            continue
        before = text[max(0, found.start() - 16) : found.start()]
        parts = found[0].split(".")
        if _VERSION.search(before) or any(part != str(int(part)) for part in parts):
            continue
        if all(int(part) < SMALL for part in parts) or len(set(parts)) == 1:
            continue
        if address := _address(found[0], SYNTHETIC_V4):
            yield found.span(), address


def _sixth(text: str) -> Iterator[tuple[Span, str]]:
    for group in _GROUP.finditer(text):
        found = _IPV6.match(text, max(group.start() - 4, 0))
        if found is None:
            continue
        groups = [group for group in found[0].split(":") if group]
        if len(groups) >= 3 and (address := _address(found[0], SYNTHETIC_V6)):  # else a slice
            yield found.span(), address


def private_replacement(address: str) -> str | None:
    """The synthetic address for one that names somebody; None for any other text."""
    return _address(address, SYNTHETIC_V6 if ":" in address else SYNTHETIC_V4)


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
