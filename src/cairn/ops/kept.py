"""What a function has made, kept for the next call with the same arguments."""

import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Made = TypeVar("Made")


def kept(most: int) -> Callable[[Callable[P, Made]], Callable[P, Made]]:
    """Keep what was made last for so many arguments, for each thread by itself.

    Threads may compute in streams of their own on a GPU: what is sent there in one stream is there
    for that stream alone, and so is its memory once it is given back. What a thread has goes with
    it. Tensors made in inference mode are not given to those outside, who may want gradients.
    """

    def keeping(make: Callable[P, Made]) -> Callable[P, Made]:
        own = threading.local()

        @wraps(make)
        def found(*args: P.args, **kwargs: P.kwargs) -> Made:
            name = "inference" if torch.is_inference_mode_enabled() else "usual"
            cache = own.__dict__.get(name)
            if cache is None:
                cache = own.__dict__[name] = lru_cache(maxsize=most)(make)
            return cache(*args, **kwargs)

        return found

    return keeping
