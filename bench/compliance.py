"""The server beside the tools of others: schemathesis looks for 500s, lm-eval scores through HTTP.

One JSON line per tool. `cairn serve` runs a tiny model of random weights (or `--checkpoint`) in its
own process on loopback. schemathesis sends what the server's own OpenAPI description allows, and
what it does not, and counts answers of 500 and more. lm-eval (`local-completions`, with the
server's own tokenizer) answers multiple-choice questions about the standard library, which line
comes next, and the engine answers the same in this process, to compare. A tool that is not
installed is named as missing. Both want other versions than cairn's environment has:

    python -m venv tools && tools/bin/pip install schemathesis 'lm-eval[api]'
    python bench/compliance.py --tools tools/bin [--checkpoint FOLDER] [--questions 40]
"""

import argparse
import inspect
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from soak import Served, checkpoint, free_port

from cairn.engine import Engine, SamplingParams

PATIENCE = 300  # seconds for one tool
TASK = """task: next_line
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def questions(count: int) -> list[dict[str, Any]]:
    """Eight lines of a standard module, and four lines of which one is the next."""
    lines = [line for line in inspect.getsource(textwrap).splitlines() if line.strip()]
    unlike = list(dict.fromkeys(lines))
    draws = random.Random(0)
    found = []
    for _ in range(count):
        place = draws.randrange(8, len(lines))
        wrong = draws.sample([line for line in unlike if line != lines[place]], 3)
        given = [*wrong, lines[place]]
        draws.shuffle(given)
        context = "\n".join(lines[place - 8 : place])  # templates drop a newline at their end
        answer, choices = given.index(lines[place]), [f"\n{line}" for line in given]
        found.append({"context": context, "choices": choices, "answer": answer})
    return found


def asked_directly(folder: Path, asked: list[dict[str, Any]]) -> list[int]:
    """Which choice the engine finds likeliest, question by question, of the tokens lm-eval sends:
    the context's own (blank space at its end counts to the choice), then what the context with the
    choice has beyond that many. Where a token spans the seam (`.` and a newline are one), a choice
    lacks its beginning, there as here."""
    engine = Engine(folder)
    assert engine.tokenizer is not None
    encode = engine.tokenizer.encode
    params = SamplingParams(max_tokens=0, prompt_logprobs=0)
    chosen = []
    for question in asked:
        context = encode(question["context"].rstrip())
        wholes = [encode(question["context"] + choice) for choice in question["choices"]]
        sent = [context + whole[len(context) :] for whole in wholes]
        scores = []
        for done in engine.generate(sent, params):
            assert done.prompt_logprobs is not None
            scores.append(sum(score or 0.0 for score in done.prompt_logprobs[len(context) :]))
        chosen.append(scores.index(max(scores)))
    return chosen


def schemathesis(tool: str, url: str, cases: int) -> dict[str, Any]:
    """How many cases it sent, and how many of them the server failed at."""
    command = [tool, "run", f"{url}/openapi.json", "--checks", "not_a_server_error"]
    command += ["--max-examples", str(cases), "--seed", "1", "--no-color", "--workers", "2"]
    with tempfile.TemporaryDirectory() as work:  # it leaves its notes where it runs
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    counted = re.search(r"(\d+) generated", done.stdout)
    failed = re.search(r"(\d+) found (\d+) unique failures", done.stdout)
    return {
        "status": done.returncode,
        "cases": int(counted[1]) if counted else None,
        "failed": int(failed[1]) if failed else 0,
        "last": done.stdout.splitlines()[-6:] if done.returncode else None,
    }


def lm_eval(tool: str, served: Served, folder: Path, count: int, work: Path) -> dict[str, Any]:
    """Accuracy through HTTP and in this process."""
    asked = questions(count)
    data = work / "questions.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    (work / "next_line.yaml").write_text(TASK.format(questions=data), encoding="utf-8")
    options = {
        "model": served.name,
        "base_url": f"{served.url}/v1/completions",
        "tokenizer_backend": "remote",
        "num_concurrent": 4,
        "max_length": 1024,
    }
    command = [tool, "run", "--model", "local-completions", "--tasks", "next_line"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in options.items())]
    command += ["--include_path", str(work), "--output_path", str(work / "scores")]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(work / "cache")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=offline, check=False
    )
    found = list((work / "scores").rglob("results*.json"))
    if done.returncode or not found:
        return {"status": done.returncode, "last": done.stderr.splitlines()[-6:]}
    scores = json.loads(found[0].read_text(encoding="utf-8"))["results"]["next_line"]
    chosen = asked_directly(folder, asked)
    right = [mine == one["answer"] for mine, one in zip(chosen, asked, strict=True)]
    mine = sum(right) / len(right)
    return {"status": 0, "questions": count, "over_http": scores["acc,none"], "directly": mine}


def main() -> None:
    """Both tools, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="of this model, not of random weights")
    parser.add_argument("--tools", type=Path, help="the folder of their commands")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--cases", type=int, default=100, help="of each endpoint, at most")
    arguments = parser.parse_args()
    path = None if arguments.tools is None else str(arguments.tools.resolve())

    def say(tool: str, found: dict[str, Any]) -> None:
        print(json.dumps({"bench": "compliance", "tool": tool, **found}), flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = arguments.checkpoint or Path(name) / "tiny"
        if arguments.checkpoint is None:
            checkpoint(folder)
        served = Served(folder, free_port())
        try:
            for tool in ("schemathesis", "lm_eval"):
                command = shutil.which(tool, path=path)
                if command is None:
                    say(tool, {"missing": f"no command {tool} in {path or '$PATH'}"})
                elif tool == "schemathesis":
                    say(tool, schemathesis(command, served.url, arguments.cases))
                else:
                    counts = arguments.questions
                    say(tool, lm_eval(command, served, folder, counts, Path(name)))
            assert served.state(), "the server is gone"
        finally:
            served.process.terminate()
            served.process.wait(30)


if __name__ == "__main__":
    main()
