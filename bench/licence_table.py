"""Make the licence tables that ship in the package, from ScanCode and the Blue Oak Council's list.

    python bench/licence_table.py BLUEOAK src/cairn/curate/licences

Needs scancode-toolkit 32.5 (with pluggy < 1.7) and numpy, and no cairn; BLUEOAK is `index.json` of
the npm package `@blueoak/list`. Writes `rules.xz`: for each of ScanCode's rules the numbers of its
words, and what the rule says of itself. Words are kept as CRC-32 only, so the table holds no
licence's text. ScanCode's data is CC-BY-4.0 (nexB Inc. and others); the tables are derived from it
and stand under the same licence. Writes `permissive.json`: what Blue Oak rates, and what ScanCode
has in its categories Permissive and Public Domain.
"""

import io
import json
import lzma
import sys
import zlib
from pathlib import Path

import numpy as np

FLAGS = (
    "is_license_text",
    "is_license_notice",
    "is_license_reference",
    "is_license_tag",
    "is_license_intro",
    "is_license_clue",
    "is_false_positive",
    "is_continuous",
    "is_required_phrase",
    "starts_with_license",
    "ends_with_license",
    "is_approx_matchable",
)
CREDIT = (
    "SPDX identifiers that the Blue Oak Council rates (CC0-1.0), and those in the categories "
    "Permissive and Public Domain of ScanCode LicenseDB (CC-BY-4.0, nexB Inc. and others)."
)
BARE = ("gpl_bare", "freeware_bare", "public-domain_bare")


def main(blue_oak: Path, folder: Path) -> None:
    from licensedcode.cache import build_spdx_license_expression, get_index, get_licensing
    from licensedcode.stopwords import STOPWORDS

    index, licensing = get_index(), get_licensing()
    rules, words = index.rules_by_rid, index.tids_by_rid
    order = range(len(rules))  # by their names, which also settles ties
    by_name = {rule.license_expression or "" for rule in rules}
    spelled = {
        name: str(build_spdx_license_expression(name, licensing=licensing)) if name else ""
        for name in by_name
    }
    expressions = sorted(set(spelled.values()))
    number = {expression: i for i, expression in enumerate(expressions)}
    phrases = [
        (row, span.start, span.end + 1)
        for row, i in enumerate(order)
        for span in rules[i].required_phrase_spans or ()
    ]
    table = {
        "words": np.array([zlib.crc32(word.encode()) for word in index.dictionary], dtype="<u4"),
        "numbers": np.array(list(index.dictionary.values()), dtype="<u2"),
        "telling": np.array([index.len_legalese], dtype="<u4"),
        "stop": np.array(sorted(zlib.crc32(word.encode()) for word in STOPWORDS), dtype="<u4"),
        "expressions": np.frombuffer("\n".join(expressions).encode(), dtype=np.uint8),
        "expression": np.array(
            [number[spelled[rules[i].license_expression or ""]] for i in order], dtype="<u2"
        ),
        "length": np.array([len(words[i]) for i in order], dtype="<u2"),
        "relevance": np.array([rules[i].relevance for i in order], dtype=np.uint8),
        "coverage": np.array([rules[i].minimum_coverage for i in order], dtype=np.uint8),
        "flags": np.array([_flags(rules[i], i, index) for i in order], dtype="<u2"),
        "phrases": np.array(phrases, dtype="<u2").T,
        "tokens": np.concatenate([np.asarray(words[i], dtype="<u2") for i in order]),
    }
    if len(set(table["words"].tolist())) != len(table["words"]):
        sys.exit("two words have the same CRC-32")
    buffer = io.BytesIO()
    np.savez(buffer, **table)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lp": 1, "lc": 1}]
    filters[0]["dict_size"] = 1 << 24
    packed = lzma.compress(buffer.getvalue(), filters=filters)
    (folder / "rules.xz").write_bytes(packed)
    ids = permissive(json.loads(blue_oak.read_text(encoding="utf-8")))
    listed = {"credit": CREDIT, "permissive": ids}
    (folder / "permissive.json").write_text(json.dumps(listed, indent=0) + "\n", encoding="utf-8")
    print(f"{len(ids):,} permissive identifiers")
    print(f"{len(order):,} rules, {len(expressions):,} expressions, {len(packed):,} bytes")


def permissive(rated: list[dict]) -> list[str]:
    from licensedcode.cache import get_licenses_db

    ids = {one["id"] for rating in rated for one in rating["licenses"] if one.get("id")}
    for licence in get_licenses_db().values():
        if licence.category in ("Permissive", "Public Domain"):
            ids.add(licence.spdx_license_key or f"LicenseRef-scancode-{licence.key}")
            ids.update(licence.other_spdx_license_keys or ())
    return sorted(ids)


def _flags(rule, number: int, index) -> int:
    said = [bool(getattr(rule, name)) for name in FLAGS[:-1]]
    said += [
        number in index.approx_matchable_rids,
        bool(rule.referenced_filenames),
        any(name in rule.identifier for name in BARE),
        "gpl" in rule.identifier,
    ]
    return sum(1 << place for place, one in enumerate(said) if one)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
