"""Manual pages, made ones and those of this machine, held against groff."""

import gzip
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from cairn.curate.documents import DocumentationLimits, documentation_document
from cairn.curate.documents.manual import manual_text

GROFF = "groff -K utf8 -t -mandoc -Tutf8 -P-c -rLL=10000n -rLT=10000n -rHY=0"
INSTALLED = Path("/usr/share/man")

MAN = r"""'\" t
.\" a comment
.TH LS 1 "May 2022" GNU
.ie \n(.g .ds Aq \(aq
.el       .ds Aq '
.de XX
not shown
..
.SH NAME
ls \- list \fBdirectory\fR con\&tents \" hidden
.SH SYNOPSIS
.B ls
[\fI\,OPTION\/\fR]... it\*(Aqs
.SS "A part"
.TP
.BR \-a ", " \-\-all
do not ignore
.IP \(bu 2
one
.if t not here
.nf
if (a)
    b("x\en");

c
.fi
.PP
Gr\[u00FC]\(ss e
.UR http://x.org
me
.UE .
"""
MAN_TEXT = r"""# LS(1)

## NAME

ls - list directory contents

## SYNOPSIS

ls [OPTION]... it's

### A part

-a, --all

do not ignore

• one

```
if (a)
    b("x\n");

c
```

Grüß e me <http://x.org>.
"""

MDOC = r""".Dd May 1, 2022
.Dt CAT 1
.Os
.Sh NAME
.Nm cat
.Nd print files
.Sh SYNOPSIS
.Nm
.Op Fl be Ar file ...
.In stdio.h
.Ft int
.Fn main "int c" "char **v"
.Sh DESCRIPTION
The
.Nm
utility reads
.Pq see Xr ls 1 ,
.Ql x ;
.Ar a Ns = Ns Ar b .
.Bl -tag -width x
.It Fl b , Fl -bytes
Count.
.El
.Bd -literal
a
  b
.Ed
"""
MDOC_TEXT = """# CAT(1)

## NAME

cat – print files

## SYNOPSIS

cat [-be file ...]

#include <stdio.h>

int

main(int c, char **v)

## DESCRIPTION

The cat utility reads (see ls(1)), ‘x’; a=b.

-b, --bytes

Count.

```
a
  b
```
"""


@pytest.mark.parametrize(("page", "text"), [(MAN, MAN_TEXT), (MDOC, MDOC_TEXT)])
def test_a_page_becomes_text(page: str, text: str):
    document = documentation_document(page.encode(), "man1/x.1", DocumentationLimits())
    assert document.verdict.keep
    assert document.pieces == (("", text),)


def test_an_old_page_is_latin_1_and_one_without_macros_is_none():
    limits = DocumentationLimits(min_characters=1)
    page = documentation_document(b".SH N\xe4\n", "a.1", limits)
    assert page.pieces[0][1] == "## Nä\n"
    assert documentation_document(b"plain\n" * 50, "a.1", limits).verdict.rule == (
        "documentation_damaged"
    )


def pages(wanted: str, most: int) -> list[str]:
    found = sorted(INSTALLED.glob("man[1-8]/*.gz"))
    random.Random(1).shuffle(found)
    texts: list[str] = []
    for path in found[: 4000 if wanted == "mdoc" else 400]:
        with gzip.open(path) as file:
            raw = file.read(60_001)
        mdoc = re.search(rb"^\.\s?(?:Dd|Sh)\s", raw, re.MULTILINE) is not None
        if len(raw) > 60_000 or raw.startswith(b".so ") or mdoc != (wanted == "mdoc"):
            continue
        texts.append(raw.decode("utf-8", "replace"))
        if len(texts) == most:
            break
    return texts


def of_groff(text: str) -> str:
    made = subprocess.run(GROFF.split(), input=text.encode(), capture_output=True).stdout
    lines = re.sub(r".\x08", "", made.decode("utf-8", "replace")).split("\n")
    return "\n".join([line for line in lines if line.strip()][1:-1])  # between head and foot


@pytest.mark.parametrize(
    ("wanted", "missing", "more"), [("man", 0.002, 0.01), ("mdoc", 0.02, 0.02)]
)
def test_real_pages_have_the_words_that_groff_prints(wanted: str, missing: float, more: float):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    found = pages(wanted, 40)
    if len(found) < 20:
        pytest.skip("few manual pages are installed")
    total = lacking = added = 0
    for page in found:
        ours = Counter(re.findall(r"\w+", manual_text(page), re.ASCII))
        theirs = Counter(re.findall(r"\w+", of_groff(page), re.ASCII))
        total += theirs.total()
        lacking += (theirs - ours).total()
        added += (ours - theirs).total()
    assert total > 10_000
    assert lacking < missing * total
    assert added < more * total  # our head has the name


@pytest.mark.parametrize(
    "hostile",
    [
        "\\f[" * 300_000,
        '.B "' * 200_000,
        '.B "a""' * 200_000,
        ".if n " * 200_000,
        ".if t \\{\n" * 100_000,
        ".de x\n" * 100_000,
        ".ds a " + "x" * 300 + "\n" + "\\*a\n" * 50_000,
        ".ds a \\*a\\*a\n" * 50_000,
        "\\" * 500_000,
        ".nf\n" + "`" * 300_000,
        ".Sh X\n.Op " + "Op " * 100_000,
        ".Sh X\n.Fl " + "Fl " * 100_000 + "x",
        ".Sh X\n" + ".Bd -literal\n" * 50_000,
        ".TS\n" * 100_000,
        "\\h'" * 200_000,
        ".IP " + "\\ " * 200_000,
        ". " + " " * 500_000 + "x",
        ". \t" * 200_000,
    ],
    ids=lambda text: repr(text[:10]),
)
def test_hostile_pages_take_linear_time(hostile: str):
    start = time.process_time()
    made = manual_text(".TH X 1\n" + hostile)
    assert time.process_time() - start < 6.0
    assert len(made) < 60 * len(hostile)
