"""How often cairn and ScanCode say the same of a licence file.

    python bench/licences.py ask FILES ANSWERS       in an environment with scancode-toolkit
    python bench/licences.py compare FILES ANSWERS   in cairn's; `--half 0|1` for one half by SHA-1

FILES names one file a line; ANSWERS (JSON lines, by SHA-1) is added to. Two answers agree if they
name the same SPDX identifiers, of alternatives (OR) the permissive ones, without what the report
ignores; by class, if both are permissive or both are not. Equal files count once.
"""

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LARGEST = 2_000_000
DEADLINE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("ask", "compare"))
    parser.add_argument("files", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--half", type=int, choices=(0, 1))
    parser.add_argument("--show", type=int, default=1_000)
    asked = parser.parse_args()
    known = {}
    if asked.answers.exists():
        lines = asked.answers.read_text(encoding="utf-8").splitlines()
        known = {row["sha"]: row for row in map(json.loads, lines)}
    if asked.what == "ask":
        ask(asked.files, known, asked.answers)
    else:
        compare(asked.files, known, asked.half, asked.show)


def distinct(names: Path) -> Iterator[tuple[str, str, bytes]]:
    seen = set()
    for name in names.read_text(encoding="utf-8").splitlines():
        path = Path(name)
        if not path.is_file() or not 0 < path.stat().st_size <= LARGEST:
            continue
        raw = path.read_bytes()
        sha = hashlib.sha1(raw).hexdigest()
        if sha not in seen:
            seen.add(sha)
            yield sha, name, raw


def decoded(raw: bytes) -> str:
    for encoding in ("utf-8-sig", "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def ask(names: Path, known: dict, answers: Path) -> None:
    from scancode.api import get_licenses

    with answers.open("a", encoding="utf-8") as out:
        for sha, name, _ in distinct(names):
            if sha in known:
                continue
            begin = time.time()
            found = get_licenses(name, deadline=begin + DEADLINE)
            said = found["detected_license_expression_spdx"]
            seconds = round(time.time() - begin, 3)
            out.write(json.dumps({"sha": sha, "path": name, "expr": said, "s": seconds}) + "\n")
            out.flush()


def compare(names: Path, known: dict, half: int | None, show: int) -> None:
    from cairn.curate.licences import classify, detect
    from cairn.curate.licences.classes import IGNORABLE
    from cairn.curate.licences.expressions import chosen

    detect("licence")  # reads the table
    counts, seconds, differences = Counter(), [], []
    for sha, name, raw in distinct(names):
        if sha not in known or (half is not None and int(sha[-1], 16) % 2 != half):
            continue
        text = decoded(raw)
        begin = time.perf_counter()
        ours = detect(text)
        seconds.append((time.perf_counter() - begin, len(raw), name))
        theirs = chosen(known[sha]["expr"] or "")
        same = ours - IGNORABLE == theirs - IGNORABLE
        agree = classify(ours, None) == classify(theirs, None)
        counts.update(files=1, ids=same, classes=agree)
        if not same:
            differences.append((name, sorted(ours - theirs), sorted(theirs - ours), agree))
    for name, more, less, agree in differences[:show]:
        print(f"{'' if agree else 'CLASS '}{name}\n    + {' '.join(more)}\n    - {' '.join(less)}")
    files = counts["files"] or 1
    print(
        f"{counts['files']} files: same identifiers {counts['ids']} "
        f"({counts['ids'] / files:.2%}), same class {counts['classes']} "
        f"({counts['classes'] / files:.2%})"
    )
    total = sum(taken for taken, _, _ in seconds)
    size = sum(length for _, length, _ in seconds)
    slowest = max(seconds, default=(0, 0, ""))
    median = sorted(taken for taken, _, _ in seconds)[len(seconds) // 2] if seconds else 0
    print(
        f"{total:.2f} s for {size / 1e6:.1f} MB, median {median * 1e3:.2f} ms, "
        f"slowest {slowest[0] * 1e3:.1f} ms ({slowest[2]}, {slowest[1]:,} bytes)"
    )


if __name__ == "__main__":
    main()
