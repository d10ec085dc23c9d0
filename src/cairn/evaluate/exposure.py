"""Did the training corpus hold the answers? Reference solutions looked up in its files."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LEAST = 60  # characters: shorter answers stand in any code by chance
SPACE = re.compile(r"\s+")


def squeezed(text: str) -> str:
    """The text with every run of white space as one blank."""
    return SPACE.sub(" ", text).strip()


def exposure(references: Mapping[str, str], texts: Iterable[str]) -> dict[str, Any]:
    """How many reference answers were looked for, and which stand in one of `texts`.

    `references`: example id -> answer. White space counts as one blank, whatever it is; answers
    of fewer than 60 characters are not looked for.
    """
    wanted = {example: squeezed(answer) for example, answer in references.items()}
    wanted = {example: answer for example, answer in wanted.items() if len(answer) >= LEAST}
    left = dict(wanted)
    for text in texts:
        if not left:
            break
        whole = squeezed(text)
        left = {example: answer for example, answer in left.items() if answer not in whole}
    found = [example for example in wanted if example not in left]
    return {"checked": len(wanted), "found": found}


def corpus_texts(corpus: Path) -> Iterable[str]:
    """The text of every file that a corpus kept."""
    from cairn.curate.corpus import read_files
    from cairn.curate.pieces import plain_text

    for batch in read_files(corpus, columns=["kind", "content"]):
        rows = batch.to_pylist()
        yield from (plain_text(row["kind"], row["content"]) for row in rows if row["content"])
