"""`cairn show` for a model: parameters, memory, FLOPs, and what a device could do at best.

`facts` is what `--json` prints, `print_page` what a person reads. The roofline is the time that
memory traffic or arithmetic alone takes, whichever is longer: no program is faster, and few come
near.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cairn.base import UserError
from cairn.base.tables import console, table
from cairn.model import counts
from cairn.model.config import MIXERS, ModelConfig
from cairn.model.devices import DEVICES, Device
from cairn.model.devices import device as device_of
from cairn.model.families import family_of

ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2}
PREFILL_TOKENS = 8192  # at most in one forward: what chunked prefill holds at a time


def shown(
    what: str,
    context: int,
    batch: int,
    gpus: int,
    device: str | None,
    dtype: str,
    quiet: bool = False,
) -> Any:
    """What `cairn show PRESET | CHECKPOINT` tells, printed unless `quiet`, as JSON values."""
    folder = Path(what)
    if not folder.is_dir() and (folder.exists() or len(folder.parts) > 1):
        raise UserError("checkpoint", what, "is no folder", "give a model's, a plan or a preset")
    config = ModelConfig.from_folder(folder) if folder.is_dir() else ModelConfig.preset(what)
    devices = [device_of(device)] if device else None
    found = facts(config, context, batch, gpus, devices, dtype)
    if not quiet:
        print_page(found, config)
    return found


def facts(
    config: ModelConfig,
    context: int,
    batch: int,
    gpus: int = 1,
    devices: list[Device] | None = None,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Everything on the page, as JSON values; the keys of `ModelConfig.facts` and more."""
    size = ELEMENT[dtype]
    found = config.facts(context, batch, size)
    kv = batch * counts.kv_bytes(config, context, size)
    state = batch * found["state_bytes_per_sequence"]
    tokens = batch * min(context, max(1, PREFILL_TOKENS // batch))
    activations = counts.activation_bytes(config, tokens, size)
    matmul = counts.matmul_flops(config)
    prefill_attention = counts.prefill_attention_flops(config, context)
    decode_attention = counts.attention_flops(config, context)
    found |= {
        "dtype": dtype,
        "gpus": gpus,
        "weight_bytes_per_gpu": -(-found["weight_bytes"] // gpus),
        "parameters_by_kind": _by_kind(config),
        "kv_bytes": kv,
        "state_bytes": state,
        "activation_bytes": activations,
        "memory_bytes": found["weight_bytes"] + kv + state + activations,
        "prefill_flops_per_token": matmul + prefill_attention + counts.scan_flops(config),
        "decode_flops_per_token": matmul + decode_attention + counts.step_flops(config),
        "decode_bytes_per_step": counts.decode_read_bytes(config, context, batch, size),
    }
    found["roofline"] = {
        device.name: roofline(config, found, device) for device in devices or DEVICES.values()
    }
    return found


def _by_kind(config: ModelConfig) -> dict[str, int]:
    kinds = {
        what: config.count(letter) * config.layer_parameters(letter)
        for letter, what in MIXERS.items()
        if letter in config.pattern
    }
    return kinds | {
        "embeddings": config.embedding_parameters,
        "last norm": counts.norm_parameters(config),
    }


def roofline(config: ModelConfig, found: dict[str, Any], device: Device) -> dict[str, Any]:
    """Best times of one device type, `gpus` of them sharing the work evenly and freely."""
    gpus, batch, context = found["gpus"], found["batch"], found["context"]
    flops, bytes_ = device.rate(found["dtype"]) * gpus, device.bandwidth * gpus
    tokens = batch * context
    prefill = {
        "arithmetic": tokens * found["prefill_flops_per_token"] / flops,
        "memory": found["weight_bytes"] / bytes_,
    }
    decode = {
        "arithmetic": batch * found["decode_flops_per_token"] / flops,
        "memory": found["decode_bytes_per_step"] / bytes_,
    }
    return {
        "memory_bytes": device.memory * gpus,
        "fits": found["memory_bytes"] <= device.memory * gpus,
        "bandwidth": device.bandwidth,
        "flops": device.rate(found["dtype"]),
        "measured": device.measured,
        "prefill_tokens_per_second": tokens / max(prefill.values()),
        "prefill_bound_by": max(prefill, key=lambda key: prefill[key]),
        "decode_tokens_per_second": batch / max(decode.values()),
        "decode_bound_by": max(decode, key=lambda key: decode[key]),
    }


def print_page(found: dict[str, Any], config: ModelConfig) -> None:
    """What a person reads."""
    out = console()
    family = found["family"]
    name = escape(str(found["name"]))
    size = len(family_of(family).layer)
    layers = f", {found['layers'] // size} layers of {size}" if size > 1 else ""
    mixers = f"{found['layers']} mixers{layers}"
    out.print(f"[bold]{name}[/bold]  ({family}, {mixers})", highlight=False)
    out.print(escape(_runs(found["pattern"])), highlight=False)
    out.print(_form(config), highlight=False)
    _print_parameters(out, found, config)
    _print_memory(out, found)
    _print_flops(out, found)
    _print_roofline(out, found)


def _runs(pattern: str, width: int = 96) -> str:
    """The pattern; a repeated unit as `32 x *-`."""
    for size in range(1, 3):
        unit, times = pattern[:size], len(pattern) // size
        if times > 2 and unit * times == pattern:
            return f"{times} x {unit}"
    return "\n".join(pattern[at : at + width] for at in range(0, len(pattern), width))


def _form(config: ModelConfig) -> str:
    """One sentence of the shape."""
    said = [f"width {config.hidden_size:,}"]
    if "-" in config.pattern:
        gate = "gated " if config.gated else ""
        said.append(f"feed-forward {config.intermediate_size:,} ({gate}{config.activation})")
    if "*" in config.pattern:
        heads = f"{config.attention_heads}/{config.key_value_heads} heads of {config.head_dim}"
        positions = "no positions"
        if config.rope_theta is not None:
            scaled = f", {config.rope_scaling.kind}" if config.rope_scaling else ""
            positions = f"RoPE {config.rope_theta:,.0f}{scaled}"
        window = f", window {config.sliding_window:,}" if config.sliding_window else ""
        said.append(f"attention {heads} ({positions}{window})")
    if "M" in config.pattern:
        heads = f"{config.mamba_heads} heads of {config.mamba_head_dim}"
        said.append(f"Mamba-2 {heads}, state {config.state_size}, {config.groups} groups")
    tied = "tied" if config.tie_embeddings else "untied"
    said.append(f"vocabulary {config.vocab_size:,} ({tied})")
    return "; ".join(said)


def _print_parameters(out: Console, found: dict[str, Any], config: ModelConfig) -> None:
    numbers = ("layers", "a layer", "parameters", "share")
    shown = table("parameters of", *numbers, right=numbers)
    letters = {what: letter for letter, what in MIXERS.items()}
    for kind, count in found["parameters_by_kind"].items():
        letter = letters.get(kind)
        layers = str(config.count(letter)) if letter else ""
        each = f"{config.layer_parameters(letter):,}" if letter else ""
        shown.add_row(kind, layers, each, f"{count:,}", f"{count / found['parameters']:.1%}")
    shown.add_row("[bold]all[/bold]", "", "", f"[bold]{found['parameters']:,}[/bold]", "")
    out.print()
    out.print(shown)


def _print_memory(out: Console, found: dict[str, Any]) -> None:
    sequences = f"{found['batch']:,} x {found['context']:,} tokens, {found['dtype']}"
    shown = table("memory", "GiB", "", right=("GiB",))
    per_gpu = ""
    if found["gpus"] > 1:
        per_gpu = f"{_gib(found['weight_bytes_per_gpu'])} on each of {found['gpus']} GPUs"
    rows = (
        ("weights", found["weight_bytes"], per_gpu),
        ("keys and values", found["kv_bytes"], f"{found['kv_bytes_per_token']:,} bytes a token"),
        ("state", found["state_bytes"], f"{_mib(found['state_bytes_per_sequence'])} a sequence"),
        ("activations", found["activation_bytes"], "estimate, of one forward at prefill"),
    )
    for what, size, note in rows:
        shown.add_row(what, _gib(size, ""), note)
    shown.add_row("[bold]all[/bold]", f"[bold]{_gib(found['memory_bytes'], '')}[/bold]", sequences)
    out.print()
    out.print(shown)


def _print_flops(out: Console, found: dict[str, Any]) -> None:
    numbers = ("matrices", "attention", "scan", "all")
    shown = table("GFLOP a token", *numbers, right=numbers)
    matmul = found["matmul_flops_per_token"]
    scan = found["scan_flops_per_token"]
    whole = found["prefill_flops_per_token"]
    parts = [matmul, whole - matmul - scan, scan, whole]
    shown.add_row("prefill, the mean token", *(f"{part / 1e9:,.2f}" for part in parts))
    attention = found["attention_flops_per_token"]
    whole = found["decode_flops_per_token"]
    parts = [matmul, attention, whole - matmul - attention, whole]
    shown.add_row("decode, at this context", *(f"{part / 1e9:,.2f}" for part in parts))
    out.print()
    out.print(shown)


def _print_roofline(out: Console, found: dict[str, Any]) -> None:
    numbers = ("GB", "GB/s", "TFLOP/s", "prefill tokens/s", "decode tokens/s")
    shown = table("at best on", *numbers, "bound by", "", right=numbers)
    for name, line in found["roofline"].items():
        count = f"{found['gpus']} x {name}" if found["gpus"] > 1 else name
        shown.add_row(
            count,
            f"{line['memory_bytes'] / 1e9:,.0f}",
            f"{line['bandwidth'] / 1e9:,.0f}",
            f"{line['flops'] / 1e12:,.1f}",
            _rate(line["prefill_tokens_per_second"]),
            _rate(line["decode_tokens_per_second"]),
            f"{line['prefill_bound_by']}, {line['decode_bound_by']}",
            ", ".join(_remarks(line)),
        )
    out.print()
    out.print(shown)


def _remarks(line: dict[str, Any]) -> Iterator[str]:
    if line["measured"]:
        yield "measured now"
    if not line["fits"]:
        yield "does not fit"


def _rate(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _gib(size: float, unit: str = " GiB") -> str:
    return f"{size / 2**30:,.2f}{unit}"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
