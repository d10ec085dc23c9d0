"""An engine's parts, put together from what it was told."""

from cairn.engine.allocation import Allocation
from cairn.engine.drafts import Drafter, PromptLookup
from cairn.engine.options import Caching, Speculation
from cairn.engine.pages import NULL, Pages
from cairn.engine.pool import Pool, Sizes
from cairn.engine.prefix import Demoted, Node, PrefixTree
from cairn.model import Decoder


def allocate(pool: Pool, caching: Caching) -> Allocation:
    """Bookkeeping for a pool."""
    cache, sizes = pool.cache, pool.sizes
    homes = sizes.slots if cache.device.type == "cpu" else 0
    groups = [Pages(count, homes) for count in sizes.pages]
    page = pool.page_bytes
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
    return Allocation(pool, groups, windows, pool.recurrent, tree, swap, caching.every)


def drafter_of(speculation: Speculation | None, model: Decoder, sizes: Sizes) -> Drafter | None:
    """Who guesses; None where nobody does."""
    if speculation is None:
        return None
    return PromptLookup(speculation.most)


def signature(model: Decoder) -> int:
    """A number that changes when a weight is replaced or changed in place."""
    total = 0
    for weight in model.parameters():
        version = 0 if weight.is_inference() else weight._version
        total = hash((total, weight.data_ptr(), version))
    return total
