"""Damage in what is read: told by a record with a problem, never by the end of a run."""

from cairn.sources.record import REGULAR, Origin, SourceFile, path_text
from cairn.sources.swhid import content_hash


class Damaged(Exception):  # noqa: N818 (no error of the program's, nor of the user's)
    """What is wrong with bytes on disk, in one line; never a mistake of the user's."""

    def __init__(self, problem: str) -> None:
        super().__init__(" ".join(problem.split()))


def told(error: BaseException) -> str:
    """What an exception says, without the path on this machine that OSError adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def unreadable(
    origin: Origin,
    problem: str,
    path: bytes = b"",
    *,
    mode: int = REGULAR,
    size: int = 0,
    content_id: str = "",
) -> SourceFile:
    """A record that stands for a file that could not be read; of an empty path, for all of it."""
    return SourceFile(
        origin=origin,
        path=path_text(path),
        content_id=content_id or content_hash(path),
        blob_id="",
        mode=mode,
        length_bytes=size,
        raw=None,
        problem=" ".join(problem.split()),
    )


def whole(name: str, url: str, problem: str) -> SourceFile:
    """The one record of a source of which nothing is used: no identifier of it is known."""
    return unreadable(Origin(repo_name=name, origin_url=url, directory_id=""), problem)
