"""The model under test: asked for text, or for the bits that it spends on given text."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cairn.base import progress
from cairn.engine import Engine, SamplingParams
from cairn.evaluate.task import Example, Sampling
from cairn.model.likelihood import answered, document_bits, tail_bits
from cairn.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cairn.model import Decoder

LONGEST = 2048  # tokens of a window, or of a sequence in the engine, where the model allows more
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
        with progress("bits per byte", unit="windows") as bar:
            return document_bits(self.model, documents, start, self.context, bar.advance)

    def answered(
        self, pieces: Sequence[tuple[Sequence[int], int]], label: str
    ) -> list[tuple[float, bool]]:
        """Of the last `counted` tokens of each: bits, and whether greedy drawing gives them.

        However long they are: what a model was not trained for is for the task to say.
        """
        found = []
        with progress(label, total=len(pieces), unit="texts") as bar:
            for piece in pieces:
                found += answered(self.model, [piece])
                bar.advance(1)
        return found

    def tails(self, pieces: Sequence[tuple[Sequence[int], int]], label: str) -> list[float]:
        """Bits that the model spends on the last `counted` tokens of each (tokens, counted)."""
        with progress(label, total=len(pieces), unit="windows") as bar:
            return tail_bits(self.model, pieces, self.context, bar.advance)
