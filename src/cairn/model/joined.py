"""Matrices that multiply the same rows, side by side in memory: one product gives what all give.

Parameters stay what they are, views of one storage, so that whoever names, counts, saves or
changes them in place sees no difference.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from cairn.model.linear import Linear, multiplied
from cairn.ops import paths

Group = Sequence[nn.Module]  # layers that multiply the same rows
PLAIN = (nn.Parameter, Tensor)  # and no part of what is spread over ranks


@torch.inference_mode(False)  # what is made inside it could not be trained afterwards
@torch.no_grad()
def join(model: nn.Module) -> int:
    """Lay side by side what `together` of each mixer names; how many groups lie so now.

    Layer by layer, so that the peak of memory is the model and the matrices of one. Groups that
    cannot be joined stay as they are; `Decoder.paths` tells which, and why. A model may be trained
    on, whatever mode this is called in; but what knows parameters by their address (a captured
    graph of training) is to be made after it.
    """
    count, seen = 0, set[int]()
    for module in model.modules():
        linears: Group = getattr(module, "together", ())
        own = {id(p) for linear in linears for p in linear.parameters()}
        if linears and not unfit(linears) and not own & seen:
            if apart(linears):
                if owned_elsewhere(linears):
                    continue
                _join(linears)
            seen |= own
            count += 1
    return count


def unfit(linears: Group) -> str:
    """Why no product could read layers as one, wherever they lay; empty where one could."""
    if not _plain(linears):
        return "one is another kind of layer"
    for name, tensors in _fields(linears).items():
        found = [t for t in tensors if t is not None]
        if found and len(found) < len(tensors):
            return f"one has {name}, another not"
        if any(type(t) not in PLAIN for t in found):
            return f"{name} is spread over ranks"
        if len({id(t) for t in found}) < len(found):
            return f"one {name} serves twice"
        if len({(t.dtype, t.device, t.shape[1:]) for t in found}) > 1:
            return f"{name} differs in kind"
    return ""


def owned_elsewhere(linears: Group) -> str:
    """Why layers may not be moved; empty where they may.

    Some optimizers hold all parameters in one piece of memory and write there: parameters that
    were moved out of it would never hear of a step.
    """
    for tensors in _fields(linears).values():
        held = [t for t in tensors if t is not None]
        whole = sum(t.nbytes for t in held)
        if any(t.untyped_storage().nbytes() > whole for t in held):
            return "they are parts of a larger piece of memory, whose owner may write there"
    return ""


def apart(linears: Group) -> str:
    """Why no product reads layers as one; empty where one does. Asked at every call."""
    if _beside_each_other(linears) is not None:
        return ""
    why = unfit(linears) or owned_elsewhere(linears)
    return why or "they lie apart: an engine on a GPU joins them"


def products(x: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
    """linear(x) of each, [..., I] to [..., O]; views of one product where they are joined.

    One by one where gradients may be wanted, where training multiplies in 8 bits, and where
    somebody listens to the calls.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return tuple(linear(x) for linear in linears)
    fields = _beside_each_other(linears)
    if fields is None or any(linear.listened for linear in linears):
        parts = True
    else:
        parts = linears[0].scaling(x) is not None
    if parts and (not x.is_cuda or paths.undisturbed()):  # nobody hears why, which takes long
        return tuple([linear(x) for linear in linears])
    why = _separate(x, linears) if parts else ""
    path = paths.choose("joined_products", x.device, native=why, library=why)
    if fields is None or parts or path == "torch":
        return tuple([linear(x) for linear in linears])
    weights, biases, inverses = fields
    sizes = [t.shape[0] for t in weights if t is not None]
    rows = sum(sizes)
    weight = _whole(weights, rows)
    assert weight is not None
    y = multiplied(x, weight, _whole(biases, rows), _whole(inverses, rows))
    return y.split_with_sizes(sizes, -1)


def _separate(x: Tensor, linears: Sequence[Linear]) -> str:
    """Why layers multiply one by one; empty where they need not."""
    why = apart(linears)
    if not why and any(linear.listened for linear in linears):
        why = "somebody listens to one of them"
    if not why and linears[0].scaling(x) is not None:
        why = "they multiply in 8 bits as in training"
    return why


def _beside_each_other(linears: Group) -> Sequence[Sequence[Tensor | None]] | None:
    """What `_fields` names, where all of it lies side by side; else None."""
    if not _plain(linears):
        return None
    fields = list(_fields(linears).values())
    return fields if all(map(_beside, fields)) else None


def _plain(linears: Group) -> bool:
    """Whether all are layers of ours with parameters of their own.

    Copies of `nn.DataParallel`, and weights that are computed from others, have none.
    """
    return all(type(each) is Linear and "weight" in each._parameters for each in linears)


def _fields(linears: Group) -> dict[str, list[Tensor | None]]:
    """All that layers have with a row, or a number, an output."""
    return {
        "weight": [linear._parameters["weight"] for linear in linears],
        "bias": [linear._parameters["bias"] for linear in linears],
        "inverse": [linear._buffers["inverse"] for linear in linears],
    }


def _beside(tensors: list[Tensor | None]) -> bool:
    """Whether tensors follow each other in one storage, or all are None."""
    first = tensors[0]
    if first is None:
        return all(t is None for t in tensors)
    kind, inner, at = first.dtype, first.shape[1:], first.data_ptr()
    for t in tensors:
        if t is None or type(t) not in PLAIN or t.data_ptr() != at:
            return False
        if t.dtype != kind or t.shape[1:] != inner or not t.is_contiguous():
            return False
        at += t.nbytes
    storage = first.untyped_storage()  # others may begin where it ends
    return at <= storage.data_ptr() + storage.nbytes()


def _join(linears: Group) -> None:
    for tensors in _fields(linears).values():
        held = [t for t in tensors if t is not None]
        if not held:
            continue
        whole = torch.cat([t.data for t in held])
        for t, end in zip(held, accumulate(map(len, held)), strict=True):
            t.data = whole[end - len(t) : end]
        if whole.is_cuda:  # or what they took before is kept, and of no use for the next layer
            torch.cuda.empty_cache()


def _whole(tensors: Sequence[Tensor | None], rows: int) -> Tensor | None:
    """Tensors that lie side by side, as one of so many rows."""
    first = tensors[0]
    if first is None:
        return None
    return first.as_strided((rows, *first.shape[1:]), first.stride())
