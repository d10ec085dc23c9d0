"""The class of a file by its licences: the table of StarCoder2's figure 1, in its order."""

from collections.abc import Iterable

from cairn.curate.licences.expressions import permissive_ids

PERMISSIVE, NO_LICENSE, NON_PERMISSIVE = "permissive", "no_license", "non_permissive"
CLASSES = (PERMISSIVE, NO_LICENSE, NON_PERMISSIVE)

_SCANCODE = "LicenseRef-scancode-"
# What stands beside licences and grants or forbids nothing by itself, by the report's code.
IGNORABLE = frozenset(
    _SCANCODE + name
    for name in (
        "dco-1.1",
        "generic-cla",
        "google-cla",
        "jetty-ccla-1.1",
        "newton-king-cla",
        "generic-exception",
        "generic-export-compliance",
        "generic-tos",
        "generic-trademark",
        "warranty-disclaimer",
    )
)
REFERENCE = _SCANCODE + "unknown-license-reference"  # ignored beside a licence that is known


def classify(detected: Iterable[str], declared: str | None) -> str:
    """The class of a file: `permissive`, `no_license` or `non_permissive`.

    `detected`: identifiers found in files; `declared`: what the forge says of the repository (SPDX,
    NOASSERTION, or None), which goes before anything that was detected.
    """
    detected = set(detected)
    if declared in permissive_ids():
        return PERMISSIVE
    if declared is not None and declared != "NOASSERTION":
        return NON_PERMISSIVE
    if not detected:
        return NO_LICENSE if declared is None else NON_PERMISSIVE
    telling = detected - IGNORABLE
    if not telling:
        return NO_LICENSE
    if telling & permissive_ids():
        telling -= {REFERENCE}
    return PERMISSIVE if telling <= permissive_ids() else NON_PERMISSIVE
