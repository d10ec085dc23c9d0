"""Licences: carriers, texts, notices and classes, each against what the report and SPDX define."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cairn.base import UserError
from cairn.curate import licences
from cairn.curate.licences import (
    base_of,
    classify,
    detect,
    header,
    is_carrier,
    permissive_ids,
    scancode,
)
from cairn.curate.licences.blocks import Work, blocks
from cairn.curate.licences.expressions import chosen, ids_of, spelled
from cairn.curate.licences.table import table

MIT = """{title}

Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
BSD = """Copyright (c) 2011, {holder}
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

{one} Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.
{two} Redistributions in binary form must reproduce the above copyright notice,
   this list of conditions and the following disclaimer in the documentation
   and/or other materials provided with the distribution.
{third}
THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND
ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED
WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE FOR
ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES
(INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES;
LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON
ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT
(INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF THIS
SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
THIRD = """{three} Neither the name of the {holder} nor the names of its contributors may be
   used to endorse or promote products derived from this software without
   specific prior written permission.
"""
GPL_NOTICE = """This program is free software; you can redistribute it and/or modify
it under the terms of the GNU General Public License as published by
the Free Software Foundation; either version 2 of the License, or
(at your option) any later version.

This program is distributed in the hope that it will be useful,
but WITHOUT ANY WARRANTY; without even the implied warranty of
MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the
GNU General Public License for more details.
"""
APACHE_NOTICE = """Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
"""


def mit(title: str = "MIT License", holder: str = "2020 Ada Lovelace") -> str:
    return MIT.format(title=title, holder=holder)


def bsd(holder: str = "Ada Lovelace", marks: str = "123", clauses: int = 3) -> str:
    one, two, three = (f"{mark}." if mark.isdigit() else mark for mark in marks)
    third = THIRD.format(three=three, holder=holder) if clauses == 3 else ""
    return BSD.format(holder=holder, one=one, two=two, third=third)


def marked(text: str, mark: str) -> str:
    return "".join(f"{mark}{line}\n" for line in text.splitlines())


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


@pytest.mark.parametrize("name", sorted(licences.classes.IGNORABLE))
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


def _whole_texts() -> list[int]:
    rules = table()
    spdx = [place for place, name in enumerate(rules.expressions) if name in {"Zlib", "ISC"}]
    return [rule for rule in range(len(rules.length)) if rules.expression[rule] in spdx][:20]


def test_the_index_finds_every_rule_in_its_own_words():
    rules = table()
    assert len(rules.length) > 30_000
    assert int(rules.starts[-1] + rules.length[-1]) == len(rules.tokens)
    from cairn.curate.licences.exact import _runs
    from cairn.curate.licences.words import Text

    for rule in _whole_texts():
        ids = rules.words_of(rule).astype(np.int64)
        zeros = np.zeros(len(ids), np.int64)
        found, starts = _runs(Text(ids, zeros, zeros), rules)
        assert rule in found[starts == 0]


def _slow_blocks(one: list[int], two: list[int], telling: int) -> list[tuple[int, int, int]]:
    """The definition: the longest run of telling words first, grown, then what is left of it."""

    def seek(a: int, b: int, c: int, d: int) -> list[tuple[int, int, int]]:
        best = (0, 0, 0)
        for end in range(a, b):
            for last in range(c, d):
                size = 0
                while (
                    end - size >= a
                    and last - size >= c
                    and one[end - size] == two[last - size]
                    and one[end - size] < telling
                ):
                    size += 1
                if size > best[2]:
                    best = (end - size + 1, last - size + 1, size)
        i, j, size = best
        if not size:
            return []
        while i > a and j > c and one[i - 1] == two[j - 1]:
            i, j, size = i - 1, j - 1, size + 1
        while i + size < b and j + size < d and one[i + size] == two[j + size]:
            size += 1
        return [*seek(a, i, c, j), (i, j, size), *seek(i + size, b, j + size, d)]

    found, begin = [], 0
    while made := seek(begin, len(one), 0, len(two)):
        found += made
        begin = made[-1][0] + made[-1][2]
    return found


@pytest.mark.parametrize("seed", range(60))
def test_blocks_are_as_defined(seed: int):
    random = np.random.default_rng(seed)
    one, two = random.integers(0, 8, 40), random.integers(0, 8, 25)
    free = np.ones(40, bool)
    found = blocks(one, free, two, 4, (0, 40), Work(10**9))
    expected: list[tuple[int, int, int]] = []
    for i, j, size in _slow_blocks(one.tolist(), two.tolist(), 4):
        last = expected[-1] if expected else (-1, -1, 0)
        if last[2] and (last[0] + last[2], last[1] + last[2]) == (i, j):
            expected[-1] = (last[0], last[1], last[2] + size)
        else:
            expected.append((i, j, size))
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "gpl " * 2_500_000,
        "licensed under the gpl " * 440_000,
        "redistribute foo " * 600_000,
        mit() * 9_000,
        mit().replace("Software", "License software") * 9_000,
        "SPDX-License-Identifier: (" * 400_000,
        "SPDX-License-Identifier: " + "MIT OR " * 1_400_000,
        "permission is hereby granted free of charge to any person " * 170_000,
        "license" * 1_500_000,
    ],
    ids=range(9),
)
def test_ten_million_characters_of_fragments_take_bounded_time(text: str):
    begin = time.perf_counter()
    detect(text)
    header(text)
    assert time.perf_counter() - begin < 20


def test_a_file_without_signs_costs_next_to_nothing():
    text = "def add(one, two):\n    return one + two\n" * 250
    header(text)
    begin = time.perf_counter()
    for _ in range(100):
        assert header(text) == frozenset()
    assert time.perf_counter() - begin < 0.1  # a megabyte


class _Pretend:
    """A process that answers as ScanCode's does: with its input, slowly, or not at all."""

    CODE = (
        "import json, sys, time\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    path = json.loads(line)\n"
        "    if 'slow' in path: time.sleep(60)\n"
        "    if 'dead' in path: sys.exit(1)\n"
        "    print(json.dumps(None if 'none' in path else 'GPL-2.0-only OR MIT'), flush=True)\n"
    )


def test_the_process_beside_is_killed_if_it_hangs_and_started_anew():
    scanner = scancode.Scanner([sys.executable, "-c", _Pretend.CODE], deadline=2)
    assert scanner.ask("some file") == "GPL-2.0-only OR MIT"
    assert scanner.ask("none") is None
    first = scanner.process
    assert scanner.ask("slow") == scancode.UNKNOWN
    assert first is not None
    assert first.poll() is not None
    assert scanner.ask("some file") == "GPL-2.0-only OR MIT"
    assert scanner.ask("dead") == scancode.UNKNOWN
    assert scanner.ask("some file") == "GPL-2.0-only OR MIT"
    assert scanner.process is not None
    scanner.process.kill()
    scanner.process.wait()


def test_without_scancode_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scancode, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"licence_tool='scancode': needs ScanCode.*\[scancode\]"):
        scancode.scancode_detect(mit())


def test_scancode_says_the_same():
    pytest.importorskip("scancode")
    for text in (mit(), bsd(), GPL_NOTICE, APACHE_NOTICE):
        assert scancode.scancode_detect(text) == detect(text)


def test_what_other_software_is_under_is_no_licence_of_this():
    text = "It is possible to combine this with\nother software that is released under the GPL."
    assert detect(text) == frozenset()
    assert detect("This software is released under the GPL.") != frozenset()
    lawyers = 'A lawyer has told another that 1.6.1 is\n"not incompatible" with the GPL.'
    assert detect(lawyers) == frozenset()
