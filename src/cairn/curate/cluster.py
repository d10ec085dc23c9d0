"""The driver for a cluster: Daft on Ray runs the same stages and the two shuffles.

Tasks and parts travel through a file system that all nodes share. Licences, gates and connected
components are settled on the node that drives, over slim rows without contents.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import numpy as np

from cairn.base import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


def _libraries() -> tuple[Any, Any]:
    """Daft and Ray, which are an extra and tell no types."""
    try:
        return import_module("daft"), import_module("ray")
    except ImportError:
        mend = "pip install 'cairn-lm[cluster]'"
        raise UserError("driver", "ray", "needs Daft and Ray", mend) from None


class Cluster:
    """Runs tasks on Ray's workers; RAY_ADDRESS names a cluster, without it one begins here."""

    whole_sources = True  # no contents pass through the node that drives

    def __init__(self, workers: int, spill: Path) -> None:
        os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
        daft, ray = _libraries()
        if not ray.is_initialized():
            local = "RAY_ADDRESS" not in os.environ
            ray.init(num_cpus=workers if local else None, log_to_driver=False)
        daft.set_runner_ray(noop_if_initialized=True)
        self._partitions = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        self._spill = spill

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        _libraries()[1].shutdown()

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with what `function` makes of it, in the order given."""
        daft, _ = _libraries()
        given = list(tasks)
        if not given:
            return

        @daft.udf(return_dtype=daft.DataType.binary(), batch_size=1)
        def run(packed: Any) -> list[bytes]:
            return [pickle.dumps(function(pickle.loads(one))) for one in packed.to_pylist()]

        frame = daft.from_pydict({"task": [pickle.dumps(one) for one in given]})
        frame = frame.into_partitions(min(len(given), 4 * self._partitions))
        done = frame.with_column("result", run(daft.col("task")))
        for task, row in zip(given, done.iter_rows(), strict=True):
            yield task, pickle.loads(row["result"])

    def best_copies(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The first shuffle: by kind and content."""
        col = _libraries()[0].col
        alive = self._frame(connection, "SELECT kind, content_id, rank FROM alive", "alive")
        best = alive.groupby("kind", "content_id").agg(col("rank").min()).to_arrow()
        connection.register("shuffled", best)
        connection.execute("CREATE TABLE best AS SELECT * FROM shuffled")

    def buckets(self, connection: duckdb.DuckDBPyConnection) -> np.ndarray:
        """The second shuffle: by kind, language and band key.

        Buckets are gathered as lists: a join of two such frames hung under Daft's Ray runner.
        """
        col = _libraries()[0].col
        query = """
            SELECT rank, band, concat_ws('/', kind, language, band, key) AS bucket FROM (
                SELECT rank, kind, language, unnest(bands) AS key,
                    generate_subscripts(bands, 1) AS band
                FROM ranked
            )
        """
        buckets = self._frame(connection, query, "bands").groupby("bucket")
        found = buckets.agg(
            col("rank").min().alias("least"),
            col("band").min(),
            col("rank").list_agg().alias("ranks"),
        )
        found = found.where(col("ranks").list_count() > 1).explode("ranks")
        found = found.where(col("ranks") > col("least")).select("least", "band", "ranks")
        table = found.to_arrow()
        found = [table[name].to_numpy().astype(np.int64) for name in ("least", "band", "ranks")]
        return np.stack(found, 1) if table.num_rows else np.empty((0, 3), np.int64)

    def _frame(self, connection: duckdb.DuckDBPyConnection, query: str, name: str) -> Any:
        """A query's result as a Daft frame of Parquet parts that every node can read."""
        daft, _ = _libraries()
        folder = self._spill / name
        folder.mkdir(parents=True, exist_ok=True)
        target = str(folder).replace("'", "''")
        connection.execute(
            f"COPY ({query}) TO '{target}' (FORMAT parquet, PER_THREAD_OUTPUT, OVERWRITE)"
        )
        if not list(folder.glob("*.parquet")):
            return daft.from_arrow(connection.sql(query).to_arrow_table())
        return daft.read_parquet(f"{folder}/*.parquet")
