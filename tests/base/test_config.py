"""Overrides, plain form and digests of recipes."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from cairn.base import Ref, UserError
from cairn.base.config import (
    digest_of,
    field_help,
    from_plain,
    nearest,
    override,
    parse,
    refs_in,
    to_plain,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    """Optimizer steps."""
    name: str = "x"
    limit: int | None = None
    mode: Literal["fast", "exact"] = "fast"
    on: bool = False
    parent: Ref = Ref("corpus")
    more: tuple[Ref, ...] = ()
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("dotted", "text", "expected"),
    [
        ("steps", "500", 500),
        ("steps", "1e3", 1000),
        ("steps", "1_000", 1000),
        ("limit", "none", None),
        ("limit", "7", 7),
        ("mode", "exact", "exact"),
        ("on", "true", True),
        ("name", "a=b", "a=b"),
        ("parent", "other", Ref("other")),
    ],
)
def test_override_parses_by_the_type_of_the_field(dotted, text, expected):
    assert getattr(override(Outer(), dotted, text), dotted) == expected


def test_override_reaches_nested_fields_and_leaves_the_original():
    outer = Outer()
    changed = override(outer, "inner.betas", "0.8,0.9")
    assert changed.inner.betas == (0.8, 0.9)
    assert outer.inner.betas == (0.9, 0.95)
    assert override(outer, "inner.betas", "[0.5, 0.6]").inner.betas == (0.5, 0.6)


@pytest.mark.parametrize(
    ("dotted", "text", "message"),
    [
        ("stepz", "1", "did you mean 'steps'"),
        ("inner.lrr", "1", "unknown name 'inner.lrr'.*did you mean 'lr'"),
        ("steps", "ten", "steps='ten': is not a whole number"),
        ("steps", "1.5", "is not a whole number"),
        ("inner.lr", "nan", "is not finite"),
        ("steps", "nan", "is not a whole number"),
        ("steps", "1e400", "is not a whole number"),
        ("mode", "exat", "did you mean 'exact'"),
        ("on", "maybe", "is not a truth value"),
        ("inner", "3", "is a group of fields; set one of inner.lr"),
        ("steps.x", "3", "has no fields"),
    ],
)
def test_a_wrong_override_names_field_value_and_mend(dotted, text, message):
    with pytest.raises(UserError, match=message):
        override(Outer(), dotted, text)


def test_plain_form_and_digest_follow_every_field():
    assert to_plain(Outer())["inner"] == {"kind": "Inner", "lr": 1e-3, "betas": [0.9, 0.95]}
    assert digest_of(to_plain(Outer())) == digest_of(to_plain(Outer()))
    assert digest_of(to_plain(Outer())) != digest_of(to_plain(override(Outer(), "inner.lr", "2")))


def test_refs_are_found_inside_tuples_and_groups():
    assert [ref.name for ref in refs_in(Outer(more=(Ref("a"), Ref("b"))))] == ["corpus", "a", "b"]


def test_field_help_reads_the_strings_below_fields():
    assert field_help(Outer)["steps"] == "Optimizer steps."
    assert field_help(Inner) == {"lr": "Peak learning rate."}


def test_nearest_lists_what_there_is_when_nothing_is_near():
    assert nearest("zzz", ["base", "chat"]) == "known: base, chat"


def test_json_lists_are_read_and_broken_ones_refused():
    assert parse('["a,b", "c"]', tuple[str, ...], "sources") == ("a,b", "c")
    with pytest.raises(UserError, match="is not a JSON list"):
        parse("[1, 2", tuple[int, ...], "x")


@dataclass(frozen=True)
class Item:
    weights: tuple[float, ...] = (1.0,)
    of: Ref = Ref("a")


@dataclass(frozen=True)
class Items:
    items: tuple[Item, ...] = (Item(), Item(of=Ref("b")))
    best: Item | None = None


def test_an_item_of_a_tuple_is_set_by_its_number():
    changed = override(Items(), "items.1.weights", "0.2,0.3")
    assert changed.items == (Item(), Item((0.2, 0.3), Ref("b")))
    with pytest.raises(UserError, match="unknown name '2'"):
        override(Items(), "items.2.weights", "1")
    with pytest.raises(UserError, match="did you mean 'weights'"):
        override(Items(), "items.0.weight", "1")


def test_plain_forms_come_back():
    for value in (Items(), Items(best=Item((0.5,), Ref("c"))), Items(items=())):
        assert from_plain(Items, to_plain(value)) == value
    assert from_plain(Items, {"kind": "Items"}) == Items()
    with pytest.raises(UserError, match="has no 'itemz'"):
        from_plain(Items, {"itemz": []})
