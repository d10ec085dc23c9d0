"""Build the facts that cairn.curate.languages ships from a checkout of github-linguist (MIT).

    python bench/language_table.py LINGUIST --newer LANGUAGES_YML

Writes table.json (names, types, groups, extensions, file names, interpreters, aliases) and
tokens.json.xz (how often a token stands in linguist's samples of the languages that share an
extension or an interpreter: counts only, which the classifier of last resort weighs).
The shipped files are of linguist 9.0.0 (5fad8d57), the data of go-enry 2.9.2, with those languages
that linguist 9.6.0 (b45dbe9b) knows besides: of them, only what no other language shows.
"""

import argparse
import json
import lzma
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from cairn.curate.languages import classifier, heuristics

CREDIT = "facts of github-linguist (https://github.com/github-linguist/linguist), MIT licence"
MAN_PAGES = {"Roff", "Roff Manpage"}  # which the man page strategy leaves open
LISTS = ("extensions", "filenames", "interpreters", "aliases")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("linguist", type=Path, help="a checkout with lib/linguist and samples")
    parser.add_argument("--newer", type=Path, help="languages.yml of a later version")
    parser.add_argument(
        "--into", type=Path, default=Path(classifier.__file__).parent, help="where to write"
    )
    arguments = parser.parse_args()
    shipped = arguments.linguist / "lib" / "linguist"
    languages = yaml.safe_load((shipped / "languages.yml").read_text(encoding="utf-8"))
    version = (shipped / "VERSION").read_text().strip()
    table = {name: facts(shown) for name, shown in sorted(languages.items())}
    choices = contested(table)
    if arguments.newer:
        later = yaml.safe_load(arguments.newer.read_text(encoding="utf-8"))
        table = dict(sorted((table | added(languages, later)).items()))
    lines = [f" {json.dumps(name)}: {json.dumps(shown)}" for name, shown in table.items()]
    (arguments.into / "table.json").write_text(
        f'{{"credit": {json.dumps(CREDIT)}, "version": {json.dumps(version)},\n"languages": {{\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )
    counts = count(arguments.linguist / "samples", choices)
    found = {"credit": CREDIT, "version": version, **counts}
    raw = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    packed = lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)
    (arguments.into / "tokens.json.xz").write_bytes(packed)
    print(f"{len(table)} languages, {len(counts['languages'])} contested, {len(packed):,} bytes")
    return 0


def facts(shown: dict[str, Any]) -> dict[str, Any]:
    """What of a language's entry is used, in a fixed order."""
    found = {"type": shown["type"]} | ({"group": shown["group"]} if "group" in shown else {})
    return found | {key: shown[key] for key in LISTS if shown.get(key)}


def added(languages: dict[str, Any], later: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The languages that are new, not renamed, with the keys that they alone have."""
    known = {shown["language_id"] for shown in languages.values()}
    taken = {key: Counter[str]() for key in LISTS}
    for every in (languages, later):
        for name, shown in every.items():
            for key in LISTS:
                taken[key].update(set(map(str.lower, shown.get(key, ()))))
            taken["aliases"][name.lower()] += 1
    found = {}
    for name, shown in later.items():
        if shown["language_id"] not in known:
            own = {
                key: [one for one in shown.get(key, ()) if taken[key][one.lower()] == 1]
                for key in LISTS
            }
            found[name] = facts(shown | own)
    return found


def contested(table: dict[str, dict[str, Any]]) -> set[str]:
    """Languages between which names, interpreters and patterns may leave a choice."""
    found = set(MAN_PAGES)
    for key in ("extensions", "filenames", "interpreters"):
        by: dict[str, set[str]] = {}
        for language, shown in table.items():
            for one in shown.get(key, ()):
                by.setdefault(one.lower() if key == "extensions" else one, set()).add(language)
        for one, languages in by.items():
            rules = heuristics.rules_by_extension().get(one, ()) if key == "extensions" else ()
            last = rules[-1] if rules else None
            settled = last and not last.every and not last.none and len(last.languages) == 1
            if len(languages) > 1 and not settled:
                found |= languages
    return found


def count(samples: Path, languages: set[str]) -> dict[str, Any]:
    """Files and tokens of every language of `languages`, and the number of tokens of all."""
    found, total, files = {}, 0, 0
    for folder in sorted(one for one in samples.iterdir() if one.is_dir()):
        here = Counter[str]()
        inside = [one for one in sorted(folder.iterdir()) if one.is_file() and not one.is_symlink()]
        named = folder / "filenames"
        inside += sorted(named.iterdir()) if named.is_dir() else []
        inside = [one for one in inside if one.is_file() and not one.is_symlink()]
        for path in inside:
            here.update(classifier.tokens(path.read_text(encoding="utf-8", errors="replace")))
        total += here.total()
        files += len(inside)
        if folder.name in languages:
            kept = dict(sorted(here.items()))
            found[folder.name] = {"files": len(inside), "total": here.total(), "tokens": kept}
    return {"files": files, "total": total, "languages": found}


if __name__ == "__main__":
    sys.exit(main())
