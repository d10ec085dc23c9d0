"""`cairn generate` and `cairn chat` on a terminal: text as it comes, one line for a mistake."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.cli import main
from cairn.engine import Engine, SamplingParams
from cairn.model import load, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, words) -> Path:
    """A checkpoint."""
    found = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(model, found)
    words.save(found)
    return found


def test_a_completion_is_written_as_it_comes(folder, words, capsys, monkeypatch):
    command = ["generate", str(folder), "--prompt", "def f(", "--max-tokens", "12"]
    assert main([*command, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    expected = Engine(folder).generate(["def f("], SamplingParams(max_tokens=12, temperature=0))[0]
    assert (whole["text"], whole["tokens"]) == (expected.text, expected.tokens)
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", lambda text: written.append(text))
    assert main(command) == 0
    assert "".join(written) == whole["text"] + "\n"
    assert len(written) > 3


def test_a_conversation_goes_on_until_an_empty_line(folder, capsys, monkeypatch):
    said: Iterator[str] = iter(["hello", "again", ""])
    prompts: list[list[int]] = []
    plain = Engine.stream

    def stream(engine: Engine, prompt: list[int], *rest: object) -> object:
        prompts.append(prompt)
        if len(prompts) == 1:
            raise KeyboardInterrupt
        return plain(engine, prompt, *rest)

    monkeypatch.setattr("builtins.input", lambda _: next(said))
    monkeypatch.setattr(Engine, "stream", stream)
    assert main(["chat", str(folder), "--max-tokens", "4"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("tiny>  (stopped)\ntiny> ")
    assert len(prompts[1]) == len(prompts[0])  # the answer that was stopped is no part of it


@pytest.mark.parametrize("error", [EOFError, KeyboardInterrupt])
def test_the_end_of_the_input_ends_a_conversation(folder, capsys, monkeypatch, error):
    def end(_: str) -> str:
        raise error

    monkeypatch.setattr("builtins.input", end)
    assert main(["chat", str(folder)]) == 0
    assert capsys.readouterr().out == "\n"


def test_weights_that_are_no_numbers_are_told(folder, tmp_path, capsys):
    broken = load(folder, mapped=False)
    next(broken.parameters()).data.fill_(float("nan"))
    save(broken, tmp_path / "nan")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            shutil.copy(folder / name, tmp_path / "nan" / name)
    assert main(["generate", str(tmp_path / "nan"), "--prompt", "x"]) == 2
    assert "not numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["generate", "x"], "required: --prompt"),
        (
            ["generate", "x", "--prompt", "y", "--max-tokens", "many"],
            "many is not a positive whole number",
        ),
        (["serve", "x", "--slots", "0"], "0 is not a positive"),
        (["serve", "x", "--grace", "-1"], "-1 is no number of seconds"),
        (["serve", "x", "--grace", "nan"], "nan is no number of seconds"),
        (["serve", "x", "--queue", "9" * 5000], "is not a positive whole number"),
        (["serve", "x", "--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(capsys, options, said):
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "--help" in told


def test_files_and_names_that_cannot_be_are_told(folder, tmp_path, capsys):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00" * 20)
    for options, said in (
        (["--keys", str(tmp_path / "none")], "No such file"),
        (["--keys", str(tmp_path / "bytes")], "it is no text"),
        (["--keys", str(tmp_path)], "directory"),
        (["--also", f"a={folder}", "--also", f"a={folder}"], "two models"),
    ):
        assert main(["serve", str(folder), "--port", "0", *options]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1


def test_an_interrupted_completion_does_not_promise_to_go_on(folder):
    code = (
        "import sys; from cairn.engine import Engine; from cairn.cli import main\n"
        "def stop(*_, **__): raise KeyboardInterrupt\n"
        "Engine.stream = stop\n"
        f"sys.exit(main(['generate', {str(folder)!r}, '--prompt', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "cairn: interrupted\n")
