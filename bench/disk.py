"""What prefixes on disk cost: naming the weights, and reading a prefix back.

One JSON line: seconds to hash all weights (once at the start, and after each change of weights, in
the engine's thread), to read and hash the files of a prefix (in a thread of its own), to put them
into the pool (in the engine's), and to compute the prefix instead. The fastest of three counts.
Run it as `python bench/disk.py [--shape small|hybrid] [--prefix 4096]`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from serving import SHAPES, greedy, random_tokens

from cairn.engine import Engine
from cairn.engine.archive import digest_of
from cairn.engine.options import Caching
from cairn.model import build


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of three."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return round(min(seconds), 4)


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="hybrid")
    parser.add_argument("--prefix", type=int, default=4096)
    arguments = parser.parse_args()
    model = build(SHAPES[arguments.shape], 0)
    prompt = random_tokens(arguments.prefix + 20, model.config.vocab_size, 0)
    with tempfile.TemporaryDirectory() as folder:
        capacity = len(prompt) + 64
        engine = Engine(model, slots=1, capacity=capacity, caching=Caching(disk=folder))
        pool, archive = engine._runner.pool, engine._archive
        assert archive is not None
        began = time.perf_counter()
        engine.generate([prompt], greedy(1))
        cold = time.perf_counter() - began
        archive._writer.submit(int).result()  # when all is written
        (entry,) = archive.find(prompt, len(prompt))
        found = archive.read(entry)
        assert found is not None
        places = [list(range(1, 1 + keys.shape[1])) for keys, _ in found[0]]
        line = {
            "bench": "disk",
            "shape": arguments.shape,
            "weights_bytes": sum(weight.nbytes for weight in model.parameters()),
            "seconds_to_hash_weights": fastest(lambda: digest_of(model, pool.form)),
            "prefix": entry.position,
            "file_bytes": entry.size,
            "seconds_to_read": fastest(lambda: archive.read(entry)),
            "seconds_to_store": fastest(lambda: pool.store(found[0], places)),
            "seconds_to_compute": round(cold, 3),
            "threads": torch.get_num_threads(),
        }
        engine.close()
    print(json.dumps(line))


if __name__ == "__main__":
    main()
