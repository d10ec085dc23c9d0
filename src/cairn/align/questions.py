"""Questions on long documents, for the long-context phase (Nano 2, arXiv 2508.14444, section 2).

The report takes documents of more than 32k tokens, cuts them into chunks of 1,024, draws a tenth of
the chunks, has a model write a question with its answer on each, and appends them to the document.
Here a model may write them too, or a rule does, which needs none and is never wrong: the beginning
of a line that stands once in the document is shown, and how it goes on is asked.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cairn.base import UserError, Work, note, progress
from cairn.sources.record import DOCUMENTATION, SOURCE, TEXT
from cairn.tokens.shards import DOCUMENT_SCHEMA, TOKENS, TokenShards, token_type
from cairn.tokens.tokenizer import TRAVELLING, Tokenizer
from cairn.tokens.tokenizing import SPLITS, write_documents, write_index

if TYPE_CHECKING:
    from cairn.align import AskDocuments

SHORTEST, LONGEST = 12, 160  # characters of a line that is asked for
LEAST_SHOWN, LEAST_ASKED = 6, 4  # characters of its beginning, and of what is asked
REQUEST = (
    "Here is a passage of a long document:\n\n{passage}\n\nWrite one question that this passage "
    "answers and nothing else does, and its answer. Write `Question:` and `Answer:` before them."
)
WRITTEN = re.compile(r"Question:\s*(\S.*?)\s*Answer:\s*(\S.*)", re.DOTALL)
ANSWER_TOKENS = 256


def ask_documents(recipe: "AskDocuments", work: Work) -> dict[str, Any]:
    """Fill `work.out` with shards of documents that end in questions and answers; returns facts."""
    source = work.input(recipe.shards)
    tokenizer = Tokenizer.load(source)
    writer = Writer(work.input(recipe.writer)) if recipe.writer else None
    facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    for split in SPLITS:
        with work.part(split) as folder:
            folder.mkdir()
            found = _write(folder, TokenShards.open(source / split), tokenizer, recipe, writer)
        prefix = "" if split == "train" else "heldout_"
        facts.update({prefix + key: value for key, value in found.items()})
    if not facts["documents"]:
        problem = f"leaves none of the documents of {recipe.shards.name} with a question"
        mend = "take less, or longer documents"
        raise UserError("minimum_tokens", recipe.minimum_tokens, problem, mend)
    for name in TRAVELLING:
        if (source / name).is_file():
            (work.out / name).write_bytes((source / name).read_bytes())
    return facts


def _write(
    folder: Path,
    shards: TokenShards,
    tokenizer: Tokenizer,
    recipe: "AskDocuments",
    writer: "Writer | None",
) -> dict[str, Any]:
    dtype, rows, questions = token_type(tokenizer.vocab_size), [], 0
    chosen = np.flatnonzero(shards.lengths >= recipe.minimum_tokens).tolist()
    with (folder / TOKENS).open("wb") as file, progress("questions", len(chosen), "files") as bar:
        for number in chosen:
            bar.advance(1)
            row = shards.documents.slice(number, 1).to_pylist()[0]
            if row["kind"] not in (SOURCE, TEXT, DOCUMENTATION):
                continue  # marks of structured kinds are no text to ask about
            ids = shards.document(number)[: recipe.maximum_tokens]
            generator = np.random.default_rng([recipe.seed, number])
            told = asked(ids, tokenizer, recipe, generator, writer)
            if not told:
                continue
            text = "".join(f"\n\nQuestion: {q}\nAnswer: {a}" for q, a in told) + "\n"
            whole = np.concatenate([ids, tokenizer.encode_array(text)]).astype(dtype)
            file.write(whole.tobytes())
            size = len(tokenizer.decode_bytes(whole.tolist()))
            rows.append(row | {"length": len(whole), "bytes": size, "kind": TEXT})
            questions += len(told)
    table = pa.Table.from_pylist(rows, DOCUMENT_SCHEMA)
    counts = write_documents(folder, [table])
    return {**write_index(folder, counts, tokenizer), "questions": questions}


def asked(
    ids: np.ndarray,
    tokenizer: Tokenizer,
    recipe: "AskDocuments",
    generator: np.random.Generator,
    writer: "Writer | None" = None,
) -> list[tuple[str, str]]:
    """Questions and answers on a document, in an order that is drawn."""
    size = recipe.chunk_tokens
    chunks = [tokenizer.decode(ids[at : at + size].tolist()) for at in range(0, len(ids), size)]
    drawn = [chunk for chunk in chunks if generator.random() < recipe.sampled]
    if writer is not None:
        found = writer.write(drawn, recipe.seed)
    else:
        lines = Counter(line.strip() for line in tokenizer.decode(ids.tolist()).splitlines())
        made = (line_question(chunk, lines, generator) for chunk in drawn)
        found = [one for one in made if one is not None]
    return [found[at] for at in generator.permutation(len(found))][: recipe.most_questions]


def line_question(
    chunk: str, lines: Counter[str], generator: np.random.Generator
) -> tuple[str, str] | None:
    """A question on one line of a chunk; None where no line is fit.

    `lines` counts the stripped lines of the whole document: a line is fit whose shown beginning
    no other line shares.
    """
    fit = list(_fit(chunk.splitlines()[1:-1], lines))  # the chunk's edges cut lines
    if not fit:
        return None
    shown, rest = fit[int(generator.integers(len(fit)))]
    return f"how does the line go on that begins with `{shown}`?", f"{shown}{rest}"


def _fit(chunk: Sequence[str], lines: Counter[str]) -> Iterator[tuple[str, str]]:
    for line in map(str.strip, chunk):
        if not SHORTEST <= len(line) <= LONGEST or lines[line] != 1:
            continue
        for found in re.finditer(r"[\s=(:,]+[\"']?", line):
            shown, rest = line[: found.end()], line[found.end() :]
            if len(shown) < LEAST_SHOWN or len(rest) < LEAST_ASKED:
                continue
            if sum(count for other, count in lines.items() if other.startswith(shown)) == 1:
                yield shown, rest
                break


class Writer:
    """A checkpoint that writes a question and an answer on a passage."""

    def __init__(self, folder: Path) -> None:
        from cairn.engine import Engine

        self._engine = Engine(folder)
        self.failed = 0

    def write(self, passages: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """What it wrote, where that holds a question and an answer."""
        from cairn.engine import SamplingParams
        from cairn.tokens.chat import prompt_ids

        assert self._engine.tokenizer is not None, "Engine loads the tokenizer of a folder"
        requests = [REQUEST.format(passage=passage) for passage in passages]
        prompts = [
            prompt_ids([{"role": "user", "content": text}], self._engine.tokenizer)
            for text in requests
        ]
        params = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.7, seed=seed)
        texts = [done.text for done in self._engine.generate(prompts, params)] if prompts else []
        found = [WRITTEN.search(text) for text in texts]
        missed = sum(one is None for one in found)
        if missed:
            self.failed += missed
            note(f"{missed} of {len(texts)} answers hold no question and answer: left out")
        return [(one[1], one[2].strip()) for one in found if one is not None]
