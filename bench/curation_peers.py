"""Near deduplication of a folder by one peer, from files to Parquet; bench/curation.py calls it.

    python bench/curation_peers.py datatrove|data-juicer FOLDER OUT --workers 2

Runs in the peer's own environment and imports nothing of cairn. Word 5-grams, 25 bands of 10 and a
similarity of 0.7, as the report has it; all else as the peer sets it. data-juicer reads no folders
of sources: its input is written as JSON lines first, which is counted, for the way from a folder to
Parquet leads through them. Prints one JSON line: seconds, those of them until the input stood, the
documents that came in and that stayed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BANDS, ROWS = 25, 10


def files(folder: Path, rank: int = 0, of: int = 1) -> Iterator[tuple[str, str]]:
    """(name, text) of a rank's share of all files below a folder."""
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number % of == rank and path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes().decode("utf-8", "replace")


def datatrove(folder: Path, out: Path, workers: int) -> int:
    """Signatures, buckets, clusters, filter: its four stages. Documents that stay."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.writers import ParquetWriter

    class Folder(PipelineStep):
        name = "folder"
        type = "READER"

        def run(self, data=None, rank: int = 0, world_size: int = 1):
            for name, text in files(folder, rank, world_size):
                yield Document(text=text, id=name)

    config = MinhashConfig(n_grams=5, num_buckets=BANDS, hashes_per_bucket=ROWS)
    signatures, buckets, removed = (str(out / name) for name in ("sigs", "buckets", "removed"))
    kept = ParquetWriter(str(out / "kept"), compression="zstd")
    for number, (steps, tasks) in enumerate(
        [
            ([Folder(), MinhashDedupSignature(signatures, config)], workers),
            ([MinhashDedupBuckets(signatures, buckets, config=config)], BANDS),
            ([MinhashDedupCluster(buckets, removed, config=config)], 1),
            ([Folder(), MinhashDedupFilter(removed), kept], workers),
        ]
    ):
        LocalPipelineExecutor(
            pipeline=steps, tasks=tasks, workers=workers, logging_dir=str(out / f"log-{number}")
        ).run()
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in (out / "kept").glob("*.parquet"))


def data_juicer(lines: Path, out: Path, workers: int) -> int:
    """One operator, over JSON lines. Documents that stay."""
    config = {
        "project_name": "near",
        "dataset_path": str(lines),
        "export_path": str(out / "kept.parquet"),
        "export_type": "parquet",
        "work_dir": str(out),
        "np": workers,
        "ds_cache_dir": str(out / "cache"),
        "process": [
            {
                "document_minhash_deduplicator": {
                    "tokenization": "space",
                    "window_size": 5,
                    "num_permutations": BANDS * ROWS,
                    "jaccard_threshold": 0.7,
                    "num_bands": BANDS,
                    "num_rows_per_band": ROWS,
                }
            }
        ],
    }
    recipe = out / "recipe.yaml"
    recipe.write_text(json.dumps(config))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("dj-process")), "--config", str(recipe)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in out.glob("kept*.parquet"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("peer", choices=("datatrove", "data-juicer"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    seen = sum(1 for path in arguments.folder.rglob("*") if path.is_file())
    start = time.perf_counter()
    if arguments.peer == "datatrove":
        ready = start
        kept = datatrove(arguments.folder, arguments.out, arguments.workers)
    else:
        lines = arguments.out / "input.jsonl"
        with lines.open("w") as written:
            for name, text in files(arguments.folder):
                written.write(json.dumps({"text": text, "name": name}) + "\n")
        ready = time.perf_counter()
        kept = data_juicer(lines, arguments.out, arguments.workers)
    taken = {"seconds": time.perf_counter() - start, "input_seconds": ready - start}
    print(json.dumps(taken | {"seen": seen, "kept": kept}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
