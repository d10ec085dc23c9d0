"""The decoder: one forward for training, prefill, chunked prefill and decode."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from cairn.base import UserError
from cairn.model.attention import Attention
from cairn.model.cache import Cache
from cairn.model.config import ModelConfig
from cairn.model.feedforward import MLP
from cairn.model.fused import Fused, Want, fused_block, fused_model
from cairn.model.initial import normal
from cairn.model.layout import Layout
from cairn.model.linear import Linear
from cairn.model.mamba import Mamba2
from cairn.model.mixers import MIXERS
from cairn.model.norms import LayerNorm, RMSNorm, norm_of, normed
from cairn.model.parts import part
from cairn.model.spans import Spans
from cairn.ops.linear import linear
from cairn.ops.memory import empty_together
from cairn.ops.transfer import on_device, sent

if TYPE_CHECKING:
    from cairn.model.served import Served
    from cairn.ops.vocabulary import Vocabulary


ROUNDED = 32  # rows, from which on logits that a GPU's library gave stay in its dtype
INITIALISED = (RMSNorm, LayerNorm, Mamba2, Attention, MLP)  # modules that draw their parameters


class Block(nn.Module):
    """x + mixer(norm(x)); the sum is left to the next norm, which reads it anyway."""

    def __init__(self, config: ModelConfig, letter: str, window: int | None) -> None:
        super().__init__()
        self.norm = norm_of(config)
        self.mixer = Attention(config, window) if letter == "*" else MIXERS[letter](config)
        self.residual_fp32 = config.residual_fp32
        self.recompute = False  # whether the backward computes it again, to keep nothing but x

    def forward(
        self, x: Tensor, added: Tensor | None, layout: Layout, memory: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream [T, D] and what is still to be added to it: both after this block."""
        if self.recompute and torch.is_grad_enabled():
            x = x if added is None else x + added  # one tensor is kept, not two
            return checkpoint(self._computed, x, None, layout, memory, use_reentrant=False)
        return self._computed(x, added, layout, memory)

    def _computed(
        self, x: Tensor, added: Tensor | None, layout: Layout, memory: Any
    ) -> tuple[Tensor, Tensor | None]:
        whole = fused_block(self, x, added, layout, memory)
        if whole is not None:
            return whole, None
        norm = part(self, "norm")
        y, x = normed(norm, x, added)
        if self.residual_fp32:
            y = y.to(norm.weight.dtype)
        return x, part(self, "mixer")(y, layout, memory)


class Backbone(nn.Module):
    """Embedding, blocks, last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        windows = iter(config.windows)
        self.layers = nn.ModuleList(
            Block(config, letter, next(windows) if letter == "*" else None)
            for letter in config.pattern
        )
        self.norm_f = norm_of(config)


class Decoder(nn.Module):
    """A string of mixers over flat tokens; parameters are named as in released checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight
        self.vocabulary: Vocabulary | None = None  # this rank's part of it, where ranks share it

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the matrices; a few parameters stay in fp32."""
        return self.lm_head.weight.dtype

    def initialise(self, seed: int) -> None:
        """Draw every parameter anew: a function of the configuration and the seed alone."""
        generator = torch.Generator().manual_seed(seed)
        for _, draw in self.draws():
            draw(generator)

    def draws(self) -> Iterator[tuple[str, Callable[[torch.Generator], None]]]:
        """In the order of initialisation: a module's name, and what draws its own parameters."""
        std = self.config.initializer_range
        yield "backbone.embeddings", partial(normal, self.backbone.embeddings.weight, std)
        if not self.config.tie_embeddings:
            yield "lm_head", partial(normal, self.lm_head.weight, std)
        for name, module in self.named_modules():
            if isinstance(module, INITIALISED):
                yield name, module.initialise

    def forward(self, tokens: Tensor, spans: Spans, cache: Cache | None = None) -> Tensor:
        """Logits [T, V] in fp32 of flat tokens int64 [T]; continues and updates `cache`.

        Raises ValueError where spans do not cover the tokens, or a cache slot would overflow.
        """
        done = self._computed(tokens, spans, cache, "logits")
        assert isinstance(done.found, Tensor)
        return done.found if done.want == "logits" else self.head(done.found)

    def likeliest(
        self, tokens: Tensor, spans: Spans, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor]:
        """The highest logit of every token fp32 [T], and whose it is int64 [T], as `forward` is.

        NaN is the highest where there is any. Decoding that takes no other token needs no more,
        and of a few tokens on a CPU the others are not even written.
        """
        done = self._computed(tokens, spans, cache, "likeliest")
        if isinstance(done.found, tuple):
            return done.found
        highest, tokens = self.head(done.found).max(-1)
        return highest, tokens

    def hidden(
        self,
        tokens: Tensor,
        spans: Spans,
        cache: Cache | None = None,
        asked: Sequence[int] | None = None,
    ) -> Tensor:
        """What the output matrix sees, [T, D]: for losses that never make all logits.

        With `asked`, only those rows are: others hold anything finite. A prompt asks for its last
        alone, and what looks at nothing but its own token is then computed for no other.
        """
        done = self._computed(tokens, spans, cache, "hidden", asked)
        assert isinstance(done.found, Tensor)
        return done.found

    def _computed(
        self,
        tokens: Tensor,
        spans: Spans,
        cache: Cache | None,
        want: Want,
        asked: Sequence[int] | None = None,
    ) -> Fused:
        """Hidden states, and what is wanted of them where that is one call with them."""
        if tokens.ndim != 1 or len(tokens) != spans.tokens:
            shape = list(tokens.shape)
            raise ValueError(f"tokens {shape} for spans over {spans.tokens}: give a flat list")
        device = self.device
        tokens, done = sent(tokens, device), None
        if cache:
            cache.fits(self.config)
        if cache and spans.context is None:
            done = fused_model(self, tokens, spans.lengths, spans.slot_numbers, cache, want)
        if done is None:
            layout = Layout.of(self.config, spans, cache, device)
            done = Fused("hidden", self.run(tokens, layout, cache, asked))
        if cache:
            cache.end(spans.slot_numbers, spans.lengths)
        return done

    def run(
        self,
        tokens: Tensor,
        layout: Layout,
        cache: Cache | None = None,
        asked: Sequence[int] | None = None,
    ) -> Tensor:
        """`hidden` of tokens that are laid out already: device work alone, for graphs too."""
        x = self.backbone.embeddings(tokens)
        if self.config.residual_fp32:
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        added = None
        blocks = list(self.backbone.layers)
        layers = len(self.config.pattern if asked is None else self.config.pattern.rstrip("-"))
        for i, block in enumerate(blocks[:layers]):
            x, added = block(x, added, layout, cache.layers[i] if cache else None)
        whole = rows = None
        if asked is not None:
            whole = x.new_zeros(x.shape, dtype=self.dtype)
            if not asked:
                return whole
            rows = on_device(asked, torch.int64, x.device)
            x, added = x[rows], None if added is None else added[rows]
            for block in blocks[layers:]:
                x, added = block(x, added, layout, None)
        x, _ = normed(self.backbone.norm_f, x, added)
        x = x.to(self.dtype) if self.config.residual_fp32 else x
        return x if whole is None or rows is None else whole.index_copy_(0, rows, x)

    def recompute(self, letters: str) -> None:
        """Let the layers of these kinds compute their activations again in the backward."""
        for letter, block in zip(self.config.pattern, self.backbone.layers, strict=True):
            assert isinstance(block, Block)
            block.recompute = letter in letters

    def compile_parts(self) -> None:
        """Let torch.compile make the kernels of feed-forward layers.

        The other mixers depend on where spans end, which changes with every batch, and have
        kernels of their own.
        """
        for block in self.backbone.layers:
            assert isinstance(block, Block)
            if isinstance(block.mixer, MLP):
                block.mixer.compile(dynamic=False)

    def head(self, hidden: Tensor, widened: bool = True) -> Tensor:
        """Logits [..., V] in fp32 of hidden [..., D].

        In bf16 on a GPU they are rounded to bf16 by its library, but for the few rows that our
        own product multiplies there (`ops.linear.FEW`) and outside of `order.fixed_order`: a
        logit of 20 to the next multiple of 1/8. Those of many rows stay in bf16 where not
        `widened`: the same numbers, and nothing is written twice.
        """
        rounded = not widened and hidden.is_cuda and hidden.numel() >= ROUNDED * hidden.shape[-1]
        if not rounded and self.lm_head.plain(hidden):
            return linear(hidden, self.lm_head.weight, dtype=torch.float32)
        logits = self.lm_head(hidden)
        if rounded:
            return logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def paths(self, tokens: int = 64) -> list["Served"]:
        """Which implementation serves every operation here: see cairn.model.served."""
        from cairn.model.served import served

        return served(self, tokens)

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [B, L, V] of whole sequences int64 [B, L], each by itself."""
        batch, length = ids.shape
        return self(ids.reshape(-1), Spans.of([length] * batch)).unflatten(0, (batch, length))


def drawn(config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters that `build` gives a model, in fp32 on the CPU, one module's at a time.

    For models that no process can hold whole.
    """
    model = skeleton(config)
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, _ in model.draws()]
    for owner in names:
        inner = [name for name in names if name.startswith(f"{owner}.")]
        module = model.get_submodule(owner)
        own: list[tuple[nn.Module, str, nn.Parameter, str]] = []
        for name, parameter in module.named_parameters():
            whole = f"{owner}.{name}"
            if not any(whole.startswith(f"{one}.") for one in inner):
                holder, _, leaf = whole.rpartition(".")
                own.append((model.get_submodule(holder), leaf, parameter, whole))
        for holder, leaf, parameter, _ in own:
            setattr(holder, leaf, nn.Parameter(torch.empty(parameter.shape, device="cpu")))
        next(draw for name, draw in model.draws() if name == owner)(generator)
        for holder, leaf, parameter, whole in own:
            yield whole, getattr(holder, leaf).detach()
            setattr(holder, leaf, parameter)


_DRAWS = (
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    Tensor.normal_,
    Tensor.uniform_,
)


class _Undrawn(TorchFunctionMode):
    """Inside, nothing is drawn: on the meta device that would import a compiler (1.5 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def skeleton(config: ModelConfig) -> Decoder:
    """A decoder on the meta device: names and shapes, in no memory."""
    with torch.device("meta"), _Undrawn():
        return Decoder(config)


def empty(
    config: ModelConfig, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Decoder:
    """A decoder whose parameters hold whatever was in memory."""
    if config.vocab_size == 0:
        raise UserError("vocab_size", 0, "is not decided yet", "set it to the tokenizer's")
    model = skeleton(config).to(dtype or torch.float32)
    for module in model.modules():
        for name in getattr(module, "keep_fp32", ()):
            wide = torch.promote_types(model.dtype, torch.float32)
            setattr(module, name, nn.Parameter(getattr(module, name).to(wide)))
    given = list(model.parameters())  # what is tied once: to_empty would part it
    made = dict(zip(given, _room_for(given, torch.device(device)), strict=True))
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            setattr(module, name, made[old])
    return model


def _room_for(given: list[nn.Parameter], device: torch.device) -> list[nn.Parameter]:
    """Parameters like these, that hold whatever was in memory."""
    if device.type != "cpu":
        return [nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device=device)) for p in given]
    made: dict[nn.Parameter, nn.Parameter] = {}
    for dtype in {p.dtype for p in given}:
        alike = [p for p in given if p.dtype == dtype]
        places = empty_together([p.shape for p in alike], dtype)
        made |= zip(alike, map(nn.Parameter, places), strict=True)
    return [made[p] for p in given]


def build(
    config: ModelConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Decoder:
    """A freshly initialised decoder, in fp32 unless told; the same for a seed on any device."""
    model = empty(config, device, dtype)
    model.initialise(seed)
    return model
