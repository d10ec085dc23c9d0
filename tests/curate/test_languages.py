"""Languages as linguist and go-enry decide them: by each strategy, extension and list."""

import gzip
import json
import re
import time
from pathlib import Path

import pytest

from cairn.curate import languages
from cairn.curate.languages import heuristics
from cairn.curate.languages.classifier import WINDOW, tokens
from cairn.curate.languages.generated import is_minified
from cairn.curate.languages.table import table

CASES = json.loads(Path(__file__).with_name("language_cases.json").read_text(encoding="utf-8"))
BY_TEXT, BY_CLASSIFIER = CASES["by_text"], CASES["by_classifier"]
VENDORED = CASES["vendored"]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        # modeline: the last of the first and last five lines; above all else
        ("a.c", "/* -*- mode: c++ -*- */\n", "C++"),
        ("a.c", "/* -*- C++ -*- */\n", "C++"),
        ("a.c", "/* -*- Mode: C++; tab-width: 4 -*- */\n", "C++"),
        ("a.c", "/* -*- nonsense -*- */\n", "C"),
        ("a.c", "/* vim: set ft=cpp : */\n", "C++"),
        ("a.c", "/* vim: ts=4 filetype=ruby\n */\n", "Ruby"),
        ("a.c", "/* vim: ft=ruby syntax=perl : */\n", "C"),
        ("a.c", "int a;\n" * 20 + "// vim: ft=ruby\n", "Ruby"),
        ("a.c", "int a;\n" * 20 + "// vim: ft=ruby\n" + "int a;\n" * 20, "C"),
        ("Makefile", "# -*- python -*-\n", "Python"),
        # name
        ("a/Makefile", "", "Makefile"),
        ("a/CMakeLists.txt", "", "CMake"),
        ("a/pom.xml", "", "Maven POM"),
        ("a/Dockerfile", "#!/bin/sh\n", "Dockerfile"),
        # shebang
        ("a", "#!/usr/bin/perl -w\n", "Perl"),
        ("a", "#! /bin/sh\n", "Shell"),
        ("a", "#!/usr/bin/env python3.11\n", "Python"),
        ("a", "#!/usr/bin/env -S A=b node --x\n", "JavaScript"),
        ("a", '#!/bin/sh\nexec tclsh "$0" "$@"\n', "Tcl"),
        ("a", "#!/bin/sh\n# words\nexec scala $0 $@\n", "Scala"),
        ("a", "#!/usr/bin/env\n", ""),
        ("a", "#!/usr/bin/osascript -l JavaScript\n", ""),
        ("a.txt", "#!/usr/bin/ruby\n", "Ruby"),
        ("a", " #!/usr/bin/ruby\n", ""),
        # extension: the longest that is known, in either case
        ("a.PY", "", "Python"),
        ("a.b/c.rs.in", "", "Rust"),
        ("a.html.erb", "", "HTML+ERB"),
        ("a.unknown.erb", "", "HTML+ERB"),
        ("a.cmake.in", "", "CMake"),
        (".bashrc", "", "Shell"),
        # a language of a later linguist, by what only it has
        ("a.koka", "", ""),
        ("a.kdl", "node 1\n", "KDL"),
        ("a.k", "import a\n", ""),
        # XML, man pages
        ("a.unknown", "\n<?xml version='1.0'?>\n<a/>\n", "XML"),
        ("a", "\n\n<?xml version='1.0'?>\n", ""),
        ("cat.1foo", ".TH CAT 1\n", "Roff Manpage"),
        ("cat.3pm.in", ".TH CAT 1\n.SH NAME\ncat \\- words\n", "Roff Manpage"),
        # none, and binary data
        ("a", "words\n", ""),
        ("a.unknown", "words\n", ""),
        ("a.py", "import\0", ""),
        ("a.py", "#" * 9000 + "\0", "Python"),
    ],
)
def test_strategies(path: str, text: str, expected: str):
    assert languages.language_of(path, text) == expected


@pytest.mark.parametrize(("extension", "text", "expected"), [*BY_TEXT, *BY_CLASSIFIER])
def test_shared_extensions(extension: str, text: str, expected: str):
    assert languages.language_of(f"a/b{extension}", text) == expected


def test_every_group_of_patterns_has_cases():
    single = {one for one, known in table().extensions.items() if len(known) == 1}
    shown = {extension for extension, *_ in BY_TEXT}
    groups = {id(rules): rules for rules in heuristics.rules_by_extension().values()}
    by_group = {key: set[str]() for key in groups}
    for extension, rules in heuristics.rules_by_extension().items():
        by_group[id(rules)].add(extension)
    assert not [names for names in by_group.values() if not names & shown and names - single]


def test_patterns_name_languages_of_the_table():
    rules = [rule for group in heuristics.rules_by_extension().values() for rule in group]
    assert {name for rule in rules for name in rule.languages} <= table().types.keys()


def test_only_the_begin_is_looked_at():
    far = "int a;\n" * 10_000
    assert languages.language_of("a.h", "class A {\n" + far) == "C++"
    assert languages.language_of("a.h", far + "class A {\n") == "C"


def test_tokens():
    text = '/* a */ x = "b" + 1.5e3; // c\n<p class="d">e</p> #!\n(* open\nf(x, -2)'
    expected = "! # ( ( ) * + , - ; </p> <p> = class= e e f open x x"
    assert " ".join(sorted(tokens(text))) == expected
    assert next(tokens("#!/usr/bin/env node\n")) == "SHEBANG#!node"
    assert len(list(tokens("a " * WINDOW))) == WINDOW // 2


HOSTILE = (
    *(
        "\n",
        " ",
        "a",
        "a.b",
        "a ",
        '"',
        "'",
        "<",
        "<a ",
        "<!--",
        "/*",
        "(*",
        "{-",
        "a b(",
        "import ",
    ),
    *("match x ", "case a ", "!a ", "\nmove.l a", 'Range("', "a::", "=", "\n\t: ", "\n:-", "foo->"),
    *("\na(b:", "ex:", "-*-", "mode:", "<meta a", "{", "}", "\n%builtins a ", "\nuse strict"),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_take_linear_time(unit: str):
    text = (unit * 60_000)[:60_000]
    extensions = [*heuristics.rules_by_extension(), ".vhost", ".js", ".css", ".ps", ".xml", ".rbi"]
    for extension in extensions:
        begin = time.process_time()
        languages.language_of(f"a{extension}", text)
        languages.is_generated(f"a{extension}", text)
        assert time.process_time() - begin < 0.5, extension


@pytest.mark.parametrize("path", VENDORED)
def test_vendored(path: str):
    assert languages.is_vendored(path)


@pytest.mark.parametrize(
    "path",
    ["src/main.js", "src/cached.py", "my-vendor.c", "a/docs/index.md", "src/deps/a.c", "env"],
)
def test_not_vendored(path: str):
    assert not languages.is_vendored(path)


def test_documentation():
    yes = ["docs/a.c", "a/Documentation/b", "README", "a/readme.md", "LICENSE.txt", "CITATION.cff"]
    no = ["a/docs/b", "src/readme/a", "READMEs", "src/a.c", "license-check.py"]
    assert all(map(languages.is_documentation, yes))
    assert not any(map(languages.is_documentation, no))


@pytest.mark.parametrize(
    "path",
    [
        *(
            "a.nib",
            "a/.idea/b.xml",
            "Pods/a.h",
            "A.Designer.cs",
            "node_modules/a.js",
            "go/Cargo.lock",
        ),
        *("vendor/github.com/a/b.go", "uv.lock", "a.js.map", "a.zep.c", "a/__generated__/b.ts"),
        *("htmlcov/index.html", ".pnp.cjs", "esy.lock", "x.esy.lock", ".terraform.lock.hcl"),
    ],
)
def test_generated_by_name(path: str):
    assert languages.is_generated(path)


@pytest.mark.parametrize(
    ("path", "text", "generated"),
    [
        ("a.go", "// Code generated by x. DO NOT EDIT.\npackage a\n", True),
        ("a.go", "package a\n" * 40 + "// Code generated by x\n", False),
        ("a_pb2.py", "#\n# Generated by the protocol buffer compiler.  DO NOT EDIT!\n", True),
        ("a.c", "/* Generated by Cython 3 */\n", True),
        ("a.py", "# Generated by Cython 3\n", False),
        ("a.js", "var a;" * 30, True),
        ("a.js", "é" * 60 + "\n", True),
        ("a.ts", "var a;" * 30, False),
        ("a.css", "a {}\n/*# sourceMappingURL=a.css.map */\n", True),
        ("a.json", '{"version":3,"sources":[]}\n', True),
        ("a.js", "(function() {\n  var _fn, _i, _len;\n}).call(this);\n", True),
        ("a.js", "(function() {\n  var a;\n}).call(this);\n", False),
        ("a.js", "/*\n * Generated by PEG.js 0.8\n */\n", True),
        ("a.js", "/* a */\n// Generated by PEG.js\n", False),
        ("a.rb", "#\n#\n# This file is automatically generated by Racc 1\n", True),
        ("a.Rd", "% Generated by roxygen2: do not edit by hand\n", True),
        ("a.xml", "<?xml?>\n<doc>\n<assembly>\n</assembly>\n</doc>\n", True),
        ("a.yml", "- a: 1\nrecorded_with: VCR 3\n", True),
        ("a.ps", "%!PS\n%%Creator: groff 1.2\n", True),
        ("a.ps", "%!PS\n%%Creator: someone\n", False),
        ("a.pfa", "%!FontType1\ncurrentfile eexec\n00\n", True),
        ("a.html", '<html>\n<META content="makeinfo 6" name="Generator">\n', True),
        ("a.html", '<html>\n<meta name="generator" content="my editor">\n', False),
        ("a.html", "<html>\n<!-- Generated by Doxygen 1.9 -->\n", True),
        ("a.h", "/* DO NOT EDIT THIS FILE - it is machine generated */\n#include <jni.h>\n", True),
        ("ppport.h", "\n" * 8 + "Automatically created by Devel::PPPort\n\n", True),
        ("a.dart", "// GENERATED CODE - DO NOT MODIFY BY HAND\n", True),
        ("a.meta", "fileFormatVersion: 2\n", True),
        ("a.py", "", False),
    ],
)
def test_generated_by_text(path: str, text: str, generated: bool):
    assert languages.is_generated(path, text) is generated


def test_minified_is_more_than_110_bytes_a_line():
    assert not is_minified(("a" * 110 + "\n") * 3)
    assert is_minified(("a" * 111 + "\n") * 3)


def test_types_and_selection():
    assert [languages.type_of(one) for one in ("C", "HTML", "JSON", "Text", "Koka", "no")] == [
        *("programming", "markup", "data", "prose", "programming", "")
    ]
    assert len(languages.SMOL) == 17 + 7 + 9
    assert all(map(languages.type_of, languages.SMOL))
    assert languages.excluded_extension("SVG", "svg")
    assert languages.excluded_extension("XML", "resx")
    assert not languages.excluded_extension("XML", "xml")
    assert not languages.excluded_extension("Python", "py")


def test_lists_of_paths_are_linguists(data_folder: Path):
    decided = gzip.decompress((data_folder / "language" / "decisions.tsv.gz").read_bytes()).decode()
    paths = [*VENDORED, *(line.split("\t")[1] for line in decided.splitlines()[1:])]
    for name, answer in (
        ("vendor.yml", languages.is_vendored),
        ("documentation.yml", languages.is_documentation),
    ):
        lines = (data_folder / "linguist" / name).read_text(encoding="utf-8").splitlines()
        patterns = [re.compile(line[2:].strip()) for line in lines if line.startswith("- ")]
        for path in paths:
            assert answer(path) is any(one.search(path) for one in patterns), path


def test_names_decide_as_go_enry(data_folder: Path):
    """Where one language only has the name's ending, its text seldom says otherwise."""
    decided = gzip.decompress((data_folder / "language" / "decisions.tsv.gz").read_bytes()).decode()
    known, total, agreed = table().extensions, 0, 0
    for line in decided.splitlines()[1:]:
        _, path, _, expected = line.split("\t")
        if len(known.get(f".{languages.extension_of(path)}", ())) == 1:
            total, agreed = total + 1, agreed + (languages.language_of(path, "") == expected)
    assert total > 6000
    assert agreed > 0.97 * total
