"""Planted secrets are found, clean code stays as it is."""

import ast
import re
import sysconfig
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.curate.redact import SYNTHETIC_V4, SYNTHETIC_V6, redact

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
    "DB_PASS: kWq#92mmx\n": "DB_PASS: <PASSWORD>\n",
    "password=summer123\n": "password=<PASSWORD>\n",
    "password = coffee?80\n": "password = <PASSWORD>\n",
    'password: str = "tr0ub4dor"': 'password: str = "<PASSWORD>"',
    'env["DB_PASSWORD"] = "tr0ub4dor"': 'env["DB_PASSWORD"] = "<PASSWORD>"',
    "token = '9f8e7d6c-5b4a-3928-1706-f5e4d3c2b1a0'": "token = '<KEY>'",
    "x = 'SK" + "9f8e7d6c5b4a3928" * 2 + "'": "x = '<KEY>'",
    "x = '" + "9f8e7d6c5b4a3928" * 2 + "-us7'": "x = '<KEY>'",
    "x = 'sq0csp-" + "aB3-" * 10 + "xyz'": "x = '<KEY>'",
    "x = 'MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ." + "ZnCjm1XVW7vRze4b7Cq4se7kKWs" + "'": "x = '<KEY>'",
    "https://hooks.slack.com/services/T0AB/B0CD/" + "aZ4q" * 6: (
        "https://hooks.slack.com/services/<KEY>"
    ),
    "//npm.corp.io/:_authToken=9f8e7d6c-5b4a-3928-1706-f5e4": "//npm.corp.io/:_authToken=<KEY>",
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
    "git@github.com:owner/repo.git",
    "'1.2.3.4'",
    "// 7.18.1.4 Integer types",
    "http://99.99.99.99:80",
    "password1_field_name='password1'",
    "password = uint64\npassword: sha256\npwd=/home/ann1\npasswd = self.passwd2\n",
    "token = 'changeme-0123456789'",
    "secret: 0123456789abcdef0123456789abcdef",
    "Ed25519PrivateKey = ed25519.Ed25519PrivateKey",
    "-----BEGIN RSA PRIVATE KEY-----\n" + "X" * 64 + "\n-----END RSA PRIVATE KEY-----",
    "sha256 = '9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0'",
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


def test_a_replacement_is_the_same_in_every_file_and_all_are_taken():
    addresses = [f"93.184.216.{n}" for n in range(100, 200)]
    together = redact(" ".join(addresses))[0].split(" ")
    assert together == [redact(f"in another file: {one}")[0].split(": ")[1] for one in addresses]
    assert set(together) == set(SYNTHETIC_V4)
    six = [f"2a00:1450:4001:81b::{n:x}" for n in range(100, 200)]
    together = redact("\n".join(six))[0].split("\n")
    assert together == [redact(f"at {one} it is")[0].split(" ")[1] for one in six]
    assert set(together) == set(SYNTHETIC_V6)
    assert redact("2A00:1450:4001:081B::64") == redact("2a00:1450:4001:81b::64"), "one address"


FRAGMENTS = [
    *SECRETS,
    *SECRETS.values(),
    *CLEAN,
    *("93.184.216.34", "2a00:1450:4001:81b::200e", "jane.doe@corp-mail.io", "AKIAIOSFODNN7ABCDEFQ"),
    *("", "\n", " ", ":", "@", "/", "-", "_", ".", "=", "'", '"', "://", "x", "1", "<", ">", "é"),
    *("password=", "password: '", 'token = "', "secret", "AccountKey=", "Authorization: Bearer "),
    *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "<KEY>", "<EMAIL>"),
]


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=9).map("".join))
def test_what_was_redacted_stays(text: str):
    once, counts = redact(text)
    assert bool(counts) == (once != text)
    assert redact(once) == (once, {})


def test_what_touches_a_secret_is_found_once_that_is_gone():
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIEow" * 20 + "\n-----END PRIVATE KEY-----"
    assert redact("AKIAIOSFODNN7ABCDEFQ" + key) == ("<KEY><KEY>", {"key": 2})


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
        assert redact(found) == (found, {})
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
        ".1" * 2_000_000,
        "11:" * 1_300_000,
        ":" * 4_000_000,
        ":a:" * 1_300_000,
        ".abcdef" * 570_000,
        "M" * 25 + ".abcdef" * 570_000,
        "-us1" * 1_000_000,
        "hooks.slack.com/services/" * 160_000,
        ":_authToken=" * 330_000,
        "token=" * 660_000,
        "password = '" * 330_000,
        "password = aaa" * 280_000,
        "pass: " * 660_000,
        "-----BEGIN PRIVATE KEY-----" + "A" * 31 + " -----END PRIVATE KEY-----" * 150_000,
        "-----BEGIN PRIVATE KEY-----" + ("A" * 31 + " ") * 120_000,
        ("AKIA" + "A" * 16) * 200_000,
    ],
    ids=lambda text: f"{text[:8]!r}{len(text)}",
)
def test_hostile_text_takes_linear_time(text: str):
    begin = time.process_time()
    redact(text)
    assert time.process_time() - begin < 8
