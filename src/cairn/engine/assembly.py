"""An engine's parts, put together from what it was told."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cairn.base import UserError
from cairn.engine.allocation import Allocation
from cairn.engine.archive import Archive
from cairn.engine.drafts import Drafter, PromptLookup
from cairn.engine.mirror import MirroredPool
from cairn.engine.nodes import Demoted, Node
from cairn.engine.options import Caching, Speculation
from cairn.engine.pages import NULL, Pages
from cairn.engine.pool import MEMORY_SHARE, Pool, Sizes, fit
from cairn.engine.prefix import PrefixTree
from cairn.engine.prompts import end_tokens
from cairn.engine.share import Share
from cairn.engine.team import Team, start
from cairn.engine.weights import join_weights, narrow_weights
from cairn.model import Decoder, load
from cairn.model.checkpoint import stored_dtype
from cairn.ops.native.library import native
from cairn.tokens.tokenizer import Tokenizer

CUT = {"cpu": 256, "cuda": 2048}  # tokens: where prompts are cut in a batch-invariant engine
UNBOUNDED = 2**62


def without_variation(caching: Caching | None, speculation: Speculation | None) -> Caching:
    """What a batch-invariant engine keeps; UserError for what would give a request other bits.

    A cached prefix was cut elsewhere, a guess is verified in another pass than a lone token, and
    what is computed again is computed otherwise: everything preempted is swapped out.
    """
    if caching is not None and caching.prefixes:
        mend = "give Caching(prefixes=False), or leave it out"
        raise UserError("invariant", True, "keeps no prefixes", mend)
    if speculation is not None:
        raise UserError("invariant", True, "does not guess ahead", "leave speculation out")
    return Caching(prefixes=False, swap_bytes=UNBOUNDED)


def archive_of(model: Decoder, caching: Caching, pool: Pool) -> Archive | None:
    """Where prefixes outlive the process; None where they need not, UserError where they cannot."""
    if caching.disk is None or not caching.prefixes:
        return None
    try:
        return Archive(Path(caching.disk), model, pool.form, caching.disk_bytes)
    except OSError as error:
        mend = "give a folder that can be written"
        raise UserError("disk (--cache)", str(caching.disk), str(error), mend) from error


def refuse_apart(ranks: int, caching: Caching, invariant: bool) -> None:
    """UserError for what cannot be had where several processes share a model."""
    if caching.disk is not None:
        problem = "keeps the prefixes of one process, and a model on several ranks has none whole"
        raise UserError("disk (--cache)", str(caching.disk), problem, "leave it or the ranks out")
    if invariant:
        problem = "cannot be had with ranks: how their sums are added depends on the batch"
        raise UserError("invariant", True, problem, "leave it or the ranks out")


@contextlib.contextmanager
def closed_on_failure(team: Team | None) -> Iterator[None]:
    """Inside, an error ends the other ranks."""
    try:
        yield
    except BaseException:
        if team is not None:
            team.close()
        raise


def pool_of(
    model: Decoder,
    team: Team | None,
    slots: int | None,
    capacity: int | None,
    memory: int | None,
    budget: int,
    states: torch.dtype | None,
    *,
    keeps: bool,
    graphs: bool | None,
) -> Pool:
    """The pool of a model, as large as fits; with a team, one on every rank, all of one size."""
    kind, ranks = (model.device, model.dtype), 1
    if team is not None:
        ranks = team.ranks
        if memory is None:
            memory = int(team.free * MEMORY_SHARE[model.device.type])
    sizes = fit(
        model.config, *kind, slots, capacity, memory, budget, states, keeps=keeps, sharers=ranks
    )
    if team is None:
        return Pool(model.config, sizes, *kind)
    team.tell("pools", sizes, graphs)
    return MirroredPool(model.config, sizes, *kind, team)


def allocate(
    pool: Pool, caching: Caching, archive: Archive | None = None, ranks: int = 1
) -> Allocation:
    """Bookkeeping for a pool, or for those of some `ranks` alike."""
    cache, sizes = pool.cache, pool.sizes
    homes = sizes.slots if cache.device.type == "cpu" else 0
    groups = [Pages(count, homes) for count in sizes.pages]
    page = pool.page_bytes * ranks
    tree = None
    if caching.prefixes:
        states = None
        if pool.recurrent:
            states = sizes.states if caching.states is None else caching.states

        def demote(node: Node) -> Demoted:
            held = [[number] if number != NULL else [] for number in node.pages]
            return Demoted(tuple(number != NULL for number in node.pages), pool.fetch(held))

        blocks = caching.host_bytes // page if page else 0
        tree = PrefixTree(groups, cache.windows, states, demote, blocks)
    swap = caching.swap_bytes // page if page else 0
    windows = list(cache.windows)
    return Allocation(pool, groups, windows, pool.recurrent, tree, swap, caching.every, archive)


def drafter_of(speculation: Speculation | None, model: Decoder, sizes: Sizes) -> Drafter | None:
    """Who guesses; None where nobody does."""
    if speculation is None:
        return None
    if speculation.model is None:
        return PromptLookup(speculation.most)
    from cairn.engine.draft_model import DraftModel

    return DraftModel.of(speculation.model, model, sizes.slots, sizes.capacity, speculation.most)


def states_in(name: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of recurrent states by its name; None is that of the model, fp32 at least."""
    known = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
    found = known.get(name) if isinstance(name, str) else name
    if name is not None and found not in known.values():
        raise UserError("state_dtype", name, "is no dtype of states", f"use {', '.join(known)}")
    return found


@dataclass(frozen=True)
class Opened:
    """What an engine works with."""

    model: Decoder
    tokenizer: Tokenizer | None
    ends: frozenset[int] = frozenset()
    """Tokens that end a completion, as the checkpoint says."""
    team: Team | None = None

    @property
    def ranks(self) -> int:
        """Processes that share the model."""
        return 1 if self.team is None else self.team.ranks


def opened(
    model: str | Path | Decoder,
    tokenizer: Tokenizer | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    weights: str | None,
    ranks: int,
) -> Opened:
    """A live model as it is, or a checkpoint folder's, on a GPU if there is one; see `Engine`.

    On a GPU, matrices that multiply the same rows come to lie side by side.
    """
    if not isinstance(model, str | Path):
        if (device, dtype, weights, ranks) != (None, None, None, 1):
            told = "device, dtype, weights, ranks are for folders: a live model stays as it is"
            raise UserError(told)
        join_weights(model)
        return Opened(model, tokenizer)
    folder = Path(model)
    found, team = _loaded(folder, device, dtype, weights, ranks)
    if tokenizer is None and (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(folder)
    return Opened(found, tokenizer, end_tokens(folder), team)


def _dtype_on(where: torch.device, folder: Path, plain: bool) -> torch.dtype:
    """bf16 on a GPU; on a CPU where weights are stored so and it multiplies them."""
    narrow = where.type == "cuda"
    if where.type == "cpu" and plain:
        narrow = native().narrow and stored_dtype(folder) == torch.bfloat16
    return torch.bfloat16 if narrow else torch.float32


def _loaded(
    folder: Path,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    weights: str | None,
    ranks: int,
) -> tuple[Decoder, Team | None]:
    """With several `ranks`, the first one's share, and the team that has the others."""
    if weights not in (None, "float8"):
        raise UserError("weights", weights, "is no kind of weights", "use float8, or leave it out")
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is no checkpoint folder: it has no config.json")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or _dtype_on(where, folder, plain=weights is None and ranks == 1)
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise UserError("ranks", ranks, "is no number of processes", "1 has the whole model")
    if ranks > 1:
        return start(Share(folder.resolve(), 0, ranks, where.type, dtype, weights))
    model = load(folder, device=where, dtype=dtype, mapped=False)  # in pages for long service
    if weights is not None:
        narrow_weights(model)
    join_weights(model)
    return model, None
