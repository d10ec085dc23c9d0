"""ScanCode beside: a process of its own that may hang or die, and says what the search says."""

import sys

import pytest

from cairn.base import UserError
from cairn.curate.licences import detect, scancode

from .fixtures.licence_texts import APACHE_NOTICE, GPL_NOTICE, bsd, mit


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
