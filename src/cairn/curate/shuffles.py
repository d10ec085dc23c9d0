"""The two shuffles on one machine: by content id, and by band key. DuckDB, in bounded memory."""

from pathlib import Path

import duckdb
import numpy as np

MEMORY = "1500MB"  # what does not fit is spilled to disk

BEST = """
    CREATE TABLE best AS
    SELECT kind, content_id, min(rank) AS rank FROM alive GROUP BY kind, content_id
"""
# Per language and kind, never across. The best of a bucket names it.
BUCKETS = """
    SELECT least, band, rank FROM (
        SELECT rank, band,
            min(rank) OVER (PARTITION BY kind, language, band, key) AS least
        FROM (
            SELECT rank, kind, language, unnest(bands) AS key,
                generate_subscripts(bands, 1) AS band
            FROM ranked
        )
    ) WHERE rank > least
"""


def connect(spill: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB in bounded memory; what does not fit goes to the folder `spill`."""
    return duckdb.connect(config={"temp_directory": str(spill), "memory_limit": MEMORY})


def best_copies(connection: duckdb.DuckDBPyConnection) -> None:
    """The table `best` of `alive`: for each kind and content the least rank."""
    connection.execute(BEST)


def buckets(connection: duckdb.DuckDBPyConnection) -> np.ndarray:
    """int64 [M, 3]: the least rank of a bucket, its band, and each other rank in it."""
    found = connection.execute(BUCKETS).fetchnumpy()
    return np.stack([np.asarray(found[name], np.int64) for name in ("least", "band", "rank")], 1)
