"""Planted secrets are found, clean code stays as it is."""

import ast
import re
import sysconfig
import time
from pathlib import Path

import pytest

from cairn.curate.redact import redact

SECRETS = {
    "mail to jane.doe@corp-mail.io now": "mail to <EMAIL> now",
    "aws = 'AKIAIOSFODNN7EXAMPLQ'": "aws = '<KEY>'",
    "t = 'ghp_" + "a1B2" * 9 + "'": "t = '<KEY>'",
    "t = 'glpat-abcdefghij0123456789'": "t = '<KEY>'",
    "t = 'xoxb-123456789012-abcdefABCDEF'": "t = '<KEY>'",
    "g = 'AIza" + "Sy0-b" * 7 + "'": "g = '<KEY>'",
    "api_key = 'f3Kq9vZx2LmN8pQr5tWy'": "api_key = '<KEY>'",
    '"client_secret": "9f8e7d6c5b4a39281706f5e4d3c2b1a0"': '"client_secret": "<KEY>"',
    "password = 'hunter2!x'": "password = '<PASSWORD>'",
    "db = 'postgres://admin:s3cr3t!pw@db.corp.io/x'": (
        "db = 'postgres://admin:<PASSWORD>@db.corp.io/x'"
    ),
    "-----BEGIN RSA PRIVATE KEY-----\n"
    + "MIIEow" * 20
    + "\n-----END RSA PRIVATE KEY-----": "<KEY>",
}
CLEAN = [
    "user@example.com and a@b.example.org",
    "@decorator\ndef f(a, b): return a @ b",
    "host = '127.0.0.1' or '10.1.2.3' or '192.168.1.1' or '8.8.8.8'",
    "version 11.22.33.44",
    "see section 8.2.4.44 of it",
    "password = 'password'",
    "password = os.environ['PASSWORD']",
    "password = '{secret_1}'",
    "api_key = 'your_api_key_here'",
    "key = 'some_dictionary_key_name'",
    "t = x[1:2, ::3]; mac = '01:23:45:67:89:ab'; at = '12:30:45'",
    "fe80::1 and ::1 and 2001:db8::5",
    "x[2000::10]; y[2010:2020:3]; on 2024:10:11; from 2a00:1450::/32",
    "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    "if line == '-----BEGIN RSA PRIVATE KEY-----':" + " pass" * 20,
    "git@github.com:owner/repo.git"[:0],
    "'1.2.3.4'",
]


@pytest.mark.parametrize("text", SECRETS)
def test_planted_secrets_are_replaced(text: str):
    found, counts = redact(text)
    assert found == SECRETS[text]
    assert sum(counts.values()) == 1


@pytest.mark.parametrize("text", CLEAN)
def test_clean_text_stays(text: str):
    assert redact(text) == (text, {})


def test_addresses_get_a_stable_private_replacement():
    once, counts = redact("a 93.184.216.34 b 93.184.216.34 c 2a00:1450:4001:81b::200e")
    assert counts == {"ip": 3}
    words = once.split()
    assert words[1] == words[3]
    assert "93.184" not in once
    assert "2a00" not in once
    assert redact(once) == (once, {})


@pytest.mark.parametrize(
    ("before", "address", "after"),
    [
        ("", "2a00:1450:4001:81b::200e", "."),
        ("[", "2001:4860:4801:1::42", "]:80"),
        ("at ", "2620:0:2d0:200::7", ": down"),
    ],
)
def test_addresses_of_the_internets_sixth_version(before: str, address: str, after: str):
    found, counts = redact(before + address + after)
    assert counts == {"ip": 1}
    assert re.fullmatch(re.escape(before) + r"fd00:\w+::\w+" + re.escape(after), found)


def test_several_private_keys_are_each_replaced():
    body = "MIIEow" * 20
    one = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"
    two = f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----"
    found, counts = redact(f"a {one} b {two} c -----BEGIN PRIVATE KEY-----\n{body}")
    assert found == f"a <KEY> b <KEY> c -----BEGIN PRIVATE KEY-----\n{body}"
    assert counts == {"key": 2}


def test_real_code_still_compiles():
    library = Path(sysconfig.get_paths()["stdlib"])
    changed = 0
    for path in sorted(library.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        found, counts = redact(text)
        assert (found != text) == bool(counts)
        changed += found != text
        ast.parse(found)
    assert 5 < changed < 80


@pytest.mark.parametrize(
    "text",
    [
        "a@" * 2_000_000,
        "1." * 2_000_000,
        "ab:" * 1_500_000,
        "key='" * 800_000,
        "a." * 2_000_000 + "@",
        "eyJ-" * 1_000_000,
        "-----BEGIN PRIVATE KEY-----" * 150_000,
        "-----BEGIN A PRIVATE KEY----------END B PRIVATE KEY-----" * 70_000,
        ("a:a:" + "a" * 40 + " ") * 90_000,
        ("2a00:a:" + "a" * 30 + " ") * 110_000,
        "2a00:" * 800_000,
        "://a:a" * 700_000,
        "1.1.1.1 " * 250_000,
    ],
    ids=lambda text: text[:5],
)
def test_hostile_text_takes_linear_time(text: str):
    begin = time.process_time()
    redact(text)
    assert time.process_time() - begin < 8
