"""The tree of cached prefixes: what is found, kept and thrown out."""

from cairn.engine.pages import NULL, PAGE, Pages
from cairn.engine.prefix import PrefixTree
from cairn.engine.snapshots import LEAST, marks


def tokens(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


def taken(pages: Pages, count: int) -> list[list[int]]:
    return [[pages.take() for _ in range(count)]]


def left(pages: Pages, own: list[list[int]]) -> None:
    for page in own[0]:
        pages.leave(page)


def test_keys_are_found_by_whole_pages_and_leave_one_token_to_compute():
    pages = Pages(10)
    tree = PrefixTree([pages], [None], None)
    own = taken(pages, 3)
    tree.insert(tokens(3 * PAGE + 5), own)
    assert tree.match(tokens(100), 99).position == 3 * PAGE
    assert tree.match(tokens(3 * PAGE), 3 * PAGE - 1).position == 2 * PAGE
    assert tree.match(tokens(PAGE + 3), PAGE + 2).position == PAGE
    assert tree.match(tokens(100, first=1), 99).position == 0
    left(pages, own)
    assert (pages.free, pages.busy) == (7, 0)


def test_a_hit_is_the_last_state_before_the_end_of_the_keys():
    pages = Pages(10)
    tree = PrefixTree([pages], [None], 8)
    own = taken(pages, 4)
    tree.keep(tokens(PAGE), own, "one page")
    tree.keep(tokens(3 * PAGE + 5), own, "begun page")
    whole = tree.match(tokens(100), 99)
    assert (whole.position, whole.keys) == (3 * PAGE + 5, 3 * PAGE + 5)
    assert whole.state is not None
    assert whole.state.copy == "begun page"
    other = tree.match(tokens(3 * PAGE) + tokens(20, first=500), 60)
    assert (other.position, other.keys) == (PAGE, 3 * PAGE)
    assert tree.match(tokens(PAGE), PAGE - 1).state is None
    assert tree.kept(tokens(3 * PAGE + 5))
    assert not tree.kept(tokens(3 * PAGE + 4))


def test_the_state_that_was_used_longest_ago_goes():
    pages = Pages(10)
    tree = PrefixTree([pages], [None], 2)
    own = taken(pages, 3)
    for count in (1, 2):
        tree.keep(tokens(count * PAGE), own, count)
    tree.touch(tree.match(tokens(PAGE + 3), PAGE + 2))
    tree.keep(tokens(3 * PAGE), own, 3)
    assert tree.states == 2
    assert tree.kept(tokens(PAGE))
    assert not tree.kept(tokens(2 * PAGE))


def test_leaves_go_first_and_nothing_that_is_in_use():
    pages = Pages(6)
    tree = PrefixTree([pages], [None], None)
    first, second = taken(pages, 3), taken(pages, 3)
    tree.insert(tokens(3 * PAGE), first)
    tree.insert(tokens(3 * PAGE, first=900), second)
    assert not tree.evict(), "all are in use"
    left(pages, first)
    assert tree.evict()
    assert tree.match(tokens(100), 99).position == 2 * PAGE
    tree.touch(tree.match(tokens(100), 99))
    left(pages, second)
    assert tree.evict()
    assert tree.match(tokens(100, first=900), 99).position == 2 * PAGE
    while tree.evict():
        pass
    assert (pages.free, tree.nodes) == (6, 0)


def test_a_window_needs_only_the_pages_that_it_sees():
    pages = Pages(10)
    tree = PrefixTree([pages], [2 * PAGE], None)
    own = taken(pages, 5)
    for number in (0, 1):
        pages.leave(own[0][number])
        own[0][number] = NULL
    tree.insert(tokens(5 * PAGE), own)
    assert tree.match(tokens(100), 99).position == 5 * PAGE
    assert tree.match(tokens(4 * PAGE), 4 * PAGE - 1).position == 0, "page 1 is seen and gone"


def test_consecutive_pages_are_found_where_there_is_room():
    pages = Pages(64, homes=4)
    firsts = [pages.take(pages.home(slot)) for slot in range(4)]
    assert firsts == [1, 17, 33, 49]
    assert pages.take(2) == 2
    assert pages.take(17) in range(20, 30), "in the middle of the longest run of free pages"


def test_marks_double_in_distance_from_both_ends():
    assert marks(0, LEAST) == []
    assert marks(0, 100) == [96]
    assert marks(0, 4116) == [
        256, 512, 1024, 2048, 2064, 3088, 3600, 3856, 4096, 4112
    ]  # fmt: skip
    assert marks(3000, 4116) == [3088, 3600, 3856, 4096, 4112]
    assert 1008 in marks(0, 4116, known=1020)
    assert set(range(100 // PAGE * PAGE, 900, 96)) <= set(marks(0, 900, every=100))
    assert all(place % PAGE == 0 and place < 5000 for place in marks(0, 5000))
