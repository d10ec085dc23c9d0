"""Ranks' shares: their mixers' outputs add up to the whole model's, in every family."""

import dataclasses

import pytest
import torch

from cairn.base import UserError
from cairn.model import Cache, Spans, build, load, save
from cairn.model.layout import Layout


@torch.no_grad()
def hidden_of_ranks(shares, tokens: torch.Tensor, spans: Spans, caches=None) -> torch.Tensor:
    """What tensor parallelism computes, with a sum in the place of the all-reduce."""
    first = shares[0]
    layouts = [
        Layout.of(share.config, spans, caches[r] if caches else None, torch.device("cpu"))
        for r, share in enumerate(shares)
    ]
    x = first.backbone.embeddings(tokens)
    for i, block in enumerate(first.backbone.layers):
        normed = block.norm(x)
        for r, (share, layout) in enumerate(zip(shares, layouts, strict=True)):
            memory = caches[r].layers[i] if caches else None
            x = x + share.backbone.layers[i].mixer(normed, layout, memory)
    for cache in caches or ():
        cache.end(spans.slot_numbers, spans.lengths)
    return first.backbone.norm_f(x)


@torch.no_grad()
def test_the_shares_of_ranks_add_up(each_tiny, roughen, tmp_path):
    if each_tiny.family == "mamba2":
        pytest.skip("its gated norm is over the whole width")
    whole = roughen(build(each_tiny, seed=1))
    save(whole, tmp_path, max_shard_size=20_000)
    tokens, spans = torch.arange(40) % 61, Spans.of([27, 13])
    wanted = whole.hidden(tokens, spans)
    shares = [load(tmp_path, rank=rank, ranks=2) for rank in range(2)]
    got = hidden_of_ranks(shares, tokens, spans)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    inside = sum(p.numel() for n, p in whole.named_parameters() if ".mixer." in n)
    for share in shares:
        theirs = sum(p.numel() for n, p in share.named_parameters() if ".mixer." in n)
        assert theirs < 0.6 * inside
        assert sum(p.numel() for p in share.parameters()) == share.config.parameters
    caches = [Cache(share.config, 2, 64) for share in shares]
    parts = [
        hidden_of_ranks(shares, part, Spans.of([len(part)], [1]), caches)
        for part in tokens[:27].split([9, 1, 17])
    ]
    torch.testing.assert_close(torch.cat(parts), wanted[:27], rtol=0, atol=1e-4)


@torch.no_grad()
def test_key_heads_are_copied_where_there_are_more_ranks(tinies, roughen, tmp_path):
    whole = roughen(build(tinies["qwen3"], seed=1))
    save(whole, tmp_path)
    tokens, spans = torch.arange(20), Spans.of([20])
    shares = [load(tmp_path, rank=rank, ranks=4) for rank in range(4)]
    assert [share.config.key_value_heads for share in shares] == [1] * 4
    got = hidden_of_ranks(shares, tokens, spans)
    torch.testing.assert_close(got, whole.hidden(tokens, spans), rtol=0, atol=1e-4)


def test_ranks_that_do_not_divide_the_model_are_refused(tinies, tmp_path):
    save(build(tinies["nemotron_h"]), tmp_path / "hybrid")
    with pytest.raises(UserError, match=r"ranks=3.*does not divide"):
        load(tmp_path / "hybrid", ranks=3)
    with pytest.raises(UserError, match=r"ranks=4.*the gated norm is over 2"):
        load(tmp_path / "hybrid", ranks=4)
    with pytest.raises(UserError, match=r"rank=2.*none of 2"):
        load(tmp_path / "hybrid", rank=2, ranks=2)
    save(build(tinies["mamba2"]), tmp_path / "mamba2")
    with pytest.raises(UserError, match="the gated norm is over 1"):
        load(tmp_path / "mamba2", ranks=2)
    six = dataclasses.replace(tinies["qwen3"], attention_heads=12, key_value_heads=6)
    save(build(six), tmp_path / "six")
    with pytest.raises(UserError, match=r"ranks=4.*key_value_heads=6"):
        load(tmp_path / "six", ranks=4)
