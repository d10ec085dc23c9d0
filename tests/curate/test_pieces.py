"""Language, licences and encodings: each against what it is defined by."""

import pytest

from cairn.curate.annotate import decode
from cairn.curate.languages import extension_of, is_generated, is_vendored, language_of
from cairn.curate.licences import base_of, classify, detect, is_carrier

MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy\n"
    " of this software and associated documentation files (the 'Software'), to deal"
)
GRANT = (
    "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or "
    "without fee is hereby granted"
)
BSD = (
    "Redistribution and use in source and binary forms, with or without\nmodification, are "
    "permitted provided that the following conditions are met:\n 1. ..."
)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("a/b.py", "", "Python"),
        ("a/B.PY", "", "Python"),
        ("Makefile", "", "Makefile"),
        ("run", "#!/usr/bin/env python3\n", "Python"),
        ("run", "#!/usr/bin/env -S python3.11 -u\n", "Python"),
        ("run", "#!/bin/bash\n", "Shell"),
        ("script.txt", "#!/usr/bin/perl -w\n", "Perl"),
        ("x.h", "# -*- mode: c++ -*-\n", "C++"),
        ("x.h", "// -*- C++ -*-\n", "C++"),
        ("x.py", "# -*- coding: utf-8 -*-\n", "Python"),
        ("x", "# vim: set ft=ruby :\n", "Ruby"),
        ("x.unknown", "text", ""),
        (".hidden", "", ""),
        ("CMakeLists.txt", "", "CMake"),
        ("go.mod", "", "Go Module"),
        ("style.css", "", "CSS"),
    ],
)
def test_language(path: str, text: str, expected: str):
    assert language_of(path, text) == expected


def test_extension_and_flags():
    assert extension_of("a.b/c.Tar.GZ") == "gz"
    assert extension_of("a.b/.profile") == ""
    assert is_vendored("x/node_modules/a.js")
    assert not is_vendored("src/main.js")
    assert is_generated("a/package-lock.json")
    assert is_generated("x_pb2.py")
    assert not is_generated("package.json")


@pytest.mark.parametrize("name", ["LICENSE", "licence.md", "COPYING.LESSER", "my-LICENSES.txt"])
def test_carriers(name: str):
    assert is_carrier(f"a/{name}")


@pytest.mark.parametrize("name", ["main.py", "relicensed.py", "copyist.txt"])
def test_what_is_no_carrier(name: str):
    assert not is_carrier(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MIT, {"MIT"}),
        (BSD, {"BSD-2-Clause"}),
        (BSD + " Neither the name of the copyright holder", {"BSD-3-Clause"}),
        (BSD + " All advertising materials mentioning features or use", {"BSD-4-Clause"}),
        ("// SPDX-License-Identifier: Apache-2.0\n", {"Apache-2.0"}),
        ("# SPDX-License-Identifier: (MIT OR GPL-2.0-only)\n", {"MIT"}),
        ("/* SPDX-License-Identifier: GPL-2.0-only */", {"GPL-2.0-only"}),
        (
            "# SPDX-License-Identifier: GPL-2.0-only AND (MIT OR Apache-2.0)",
            {"GPL-2.0-only", "MIT", "Apache-2.0"},
        ),
        ("SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note", {"GPL-2.0"}),
        ("GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007", {"GPL-3.0"}),
        ("GNU Lesser General Public License\nVersion 2.1, February 1999", {"LGPL-2.1"}),
        (
            "under the terms of the GNU General Public License as published by the Free Software "
            "Foundation; either version 2 of the License",
            {"GPL-2.0"},
        ),
        ("previously distributed under the GNU General Public License (GPL)", set()),
        ("Mozilla Public License Version 2.0", {"MPL-2.0"}),
        (GRANT + ", provided that the above copyright notice and this", {"ISC"}),
        (GRANT + '. THE SOFTWARE IS PROVIDED "AS IS"', {"0BSD"}),
        ("nothing here", set()),
    ],
)
def test_detection(text: str, expected: set[str]):
    assert detect(text) == expected


@pytest.mark.parametrize(
    ("detected", "declared", "expected"),
    [
        ({"GPL-3.0"}, "MIT", "permissive"),
        ({"MIT"}, "GPL-3.0", "non_permissive"),
        (set(), None, "no_license"),
        (set(), "NOASSERTION", "non_permissive"),
        ({"MIT", "Apache-2.0"}, None, "permissive"),
        ({"MIT", "GPL-2.0"}, None, "non_permissive"),
        ({"MIT"}, "NOASSERTION", "permissive"),
        ({"LicenseRef-dco"}, None, "no_license"),
        ({"LicenseRef-dco", "MIT"}, None, "permissive"),
    ],
)
def test_classes_follow_the_reports_table(detected: set[str], declared: str | None, expected: str):
    assert classify(detected, declared) == expected


def test_base_of_a_licence_file():
    assert base_of("LICENSE") == ""
    assert base_of("a/b/LICENSE") == "a/b/"


@pytest.mark.parametrize(
    ("raw", "text", "encoding"),
    [
        ("ä".encode(), "ä", "utf-8"),
        (b"\xef\xbb\xbfx", "x", "utf-8-sig"),
        ("aé".encode("utf-16"), "aé", "utf-16"),
        (b"caf\xe9 \x80", "café €", "cp1252"),
        (b"\x81\xe9", "\x81é", "latin-1"),
    ],
)
def test_decoding(raw: bytes, text: str, encoding: str):
    assert decode(raw) == (text, encoding)


@pytest.mark.parametrize(
    ("raw", "said", "expected"),
    [
        ("größe".encode("cp437"), "cp437", ("größe", "cp437")),
        ("größe".encode(), "no-such-encoding", ("größe", "utf-8")),
        ("größe".encode(), "ascii", ("größe", "utf-8")),
        (b"+2AA-", "utf-7", ("+2AA-", "utf-8")),  # half a character
        (b"616263", "hex", ("616263", "utf-8")),
    ],
)
def test_the_origins_encoding_goes_first_where_it_fits(
    raw: bytes, said: str, expected: tuple[str, str]
):
    assert decode(raw, said) == expected
