"""What a module owns, by name, sooner than nn.Module finds it.

`module.name` fails first where Python looks for attributes; then nn.Module looks in three
dictionaries. That takes half a microsecond, and a layer asks for a dozen, as often as it is called:
the launches of a step of decoding on a GPU wait for all of them.
"""

from typing import Any

from torch import nn


def parameter(module: nn.Module, name: str) -> Any:
    """module.name, which is a parameter.

    Copies of nn.DataParallel, and weights that are computed from others, are kept elsewhere.
    """
    found = module._parameters.get(name)
    return getattr(module, name) if found is None else found


def part(module: nn.Module, name: str) -> Any:
    """module.name, which is a module."""
    return module._modules[name]
