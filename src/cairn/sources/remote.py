"""URLs of repositories as others know them: without credentials, and the name they give."""

import re
from urllib.parse import urlsplit

FORGES = frozenset({"github.com", "gitlab.com", "codeberg.org", "bitbucket.org"})
_SCP = re.compile(r"(?:[^@/:\s]+(?::[^@/]*)?@)?([^@/:\s]{2,}):(?!//)(.+)", re.DOTALL)
_DIALLED = frozenset({"ssh", "git", "http", "https", "ftp", "ftps"})


def public_url(url: str) -> str | None:
    """A remote's URL without user, password, query and fragment; ssh forms become https.

    A path on this machine stays as it is. None for anything whose parts cannot be told apart,
    because a secret could stand in any of them.
    """
    url = url.strip().removeprefix("git+")
    if "::" in url.split("/", 1)[0]:  # a remote helper, `ext::` say: its rest is its own matter
        return None
    scheme, separator, _ = url.partition("://")
    if not separator:
        found = _SCP.fullmatch(url)
        return _clean("https", found[1], found[2]) if found else url
    if scheme.lower() == "file":
        return url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number: most likely a part of a password
        return None
    if scheme.lower() not in _DIALLED or not host:
        return None
    if parts.scheme in {"ssh", "git"}:  # their ports say nothing of https
        return _clean("https", host, parts.path)
    where = f"[{host}]" if ":" in host else host
    return _clean(parts.scheme, f"{where}:{port}" if port else where, parts.path)


def _clean(scheme: str, host: str, path: str) -> str | None:
    path = path.strip("/").removesuffix(".git").rstrip("/")
    if "@" in path.split("/", 1)[0]:  # an unescaped `/` or `@` of a password before it
        return None
    return f"{scheme}://{host}/{path}".rstrip("/")


def forge_name(url: str) -> str | None:
    """owner/name where the URL lies in a repository of a known forge, or None."""
    parts = urlsplit(url)
    names = [name for name in parts.path.split("/") if name]
    if (parts.hostname or "").removeprefix("www.") not in FORGES or len(names) < 2:
        return None
    return f"{names[0]}/{names[1].removesuffix('.git')}"


def path_name(url: str | None) -> str | None:
    """The path of a URL on any host: what a forge calls the repository, groups and all."""
    found = re.fullmatch(r"[a-z]+://[^/]+/(.+)", url or "")
    return found[1] if found else None
