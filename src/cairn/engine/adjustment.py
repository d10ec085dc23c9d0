"""Logits before a draw: penalties, biases, nudges and grammars of many sequences at a time."""

import torch
from torch import Tensor

from cairn.engine.sequence import Sequence


class History:
    """Which tokens a sequence has, on the logits' device: `seen` bool [V], `counts` float [V].

    `counts` covers the completion, `seen` the prompt too.
    """

    def __init__(self, prompt: list[int], size: int, device: torch.device) -> None:
        self.counts = torch.zeros(size, device=device)
        self.seen = torch.zeros(size, dtype=torch.bool, device=device)
        self.seen[torch.tensor(sorted(set(prompt)), device=device)] = True
        self._taken = 0

    def follow(self, output: list[int]) -> bool:
        """Take the tokens that are new; False for an output that is shorter than the one taken."""
        if self._taken > len(output):
            return False
        new = torch.tensor(output[self._taken :], dtype=torch.long, device=self.counts.device)
        self.counts.index_add_(0, new, torch.ones_like(new, dtype=self.counts.dtype))
        self.seen[new] = True
        self._taken = len(output)
        return True


def adjust(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    """`logits` [R, V] in fp32 as each sequence asks; the same tensor where none asks for any."""
    penalised = [row for row, one in enumerate(sequences) if one.params.penalised]
    biases = _biases(sequences)
    masks = [(row, mask) for row, one in enumerate(sequences) if (mask := _mask(one)) is not None]
    if not (penalised or biases or masks):
        return logits
    logits = logits.to(torch.float32, copy=True)
    if penalised:
        places = torch.tensor(penalised, device=logits.device)
        logits[places] = _penalise(logits[places], [sequences[row] for row in penalised])
    if biases:
        rows, tokens, values = (torch.tensor(part) for part in zip(*biases, strict=True))
        where = (rows.to(logits.device), tokens.to(logits.device))
        logits.index_put_(where, values.to(logits), accumulate=True)
    if masks:
        places = torch.tensor([row for row, _ in masks], device=logits.device)
        allowed = unpack([mask for _, mask in masks], logits.shape[-1], logits.device)
        logits[places] = logits[places].masked_fill(~allowed, -torch.inf)
    return logits


def unpack(masks: list[bytes], size: int, device: torch.device) -> Tensor:
    """Bit masks in 32-bit words, lowest bit first, as bool [R, size]; bits that lack are 0."""
    words = torch.frombuffer(bytearray(b"".join(masks)), dtype=torch.int32).to(device)
    words = words.view(len(masks), -1, 1)
    bits = (words >> torch.arange(32, dtype=torch.int32, device=device)) & 1
    bits = bits.flatten(1)[:, :size].bool()
    return torch.nn.functional.pad(bits, (0, size - bits.shape[1]))


def _mask(sequence: Sequence) -> bytes | None:
    steering = sequence.steering
    return None if steering is None else steering.mask()


def _biases(sequences: list[Sequence]) -> list[tuple[int, int, float]]:
    """(row, token, what is added) of all sequences."""
    found = []
    for row, sequence in enumerate(sequences):
        found += [(row, token, bias) for token, bias in sequence.params.logit_bias]
        nudge = None if sequence.steering is None else sequence.steering.bias()
        if nudge is not None:
            found.append((row, *nudge))
    return found


def _penalise(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    size, device = logits.shape[-1], logits.device
    histories = []
    for sequence in sequences:
        history = sequence.history
        if not isinstance(history, History) or not history.follow(sequence.output):
            history = sequence.history = History(sequence.prompt, size, device)
            history.follow(sequence.output)
        histories.append(history)
    counts = torch.stack([history.counts for history in histories])
    seen = torch.stack([history.seen for history in histories])

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=logits.dtype, device=device)[:, None]

    params = [sequence.params for sequence in sequences]
    repetition = column([p.repetition_penalty for p in params])
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen, repeated, logits)
    logits = logits - (counts > 0) * column([p.presence_penalty for p in params])
    return logits - counts * column([p.frequency_penalty for p in params])
