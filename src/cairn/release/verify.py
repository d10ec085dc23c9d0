"""Reload a checkpoint folder with `transformers` and hold its logits against cairn's."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cairn.base import UserError

PROBE_TOKENS = 64


def verify_with_transformers(folder: Path, tolerance: float) -> tuple[str, float | None]:
    """(what was verified, largest absolute difference of fp32 logits on a short probe).

    Where `transformers` is not installed nothing is verified, and the answer says so. UserError
    where the two disagree by more than `tolerance`.
    """
    if importlib.util.find_spec("transformers") is None:
        return "not verified: transformers is not installed", None
    import torch
    import transformers

    from cairn.model import load

    ours = load(folder, device="cpu", dtype=torch.float32)
    with _quiet(transformers):
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(
        ours.config.vocab_size, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode(), _quiet(transformers):
        found = theirs.eval()(ids, use_cache=False).logits
        difference = (ours.logits(ids) - found).abs().max().item()
    if not difference <= tolerance:
        raise UserError(
            f"{folder}: transformers {transformers.__version__} gives logits that differ by "
            f"{difference:.2g}, more than verify_tolerance={tolerance:g}"
        )
    return f"logits verified with transformers {transformers.__version__}", round(difference, 8)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its advice to install kernels, and its progress bars: a probe needs neither."""
    talk = transformers.utils.logging
    before, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(before)
        if bars:
            talk.enable_progress_bar()
