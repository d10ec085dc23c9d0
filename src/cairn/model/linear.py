"""Linear layers as modules, with the parameter names of released checkpoints."""

from torch import Tensor, nn

from cairn.ops.linear import linear


class Linear(nn.Linear):
    """nn.Linear through `ops.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return linear(input, self.weight, self.bias)
