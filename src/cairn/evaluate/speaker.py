"""The model under test: asked for text, or for the bits that it spends on given text."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cairn.base import progress
from cairn.engine import Engine, SamplingParams
from cairn.evaluate.task import Example, Sampling
from cairn.model import Spans
from cairn.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cairn.model import Decoder

LONGEST = 2048  # tokens of a window, or of a sequence in the engine, where the model allows more
ROWS = 512  # rows of logits that exist at a time
SLOTS = 16
ASKED_AT_ONCE = 128


class Speaker:
    """A checkpoint with its tokenizer, behind the two questions that tasks put to it."""

    def __init__(self, model: "Decoder", tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.context = min(model.config.max_positions, LONGEST)
        self._engine: Engine | None = None

    @classmethod
    def load(cls, folder: Path, device: str | None = None) -> "Speaker":
        """From a checkpoint folder; on a GPU if there is one, in bfloat16 there."""
        from cairn.model import load

        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if where.startswith("cuda") else torch.float32
        model = load(folder, device=where, dtype=dtype)
        return cls(model.eval(), Tokenizer.load(folder))

    def answer(
        self,
        task: str,
        examples: Sequence[Example],
        sampling: Sampling,
        max_tokens: int,
        stop: tuple[str, ...] = (),
    ) -> list[list[str]]:
        """Texts that follow the prompts (or fill the gaps), `sampling.samples` for each."""
        if self._engine is None:
            self._engine = Engine(self.model, self.tokenizer, slots=SLOTS, capacity=self.context)
        base = SamplingParams(
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop=stop,
        )
        jobs = [(example, sample) for example in examples for sample in range(sampling.samples)]
        texts: list[str] = []
        with progress(f"{task}: answer", total=len(jobs), unit="answers") as bar:
            for start in range(0, len(jobs), ASKED_AT_ONCE):
                part = jobs[start : start + ASKED_AT_ONCE]
                texts += self._generate(task, part, sampling, base)
                bar.advance(len(part))
        n = sampling.samples
        return [texts[start : start + n] for start in range(0, len(texts), n)]

    def _generate(
        self, task: str, jobs: list[tuple[Example, int]], sampling: Sampling, base: SamplingParams
    ) -> list[str]:
        assert self._engine is not None
        params = [replace(base, seed=sampling.seed_of(task, e.id, sample)) for e, sample in jobs]
        texts = [""] * len(jobs)
        for filling in (False, True):
            mine = [i for i, (e, _) in enumerate(jobs) if (e.suffix is not None) == filling]
            if not mine:
                continue
            prompts: list[Any] = [jobs[i][0].prompt for i in mine]
            suffix: Any = [jobs[i][0].suffix for i in mine] if filling else None
            made = self._engine.generate(prompts, [params[i] for i in mine], suffix=suffix)
            for i, completion in zip(mine, made, strict=True):
                texts[i] = completion.text
        return texts

    def room(self, max_tokens: int) -> int:
        """Tokens that a prompt may have where `max_tokens` are to be drawn."""
        return self.context - max_tokens - 8  # sentinels around the parts

    def bits(self, documents: Sequence[Sequence[int]]) -> list[float]:
        """Bits that the model spends on each document's tokens, all of them, the first included.

        A document follows `<file_sep>` (StarCoder2, section 5, files without metadata), or the
        end-of-text sentinel where the tokenizer has no such. One that is longer than the window
        is read in windows that overlap by half: each token is counted once, and all but those of
        the first window with at least half a window before it.
        """
        first = "<file_sep>" if self.tokenizer.has("<file_sep>") else "<|endoftext|>"
        start = self.tokenizer.id(first)
        numbers, pieces = [], []
        for number, document in enumerate(documents):
            whole = [start, *document]
            for begin, end, counted in windows(len(whole), self.context):
                numbers.append(number)
                pieces.append((whole[begin:end], counted))
        totals = [[0.0] for _ in documents]
        for number, bits in zip(numbers, self.tails(pieces, "bits per byte"), strict=True):
            totals[number].append(bits)
        return [math.fsum(parts) for parts in totals]

    def tails(self, pieces: Sequence[tuple[Sequence[int], int]], label: str) -> list[float]:
        """Bits that the model spends on the last `counted` tokens of each (tokens, counted)."""
        found: list[float] = []
        with progress(label, total=len(pieces), unit="windows") as bar:
            for batch in _batches(pieces, max(self.context, 4 * ROWS)):
                found += self._tails(batch)
                bar.advance(len(batch))
        return found

    @torch.inference_mode()
    def _tails(self, batch: Sequence[tuple[Sequence[int], int]]) -> list[float]:
        model = self.model
        flat = torch.tensor([token for tokens, _ in batch for token in tokens])
        hidden = model.hidden(flat, Spans.of([len(tokens) for tokens, _ in batch]))
        targets = torch.roll(flat, -1).to(hidden.device)
        losses = torch.cat(
            [
                torch.nn.functional.cross_entropy(
                    model.head(rows), wanted, reduction="none"
                ).double()
                for rows, wanted in zip(hidden.split(ROWS), targets.split(ROWS), strict=True)
            ]
        ).tolist()
        found, end = [], 0
        for tokens, counted in batch:
            end += len(tokens)
            found.append(math.fsum(losses[end - 1 - counted : end - 1]) / math.log(2))
        return found


def windows(length: int, size: int) -> list[tuple[int, int, int]]:
    """(begin, end, counted) over `length` tokens of which the first is given.

    Together the windows count each of the others once, at its only or at its better place.
    """
    found = [(0, min(length, size), min(length, size) - 1)]
    while found[-1][1] < length:
        done = found[-1][1]
        end = min(length, done + size // 2)
        found.append((max(0, end - size), end, end - done))
    return found


def _batches(
    pieces: Sequence[tuple[Sequence[int], int]], tokens: int
) -> list[list[tuple[Sequence[int], int]]]:
    """Consecutive pieces, in batches of at most `tokens` tokens (or of one piece)."""
    found: list[list[tuple[Sequence[int], int]]] = []
    room = 0
    for piece in pieces:
        if not found or len(piece[0]) > room:
            found.append([])
            room = tokens
        found[-1].append(piece)
        room -= len(piece[0])
    return found
