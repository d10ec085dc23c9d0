"""Documentation as a source: the files of a folder or an archive that are documents by their names.

StarCoder2 (arXiv 2402.19173), section 2.5, fetches pages of package registries and of sites; here
they lie on disk already, as a crawl, a manual or a repository's docs folder left them.
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cairn.sources import directory
from cairn.sources.digest import digest
from cairn.sources.record import DOCUMENTATION, LINK, REGULAR, SourceFile, path_text
from cairn.sources.spec import Spec
from cairn.sources.swhid import DIRECTORY

OPTIONS = ("licence",)
NAMES = re.compile(
    r"\.(?:x?html?|pdf|md|markdown|rst|adoc|asciidoc|txt|man|mdoc"
    r"|[1-9](?:[a-z][a-z0-9]{0,8})?(?:\.gz)?|man\.gz)$",
    re.IGNORECASE,
)
# Not libx.so.1, nor release-1.2: a page of clang-14(1) is known only where it is packed.
_SECTION = re.compile(r"\.[1-9][a-z0-9]{0,8}$", re.IGNORECASE)
_NO_MANUAL = re.compile(r"(?:\.so|\.log|\.dylib|[-_.][0-9]+|^v?[0-9.]+)$", re.IGNORECASE)


def is_documentation(path: str) -> bool:
    """Whether a name promises documentation: a page, a PDF, a manual page or a text."""
    name = path.rpartition("/")[2]
    if not NAMES.search(name):
        return False
    section = _SECTION.search(name)
    return section is None or not _NO_MANUAL.search(name[: section.start()])


def read(
    spec: Spec, *, max_bytes: int, source: Callable[[str], Iterator[SourceFile]]
) -> Iterator[SourceFile]:
    """Records of documentation: `docs:PATH?licence=SPDX`, of a folder, an archive or one file.

    `source` reads what the path names, as of any other source. Other files are passed over, and so
    are links; a source or a folder that cannot be read is told. Manual pages that gzip packed are
    given unpacked, with name and identifiers of the unpacked; one of `max_bytes` has no bytes.
    UserError where the path does not exist.
    """
    path = Path(spec.path).expanduser()
    single = path.is_file() and is_documentation(path.name)
    files = _single(path, max_bytes) if single else source(spec.path)
    licences = (spec.options["licence"],) if "licence" in spec.options else ()
    return _documents(files, licences, max_bytes)


def _documents(
    files: Iterator[SourceFile], licences: tuple[str, ...], max_bytes: int
) -> Iterator[SourceFile]:
    for file in files:
        if not file.path or file.mode == DIRECTORY:  # a damaged source, or part of one
            yield file
        elif file.mode != LINK and is_documentation(file.path):
            file = replace(
                file, kind=DOCUMENTATION, detected_licenses=licences or file.detected_licenses
            )
            packed = file.path.lower().endswith(".gz")
            yield _unpacked(file, max_bytes) if packed and file.raw is not None else file


def _single(path: Path, max_bytes: int) -> Iterator[SourceFile]:
    whole = path.resolve()
    root, name = os.fsencode(whole.parent), os.fsencode(whole.name)
    state = whole.stat()
    found = directory.Found(root, name, name, REGULAR, state.st_size)
    return directory.read(path_text(name), whole.as_uri(), [found], max_bytes)


def _unpacked(file: SourceFile, max_bytes: int) -> SourceFile:
    """A packed manual page with its text as bytes, never more than the bound in memory."""
    assert file.raw is not None, "asked by the caller"
    inflate = zlib.decompressobj(wbits=31)
    try:
        text = inflate.decompress(file.raw, max_bytes)
    except zlib.error as error:
        return replace(file, raw=None, problem=f"is no gzip that can be read ({error})")
    if len(text) >= max_bytes:
        return replace(file, raw=None, length_bytes=max_bytes)
    if not inflate.eof:
        return replace(file, raw=None, problem="is no gzip that can be read (it is truncated)")
    made = digest((text,), len(text), keep=False)
    return replace(
        file,
        path=file.path[: -len(".gz")],
        content_id=made.content_id,
        blob_id=made.blob_id,
        length_bytes=len(text),
        raw=text,
    )
