"""A request as it is given, read into the sequence that is worked on. No torch."""

import secrets
from typing import TYPE_CHECKING

from cairn.base import UserError
from cairn.engine.code import CodePrompt
from cairn.engine.detokenizer import Detokenizer
from cairn.engine.sampling import SamplingParams
from cairn.engine.sequence import Sequence

if TYPE_CHECKING:
    from cairn.engine.prompts import Prompts


class TooLongError(UserError):
    """A prompt that leaves no room for a completion."""


def sequence_of(
    prompts: "Prompts",
    capacity: int,
    number: int,
    prompt: str | list[int] | CodePrompt,
    params: SamplingParams,
    suffix: str | None,
) -> Sequence:
    """The sequence `number` of an engine whose sequences hold `capacity` tokens.

    UserError for a prompt that is none or does not fit.
    """
    ids, stops = prompts.read(prompt, suffix)
    room = capacity - len(ids)
    limit = room if params.max_tokens is None else min(params.max_tokens, room)
    if room < (0 if params.max_tokens == 0 else 1):
        raise TooLongError(
            f"the prompt has {len(ids)} tokens and a sequence of this engine at most "
            f"{capacity}, completion included: shorten it, or make the engine with "
            "more capacity"
        )
    if params.ignore_eos:
        stops = frozenset()
    return Sequence(
        id=number,
        prompt=ids,
        params=params,
        seed=secrets.randbits(64) if params.seed is None else params.seed,
        stop_tokens=stops | frozenset(params.stop_tokens),
        limit=limit,
        detokenizer=Detokenizer(prompts.token_bytes, params.stop),
        steering=prompts.steering(params),
        reuse=params.prompt_logprobs is None,  # they need every row of the prompt
    )
