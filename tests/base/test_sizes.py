"""Sizes as people write them."""

import pytest

from cairn.base import UserError
from cairn.base.sizes import bytes_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000", 1000),
        ("12B", 12),
        ("2GB", 2 * 10**9),
        ("2gb", 2 * 10**9),
        ("2 G", 2 * 10**9),
        ("1.5TB", 15 * 10**11),
        ("512MiB", 512 * 2**20),
        ("16gib", 16 * 2**30),
        ("1Ki", 1024),
    ],
)
def test_bytes(text, expected):
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "2PB", "2 GB GB", "2iB", "lots"])
def test_what_is_no_size_is_told(text):
    with pytest.raises(UserError, match="is no size; write 2GB"):
        bytes_of(text)
