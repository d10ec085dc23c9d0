"""Dumps of Stack Exchange as a source: a record is a question with its answers.

Posts.xml names answers long after their questions, so posts are laid on disk first and put
together by a sort over small rows. StarCoder2 (arXiv 2402.19173), section 2.8.
"""

import gzip
import json
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast
from xml.parsers import expat

import pyarrow as pa

from cairn.base import UserError, pattern_of
from cairn.sources.damage import told, unreadable
from cairn.sources.digest import digest
from cairn.sources.record import ANSWERS, REGULAR, Origin, SourceFile
from cairn.sources.spec import Spec
from cairn.sources.spill import Heap, Spill, database

OPTIONS = ("site",)
NAMES = ("posts.xml", "posts.xml.gz")
CHUNK = 2**20
LONGEST_ROW = 16 * 2**20  # bytes of one element
QUESTION, ANSWER = "1", "2"
_SCHEMA = pa.schema(
    [
        ("question", pa.int64()),
        ("post", pa.int64()),
        ("place", pa.int64()),
        ("length", pa.int64()),
        ("size", pa.int64()),
    ]
)
# A post that stands twice counts once; the question comes first, answers as they were numbered.
_POSTS = """
    SELECT question, post, arg_min(place, place), arg_min(length, place), arg_min(size, place)
    FROM posts GROUP BY question, post ORDER BY question, post <> question, post
"""
_BROKEN = (OSError, EOFError, ValueError, zlib.error, expat.ExpatError)


def read(spec: Spec, *, max_bytes: int) -> Iterator[SourceFile]:
    """Questions with their answers, of `stackexchange:PATH?site=stackoverflow.com`.

    PATH is a Posts.xml (also packed by gzip), or a folder that holds one of each site; a site is
    called as its folder unless `site` says otherwise. A record's bytes are canonical JSON: `site`,
    `question` and `answers`, each post with id, body, score, user, date and licence. Damaged XML
    ends what is read of a file, and is told by a record with a problem.

    UserError, before anything is read, where there is no such file, and for a packed dump (.7z).
    """
    found = _files(spec)
    return (one for path in found for one in _read(path, spec.options.get("site"), max_bytes))


def _files(spec: Spec) -> list[Path]:
    root = Path(spec.path).expanduser()
    if not spec.path or not root.exists():
        raise UserError("source", spec.text, "does not exist", "give Posts.xml or a folder of it")
    if root.is_file():
        if root.suffix.lower() == ".7z":
            raise UserError("source", spec.text, "is packed", "unpack it, and give Posts.xml")
        return [root]
    below = sorted(path for path in root.rglob("*") if path.name.lower() in NAMES)
    if not below:
        raise UserError("source", spec.text, "holds no Posts.xml", "unpack the dump")
    return below


def _read(path: Path, site: str | None, max_bytes: int) -> Iterator[SourceFile]:
    site = site or path.resolve().parent.name
    with tempfile.TemporaryDirectory(prefix="cairn-posts-") as scratch:
        folder = Path(scratch)
        with Heap(folder / "posts.heap") as heap:
            problem = ""
            with Spill(folder / "posts.parquet", _SCHEMA) as spill:
                try:
                    for number, post in _posts(path):
                        raw = _canonical(post)
                        spill.add((number, post["id"], *heap.put(raw), len(raw)))
                except _BROKEN as error:
                    problem = f"{path.name}: is damaged ({told(error)}); what is before it was read"
            if problem:
                url = path.resolve().as_uri()
                yield unreadable(Origin(repo_name=site, origin_url=url, directory_id=""), problem)
            with database(folder) as connection:
                connection.read_parquet(pattern_of(spill.path)).create_view("posts")
                rows = connection.sql(_POSTS).to_arrow_reader(2_000)
                for posts in _threads(rows, heap):
                    yield _record(site, posts, max_bytes)


def _posts(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(question's number, post) of questions and answers, in the order of the file."""
    with _open(path) as file:
        for had in _rows(file):
            kind, parent = had.get("PostTypeId"), had.get("ParentId")
            if kind not in (QUESTION, ANSWER) or (kind == ANSWER and not parent):
                continue
            number = _number(had, "Id")
            post: dict[str, Any] = {
                "id": number,
                "body": had.get("Body", ""),
                "score": _number(had, "Score") if "Score" in had else 0,
                "user": had.get("OwnerUserId") or had.get("OwnerDisplayName", ""),
                "date": had.get("CreationDate", ""),
                "licence": had.get("ContentLicense", ""),
            }
            if kind == QUESTION:
                post |= {"title": had.get("Title", ""), "tags": had.get("Tags", "")}
                if "AcceptedAnswerId" in had:
                    post["accepted"] = _number(had, "AcceptedAnswerId")
            yield (number if kind == QUESTION else _number(had, "ParentId")), post


def _number(had: dict[str, str], name: str) -> int:
    text = had.get(name, "")
    if not text.lstrip("-").isdecimal() or len(text) > 18:
        raise ValueError(f"the post {had.get('Id', '?')[:20]} has the {name} {text[:20]!r}")
    return int(text)


def _open(path: Path) -> IO[bytes]:
    packed = path.suffix.lower() == ".gz"
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def _rows(file: IO[bytes]) -> Iterator[dict[str, str]]:
    """Attributes of each `row`. ValueError for a document type, which could name entities."""
    found: list[dict[str, str]] = []
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type")

    def start(name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            found.append(attributes)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    while chunk := file.read(CHUNK):
        try:
            parser.Parse(chunk, False)
        except (expat.ExpatError, ValueError):
            yield from found  # whole elements before the damage
            raise
        yield from found
        found.clear()
        ahead = file.tell() if file.seekable() else 0
        if ahead - parser.CurrentByteIndex > LONGEST_ROW:
            raise ValueError(f"an element of more than {LONGEST_ROW:,} bytes")
    parser.Parse(b"", True)
    yield from found


def _threads(rows: pa.RecordBatchReader, heap: Heap) -> Iterator[list[bytes]]:
    """Posts of each question in order; answers whose question is not there are passed over."""
    question: int | None = None
    posts: list[bytes] = []
    for batch in rows:
        columns = (column.to_pylist() for column in batch.columns)
        for number, post, *kept in zip(*columns, strict=True):
            if number != question:
                if posts:
                    yield posts
                question, posts = number, []
            if posts or post == number:
                posts.append(heap.get(*kept))
    if posts:
        yield posts


def _record(site: str, posts: Sequence[bytes], max_bytes: int) -> SourceFile:
    question = json.loads(posts[0])
    answers = b",".join(posts[1:])
    site_text = json.dumps(site, ensure_ascii=False).encode("utf-8", "replace")
    raw = b'{"answers":[%b],"question":%b,"site":%b}' % (answers, posts[0], site_text)
    licences = {json.loads(post)["licence"] for post in posts} - {""}
    found = digest((raw,), len(raw), keep=len(raw) < max_bytes)
    url = f"https://{site}/questions/{question['id']}" if "." in site else f"{site}/questions"
    return SourceFile(
        origin=Origin(repo_name=site, origin_url=url, directory_id=""),
        path=f"questions/{question['id']}",
        content_id=found.content_id,
        blob_id=found.blob_id,
        mode=REGULAR,
        length_bytes=len(raw),
        raw=found.raw,
        kind=ANSWERS,
        detected_licenses=tuple(sorted(one.replace(" ", "-") for one in licences)),
    )


def _canonical(post: dict[str, Any]) -> bytes:
    return json.dumps(post, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )
