"""Licences: carriers, and the classes of what is found, as the report and SPDX define them."""

import json
from pathlib import Path

import pytest

from cairn.curate.licences import base_of, classify, is_carrier, permissive_ids
from cairn.curate.licences.classes import IGNORABLE

NAMES = (
    *("license", "licence", "lisense", "licenses", "legal", "copyleft", "copyright", "copying"),
    *("unlicense", "gpl", "lgpl", "agpl", "gpl3", "gpl-2.0", "lgpl_2.1", "gpl v3", "gplv2.0"),
    *("bsd", "bsdl", "mit", "mitx", "apache", "artistic", "copyingv3", "copying3", "disclaimer"),
    *("eupl", "gfdl", "mpl", "cpl", "cc0", "al", "al2.0", "al-2.0", "about", "notice", "readme"),
    *("guidelines",),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_carrier_has_one_of_the_names_between_marks(name: str):
    for hit in (name, name.upper(), f"{name}.md", f"my-{name}", f"x_{name}-y", f"a b.{name} c"):
        assert is_carrier(f"some/folder/{hit}"), hit
    assert not is_carrier(f"{name}/main.c")
    for miss in (f"x{name}", f"{name}q", f"pre{name}.txt"):
        if name.isalnum():  # after a mark, anything may follow
            assert not is_carrier(miss), miss


@pytest.mark.parametrize(
    "name",
    [
        *("licens", "licensee", "copyng", "copyist", "unlicensed", "epl", "cc1", "noticed"),
        *("readmes", "guideline", "bsdx", "mity", "eup", "abouts", "copyingvv3", "relicensed.py"),
    ],
)
def test_names_that_miss_by_a_letter_are_no_carriers(name: str):
    assert not is_carrier(name)


def test_a_licence_file_speaks_for_its_folder_and_reuse_for_the_one_above():
    assert base_of("LICENSE") == ""
    assert base_of("a/b/COPYING") == "a/b/"
    assert base_of("LICENSES/MIT.txt") == ""
    assert base_of("a/LICENSES/GPL-2.0-only.txt") == "a/"
    assert base_of("a/MYLICENSES/x") == "a/MYLICENSES/"


@pytest.mark.parametrize(
    ("detected", "declared", "expected"),
    [
        (set(), "MIT", "permissive"),
        ({"GPL-3.0-only"}, "MIT", "permissive"),
        ({"MIT"}, "GPL-3.0", "non_permissive"),
        ({"MIT"}, "Weird", "non_permissive"),
        (set(), None, "no_license"),
        (set(), "NOASSERTION", "non_permissive"),
        ({"MIT"}, None, "permissive"),
        ({"MIT"}, "NOASSERTION", "permissive"),
        ({"MIT", "GPL-3.0-only"}, None, "non_permissive"),
        ({"MIT", "LicenseRef-scancode-dco-1.1"}, None, "permissive"),
        ({"LicenseRef-scancode-dco-1.1"}, None, "no_license"),
        ({"LicenseRef-scancode-warranty-disclaimer"}, "NOASSERTION", "no_license"),
        ({"LicenseRef-scancode-unknown-license-reference"}, None, "non_permissive"),
        ({"LicenseRef-scancode-unknown-license-reference", "MIT"}, None, "permissive"),
        (
            {"LicenseRef-scancode-unknown-license-reference", "LicenseRef-scancode-dco-1.1"},
            None,
            "non_permissive",
        ),
        (
            {"LicenseRef-scancode-unknown-license-reference", "MIT", "GPL-2.0-only"},
            None,
            "non_permissive",
        ),
        ({"LicenseRef-scancode-public-domain"}, None, "permissive"),
        ({"LicenseRef-scancode-unknown-spdx"}, None, "non_permissive"),
    ],
)
def test_classes(detected: set[str], declared: str | None, expected: str):
    assert classify(sorted(detected), declared) == expected


@pytest.mark.parametrize("name", sorted(IGNORABLE))
def test_what_the_report_ignores(name: str):
    assert classify([name], None) == "no_license"
    assert classify([name, "MIT"], None) == "permissive"
    assert classify([name, "AGPL-3.0-only"], None) == "non_permissive"


def test_the_permissive_list_holds_both_sources():
    ids = permissive_ids()
    assert {"MIT", "BlueOak-1.0.0", "Artistic-2.0", "CC0-1.0", "Unlicense"} <= ids
    assert "LicenseRef-scancode-public-domain" in ids
    assert not {"GPL-2.0-only", "MPL-2.0", "CC-BY-NC-4.0", "SSPL-1.0"} & ids


def test_permissive_ids_are_those_of_the_published_lists(data_folder: Path):
    rated = json.loads((data_folder / "licence_lists/blueoak/index.json").read_text())
    assert {one["id"] for each in rated for one in each["licenses"] if one.get("id")} <= (
        permissive_ids() | {"Bourceux"}
    )
