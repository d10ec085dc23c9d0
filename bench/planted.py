"""How much of what is planted into real files the rules of redaction find, beside detect-secrets.

    python bench/planted.py [ARCHIVE ...] [--peer PYTHON] [--each 200] [--megabytes 8] [--show 0]

Secrets of every kind are made from a seed and planted as lines into files of the running Python's
library and of source archives. A planted secret is found by cairn if nothing of its value is left,
by detect-secrets (in the environment of PYTHON; all its plugins and filters) if it reports the
line. The same files unplanted tell what is found per megabyte; `--show` prints that many of each
kind, to judge them by eye. No value stands in this file: none looks like a live key.
"""

import argparse
import base64
import ipaddress
import json
import random
import string
import subprocess
import sysconfig
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cairn.curate.redact import redact

UPPER, LOWER, DIGITS = string.ascii_uppercase, string.ascii_lowercase, string.digits
LETTERS = UPPER + LOWER + DIGITS
HEX = DIGITS + "abcdef"
ENDINGS = (".py", ".js", ".ts", ".java", ".go", ".c", ".h", ".rb", ".php", ".sh", ".yml", ".ini")
WORDS = ("summer", "Dragon", "monkey", "Winter", "coffee", "Garden", "master", "Rocket", "banana")
QUOTED = ('{} = "{}"', "{} = '{}'", '"{}": "{}",', "{}: '{}'", "const {} = '{}';")
BARE = ("{}={}", "export {}={}", "{}: {}", "{} = {}")
LOOSE = ("# use {}", 'token("{}")', "x = '{}'", "// {}", "<td>{}</td>")

PEER = r"""
import json, sys
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings
with default_settings():
    for path in sys.stdin.read().splitlines():
        found = [[s.line_number, s.type, s.secret_value or ""] for s in scan_file(path)]
        print(json.dumps([path, found]))
"""

Rng = random.Random


@dataclass(frozen=True)
class Plant:
    """A line (or several) with a secret; `value` must not survive."""

    kind: str
    text: str
    value: str


def some(rng: Rng, letters: str, count: int) -> str:
    return "".join(rng.choice(letters) for _ in range(count))


def named(rng: Rng, names: tuple[str, ...], value: str, bare: bool = True) -> str:
    name = rng.choice(names)
    name = rng.choice((name, name.upper(), name.replace("_", "-"), _camel(name)))
    return rng.choice(QUOTED + (BARE if bare else ())).format(name, value)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def loose(rng: Rng, value: str) -> str:
    return rng.choice(LOOSE).format(value)


def encoded(rng: Rng, count: int) -> str:
    return base64.b64encode(rng.randbytes(count)).decode()


def segment(rng: Rng, count: int) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(count)).decode().rstrip("=")


def private_key(rng: Rng) -> tuple[str, str]:
    kind = rng.choice(("RSA ", "EC ", "", "OPENSSH ", "DSA "))
    body = encoded(rng, rng.choice((120, 609, 1190)))
    lines = [body[place : place + 64] for place in range(0, len(body), 64)]
    lines = [f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----"]
    if rng.random() < 0.3:
        return 'KEY = "' + "\\n".join(lines) + '"', body[:64]
    indent = rng.choice(("", "", "    "))
    return "\n".join(indent + line for line in lines), body[:64]


def jwt(rng: Rng) -> str:
    claims = {"sub": some(rng, DIGITS, 10), "name": rng.choice(WORDS), "iat": rng.randrange(10**9)}
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    shown = [json.dumps(part).encode() for part in parts]
    texts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in shown]
    return ".".join([*texts, segment(rng, 32)])


def human(rng: Rng) -> str:
    """A password as people choose them: a word with digits or marks, or none of a word."""
    word = rng.choice(WORDS)
    return rng.choice(
        (
            word + some(rng, DIGITS, 3),
            word + some(rng, "!@?+=-", 1) + some(rng, DIGITS, 2),
            some(rng, LETTERS, 12),
            some(rng, LETTERS + "!?+-_.", 16),
        )
    )


def address(rng: Rng) -> str:
    name = f"{rng.choice(WORDS).lower()}{rng.choice('._')}{some(rng, LOWER, 6)}"
    return f"{name}@{some(rng, LOWER, 8)}.{rng.choice(('com', 'org', 'de', 'io', 'co.uk'))}"


def fourth(rng: Rng) -> str:
    while True:
        found = ipaddress.ip_address(rng.randrange(5 << 24, 224 << 24))
        if found.is_global:
            return str(found)


def sixth(rng: Rng) -> str:
    while True:
        network = rng.choice((0x2A00, 0x2001, 0x2607, 0x2404))
        found = ipaddress.IPv6Address(network << 112 | rng.getrandbits(112))
        if rng.random() < 0.5:  # a short one: four groups, and the last
            found = ipaddress.IPv6Address(int(found) >> 64 << 64 | rng.getrandbits(16))
        if found.is_global:
            return str(found)


# Kind -> a value, and the line that holds it.
MADE: dict[str, Callable[[Rng], tuple[str, str]]] = {
    "AWS key id": lambda r: _loose(r, "AK" + "IA" + some(r, UPPER + "234567", 16)),
    "AWS secret": lambda r: _named(r, ("aws_secret_access_key",), encoded(r, 30)),
    "GitHub": lambda r: _loose(r, f"gh{r.choice('pousr')}_" + some(r, LETTERS, 36)),
    "GitHub, fine": lambda r: _loose(
        r, "github" + f"_pat_{some(r, LETTERS, 22)}_{some(r, LETTERS, 59)}"
    ),
    "Slack token": lambda r: _loose(
        r, f"xox{r.choice('bp')}-{some(r, DIGITS, 12)}-{some(r, LETTERS, 24)}"
    ),
    "Slack hook": lambda r: _loose(
        r,
        "https://hooks.slack.com/services/"
        f"T{some(r, UPPER + DIGITS, 8)}/B{some(r, UPPER + DIGITS, 8)}/{some(r, LETTERS, 24)}",
    ),
    "private key": private_key,
    "JWT": lambda r: _loose(r, jwt(r)),
    "GitLab": lambda r: _loose(r, "glpat-" + some(r, LETTERS + "_-", 19) + "x"),
    "Google": lambda r: _loose(r, "AI" + "za" + some(r, LETTERS + "_-", 34) + "x"),
    "Stripe": lambda r: _loose(r, "sk_" + "live_" + some(r, LETTERS, 24)),
    "npm": lambda r: _loose(r, "npm" + "_" + some(r, LETTERS, 36)),
    "npmrc": lambda r: _in(r, "//registry.npmjs.org/:_authToken={}", _uuid(r)),
    "PyPI": lambda r: _loose(r, "pypi-" + "AgEIcHlwaS5vcmc" + segment(r, 90)),
    "OpenAI": lambda r: _loose(
        r, "sk-" + some(r, LETTERS, 20) + "T3Blb" + "kFJ" + some(r, LETTERS, 20)
    ),
    "SendGrid": lambda r: _loose(r, f"SG.{segment(r, 16)}.{segment(r, 32)}"),
    "Telegram": lambda r: _loose(r, f"{some(r, '123456789', 10)}:AA{some(r, LETTERS, 33)}"),
    "Twilio": lambda r: _loose(r, "SK" + some(r, HEX, 32)),
    "Mailchimp": lambda r: _loose(r, f"{some(r, HEX, 32)}-us{r.randrange(1, 21)}"),
    "Square": lambda r: _loose(r, f"sq0csp-{some(r, LETTERS, 43)}"),
    "Discord": lambda r: _loose(
        r, f"{r.choice('MNO')}{some(r, LETTERS, 23)}.{some(r, LETTERS, 6)}.{some(r, LETTERS, 27)}"
    ),
    "Azure storage": lambda r: _in(
        r, "AccountName=a;AccountKey={};EndpointSuffix=core", encoded(r, 64)
    ),
    "basic auth": lambda r: _in(r, "https://ann:{}@git.corp.io/x", human(r).replace("@", "a")),
    "password in code": lambda r: _named(r, ("password", "db_password", "passwd"), human(r), False),
    "password, bare": lambda r: _bare(r, ("password", "db_password", "smtp_passwd"), human(r)),
    "hex, named": lambda r: _named(
        r,
        ("api_key", "secret", "client_secret", "auth_token", "secret_key", "token"),
        some(r, HEX, r.choice((32, 40, 64))),
    ),
    "base64, named": lambda r: _named(
        r,
        ("api_key", "secret", "client_secret", "auth_token", "secret_key", "token"),
        some(r, LETTERS, r.choice((20, 32, 43))),
    ),
    "hex, no name": lambda r: _in(r, 'x = "{}"', some(r, HEX, r.choice((32, 40, 64)))),
    "base64, no name": lambda r: _in(r, 'x = "{}"', encoded(r, r.choice((24, 32, 48)))),
    "e-mail": lambda r: _loose(r, address(r)),
    "IPv4": lambda r: _loose(r, fourth(r)),
    "IPv6": lambda r: _loose(r, sixth(r)),
}


def _loose(rng: Rng, value: str) -> tuple[str, str]:
    return loose(rng, value), value


def _named(rng: Rng, names: tuple[str, ...], value: str, bare: bool = True) -> tuple[str, str]:
    return named(rng, names, value, bare), value


def _bare(rng: Rng, names: tuple[str, ...], value: str) -> tuple[str, str]:
    return rng.choice(BARE).format(rng.choice(names), value), value


def _in(rng: Rng, line: str, value: str) -> tuple[str, str]:
    return line.format(value), value


def _uuid(rng: Rng) -> str:
    return "-".join(some(rng, HEX, count) for count in (8, 4, 4, 4, 12))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("archives", type=Path, nargs="*")
    parser.add_argument("--peer", type=Path, help="a Python that has detect-secrets")
    parser.add_argument("--each", type=int, default=200, help="secrets of each kind")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of real files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="finds in unplanted files to print")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    texts = real_files(asked.archives, int(asked.megabytes * 1e6))
    plants = [Plant(kind, *make(rng)) for kind, make in MADE.items() for _ in range(asked.each)]
    rng.shuffle(plants)
    planted, places = plant(rng, texts, plants)
    begin = time.process_time()
    clean = {name: redact(text) for name, text in texts.items()}
    seconds = time.process_time() - begin
    ours = Counter(
        one.kind for one in plants if one.value not in redact(planted[places[id(one)][0]])[0]
    )
    theirs: Counter[str] = Counter()
    false_theirs: Counter[str] = Counter()
    if asked.peer is not None:
        theirs = peer_recall(asked.peer, planted, plants, places)
        false_theirs = peer_finds(asked.peer, texts)
    size = sum(len(text.encode()) for text in texts.values()) / 1e6
    print(f"{len(texts):,} files, {size:.1f} MB; {asked.each} secrets of each kind\n")
    show_recall(asked.each, ours, theirs if asked.peer else None)
    false_ours = Counter[str]()
    for _, counts in clean.values():
        false_ours.update(counts)
    print(f"\nredact: {size / seconds:.1f} MB a second of processor time")
    print("found in the unplanted files, per MB:")
    for name, found in (("cairn", false_ours), ("detect-secrets", false_theirs)):
        for kind, count in found.most_common():
            print(f"  {name}: {kind} {count / size:.2f} ({count})")
    show_finds(texts, {name: text for name, (text, _) in clean.items()}, asked.show)


def real_files(archives: list[Path], most: int) -> dict[str, str]:
    """Name -> text of files of the library (a third) and of archives (the same of each)."""
    found: dict[str, str] = {}
    library = Path(sysconfig.get_paths()["stdlib"])
    room = most // 3 if archives else most
    for path in sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py")):
        if room > 0:
            text = path.read_text(encoding="utf-8", errors="replace")
            found[f"python/{path.relative_to(library)}"] = text
            room -= len(text)
    for archive in archives:
        room = most * 2 // 3 // len(archives)
        with tarfile.open(archive) as opened:
            for member in opened:
                wanted = member.isfile() and member.name.endswith(ENDINGS) and member.size < 200_000
                if room <= 0:
                    break
                if wanted and (stream := opened.extractfile(member)) is not None:
                    text = stream.read().decode("utf-8", errors="replace")
                    found[f"{archive.name}/{member.name}"] = text
                    room -= len(text)
    return found


def plant(
    rng: Rng, texts: dict[str, str], plants: list[Plant]
) -> tuple[dict[str, str], dict[int, tuple[str, int, int]]]:
    """Texts with the secrets between their lines, and where each is: file, first line, last."""
    by_file: dict[str, list[Plant]] = defaultdict(list)
    names = sorted(texts)
    for one in plants:
        by_file[rng.choice(names)].append(one)
    planted: dict[str, str] = {}
    places: dict[int, tuple[str, int, int]] = {}
    for name, chosen in by_file.items():
        lines = texts[name].replace("\r\n", "\n").split("\n")
        after: dict[int, list[Plant]] = defaultdict(list)
        for one in chosen:
            after[rng.randrange(len(lines))].append(one)
        out: list[str] = []
        for number, line in enumerate(lines):
            out.append(line)
            for one in after[number]:
                first = len(out) + 1
                out += one.text.split("\n")
                places[id(one)] = (name, first, len(out))
        planted[name] = "\n".join(out)
    return planted, places


def ask(python: Path, texts: dict[str, str]) -> dict[str, list[tuple[int, str, str]]]:
    """What detect-secrets reports of each file: line, kind, value."""
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for number, (name, text) in enumerate(texts.items()):
            path = Path(folder) / f"{number}{Path(name).suffix}"
            path.write_text(text, encoding="utf-8", newline="\n")
            names[str(path)] = name
        done = subprocess.run(
            [python, "-c", PEER], input="\n".join(names), text=True, check=True, stdout=-1
        )
    rows = map(json.loads, done.stdout.splitlines())
    return {names[path]: [tuple(one) for one in found] for path, found in rows}


def peer_recall(
    python: Path,
    planted: dict[str, str],
    plants: list[Plant],
    places: dict[int, tuple[str, int, int]],
) -> Counter[str]:
    found = {name: {line for line, _, _ in rows} for name, rows in ask(python, planted).items()}
    counts: Counter[str] = Counter()
    for one in plants:
        name, first, last = places[id(one)]
        counts[one.kind] += any(line in found[name] for line in range(first, last + 1))
    return counts


def peer_finds(python: Path, texts: dict[str, str]) -> Counter[str]:
    rows = ask(python, texts).values()
    return Counter(kind for found in rows for _, kind, _ in found)


def show_recall(each: int, ours: Counter[str], theirs: Counter[str] | None) -> None:
    print(f"{'recall':20}{'cairn':>8}{'detect-secrets':>16}")
    for kind in MADE:
        other = f"{theirs[kind] / each:>16.1%}" if theirs is not None else ""
        print(f"{kind:20}{ours[kind] / each:>8.1%}{other}")


def show_finds(texts: dict[str, str], clean: dict[str, str], most: int) -> None:
    """Lines that redaction changes in the unplanted files."""
    shown = 0
    for name, text in texts.items():
        if text == clean[name]:
            continue
        for before, after in zip(text.split("\n"), clean[name].split("\n"), strict=False):
            if before != after and shown < most:
                shown += 1
                print(f"{name}\n  - {before.strip()[:160]}\n  + {after.strip()[:160]}")


if __name__ == "__main__":
    main()
