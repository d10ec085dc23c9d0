"""Names, user names and secrets by a token classifier, as StarCoder2 (arXiv 2402.19173) found them.

The classifier is any local folder that transformers reads and whose labels are those of StarPII
(NAME, EMAIL, KEY, PASSWORD, IP_ADDRESS, USERNAME; with or without B- and I-). Its weights must be
safetensors, and code that lies beside them is never run.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from cairn.base import UserError
from cairn.curate.redact import EMAIL, IP, KEY, PASSWORD, Find, private_replacement, redact
from cairn.curate.secrets import looks_gibberish

NAME, USERNAME = "name", "username"
LABELS = {
    "NAME": NAME,
    "EMAIL": EMAIL,
    "KEY": KEY,
    "PASSWORD": PASSWORD,
    "IP_ADDRESS": IP,
    "USERNAME": USERNAME,
}
MARKS = {
    NAME: "<NAME>",
    USERNAME: "<NAME>",
    EMAIL: "<EMAIL>",
    KEY: "<KEY>",
    PASSWORD: "<PASSWORD>",
}
LONGEST_WINDOW = 512  # tokens, as in the published inference
OVERLAP = 128  # tokens that two windows share: each is judged where it has more around it
WINDOWS = 32  # that go through the model at once
SHORTEST_KEY = 9
SHORTEST_SECRET = 4  # characters of anything else
_PARTICIPANT = re.compile(r"@?username_\d+")

Entity = tuple[int, int, str, float]  # start, end, label, mean probability of its tokens


@dataclass(frozen=True)
class Token:
    """A token's place in the text, and what the model takes it for (empty: nothing)."""

    start: int
    end: int
    label: str
    begins: bool
    score: float


def require_model(folder: Path) -> None:
    """UserError unless the folder holds a token classifier that can be loaded here."""
    if not (folder / "config.json").is_file():
        raise UserError(
            "redact_model", str(folder), "holds no config.json", "give a model's folder"
        )
    if not list(folder.glob("*.safetensors")):
        problem = "holds no safetensors, and no other weights are read"
        raise UserError("redact_model", str(folder), problem, "convert it")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("id2label", {}).values()
    if not any(_label(name)[0] for name in names):
        known = ", ".join(LABELS)
        raise UserError(
            "redact_model", str(folder), "has none of StarPII's labels", f"give {known}"
        )
    _transformers()


class Recogniser:
    """A token classifier, on a GPU where there is one. UserError for a folder it cannot read."""

    def __init__(self, folder: Path) -> None:
        require_model(folder)
        transformers = _transformers()
        broken = import_module("safetensors").SafetensorError
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        on_gpu = transformers.utils.is_torch_cuda_available()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **safe)
            self._model = transformers.AutoModelForTokenClassification.from_pretrained(
                folder, use_safetensors=True, dtype="bfloat16" if on_gpu else "float32", **safe
            )
        except (OSError, ValueError, KeyError, RuntimeError, broken) as error:
            problem = f"cannot be loaded: {str(error).splitlines()[0]}"
            raise UserError("redact_model", str(folder), problem, "give another") from error
        if self._tokenizer.pad_token is None:  # what is masked may be anything
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        if not self._tokenizer.is_fast:
            problem = "has a tokenizer that tells no places"
            raise UserError("redact_model", str(folder), problem, "save its fast form")
        self._model.requires_grad_(False).eval()
        if on_gpu:
            self._model.to("cuda")
        config = self._model.config
        self._labels = [_label(config.id2label[n]) for n in range(len(config.id2label))]
        room = getattr(config, "max_position_embeddings", None) or LONGEST_WINDOW
        self._window = min(LONGEST_WINDOW, room, self._tokenizer.model_max_length)

    def spans(self, text: str) -> list[Entity]:
        """What the model finds, in order and apart, without blanks at either end."""
        found: list[Entity] = []
        run: list[Token] = []
        for token in [*self._tokens(text), Token(len(text), len(text), "", True, 0.0)]:
            if run and not _goes_on(run[-1], token, text):
                if run[0].label:
                    found.append(_entity(run, text))
                run = []
            run.append(token)
        return [one for one in found if one[0] < one[1]]

    def _tokens(self, text: str) -> Iterator[Token]:
        """Every token once, from the window in which it is farther from an end."""
        special = self._tokenizer.num_special_tokens_to_add()
        overlap = min(OVERLAP, (self._window - special) // 2)
        told = self._tokenizer(
            text,
            max_length=self._window,
            stride=overlap,
            truncation=True,
            padding="longest",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        inputs = {name: told[name] for name in self._tokenizer.model_input_names if name in told}
        count = len(told["input_ids"])
        for begin in range(0, count, WINDOWS):
            part = {
                name: rows[begin : begin + WINDOWS].to(self._model.device)
                for name, rows in inputs.items()
            }
            scores, labels = self._model(**part).logits.float().softmax(-1).max(-1)
            for number, row in enumerate(zip(labels.tolist(), scores.tolist(), strict=True), begin):
                places = told["offset_mapping"][number].tolist()
                marks = told["special_tokens_mask"][number].tolist()
                real = [n for n, is_special in enumerate(marks) if not is_special]
                first = real[overlap // 2 :] if number else real
                last = overlap - overlap // 2 if number < count - 1 else 0
                for n in first[: len(first) - last]:
                    label, begins = self._labels[row[0][n]]
                    start, end = places[n]
                    yield Token(start, end, label, begins, row[1][n])


def _label(name: str) -> tuple[str, bool]:
    """B-NAME -> (NAME, begins); what is not redacted has no label."""
    mark, joint, rest = str(name).rpartition("-")
    return (rest, mark == "B") if rest in LABELS and (not joint or mark in "BIES") else ("", True)


def _goes_on(last: Token, token: Token, text: str) -> bool:
    """Whether a token belongs to the same find as the one before it."""
    if last.label != token.label:
        return False
    return not token.begins or (last.end == token.start and not text[token.start :][:1].isspace())


def _entity(run: list[Token], text: str) -> Entity:
    start, end = run[0].start, run[-1].end
    said = text[start:end]
    start += len(said) - len(said.lstrip())
    end -= len(said) - len(said.rstrip())
    return start, max(start, end), run[0].label, sum(one.score for one in run) / len(run)


def redact_with(
    text: str, model: Recogniser, kinds: frozenset[str] | None = None
) -> tuple[str, dict[str, int]]:
    """What rules and the model find replaced; as `cairn.curate.redact.redact` otherwise.

    Further keys of the counts: name, username.
    """
    return redact(text, kinds, finds(text, model.spans(text)))


def finds(text: str, entities: list[Entity]) -> Iterator[Find]:
    """What of the model's finds is replaced, and by what.

    A key must look random and have more than 8 characters, anything else more than 3; a name has
    two words at least. Participants of a thread keep the names they were given, and addresses that
    name nobody stay.
    """
    for start, end, label, _ in entities:
        kind, value = LABELS[label], text[start:end]
        if value.strip("<>") in {mark.strip("<>") for mark in MARKS.values()}:
            continue
        if len(value) < (SHORTEST_KEY if kind == KEY else SHORTEST_SECRET):
            continue
        if kind == KEY and not looks_gibberish(value):
            continue
        if kind == NAME and len(value.split()) < 2:
            continue
        if kind == USERNAME and _PARTICIPANT.fullmatch(value):
            continue
        mark = private_replacement(value) if kind == IP else MARKS[kind]
        if mark is not None:
            yield start, end, kind, mark


@lru_cache(maxsize=1)
def recogniser(folder: str) -> Recogniser:
    """The model of a folder, loaded once a process."""
    return Recogniser(Path(folder).expanduser())


def _transformers() -> Any:
    try:
        transformers = import_module("transformers")  # which tells no types
    except ImportError:
        mend = "pip install 'cairn-lm[eval]'"
        raise UserError("redact", "model", "needs transformers", mend) from None
    if not transformers.utils.is_torch_available():
        raise UserError("redact", "model", "needs PyTorch", "pip install torch")
    return transformers
