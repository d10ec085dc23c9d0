"""The two shuffles on one machine: by content id, and by band key. DuckDB, in bounded memory."""

from pathlib import Path

import duckdb
import numpy as np

MEMORY = "1500MB"  # what does not fit is spilled to disk

BEST = """
    CREATE TABLE best AS
    SELECT kind, content_id, min(rank) AS rank FROM alive GROUP BY kind, content_id
"""
# Per language and kind, never across. Members of a bucket are linked to its best.
EDGES = """
    SELECT DISTINCT least, rank FROM (
        SELECT rank, min(rank) OVER (PARTITION BY kind, language, band, key) AS least FROM (
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


def edges(connection: duckdb.DuckDBPyConnection) -> np.ndarray:
    """Pairs of ranks that share a band, int64 [E, 2], each with the least of its bucket."""
    found = connection.execute(EDGES).fetchnumpy()
    return np.stack([np.asarray(found[name], np.int64) for name in ("least", "rank")], 1)
