"""A small tree made to meet every rule, and corpora of it."""

import random
from pathlib import Path
from typing import Any

from cairn.base.make import make
from cairn.curate import Curate
from cairn.curate.corpus import read_ledger

MIT = "SPDX-License-Identifier: MIT\n"
GPL = "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n"


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    lines = [" ".join(f"name{rng.randrange(10**6)}" for _ in range(8)) for _ in range(count)]
    return "\n".join(lines) + "\n"


def plant(root: Path) -> None:
    near = words(1, 60)
    files = {
        "one/LICENSE": MIT,
        "one/main.py": "def main():\n    return 'mail jane.doe@corp-mail.io'\n",
        "one/copy.py": "def main():\n    return 'mail jane.doe@corp-mail.io'\n",
        "one/near_a.py": near,
        "one/near_b.py": near.replace("name", "name", 1) + "one_more_line = 1\n",
        "one/near_c.js": near + "of_another_language = 1\n",
        "one/data.bin": "a\0b",
        "one/empty.py": "",
        "one/notes.xyz": "unknown words",
        "one/story.txt": "plain words\n",
        "one/numbers.py": "1234567890\n" * 40,
        "one/package-lock.json": "{}\n",
        "two/COPYING": GPL,
        "two/main.py": words(2, 5),
        "two/deep/LICENSE": MIT,
        "two/deep/below.py": words(3, 5),
        "three/main.py": words(4, 5),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "one" / "latin.py").write_bytes("# größe\nx = 'zwölf Boxkämpfer'\n".encode("latin-1"))
    (root / "one" / "link.py").symlink_to("main.py")


def build(folder: Path, *sources: Path, workers: int = 1, **fields: Any) -> Path:
    recipe = Curate(sources=tuple(str(source) for source in sources), workers=workers, **fields)
    make({"corpus": recipe}, folder)
    return folder / "corpus"


def rows(corpus: Path) -> dict[str, dict]:
    return {row["path"]: row for batch in read_ledger(corpus) for row in batch.to_pylist()}
