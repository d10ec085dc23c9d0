"""New keys and values into a pool: the kernel against rows one by one."""

import pytest
import torch

from cairn.ops import paths
from cairn.ops.append import append, append_defined

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("tokens", [1, 5])
def test_rows_go_to_their_places_and_no_others(triton_device, tokens, narrow):
    generator = torch.Generator().manual_seed(tokens)
    new = torch.randn(tokens, 3 * 12, generator=generator)
    keys, _, values = (x.unflatten(1, (3, 4)) for x in new.split(12, 1))  # views of a projection
    places = torch.randperm(9, generator=generator)[:tokens]
    places[0] = -1
    dtype = torch.float16 if narrow else torch.float32
    found, wanted = ((torch.full((9, 3, 4), 7.0, dtype=dtype) for _ in range(2)) for _ in range(2))
    got, wanted = tuple(x.to(triton_device) for x in found), tuple(wanted)
    with paths.only("triton"):
        append(got, (keys.to(triton_device), values.to(triton_device)), places.to(triton_device))
    append_defined(wanted, (keys, values), places)
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a.cpu(), b)


def test_the_plain_path_is_the_same():
    keys, values = torch.randn(2, 4, 3, 5).unbind()
    found = tuple(torch.zeros(9, 3, 5) for _ in range(2))
    wanted = tuple(torch.zeros(9, 3, 5) for _ in range(2))
    append(found, (keys, values), torch.tensor([8, 0, 3, 5]))
    append_defined(wanted, (keys, values), torch.tensor([8, 0, 3, 5]))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
