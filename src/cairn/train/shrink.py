"""A plan in small: the same kinds of layers, phases and shares, in seconds. No torch."""

from dataclasses import replace

from cairn.model.config import ModelConfig
from cairn.tokens.blend import Blend
from cairn.train import TrainSettings
from cairn.train.batches import total_samples
from cairn.train.schedule import decay_samples, warmup_samples

LAYERS = {"M": "M-", "*": "*-"}  # each with a feed-forward after it


def shrunk_model(config: ModelConfig) -> ModelConfig:
    """Six layers, of each kind that the model has, and small widths; the tokenizer's vocabulary."""
    kinds = [letter for letter in LAYERS if letter in config.pattern]
    cycle = "".join(LAYERS[letter] for letter in kinds)
    positions = max(config.max_positions // 64, 64)
    window = config.sliding_window
    return replace(
        config,
        pattern=(3 * cycle)[:6],  # two layers in FP8 between those at either end that are not
        vocab_size=0,
        hidden_size=64,
        intermediate_size=128,
        attention_heads=4,
        key_value_heads=2,
        head_dim=16,
        mamba_heads=8 if "M" in kinds else 0,
        mamba_head_dim=16,
        state_size=16,
        groups=2,
        chunk_size=32,
        max_positions=positions,
        sliding_window=None if window is None else max(window // 64, 16),
        full_attention=(),
        name="",
    )


def shrunk_settings(
    settings: TrainSettings, steps: int, sequences: int = 4, length: int = 64
) -> TrainSettings:
    """The same law of rate and batch over a few steps on this machine, in fp32."""
    whole = total_samples(settings)
    return replace(
        settings,
        steps=steps,
        tokens=0,
        sequences=sequences,
        sequence_length=length,
        accumulate=1,
        ramp=(sequences // 2, sequences // 2, length * sequences) if settings.ramp else (),
        warmup=round(steps * warmup_samples(settings) / whole),
        warmup_tokens=0,
        decay=decay_samples(settings) / whole,
        decay_tokens=0,
        precision="fp32" if settings.precision in ("auto", "bf16", "fp32") else settings.precision,
        device="cpu",
        save_every=steps,
    )


def shrunk_blend(blend: Blend) -> Blend:
    """Without limits of epochs, which a small corpus would reach at once."""
    return replace(blend, components=tuple(replace(c, max_epochs=0.0) for c in blend.components))
