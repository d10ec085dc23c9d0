"""A checkpoint in the terminal, without HTTP: `cairn generate` and `cairn chat`, as text comes."""

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from cairn.base import UserError
from cairn.engine import Completion, Delta

Arguments = argparse.Namespace


def generate(arguments: Arguments, shortest: int) -> None:
    """One completion, printed while it is drawn; as JSON in one piece. Runs of it are traced from
    `shortest` bytes on."""
    from cairn.base.tables import matches_list
    from cairn.engine import Engine, SamplingParams

    params = SamplingParams(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    if arguments.trace:
        from cairn.tokens.provenance import find_index

        find_index(arguments.checkpoint)  # before the work, not after it
    engine = Engine(arguments.checkpoint)
    deltas = engine.stream(arguments.prompt, params, suffix=arguments.suffix)
    done = _written(deltas, shown=not arguments.json)
    result: dict[str, Any] = {"text": done.text, "finish_reason": done.finish_reason}
    result["tokens"] = list(done.tokens)
    if arguments.trace:
        from cairn.tokens.provenance import origins_of_text

        result["origins"] = origins_of_text(arguments.checkpoint, done.text, minimum=shortest)
    if arguments.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    elif arguments.trace:
        print("\nWhere runs of it stand in the training data:")
        matches_list(result["origins"], shortest)


def chat(arguments: Arguments) -> None:
    """Turn by turn, until an empty line, Ctrl-D or Ctrl-C at the prompt; Ctrl-C ends an answer."""
    from cairn.engine import Engine, SamplingParams
    from cairn.tokens.chat import prompt_ids
    from cairn.tokens.sentinels import END_OF_TURN
    from cairn.tokens.templates import template_of

    engine = Engine(arguments.checkpoint)
    if engine.tokenizer is None:
        raise UserError(f"{arguments.checkpoint} has no tokenizer: chat needs one")
    params = SamplingParams(max_tokens=arguments.max_tokens, temperature=arguments.temperature)
    template = None if engine.tokenizer.has(END_OF_TURN) else template_of(engine.tokenizer)
    messages: list[dict[str, str]] = []
    while said := _asked():
        messages.append({"role": "user", "content": said})
        if template is None:
            prompt = prompt_ids(messages, engine.tokenizer)
        else:
            prompt, _ = template.prompt(messages, None)
        print(f"{arguments.checkpoint.resolve().name}> ", end="", flush=True)
        try:
            text = _written(engine.stream(prompt, params)).text
        except KeyboardInterrupt:  # of this answer: the conversation goes on without it
            print(" (stopped)", flush=True)
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": text})


def _asked() -> str:
    """The person's next message; none at the end of the input."""
    try:
        said = input("you> ")
    except (EOFError, KeyboardInterrupt):
        print()  # the shell's prompt on a line of its own
        return ""
    return said if said.strip() else ""


def _written(deltas: Iterable[Delta], shown: bool = True) -> Completion:
    """The completion whose deltas these are, written out on the way."""
    done = None
    for delta in deltas:
        if shown and delta.text:
            sys.stdout.write(delta.text)
            sys.stdout.flush()
        done = delta.completion or done
    assert done is not None
    if shown:
        print(flush=True)
    if done.finish_reason == "error":
        raise UserError("the model's logits are not numbers here: its weights may be damaged")
    return done
