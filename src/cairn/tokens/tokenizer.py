"""The tokenizer: text to ids and back without loss, sentinels only where the program means them."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers

from cairn.base import UserError, write_text
from cairn.tokens.encoder import Encoder

VOCABULARY = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
TRAVELLING = (VOCABULARY, CONFIG, TEMPLATE, "special_tokens_map.json")


class Tokenizer:
    """A byte-level BPE tokenizer and the files it travels with.

    `encode` takes text as data: a sentinel spelled in it becomes ordinary tokens. So does
    `encode_prompt`, which adds what the tokenizer has prompts begin with. Only
    `encode_with_sentinels`, for prompts that the program wrote, recognises them. `decode_bytes`
    inverts both exactly. Any Hugging Face folder with a byte-level tokenizer.json loads.
    """

    def __init__(self, files: dict[str, str]) -> None:
        if VOCABULARY not in files:
            raise UserError("tokenizer", sorted(files), f"has no {VOCABULARY}")
        self._files = dict(files)
        try:
            self._whole = tokenizers.Tokenizer.from_str(files[VOCABULARY])
            self._config = json.loads(files.get(CONFIG, "{}"))
        except Exception as error:  # `tokenizers` raises plain Exception
            raise UserError(f"the tokenizer is damaged: {error}: copy its folder anew") from None
        self._special = {
            token.content: index
            for index, token in self._whole.get_added_tokens_decoder().items()
            if token.special
        }
        self._special_ids = frozenset(self._special.values())

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read tokenizer.json and what stands beside it; UserError where there is none."""
        folder = Path(folder)
        if not (folder / VOCABULARY).is_file():
            raise UserError("tokenizer", str(folder), f"has no {VOCABULARY}", "name its folder")
        found = [folder / name for name in TRAVELLING if (folder / name).is_file()]
        try:
            return cls({path.name: path.read_bytes().decode("utf-8") for path in found})
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Write the files, byte for byte as they were learned or loaded."""
        for name, text in self._files.items():
            write_text(Path(folder) / name, text)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self._files[VOCABULARY])

    @property
    def backend(self) -> str:
        """The library that encodes: `gigatoken` or `tokenizers`; ids are the same."""
        return self._encoder.backend

    @property
    def vocabulary(self) -> str:
        """The text of tokenizer.json, for libraries that read it themselves."""
        return self._files[VOCABULARY]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of tokenizer.json: tells whether shards were written with this tokenizer."""
        return hashlib.sha256(self._files[VOCABULARY].encode("utf-8")).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._whole.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def sentinels(self) -> dict[str, int]:
        """Special tokens by name."""
        return dict(self._special)

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that travels with the tokenizer; of several the default."""
        found = self._files.get(TEMPLATE) or self._config.get("chat_template")
        if isinstance(found, list):
            found = {one.get("name"): one.get("template") for one in found}.get("default")
        return found if isinstance(found, str) else None

    def named(self, field: str) -> str | None:
        """The token that tokenizer_config.json names, as bos_token say."""
        found = self._config.get(field)
        found = found.get("content") if isinstance(found, dict) else found
        return found if isinstance(found, str) else None

    @property
    def thinking(self) -> bool:
        """What the chat template does where no message has a switch: reason first, or not."""
        return bool(self._config.get("thinking", True))

    def has(self, token: str) -> bool:
        """Whether the vocabulary holds the token."""
        return self._whole.token_to_id(token) is not None

    def id(self, token: str) -> int:
        """The id of a sentinel or another token; UserError where the vocabulary lacks it."""
        found = self._whole.token_to_id(token)
        if found is None:
            raise UserError("token", token, "is not in the tokenizer's vocabulary")
        return found

    def is_special(self, token: int) -> bool:
        """Whether the id is a sentinel's."""
        return token in self._special_ids

    def encode(self, text: str) -> list[int]:
        """Ids of a text that is data: sentinels spelled in it are not recognised."""
        return self._encoder.encode(text).tolist()

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that a model is asked to go on with: as `encode`, within the tokens that
        the tokenizer's post-processor puts around a text (a BOS, say), as `transformers` does."""
        return self._encoder.encode_prompt(text)

    def surrounded(self, ids: Sequence[int]) -> list[int]:
        """Ids within the tokens that `encode_prompt` puts around a text."""
        before, after = self._encoder.around()
        return [*before, *ids, *after]

    def encode_array(self, text: str) -> np.ndarray:
        """As `encode`, uint32 [tokens]."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, for many texts."""
        return [ids.tolist() for ids in self._encoder.encode_batch(texts)]

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `encode_batch`, each uint32 [tokens]."""
        return self._encoder.encode_batch(texts)

    def encode_with_sentinels(self, text: str) -> list[int]:
        """Ids of a prompt that the program wrote: sentinels in it are recognised."""
        try:
            return self._whole.encode(text, add_special_tokens=False).ids
        except TypeError:
            self._encoder.encode(text)  # says what is wrong with the text
            raise

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The bytes of every id; a sentinel's are its name, an unused id has none."""
        if json.loads(self._files[VOCABULARY])["decoder"].get("type") != "ByteLevel":
            raise UserError("the tokenizer is not byte-level BPE: its bytes cannot be told")
        alphabet = _byte_alphabet()
        added = {i: t.content for i, t in self._whole.get_added_tokens_decoder().items()}
        table = [b""] * self.vocab_size
        for token, index in self._whole.get_vocab(with_added_tokens=True).items():
            if index in added:
                table[index] = added[index].encode("utf-8")
            else:
                table[index] = bytes(alphabet[char] for char in token)
        return tuple(table)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes; a list that was cut inside a character is no obstacle."""
        table = self.token_bytes
        return b"".join([table[index] for index in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are no UTF-8, as where a list was cut, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def _byte_alphabet() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte (GPT-2), inverted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + place): byte for place, byte in enumerate(others)}
