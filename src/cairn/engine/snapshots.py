"""Where in a prompt the recurrent state is worth keeping. Pure bookkeeping, no torch.

A state weighs as much as the keys and values of thousands of tokens, so few are kept: at
distances that double from the beginning (what many requests share, such as instructions) and
from the end (what a conversation repeats before it goes on). Wherever two prompts part, a state
is kept at no more than about twice the distance from the nearer end, so that reuse never
computes more than about as much again as it must.
"""

from cairn.engine.pages import PAGE

LEAST = 4 * PAGE  # tokens: less than that is computed anew as fast as it is copied
FIRST = 256  # tokens: the first distance from either end


def marks(start: int, length: int, known: int = 0, every: int | None = None) -> list[int]:
    """Positions in (start, length) at which to keep the state of a prompt of `length` tokens.

    `start` tokens are computed already. `known` is how many begin another prompt too, which
    makes that place likely to be asked for again; `every` adds the multiples of so many tokens.
    All are multiples of a page. The last token is never behind a mark: its logits are wanted.
    """
    last = (length - 1) // PAGE * PAGE
    if last < LEAST:
        return []
    found = {last, known // PAGE * PAGE}
    distance = FIRST
    while distance < length:
        found |= {distance, (length - distance) // PAGE * PAGE}
        distance *= 2
    if every is not None:
        step = max(PAGE, every // PAGE * PAGE)
        found |= set(range(step, length, step))
    return sorted(place for place in found if max(start, LEAST - 1) < place <= last)
