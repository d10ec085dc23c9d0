"""Tags, texts, notices and statements of licences are found, and passing mentions are not."""

import pytest

from cairn.curate.licences import detect, header, permissive_ids
from cairn.curate.licences.expressions import chosen, ids_of, spelled

from .fixtures.licence_texts import APACHE_NOTICE, GPL_NOTICE, bsd, marked, mit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SPDX-License-Identifier: MIT", {"MIT"}),
        ("// spdx-license-identifier: apache-2.0", {"Apache-2.0"}),
        ("# SPDX-License-Identifier: GPL-2.0", {"GPL-2.0-only"}),
        ("/* SPDX-License-Identifier: GPL-2.0+ */", {"GPL-2.0-or-later"}),
        ("SPDX-License-Identifier: LGPL-2.1-or-later", {"LGPL-2.1-or-later"}),
        ("SPDX-License-Identifier: GPL-2.0 OR MIT", {"MIT"}),
        ("SPDX-License-Identifier: GPL-2.0 AND MIT", {"GPL-2.0-only", "MIT"}),
        ("SPDX-License-Identifier: MIT OR Apache-2.0", {"MIT", "Apache-2.0"}),
        ("SPDX-License-Identifier: GPL-2.0 OR LGPL-2.1", {"GPL-2.0-only", "LGPL-2.1-only"}),
        ("SPDX-License-Identifier: (MIT AND GPL-3.0-only) OR ISC", {"ISC"}),
        ("SPDX-License-Identifier: (MIT OR GPL-3.0-only) AND ISC", {"MIT", "ISC"}),
        (
            "SPDX-License-Identifier: GPL-2.0-only WITH Classpath-exception-2.0",
            {"GPL-2.0-only"},
        ),
        ("SPDX-License-Identifier: GPL-2.0-with-classpath-exception", {"GPL-2.0-only"}),
        ("SPDX-License-Identifier: No-Such-Thing", {"LicenseRef-scancode-unknown-spdx"}),
    ],
)
def test_tags(text: str, expected: set[str]):
    assert detect(text) == expected
    assert header(text + "\nint main;\n") == expected


def test_expressions_survive_what_is_no_expression():
    assert chosen("") == frozenset()
    assert chosen("MIT OR") == {"MIT"}
    assert chosen(") MIT AND (") == {"MIT"}
    assert chosen("(" * 500 + "MIT" + ")" * 500) == {"MIT"}
    assert set(ids_of("A-x WITH B OR MIT")) == {"LicenseRef-scancode-unknown-spdx", "MIT"}
    assert spelled("bsd-3-clause") == "BSD-3-Clause"


@pytest.mark.parametrize("holder", ["2020 Ada Lovelace", "1999-2024 The License Group, Inc.", ""])
@pytest.mark.parametrize("title", ["MIT License", "The MIT License (MIT)", ""])
def test_a_text_is_known_whoever_holds_the_rights(title: str, holder: str):
    assert detect(mit(title, holder)) == {"MIT"}


@pytest.mark.parametrize("mark", ["// ", "# ", " * ", "dnl ", "-- ", "; ", "%% ", "REM "])
def test_a_text_is_known_behind_marks_of_comments(mark: str):
    assert detect(marked(mit(), mark)) == {"MIT"}
    assert detect(marked(bsd(), mark)) == {"BSD-3-Clause"}
    assert header(marked(GPL_NOTICE, mark) + "x = 1\n" * 50) == {"GPL-2.0-or-later"}
    assert header(marked(APACHE_NOTICE, mark) + "x = 1\n" * 50) == {"Apache-2.0"}


def test_a_text_is_known_in_lines_of_any_length():
    assert detect(" ".join(mit().split())) == {"MIT"}
    assert detect("\r\n".join(mit().split())) == {"MIT"}
    assert detect("\n".join(bsd().split(" "))) == {"BSD-3-Clause"}


@pytest.mark.parametrize("marks", ["123", "abc", "***", "---"])
@pytest.mark.parametrize("holder", ["Ada Lovelace", "University of Nowhere", "Xyzzy Qwrt GmbH"])
def test_clauses_make_the_bsd_licence(marks: str, holder: str):
    assert detect(bsd(holder, marks)) == {"BSD-3-Clause"}
    assert detect(bsd(holder, marks, clauses=2)) == {"BSD-2-Clause"}


def test_a_text_with_some_other_words_is_still_itself():
    text = mit().replace("without restriction", "with no restriction at all")
    text = text.replace("substantial portions", "any substantial portions")
    assert detect(text) == {"MIT"}


def test_several_licences_in_a_file_are_all_found():
    both = f"{mit()}\n\n{'-' * 70}\nParts come from elsewhere:\n\n{bsd('Someone Else')}"
    assert detect(both) == {"MIT", "BSD-3-Clause"}
    three = f"{both}\n\n\nThe tools are different.\n\n{GPL_NOTICE}"
    assert detect(three) == {"MIT", "BSD-3-Clause", "GPL-2.0-or-later"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("License: GPL-3.0", {"GPL-3.0-only"}),
        ("License: MIT", {"MIT"}),
        ("It is released under the GPL v3.", {"GPL-3.0-only"}),
        ("distributed under the GNU GPL version 2", {"GPL-2.0-only"}),
        ("This project is licensed under the MIT License.", {"MIT"}),
        ("## License\n\nApache License 2.0", {"Apache-2.0"}),
        ("License :: OSI Approved :: MIT License", {"MIT"}),
        ("License :: OSI Approved :: BSD License", {"BSD-3-Clause"}),
        ("Licensed under the BSD 3-Clause license", {"BSD-3-Clause"}),
        (
            "This software is in the public domain.",
            {"LicenseRef-scancode-public-domain-disclaimer"},
        ),
        (
            "Licensed under either of\n\n * Apache License, Version 2.0\n * MIT license\n\n"
            "at your option.",
            {"Apache-2.0", "MIT"},
        ),
    ],
)
def test_statements_are_found(text: str, expected: set[str]):
    told = detect(f"# A thing\n\nIt does much.\n\n{text}\n")
    if text.endswith("BSD License"):
        assert told & permissive_ids()
    else:
        assert told == expected


@pytest.mark.parametrize(
    "text",
    [
        "It was previously distributed under the GPL.",
        "Versions before 2.0 were released under the GNU General Public License.",
        "The licence is GPL-compatible.",
        "This license is compatible with the GNU GPL version 2.",
        "We do not accept GPL code.",
        "It reads files of MIT Scheme and of BSD systems.",
        "A fast parser, with no dependencies.",
        "",
    ],
)
def test_passing_mentions_are_no_licence(text: str):
    assert detect(f"# A thing\n\n{text}\n") == frozenset()


def test_what_python_says_of_its_history_does_not_count():
    text = "Python is open source. GPL-compatible doesn't mean that we're distributing it so.\n"
    assert detect(text + mit()) == {"MIT"}


def test_what_other_software_is_under_is_no_licence_of_this():
    text = "It is possible to combine this with\nother software that is released under the GPL."
    assert detect(text) == frozenset()
    assert detect("This software is released under the GPL.") != frozenset()
    lawyers = 'A lawyer has told another that 1.6.1 is\n"not incompatible" with the GPL.'
    assert detect(lawyers) == frozenset()
