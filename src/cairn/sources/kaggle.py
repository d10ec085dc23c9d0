"""Notebooks of Kaggle as a source: each with what its data set is, and how its table looks.

Read is what Kaggle's own command-line client leaves: `kaggle kernels pull --metadata` a folder with
kernel-metadata.json beside the code, `kaggle datasets download --unzip` and `datasets metadata` the
tables and dataset-metadata.json. StarCoder2 (arXiv 2402.19173), section 2.4.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.sources.damage import Damaged, told, unreadable
from cairn.sources.digest import digest
from cairn.sources.record import KAGGLE, REGULAR, Origin, SourceFile
from cairn.sources.spec import Spec
from cairn.sources.tables import Table, read_table

OPTIONS = ("datasets", "licence")
KERNEL, DATASET = "kernel-metadata.json", "dataset-metadata.json"
LICENCE = "Apache-2.0"  # under which Kaggle publishes notebooks
LONGEST = 4 * 2**20  # bytes of metadata
_NAME = re.compile(r"[\w-]{1,100}/[\w-]{1,200}")
# What is read first: a literal path, whose last name is that of a file of the data set.
_READS = re.compile(r"read_csv\(\s{0,40}\\?[\"']([^\"'\\\n]{1,300})\\?[\"']")


def read(spec: Spec, *, max_bytes: int) -> Iterator[SourceFile]:
    """Notebooks and scripts of `kaggle:FOLDER?datasets=FOLDER&licence=SPDX`, in order of paths.

    A record's bytes are canonical JSON: `id`, `title`, `language`, `kind` (notebook or script),
    `code`, and `dataset` with its id, title, description and `table`, or null where the data set is
    not in the folder `datasets` (OWNER/NAME below it). The table is that of the first file which
    the code reads by `read_csv`. What is damaged is told by a record with a problem.

    UserError, before anything is read, where there is no notebook with metadata.
    """
    root = Path(spec.path).expanduser()
    if not spec.path or not root.is_dir():
        raise UserError("source", spec.text, "is no folder", "give one of `kaggle kernels pull`")
    found = sorted(path for path in root.rglob(KERNEL) if path.is_file())
    if not found:
        mend = "pull notebooks with `kaggle kernels pull --metadata`"
        raise UserError("source", spec.text, f"holds no {KERNEL}", mend)
    datasets = None
    if "datasets" in spec.options:
        datasets = Path(spec.options["datasets"]).expanduser()
        if not datasets.is_dir():
            raise UserError("source", spec.text, "names no folder of data sets", "give one")
    licence = spec.options.get("licence", LICENCE)
    return _Notebooks(root, datasets, licence, max_bytes).records(found)


class _Notebooks:
    """Makes records; a data set and a table that several notebooks use are read once."""

    def __init__(self, root: Path, datasets: Path | None, licence: str, max_bytes: int) -> None:
        self.root, self.datasets = root, datasets
        self.licence, self.max_bytes = licence, max_bytes
        self.tables: dict[Path, Table | None] = {}
        self.troubles: list[SourceFile] = []

    def records(self, found: list[Path]) -> Iterator[SourceFile]:
        for path in found:
            try:
                record = self._record(path)
            except (Damaged, OSError, ValueError, RecursionError) as error:
                self._tell(path, told(error))
            else:
                yield record
            yield from self.troubles
            self.troubles.clear()

    def _record(self, path: Path) -> SourceFile:
        had = _plain(path)
        name, code_file = _text(had, "id"), _text(had, "code_file")
        if not _NAME.fullmatch(name):
            raise Damaged(f"has the id {name[:60]!r}")
        code = path.parent / code_file
        if not code_file or code.parent != path.parent or code.is_symlink() or not code.is_file():
            raise Damaged(f"names the code file {code_file[:60]!r}, which does not lie beside it")
        size = code.stat().st_size
        origin = self._origin(name)
        if size >= self.max_bytes:
            return _made(origin, code_file, b"", size, self.licence, keep=False)
        text = code.read_bytes().decode("utf-8", "replace")
        told_of = {
            "id": name,
            "title": _text(had, "title"),
            "language": _text(had, "language"),
            "kind": _text(had, "kernel_type"),
            "code": text,
            "dataset": self._dataset(had.get("dataset_sources"), text),
        }
        raw = json.dumps(told_of, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        made = raw.encode("utf-8", "replace")
        keep = len(made) < self.max_bytes
        return _made(origin, code_file, made, len(made), self.licence, keep=keep)

    def _origin(self, name: str) -> Origin:
        url = f"https://www.kaggle.com/code/{name}"
        return Origin(repo_name=name, origin_url=url, directory_id="")

    def _dataset(self, names: Any, code: str) -> dict[str, Any] | None:
        """The first data set that is at hand, and its table if the code reads one."""
        for name in names if isinstance(names, list) and self.datasets is not None else ():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                continue
            folder = (self.datasets or Path()) / name
            if not (folder / DATASET).is_file():
                continue
            try:
                had = _plain(folder / DATASET)
            except (Damaged, OSError, ValueError, RecursionError) as error:
                self._tell(folder / DATASET, told(error))
                continue
            inside = had.get("info")
            had = inside if isinstance(inside, dict) else had
            told_of = {key: _text(had, key) for key in ("title", "description")}
            return {"id": name, "table": self._table(folder, code), **told_of}
        return None

    def _table(self, folder: Path, code: str) -> dict[str, Any] | None:
        for match in _READS.finditer(code):
            name = match[1].replace("\\", "/").rpartition("/")[2]
            for path in sorted(folder.rglob("*.csv")):
                if path.name == name and path.is_file() and not path.is_symlink():
                    table = self._read_once(path)
                    return None if table is None else {"path": match[1], **asdict(table)}
        return None

    def _read_once(self, path: Path) -> Table | None:
        if path not in self.tables:
            try:
                self.tables[path] = read_table(path)
            except Damaged as error:
                self._tell(path, str(error))
                self.tables[path] = None
        return self.tables[path]

    def _tell(self, path: Path, problem: str) -> None:
        where = path.resolve().as_uri()
        origin = Origin(repo_name=self.root.resolve().name, origin_url=where, directory_id="")
        self.troubles.append(unreadable(origin, f"{path.name}: {problem}"))


def _plain(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LONGEST:
        raise Damaged(f"has more than {LONGEST:,} bytes")
    found = json.loads(path.read_bytes().decode("utf-8-sig"))
    if not isinstance(found, dict):
        raise Damaged("is no JSON object")
    return found


def _text(had: dict[str, Any], key: str) -> str:
    value = had.get(key)
    return value if isinstance(value, str) else ""


def _made(
    origin: Origin, path: str, raw: bytes, size: int, licence: str, *, keep: bool
) -> SourceFile:
    found = digest((raw,), len(raw), keep=keep)
    return SourceFile(
        origin=origin,
        path=path,
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=REGULAR,
        length_bytes=size,
        raw=found.raw,
        kind=KAGGLE,
        detected_licenses=(licence,),
    )
