"""Hold cairn's identifiers against git, file by file, over real packages and repositories.

    python bench/identity.py PACKAGES [--packages NAME ...] [--repositories PATH ...]

PACKAGES is a folder that bench/packages.py filled. Each archive is unpacked by tar and committed
twice by git, the second time with other contents, modes, links and names; each PATH, a repository,
is cloned. Every form that cairn reads (checkout, branch, bare clone, bundle, worktree, folder,
archive) is held against git: the tree, the commit, its branch and dates; and of every file the
path, mode, blob id, length, and the SHA-1 of its bytes. Exits with 1 where one differs.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cairn.sources import read_origin
from cairn.sources.origins import MAX_BYTES
from cairn.sources.record import EXECUTABLE, REGULAR, SourceFile, path_bytes, path_text

PACKAGES = (
    "deb-busybox",
    "deb-erlang",
    "deb-ghc",
    "deb-rails",
    "npm-angular-core",
    "npm-monaco-editor",
    "npm-typescript",
    "pypi-ansible_core",
    "pypi-django",
    "pypi-pillow",
)
SHOWN = 5  # mismatches of one form that are told
SUBMODULE = 0o160000
# Bytes as they lie on disk: whatever a tree's own .gitattributes asks for is taken back.
ATTRIBUTES = "* -text -filter -ident -working-tree-encoding -export-ignore -export-subst\n"
SETTINGS = ("core.autocrlf=false", "core.protectNTFS=false", "gc.auto=0")
ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Ä. Author",
    "GIT_AUTHOR_EMAIL": "author@example.org",
    "GIT_AUTHOR_DATE": "2024-02-29T23:59:59-0330",
    "GIT_COMMITTER_NAME": "A. Committer",
    "GIT_COMMITTER_EMAIL": "committer@example.org",
    "GIT_COMMITTER_DATE": "2024-03-01T00:00:01+0545",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What git knows of a file: mode, blob id, SHA-1 of its bytes, length."""

    mode: int
    blob: str
    sha1: str
    size: int


@dataclass(frozen=True)
class Expected:
    """What git knows of a commit; of a plain tree there is no revision, branch or date."""

    tree: str
    entries: dict[bytes, Entry]
    revision: str | None = None
    branch: str | None = None
    dates: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True)
class Form:
    """One way to name a tree to cairn, and what git knows of it."""

    name: str
    spec: str
    expected: Expected


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="PACKAGES")
    parser.add_argument("--packages", nargs="*", default=PACKAGES, metavar="NAME")
    parser.add_argument("--repositories", nargs="*", default=(), type=Path, metavar="PATH")
    parser.add_argument("--work", type=Path, help="where to unpack; a temporary folder otherwise")
    arguments = parser.parse_args()
    sources = [archive_of(arguments.folder, name) for name in arguments.packages]
    sources += [path.resolve() for path in arguments.repositories]
    table = Table("repository", "form")
    for title in ("files", "MB", "seconds", "mismatches"):
        table.add_column(title, justify="right")
    told: list[str] = []
    total = 0
    console = Console()
    try:
        for source in sources:
            with tempfile.TemporaryDirectory(prefix="identity-", dir=arguments.work) as work:
                for form in forms(source, Path(work)):
                    total += add(table, told, source, form)
    finally:  # what was compared before a program failed
        console.print(table)
        for one in told:
            console.print(one, markup=False, highlight=False)
    return 1 if total else 0


def add(table: Table, told: list[str], source: Path, form: Form) -> int:
    """Compare one form, and add it to the table; the number of mismatches."""
    name = source.name.partition(".")[0] if source.is_file() else "/".join(source.parts[-2:])
    begin = time.perf_counter()
    files, wrong = compare(form)
    seconds = time.perf_counter() - begin
    size = sum(one.size for one in form.expected.entries.values()) / 1e6
    cells = (f"{files:,}", f"{size:,.1f}", f"{seconds:.1f}", f"{len(wrong):,}")
    table.add_row(name, form.name, *cells)
    told += [f"{name}, {form.name}: {one}" for one in wrong[:SHOWN]]
    return len(wrong)


def archive_of(folder: Path, name: str) -> Path:
    found = [one for one in sorted(folder.glob(f"{name}.*")) if not one.name.startswith(".")]
    if not found:
        sys.exit(f"{folder} holds no {name}: fetch it with bench/packages.py")
    return found[0]


def forms(source: Path, work: Path) -> Iterator[Form]:
    """Every form of an archive or a repository, made below `work`, with what git knows of it."""
    root = work / "root"
    if source.is_dir():
        git(work, "clone", "-q", "--no-checkout", source.as_uri(), str(root))
        settle(root)
        git(root, "checkout", "-q", "-f", "HEAD")
        branch = git(root, "symbolic-ref", "--short", "HEAD").decode()
        first = git(root, "rev-list", "-n", "2", "--first-parent", "HEAD").decode().split()[-1]
        git(root, "branch", "-q", "-f", "first", first)
    else:
        branch = "main"
        commit_twice(source, root)
        yield Form("archive", str(source), plain(root, "first"))
    yield from forms_of(root, branch, work)


def commit_twice(archive: Path, root: Path) -> None:
    """A repository of two commits: what tar unpacks, branch `first`, and more on `main`."""
    root.mkdir()
    run(["tar", "--no-same-owner", "-C", str(root), "-xf", str(archive.resolve())])
    git(root, "init", "-q", "-b", "main")
    settle(root)
    git(root, "add", "-f", "-A")
    git(root, "commit", "-q", "-m", "first")
    git(root, "branch", "first")
    revise(root)
    git(root, "add", "-f", "-A")
    git(root, "commit", "-q", "-m", "second, mit Umläuten")


def settle(root: Path) -> None:
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git" / "info" / "attributes").write_text(ATTRIBUTES)


def revise(root: Path) -> None:
    """Another content, mode, kind, name and number of files."""
    here = os.fsencode(root) + b"/"
    regular = [path for mode, _, path in listed(root, "HEAD") if mode in (REGULAR, EXECUTABLE)]
    content, mode, link, gone, moved = (here + one for one in regular[-5:])
    with open(content, "ab") as file:  # noqa: PTH123 (names are bytes)
        file.write(b"one more line\r\n\0")
    os.chmod(mode, os.stat(mode).st_mode ^ 0o111)  # noqa: PTH101, PTH116
    os.unlink(link)  # noqa: PTH108
    os.symlink(b"no such \xff\ntarget", link)  # noqa: PTH211
    os.unlink(gone)  # noqa: PTH108
    os.mkdir(gone)  # noqa: PTH102
    os.rename(moved, gone + b'/odd \xff\n\\"name')  # noqa: PTH104


def forms_of(root: Path, branch: str, work: Path) -> Iterator[Form]:
    """The forms of a repository whose HEAD is at `branch`, and which has a branch `first`."""
    head = expected(root, "HEAD", branch)
    first = expected(root, "first", "first")
    yield Form("checkout", str(root), head)
    yield Form("git:", f"git:{root}", head)
    yield Form("git: branch", f"git:{root}?branch=first", first)
    bare, bundle = work / "bare.git", work / "root.bundle"
    git(work, "clone", "-q", "--bare", root.as_uri(), str(bare))
    git(bare, "gc", "-q")
    yield Form("bare, repacked", str(bare), head)
    yield Form("git: bare branch", f"git:{bare}?branch=first", first)
    git(root, "bundle", "create", "-q", str(bundle), "HEAD", "--branches")
    yield Form("bundle", str(bundle), replace(head, branch=bundle_branch(root, branch)))
    yield Form("git: bundle branch", f"git:{bundle}?branch=first", first)
    tree = work / "worktree"
    git(root, "worktree", "add", "-q", "--no-checkout", "--detach", str(tree), "first")
    yield Form("worktree, detached", str(tree), replace(first, branch=None))
    folder = work / "folder"
    git(root, "checkout-index", "-q", "-a", f"--prefix={folder}/")
    of_tree = plain(root, "HEAD")
    yield Form("folder", str(folder), of_tree)
    for ending in ("tar", "tar.gz", "zip"):
        made = work / f"root.{ending}"
        git(root, "archive", f"--format={ending}", "-o", str(made), "HEAD")
        yield Form(f"packed as {ending}", str(made), of_tree)


def bundle_branch(root: Path, branch: str) -> str:
    """A bundle does not say at which branch HEAD is: cairn takes main, master, or the first."""
    at = git(root, "for-each-ref", "--points-at=HEAD", "--format=%(refname)", "refs/heads")
    names = sorted(at.decode().split())
    preferred = [one for one in ("refs/heads/main", "refs/heads/master") if one in names]
    return (preferred + names)[0]


def expected(root: Path, revision: str, branch: str) -> Expected:
    """What git knows of a commit, whose branch is named in short."""
    told = git(root, "log", "-1", "--format=%H %T %at %ct", revision, "--").decode()
    found, tree, author, committer = told.split()
    return Expected(
        tree=tree,
        entries=entries(root, revision),
        revision=found,
        branch=f"refs/heads/{branch}",
        dates=(date(author), date(committer)),
    )


def plain(root: Path, revision: str) -> Expected:
    """What git knows of a commit's files alone: the tree without its submodules."""
    index = {"GIT_INDEX_FILE": str(root / ".git" / "index-plain")}
    modules = [path for mode, _, path in listed(root, revision) if mode == SUBMODULE]
    names = b"".join(path + b"\0" for path in modules)
    git(root, "read-tree", revision, more=index)
    git(root, "update-index", "-z", "--force-remove", "--stdin", more=index, given=names)
    return Expected(git(root, "write-tree", more=index).decode(), entries(root, revision))


def date(seconds: str) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def listed(root: Path, revision: str) -> Iterator[tuple[int, str, bytes]]:
    """(mode, object, path) of every file, link and submodule of a commit."""
    for line in git(root, "ls-tree", "-r", "-z", "--full-tree", revision).split(b"\0"):
        if line:
            head, _, path = line.partition(b"\t")
            mode, _, found = head.split(b" ")
            yield int(mode, 8), found.decode(), path


def entries(root: Path, revision: str) -> dict[bytes, Entry]:
    """What git knows of a commit's files and links, with the sums of the bytes that it gives."""
    files = [one for one in listed(root, revision) if one[0] != SUBMODULE]
    sums = dict(zip(files, contents(root, [blob for _, blob, _ in files]), strict=True))
    return {path: Entry(mode, blob, *sums[mode, blob, path]) for mode, blob, path in files}


def contents(root: Path, blobs: list[str]) -> Iterator[tuple[str, int]]:
    """(SHA-1 of its bytes, length) of each blob."""
    with tempfile.TemporaryFile() as names:
        names.write("".join(f"{one}\n" for one in blobs).encode())
        names.seek(0)
        line = [*command(root), "cat-file", "--batch"]
        with subprocess.Popen(line, stdin=names, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None, "asked for"
            for blob in blobs:
                found, kind, size = running.stdout.readline().decode().split()
                raw = running.stdout.read(int(size) + 1)[:-1]
                assert (found, kind, len(raw)) == (blob, "blob", int(size)), "git gave another"
                yield hashlib.sha1(raw, usedforsecurity=False).hexdigest(), len(raw)


def compare(form: Form) -> tuple[int, list[str]]:
    """(files that cairn read, what of them is not as git has it)."""
    wrong: list[str] = []
    left = dict(form.expected.entries)
    last, files = b"", 0
    for file in read_origin(form.spec):
        files += 1
        path = path_bytes(file.path)
        if path <= last:
            wrong.append(f"{file.path!r} does not stand in order")
        last = path
        entry = left.pop(path, None)
        if entry is None:
            wrong.append(f"{file.path!r} is not git's ({file.problem or 'read'})")
        else:
            wrong += differences(file, entry, form.expected)
    return files, wrong + [f"{path_text(path)!r} was not read" for path in left]


def differences(file: SourceFile, entry: Entry, whole: Expected) -> Iterator[str]:
    """What of one file is not as git has it."""
    raw, origin = file.raw, file.origin
    pairs = {
        "problem": (file.problem, None),
        "mode": (file.mode, entry.mode),
        "content_id": (file.content_id, entry.blob),
        "blob_id": (file.blob_id, entry.sha1),
        "length": (file.length_bytes, entry.size),
        "bytes": (
            None if raw is None else hashlib.sha1(raw, usedforsecurity=False).hexdigest(),
            entry.sha1 if entry.size < MAX_BYTES else None,
        ),
        "directory_id": (origin.directory_id, whole.tree),
        "revision_id": (origin.revision_id, whole.revision),
        "branch_name": (origin.branch_name, whole.branch),
        "dates": ((origin.revision_date, origin.committer_date), whole.dates),
    }
    for name, (ours, gits) in pairs.items():
        if ours != gits:
            yield f"{file.path!r}: {name} is {ours}, git has {gits}"


def command(root: Path) -> list[str]:
    return ["git", "-C", str(root), *(part for one in SETTINGS for part in ("-c", one))]


def git(
    root: Path, *arguments: str, given: bytes = b"", more: dict[str, str] | None = None
) -> bytes:
    return run([*command(root), *arguments], given=given, more=more).removesuffix(b"\n")


def run(line: list[str], *, given: bytes = b"", more: dict[str, str] | None = None) -> bytes:
    """What a program prints, without the machine's own settings of git."""
    environment = os.environ | ENVIRONMENT | (more or {})
    done = subprocess.run(line, input=given, capture_output=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(line)}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
