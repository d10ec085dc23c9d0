"""Where the CUDA graphs of one engine are captured: their memory, their stream, their counters."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

import torch

if TYPE_CHECKING:
    from cairn.ops.triton.arrivals import Held

log = logging.getLogger(__name__)

_CAPTURING = threading.Lock()  # one waits for the device when it begins, which breaks another
_MOST = 32  # streams of a device: PyTorch gives them out in turn, again and again


class Captures:
    """Graphs that are replayed one after the other, and so share the memory between their nodes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: Any = None
        self._living: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        self._counters: Held = {}  # of no other engine's graphs: both may be replayed at a time
        self._stream: torch.cuda.Stream | None = None  # no other's, for the same reason

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Inside, kernels that count arrivals do so where these graphs may."""
        from cairn.ops.triton.arrivals import counters_in

        with counters_in(self._counters):
            yield

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside, one graph after the other may begin and end; the device is waited for."""
        with _CAPTURING:
            if self._stream is None:
                self._stream = _own_stream(self, self._device)
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            with torch.cuda.stream(self._stream), self.counting():
                yield

    @contextmanager
    def graph(self) -> Iterator[torch.cuda.CUDAGraph]:
        """What is launched inside, once `open`, becomes the graph instead of being run."""
        made = self.begin()
        try:
            yield made
        finally:
            self.end(made)

    def begin(self) -> torch.cuda.CUDAGraph:
        """From here on launches become a graph."""
        graph = torch.cuda.CUDAGraph()
        if not self._living:  # PyTorch took the memory back with the last
            self._memory = None
        graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
        return graph

    def end(self, graph: torch.cuda.CUDAGraph) -> None:
        """Up to here."""
        graph.capture_end()
        self._memory = graph.pool()
        self._living.add(graph)


def release() -> None:
    """Give back what nobody holds; not while somebody captures, which PyTorch does not expect."""
    with _CAPTURING:
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, PyTorch's or (of graphs themselves) the driver's."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, torch.AcceleratorError) and "out of memory" in str(error)


_streams: list[tuple[torch.cuda.Stream, ref[Any]]] = []  # and whose each is, or was


def _own_stream(owner: Any, device: torch.device) -> torch.cuda.Stream:
    """One in which no other living `Captures` are made: that of one that is gone, or a new one.

    PyTorch keeps the scratch memory of cuBLAS (32 MiB on Hopper) by thread and stream, for ever,
    and a graph knows it by address: partial sums of graphs that one stream captured lie in the
    same place, wrong where two are replayed at a time.
    """
    for number, (stream, whose) in enumerate(_streams):
        if whose() is None and stream.device == device:
            _streams[number] = stream, ref(owner)
            return stream
    taken = {stream for stream, _ in _streams}
    stream = torch.cuda.Stream(device)
    for _ in range(_MOST):
        if stream not in taken:
            break
        stream = torch.cuda.Stream(device)
    else:
        log.warning("over %d engines have graphs: do not run them at the same time", _MOST)
    _streams.append((stream, ref(owner)))
    return stream
