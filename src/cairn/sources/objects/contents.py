"""Records without bytes get them of a store, or a problem that says why not."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from cairn.sources.objects.store import Missing, Store
from cairn.sources.record import SourceFile
from cairn.sources.swhid import content_hash


def with_contents(
    records: Iterator[SourceFile], store: Store, max_bytes: int
) -> Iterator[SourceFile]:
    """The same records in their order, while contents are fetched ahead of them by `blob_id`.

    Records with a problem and those of `max_bytes` and more stay as they are. Bytes whose git hash
    is not the record's `content_id` are no content of it.
    """
    waiting: deque[SourceFile] = deque()

    def wanted() -> Iterator[str]:
        for record in records:
            waiting.append(record)
            if _is_wanted(record, max_bytes):
                yield record.blob_id

    for _, found in store.fetch_many(wanted()):
        while not _is_wanted(waiting[0], max_bytes):
            yield waiting.popleft()
        yield _filled(waiting.popleft(), found)
    yield from waiting


def _is_wanted(record: SourceFile, max_bytes: int) -> bool:
    return record.problem is None and record.length_bytes < max_bytes


def _filled(record: SourceFile, found: bytes | Missing) -> SourceFile:
    if isinstance(found, Missing):
        return replace(record, problem=f"content {record.blob_id}: {found.reason}")
    if content_hash(found) != record.content_id:
        return replace(record, problem="the content's bytes are not those of its identifier")
    return replace(record, raw=found, length_bytes=len(found))
