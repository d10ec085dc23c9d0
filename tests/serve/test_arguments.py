"""The options of `cairn serve`, as far as to the engine; and what is refused before it loads."""

import pytest

from cairn.base import UserError
from cairn.cli import main
from cairn.serve import Keys
from cairn.serve import server as serving


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    return str(tmp_path)


def test_options_of_memory_reach_the_engine(made, folder, tmp_path):
    options = ["--host-cache", "2GB", "--every", "512", "--cache", str(tmp_path / "kept")]
    options += ["--cache-size", "1.5GiB", "--state", "int8", "--memory", "512MiB"]
    assert main(["serve", folder, "--port", "0", *options]) == 0
    (given,) = made.engines
    caching = given["caching"]
    assert (caching.host_bytes, caching.every) == (2 * 10**9, 512)
    assert (str(caching.disk), caching.disk_bytes) == (str(tmp_path / "kept"), 3 * 2**29)
    assert (given["state_dtype"], given["memory"]) == ("int8", 2**29)


def test_without_options_the_engine_has_its_own_defaults(made, folder):
    assert main(["serve", folder, "--port", "0"]) == 0
    (given,) = made.engines
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
def test_options_that_contradict_each_other(made, folder, capsys, options, message):
    assert main(["serve", folder, "--port", "0", *options]) == 2
    assert message in capsys.readouterr().err
    assert not made.engines


def test_a_size_that_is_none(folder, capsys):
    with pytest.raises(SystemExit):
        main(["serve", folder, "--memory", "much"])
    assert "write 2GB or 512MiB" in capsys.readouterr().err


def test_what_cannot_be_served_is_told_before_a_model_is_loaded(made, folder, tmp_path):
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
    assert not made.engines
