"""Many ranks: how parameters, tokens and steps are shared. No torch until ranks are joined."""

from dataclasses import dataclass

from cairn.base import UserError

__all__ = ["Parallel"]


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How the processes that `torchrun` starts share one training run; alone, it changes nothing.

    The product of the four sizes is the number of processes. No field changes what is learned, but
    for the order of floating-point sums, so that a run may go on with another number of ranks.
    """

    data: int = 1
    """Copies of the model, each with its part of every micro-batch (hybrid sharding if `shard`)."""
    shard: int = 0
    """Ranks that share the parameters of a copy (FSDP), each with own sequences; 0: the rest."""
    context: int = 1
    """Ranks that share the tokens of a sequence: states and keys pass between them."""
    tensor: int = 1
    """Ranks that share every matrix (tensor parallel), and tokens between mixers."""

    def __post_init__(self) -> None:
        for name in ("data", "context", "tensor"):
            if getattr(self, name) < 1:
                raise UserError(
                    name, getattr(self, name), "is no number of ranks", "give 1 or more"
                )
        if self.shard < 0:
            raise UserError("shard", self.shard, "is negative", "0 takes the ranks that are left")

    def shards(self, world: int) -> int:
        """`shard` for a number of processes; UserError where the sizes do not fit it."""
        fixed = self.data * self.context * self.tensor
        left = self.shard or max(1, world // fixed)
        if fixed * left != world:
            sizes = f"data={self.data} shard={self.shard} context={self.context}"
            raise UserError(
                "parallel", f"{sizes} tensor={self.tensor}", f"does not make {world} processes",
                "start their product: torchrun --nproc-per-node N -m cairn make ...",
            )  # fmt: skip
        return left
