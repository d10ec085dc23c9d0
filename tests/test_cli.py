"""What the command line makes of errors that no verb catches."""

import pytest

from cairn import cli


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError("no memory: the system refuses 7 MiB"), "no memory: the system refuses 7 MiB"),
        (MemoryError(), "no memory left"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line(error, told, monkeypatch, capsys):
    def refused(arguments):
        raise error

    monkeypatch.setattr(cli, "run_show", refused)
    assert cli.main(["show", "nothing"]) == 2
    assert capsys.readouterr().err == f"cairn: {told}\n"
