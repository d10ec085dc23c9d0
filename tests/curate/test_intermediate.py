"""Pairs of programs and LLVM IR: with fake compilers everywhere, with real ones where they are."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cairn.base.sandbox import Limits, Sandbox
from cairn.curate.intermediate import IntermediateLimits, available, intermediate_document
from cairn.curate.intermediate.compilers import COMMANDS, Workshop
from cairn.curate.intermediate.document import is_small, language_of
from cairn.curate.intermediate.stripped import stripped
from cairn.curate.pieces import Document, from_content, to_content
from cairn.sources.record import INTERMEDIATE

LIMITS = IntermediateLimits(seconds=10, wall_seconds=60)
LOOP = "int f(int n) { int s = 0; for (int i = 0; i < n; i++) s += i * i; return s; }\n"
PROGRAMS = {
    "C": ("a.c", "#include <stdio.h>\n" + LOOP + 'int main(void) { printf("%d", f(9)); }\n'),
    "C++": ("a.cc", "#include <iostream>\n" + LOOP + "int main() { std::cout << f(9); }\n"),
    "Objective-C": ("a.m", LOOP),
    "Rust": ("a.rs", 'fn main() { let v = vec![1, 2]; for x in &v { println!("{}", x); } }\n'),
    "D": ("a.d", 'import std.stdio;\nvoid main() { writeln("a", 3); }\n'),
    "Fortran": ("a.f90", "program p\n  print *, 1 + 2\nend program p\n"),
    "Haskell": ("a.hs", "main :: IO ()\nmain = print (sum [1 .. 10 :: Int])\n"),
    "Swift": ("a.swift", "print(1 + 2)\n"),
    "Go": ("a.go", "package main\nfunc main() { println(3) }\n"),
    "Python": ("a.py", "print(sum(i * i for i in range(10)))\n"),
}


def pair(raw: bytes | str, path: str = "a.c", limits: IntermediateLimits = LIMITS) -> Document:
    raw = raw.encode() if isinstance(raw, str) else raw
    made = intermediate_document(raw, path, 0, limits)
    assert made.kind == INTERMEDIATE
    assert made.verdict.keep == bool(made.pieces)
    return made


def intermediate(made: Document) -> str:
    assert made.verdict.keep, made.verdict
    (first, _), (mark, text) = made.pieces
    assert (first, mark) == ("", "<code_to_intermediate>")
    assert from_content(INTERMEDIATE, to_content(INTERMEDIATE, made.pieces)) == list(made.pieces)
    return text


def needed(language: str) -> str:
    """The version of the language's compiler; skips where there is none."""
    found = available().get(language)
    if found is None:
        pytest.skip(f"no compiler for {language}: {COMMANDS[language].names[0]} is not installed")
    return found.version


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lays a script on the PATH, alone, as `clang`, which compiles by the lines given."""

    def lay(body: str, version: str = "echo fake clang 1") -> None:
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        script = folder / "clang"
        case = f'if [ "$1" = --version ]; then {version}; exit; fi'
        script.write_text(f"#!/bin/sh\n{case}\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return lay


def test_a_fake_compiler_gives_a_pair_and_its_version(fake) -> None:
    fake('echo "; $*"; echo "source_filename = \\"a\\""; echo "define i32 @f() #0 {"; echo "}"')
    assert available()["C"].version == "fake clang 1"
    assert set(available()) == {"C", "C++", "Objective-C"}
    assert intermediate(pair("int f;")) == "define i32 @f() {\n}\n"


@pytest.mark.parametrize(
    ("body", "rule", "reason"),
    [
        ("echo noise >&2; echo 'a.c:1: error: no' >&2; exit 1", "does_not_compile", "error: no"),
        ("exit 3", "does_not_compile", "exit code 3"),
        ("kill -SEGV $$", "crashed", "signal"),
        ("while :; do :; done", "timeout", "1 s"),
        ("while :; do echo 0123456789012345678901234567890123456789; done", "long", "65,536 bytes"),
        ("while :; do echo 0123456789012345678901234567890123456789 >&2; done", "long", "bytes"),
        ("echo '@a = global i32 0'", "empty", "no function"),
        ("", "empty", "no function"),
        ("echo 'LLVM ERROR: out of memory' >&2; exit 134", "memory", "bytes"),
        (
            "echo 'define void @f() {'; while [ $((n += 1)) -lt 99 ]; do echo xyz$n; done",
            "long",
            "c",
        ),
    ],
)
def test_what_a_compiler_does_is_a_verdict(fake, body: str, rule: str, reason: str) -> None:
    fake(body)
    limits = IntermediateLimits(
        seconds=1, wall_seconds=30, most_written=1 << 16, most_characters=300
    )
    verdict = pair("int f;", limits=limits).verdict
    assert verdict.rule == f"intermediate_{rule}"
    assert reason in verdict.reason


def test_a_sleeping_compiler_is_ended(fake) -> None:
    fake("read line < /dev/zero || sleep 60")  # no processor time, or much of it
    limits = IntermediateLimits(seconds=1, wall_seconds=1.5)
    assert pair("int f;", limits=limits).verdict.rule == "intermediate_timeout"


def test_a_compiler_sees_no_secrets_and_no_environment(
    fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden-words")
    monkeypatch.setenv("TOKEN_OF_MINE", "hidden-words")
    told = f"cat {secret} {Path.home()}/.bashrc /etc/passwd /proc/1/environ 2>&1; env; ls /root"
    fake(f"PATH=/usr/bin:/bin; echo 'define void @f() {{'; ({told}) 2>&1; echo '}}'")
    text = intermediate(pair("int f;"))
    assert "HOME=" in text
    assert "hidden-words" not in text
    assert "root:" not in text
    assert "TOKEN_OF_MINE" not in text


def test_without_compilers_every_program_has_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert available() == {}
    for path, code in PROGRAMS.values():
        assert pair(code, path).verdict.rule == "intermediate_no_compiler"
    assert pair("x", "a.txt").verdict.rule == "intermediate_language"
    assert pair("x", "Makefile").verdict.rule == "intermediate_language"
    assert pair(b"\xff", "a.c").verdict.rule == "intermediate_source"
    assert pair(b" " * 100_001, "a.c").verdict.rule == "intermediate_source"


def test_a_compiler_that_tells_no_version_is_not_available(fake) -> None:
    fake("echo 'define void @f() {'", version="exit 1")
    assert available() == {}


def test_languages_go_by_the_name() -> None:
    assert language_of("a/B.cpp") == language_of("a.C") == "C++"
    assert language_of("x.c") == "C"
    assert language_of("x.H") == ""
    assert set(PROGRAMS) == set(COMMANDS) == {language_of(path) for path, _ in PROGRAMS.values()}


def test_the_level_is_drawn_by_seed_and_content() -> None:
    drawn = [is_small(str(number).encode(), 7, 0.8) for number in range(5_000)]
    assert 0.78 < sum(drawn) / len(drawn) < 0.82
    assert drawn == [is_small(str(number).encode(), 7, 0.8) for number in range(5_000)]
    assert drawn != [is_small(str(number).encode(), 8, 0.8) for number in range(5_000)]
    assert is_small(b"a", 0, 1.0)
    assert not is_small(b"a", 0, 0.0)


def test_stripping_leaves_text_in_quotes_and_metadata_that_is_an_operand() -> None:
    text = """; ModuleID = 'a'
source_filename = "a"
target triple = "x"

@a = constant [9 x i8] c"; !x !0 #0", !type !7
@"f;o" = global i32 0 ; why


; Function Attrs: nounwind
define void @f() #0 !prof !3 {
  br label %b, !llvm.loop !4 ; preds = %a
  tail call void @llvm.experimental.noalias.scope.decl(metadata !5)
  %1 = call i64 @llvm.read_register.i64(metadata !1)
}
declare void @llvm.experimental.noalias.scope.decl(metadata)
attributes #0 = { "target-cpu"="x86-64" }
!llvm.ident = !{!0}
!0 = !{!"clang"}
!1 = !{!2}
!2 = !{!"rsp"}
!3 = distinct !{!3}
"""
    assert stripped(text) == (
        '@a = constant [9 x i8] c"; !x !0 #0"\n@"f;o" = global i32 0\n\n'
        "define void @f() {\n  br label %b\n"
        "  %1 = call i64 @llvm.read_register.i64(metadata !1)\n}\n"
        '!1 = !{!2}\n!2 = !{!"rsp"}\n'
    )
    assert stripped(stripped(text)) == stripped(text)


def test_stripping_is_linear_on_hostile_text() -> None:
    for hostile in ('"' * 400_001, "!a" * 200_000, ", !a" * 100_000, "#1" * 200_000, ";" * 400_000):
        stripped(hostile)
    chain = "\n".join(f"!{n} = !{{!{n + 1}}}" for n in range(50_000))
    assert stripped("call void @f(metadata !0)\n" + chain).count("\n") == 50_001


@pytest.mark.parametrize("language", PROGRAMS)
def test_a_real_compiler_gives_stripped_ir(language: str) -> None:
    needed(language)
    path, code = PROGRAMS[language]
    text = intermediate(pair(code, path))
    assert "\ndefine " in "\n" + text
    for gone in ("target triple", "target datalayout", "source_filename", "attributes #", "\n;"):
        assert gone not in text
    assert str(Path.home()) not in text
    assert "sandbox" not in text
    assert intermediate(pair(code, path)) == text


@pytest.mark.parametrize("language", ["C", "C++", "Rust"])
def test_ir_does_not_depend_on_where_it_is_made(language: str) -> None:
    needed(language)
    path, code = PROGRAMS[language]
    compilers = available()
    readable = compilers[language].readable
    room = Workshop(compilers, Sandbox("rlimits", Limits(), readable))
    elsewhere = intermediate_document(code.encode(), path, 0, LIMITS, room)
    if "cannot run" in elsewhere.verdict.reason:
        pytest.skip("the backend `rlimits` cannot reach this compiler")
    assert elsewhere == pair(code, path)


def test_small_and_fast_code_differ() -> None:
    needed("C")
    small = intermediate(pair(LOOP, limits=IntermediateLimits(size_share=1)))
    fast = intermediate(pair(LOOP, limits=IntermediateLimits(size_share=0)))
    assert len(small) < len(fast)


@pytest.mark.parametrize(
    ("path", "code", "rules"),
    [
        ("a.c", '#include "/etc/passwd"\n' + LOOP, {"does_not_compile"}),
        ("a.c", '#include "SECRET"\n' + LOOP, {"does_not_compile"}),
        ("a.c", '#include "program.c"\n', {"does_not_compile"}),
        ("a.c", '#include "/dev/zero"\n', {"empty", "does_not_compile", "timeout", "memory"}),
        ("a.c", "#pragma clang __debug crash\n" + LOOP, {"crashed"}),
        ("a.cc", "template<int N> struct A : A<N + 1> {}; A<0> a;", {"does_not_compile"}),
        ("a.rs", 'const X: &str = include_str!("/etc/passwd");', {"does_not_compile"}),
        ("a.rs", 'fn main() { print!(include_str!("SECRET")) }', {"does_not_compile"}),
        ("a.rs", 'fn main() { println!(env!("TOKEN_OF_MINE")) }', {"does_not_compile"}),
        ("a.rs", "#![feature(proc_macro)]\nfn main() {}", {"does_not_compile"}),
    ],
)
def test_hostile_programs_come_to_nothing(
    path: str, code: str, rules: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(language_of(path))
    secret = tmp_path / "secret.h"
    secret.write_text("int hidden;\n")
    monkeypatch.setenv("TOKEN_OF_MINE", "hidden")
    limits = IntermediateLimits(seconds=2, wall_seconds=60)
    verdict = pair(code.replace("SECRET", str(secret)), path, limits).verdict
    assert verdict.rule.removeprefix("intermediate_") in rules, verdict


def test_an_assembled_file_stays_text() -> None:
    needed("C")
    code = '__asm__(".incbin \\"/etc/passwd\\"");\n' + LOOP
    assert "root:" not in intermediate(pair(code))


def test_real_solutions_compile_and_llvm_reads_their_ir(data_folder: Path) -> None:
    needed("C++")
    reader = next(filter(None, map(shutil.which, ("llvm-as-14", "llvm-as"))), None)
    with gzip.open(data_folder / "humaneval_pack" / "cpp" / "humanevalpack.jsonl.gz") as lines:
        rows = [json.loads(line) for line in lines][::27]
    for row in rows:
        code = row["declaration"] + row["canonical_solution"] + row["test"]
        text = intermediate(pair(code, "a.cpp", IntermediateLimits()))
        assert "define dso_local noundef i32 @main()" in text or "@main()" in text
        if reader is not None and "clang version 14" in available()["C++"].version:
            subprocess.run([reader, "-o", "/dev/null"], input=text.encode(), check=True)
