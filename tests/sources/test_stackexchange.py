"""Dumps of Stack Exchange: posts of a file become questions with their answers."""

import gzip
import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from cairn.base import UserError
from cairn.sources.record import SourceFile
from cairn.sources.spec import parse
from cairn.sources.stackexchange import OPTIONS, read
from cairn.sources.swhid import content_hash

HEAD = '\ufeff<?xml version="1.0" encoding="utf-8"?>\n'


def row(identifier: int, kind: int, body: str = "<p>x</p>", **more: object) -> str:
    names = {"Id": identifier, "PostTypeId": kind, "Body": body, "Score": 1, "OwnerUserId": 7}
    told = " ".join(f"{key}={quoteattr(str(value))}" for key, value in (names | more).items())
    return f"  <row {told} />\n"


def records(path: Path, most: int = 10**6, **options: str) -> list[SourceFile]:
    query = "&".join(f"{key}={value}" for key, value in options.items())
    spec = parse(f"stackexchange:{path}?{query}", {"stackexchange": OPTIONS})
    return list(read(spec, max_bytes=most))


def write(path: Path, *rows: str, end: str = "</posts>") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "<posts>\n" + "".join(rows) + end, encoding="utf-8")
    return path


def test_answers_come_to_their_questions(tmp_path: Path):
    licence = "CC BY-SA 4.0"
    write(
        tmp_path / "a.example.com" / "Posts.xml",
        row(12, 2, "<p>late &amp; good</p>", ParentId=1, Score=-3, ContentLicense=licence),
        row(1, 1, "why?", Title="T", Tags="<c>", AcceptedAnswerId=12, ContentLicense=licence),
        row(3, 1, "alone"),
        row(4, 5, "a tag's page"),
        row(11, 2, "first", ParentId=1),
        row(11, 2, "first again", ParentId=1),
        row(13, 2, "orphan", ParentId=99),
    )
    one, three = records(tmp_path)
    assert one.raw is not None
    assert json.loads(one.raw) == {
        "site": "a.example.com",
        "question": {
            **{"id": 1, "body": "why?", "score": 1, "user": "7", "date": "", "tags": "<c>"},
            **{"licence": licence, "title": "T", "accepted": 12},
        },
        "answers": [
            {"id": 11, "body": "first", "score": 1, "user": "7", "date": "", "licence": ""},
            {
                **{"id": 12, "body": "<p>late &amp; good</p>", "score": -3, "user": "7"},
                **{"date": "", "licence": licence},
            },
        ],
    }
    assert one.kind == "answers"
    assert one.content_id == content_hash(one.raw)
    assert one.detected_licenses == ("CC-BY-SA-4.0",)
    assert one.origin.repo_name == "a.example.com"
    assert one.origin.origin_url == "https://a.example.com/questions/1"
    assert three.path == "questions/3"
    few = records(tmp_path, most=200)
    assert [(file.raw is None, file.length_bytes) for file in few] == [
        (True, len(one.raw)),
        (False, three.length_bytes),
    ]


def test_packed_and_named(tmp_path: Path):
    plain = write(tmp_path / "Posts.xml", row(1, 1))
    packed = tmp_path / "x" / "Posts.xml.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    (found,) = records(packed, site="cairn.example.org")
    assert found.origin.repo_name == "cairn.example.org"


@pytest.mark.parametrize(
    ("rows", "end", "said"),
    [
        ([row(1, 1), row(2, 1)], "  <row Id=", "is damaged"),
        ([row(1, 1), row(2, 1), "<row Id='x' PostTypeId='1'/>"], "</posts>", "has the Id 'x'"),
        ([row(1, 1), row(2, 1), "<a>"], "</posts>", "mismatched tag"),
    ],
)
def test_damage_is_told_and_what_is_before_it_stays(
    tmp_path: Path, rows: list[str], end: str, said: str
):
    broken, *rest = records(write(tmp_path / "s" / "Posts.xml", *rows, end=end))
    assert said in (broken.problem or "")
    assert [one.path for one in rest] == ["questions/1", "questions/2"]


def test_entities_are_refused(tmp_path: Path):
    path = tmp_path / "Posts.xml"
    path.write_text(
        '<!DOCTYPE posts [<!ENTITY a "aaaa"><!ENTITY b SYSTEM "file:///etc/passwd">]>'
        '<posts><row Id="1" PostTypeId="1" Body="&a;"/></posts>'
    )
    (found,) = records(path)
    assert "declares a document type" in (found.problem or "")


def test_mistakes_are_told_before_anything_is_read(tmp_path: Path):
    (tmp_path / "x.7z").touch()
    for path, said in (("gone", "does not exist"), ("x.7z", "is packed"), ("", "holds no Posts")):
        spec = parse(f"stackexchange:{tmp_path / path}", {"stackexchange": OPTIONS})
        with pytest.raises(UserError, match=said):
            read(spec, max_bytes=1)
