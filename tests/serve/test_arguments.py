"""The options of `cairn serve`, as far as to the engine; and what is refused before it loads."""

from types import SimpleNamespace

import pytest

from cairn.base import UserError
from cairn.cli import main
from cairn.serve import Keys
from cairn.serve import server as serving


@pytest.fixture
def engines(monkeypatch):
    """What each engine is made with; none is made."""
    made: list[dict] = []

    def engine(folder, **given):
        made.append(given)
        return SimpleNamespace(
            close=lambda: None, slots=1, capacity=1, lost=None, when_lost=lambda hears: None
        )

    monkeypatch.setattr(serving, "Engine", engine)
    monkeypatch.setattr(serving, "create_app", lambda *given, **more: None)
    monkeypatch.setattr(serving, "log_to", lambda: None)
    quiet = SimpleNamespace(run=lambda sockets: None, lose=None, refuse_failed=lambda: None)
    monkeypatch.setattr(serving, "Server", lambda *given: quiet)
    return made


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    return str(tmp_path)


def test_options_of_memory_reach_the_engine(engines, folder, tmp_path):
    options = ["--host-cache", "2GB", "--every", "512", "--cache", str(tmp_path / "kept")]
    options += ["--cache-size", "1.5GiB", "--state", "int8", "--memory", "512MiB"]
    assert main(["serve", folder, "--port", "0", *options]) == 0
    (given,) = engines
    caching = given["caching"]
    assert (caching.host_bytes, caching.every) == (2 * 10**9, 512)
    assert (str(caching.disk), caching.disk_bytes) == (str(tmp_path / "kept"), 3 * 2**29)
    assert (given["state_dtype"], given["memory"]) == ("int8", 2**29)


def test_without_options_the_engine_has_its_own_defaults(engines, folder):
    assert main(["serve", folder, "--port", "0"]) == 0
    (given,) = engines
    assert (given["caching"].host_bytes, given["caching"].every) == (0, None)
    assert given["caching"].disk_bytes == 16 * 2**30
    assert given["state_dtype"] is given["memory"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache-size", "1GB"], "--cache-size=1000000000: bounds nothing; add --cache DIR"),
        (["--invariant", "--every", "64"], "--invariant=True: keeps no prefixes"),
        (["--invariant", "--host-cache", "1GB"], "--invariant=True: keeps no prefixes"),
        (["--draft", "x"], "--draft='x': guesses nothing"),
    ],
)
def test_options_that_contradict_each_other(engines, folder, capsys, options, message):
    assert main(["serve", folder, "--port", "0", *options]) == 2
    assert message in capsys.readouterr().err
    assert not engines


def test_a_size_that_is_none(folder, capsys):
    with pytest.raises(SystemExit):
        main(["serve", folder, "--memory", "much"])
    assert "write 2GB or 512MiB" in capsys.readouterr().err


def test_what_cannot_be_served_is_told_before_a_model_is_loaded(engines, folder, tmp_path):
    admin = Keys(["the-key-of-the-admin"])
    with pytest.raises(UserError, match="needs admin keys"):
        serving.serve(folder, port=0, weights=folder)
    with pytest.raises(UserError, match="is no folder"):
        serving.serve(folder, port=0, weights=tmp_path / "none", admin_keys=admin)
    with pytest.raises(UserError, match="index"):
        serving.serve(folder, port=0, attribution=tmp_path / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="tokenizer"):
        serving.serve(folder, port=0, more={"other": tmp_path / "bare"})
    assert not engines
