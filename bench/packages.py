"""Fetch real source packages by the machine's own package clients, to measure curation on.

    python bench/packages.py FOLDER [--bytes 2GB]

Debian source packages (apt-get), Python sdists (pip) and npm tarballs (npm), as they are, in the
order of packages.txt, until their unpacked size is enough. What is there is not fetched again.
Each client asks where it is set up to ask; one that is not installed leaves its packages out.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
SIZES = "sizes.json"  # unpacked bytes and files by package
SCOPED = {"angular-core": "@angular/core", "babel-core": "@babel/core"}
LINE = re.compile(r"^deb(?=\s)", re.MULTILINE)
TYPES = re.compile(r"^Types:.*$", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", default="2GB", help="unpacked size that is enough")
    parser.add_argument("--packages", type=Path, default=Path(__file__).with_name("packages.txt"))
    arguments = parser.parse_args()
    wanted = int(float(arguments.bytes[:-2]) * UNITS[arguments.bytes[-2:].upper()])
    arguments.folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for package in arguments.packages.read_text(encoding="utf-8").split():
        if total >= wanted:
            break
        try:
            found = fetch(package, arguments.folder)
        except subprocess.CalledProcessError as error:
            last = (error.stderr or "").strip().splitlines()[-1:]
            print(f"{package}: {' '.join(last) or error}", file=sys.stderr)
            continue
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            print(f"{package}: {error}", file=sys.stderr)
            continue
        total += found
        print(f"{package}: {found / 1e6:.1f} MB, {total / 1e9:.2f} GB so far", flush=True)
    return 0 if total >= wanted else 1


def fetch(package: str, folder: Path) -> int:
    """Download `deb-NAME`, `pypi-NAME` or `npm-NAME` unless it is there; its unpacked bytes."""
    sizes = json.loads((folder / SIZES).read_text()) if (folder / SIZES).exists() else {}
    if package in sizes and all((folder / name).exists() for name in sizes[package]["files"]):
        return sizes[package]["bytes"]
    registry, _, name = package.partition("-")
    clients: dict[str, Callable[[str, Path], None]] = {"deb": debian, "pypi": pypi, "npm": npm}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
        clients[registry](name, Path(part))
        total, names = 0, []
        for path in sorted(Path(part).iterdir()):
            kept = re.search(r"((?:\.orig)?(-[\w.]+)?)\.(tar\.\w+|tgz|zip)$", path.name)
            if kept is None or ".debian.tar" in path.name:
                continue
            component = (kept[2] or "") if ".orig-" in path.name else ""
            final = folder / f"{package}{component}.{kept[3]}"
            total += unpacked(path)
            path.replace(final)
            names.append(final.name)
    if not names:
        raise ValueError("gave no archive")
    sizes[package] = {"bytes": total, "files": names}
    beside = folder / f".{SIZES}.part"
    beside.write_text(json.dumps(sizes, indent=1))
    beside.replace(folder / SIZES)
    return total


def unpacked(path: Path) -> int:
    """Bytes of all regular members."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return sum(one.file_size for one in archive.infolist())
    with tarfile.open(path) as archive:
        return sum(one.size for one in archive if one.isreg())


def pypi(name: str, folder: Path) -> None:
    python = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    _run([*python, "--no-binary", name, "--dest", str(folder), name])


def npm(name: str, folder: Path) -> None:
    _run(["npm", "pack", "--silent", "--pack-destination", str(folder), SCOPED.get(name, name)])


def debian(name: str, folder: Path) -> None:
    _run(
        ["apt-get", "-qq", "-c", str(apt()), "source", "--download-only", "--tar-only", name],
        folder,
    )


@cache
def apt() -> Path:
    """A private configuration that adds source packages to what the machine's apt knows."""
    home = Path(tempfile.mkdtemp(prefix="apt-"))
    for part in ("etc/sources.list.d", "state/lists/partial", "cache/archives/partial"):
        (home / part).mkdir(parents=True)
    system = Path("/etc/apt")
    for path in [system / "sources.list", *(system / "sources.list.d").glob("*")]:
        if path.suffix in {".list", ".sources"} and path.is_file():
            text = TYPES.sub("Types: deb-src", LINE.sub("deb-src", path.read_text()))
            (home / "etc/sources.list.d" / path.name).write_text(text)
    config = home / "apt.conf"
    lines = [
        f'Dir::Etc::sourcelist "{home}/etc/sources.list";',
        f'Dir::Etc::sourceparts "{home}/etc/sources.list.d";',
        f'Dir::State::lists "{home}/state/lists";',
        f'Dir::Cache "{home}/cache";',
        'APT::Sandbox::User "root";',  # the folder is private
    ]
    config.write_text("\n".join(lines))
    _run(["apt-get", "-qq", "-c", str(config), "update"])
    return config


def _run(line: list[str], folder: Path | None = None) -> None:
    if shutil.which(line[0]) is None:
        raise OSError(f"{line[0]} is not installed")
    subprocess.run(line, cwd=folder, check=True, capture_output=True, text=True, timeout=900)


if __name__ == "__main__":
    sys.exit(main())
