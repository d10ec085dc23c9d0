"""Rows in blocks whose temporaries stay in a core's cache, where elementwise work is cheap."""

import torch

_BLOCK_BYTES = 2**19  # half of the second-level cache of a common server core


def blocks(rows: int, row_bytes: int, device: torch.device) -> list[slice]:
    """Slices that cover `rows`; one slice where the device is no CPU, or nothing is gained."""
    size = max(1, _BLOCK_BYTES // row_bytes) if device.type == "cpu" else rows
    return [slice(at, min(at + size, rows)) for at in range(0, rows, size)]
