"""Text to token ids as plain data: Hugging Face `tokenizers`, or gigatoken where it agrees."""

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from cairn.base import UserError

# gigatoken is ten times as fast, and young: it is used only where it gives these texts the ids
# that `tokenizers` gives them. They walk through every branch of the split regex.
PROBES = (
    "",
    " ",
    "\n",
    "def add(a, b):\n    return a + b\n",
    "x=1234567890;y=0x1F\r\n\r\n\tif\t(x)\t{ }\n",
    "it's I'LL we'd DON'T 'tis 'ſ\n",
    "   leading and trailing   \n   \n\n\n  ",
    "naïve café ÅÄÖ e\u0301 ﬁ Ⅷ ½ ٣ 中文字符 日本語 한국어 עברית العربية\n",
    "🙂👩‍👩‍👧‍👦🇩🇪 \u200b\u00a0\u2028\u3000\ufeff\x00\x07\x7f",
    "<|endoftext|><fim_prefix><NAME> [INST]",
    "====----____****////\\\\\\\\((((####\n$$$ !@#%^&*\n",
    "https://example.org/a?b=c&d=%20e#f\n\u0085x\x0by\x0cz",
)

# gigatoken and `tokenizers` sort letters by different versions of Unicode: they part only on
# characters newer than 16.0, so what Python itself calls unassigned goes to `tokenizers`.
NEWEST_UNICODE = (16, 0)


class Encoder:
    """Encodes text in which spelled sentinels are plain text."""

    def __init__(self, tokenizer_json: str) -> None:
        self._plain = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._plain.encode_special_tokens = True  # sentinels spelled in a text are text
        self._fast = _fast_twin(tokenizer_json, self._plain)

    @property
    def backend(self) -> str:
        """`gigatoken` or `tokenizers`."""
        return "tokenizers" if self._fast is None else "gigatoken"

    def encode(self, text: str) -> np.ndarray:
        """Ids of one text, uint32 [tokens]; UserError where the text is not valid Unicode."""
        try:
            if self._fast is not None and _settled(text):
                return self._fast.encode(text)
            return np.asarray(_ids(self._plain, text), np.uint32)
        except TypeError:
            raise _not_utf8(text) from None

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of one text with what the tokenizer's post-processor puts around it."""
        if not self._plain.num_special_tokens_to_add(False):
            return self.encode(text).tolist()
        try:
            return self._plain.encode(text).ids
        except TypeError:
            raise _not_utf8(text) from None

    def around(self) -> tuple[list[int], list[int]]:
        """What the post-processor puts before a text, and after it."""
        with_it, without = self.encode_prompt("a"), self.encode("a").tolist()
        for place in range(len(with_it) - len(without) + 1):
            if with_it[place : place + len(without)] == without:
                return with_it[:place], with_it[place + len(without) :]
        return [], []

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of many texts, in their order, each uint32 [tokens]."""
        if self._fast is not None:
            return [self.encode(text) for text in texts]
        try:
            found = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            raise _not_utf8(next(t for t in texts if not _is_unicode(t))) from None
        return [np.asarray(one.ids, np.uint32) for one in found]


def _ids(plain: tokenizers.Tokenizer, text: str) -> list[int]:
    return plain.encode(text, add_special_tokens=False).ids


def _fast_twin(tokenizer_json: str, plain: tokenizers.Tokenizer) -> Any:
    """gigatoken's tokenizer without sentinels, or None: absent, refusing, or not equal."""
    version = tuple(int(part) for part in unicodedata.unidata_version.split(".")[:2])
    if version > NEWEST_UNICODE:
        return None
    try:
        import gigatoken
    except ImportError:
        return None
    stripped = json.loads(tokenizer_json)
    if not all(token["special"] for token in stripped["added_tokens"]):
        return None  # unmarked added tokens are matched in plain text: only `tokenizers` does
    stripped["added_tokens"] = []
    try:
        fast = gigatoken.Tokenizer.from_json(json.dumps(stripped))
        equal = all(fast.encode(text).tolist() == _ids(plain, text) for text in PROBES)
    except Exception:  # gigatoken names no class for "this kind is not supported"
        return None
    return fast if equal else None


def _settled(text: str) -> bool:
    """Whether both libraries know every character of the text."""
    return text.isascii() or all(unicodedata.category(char) != "Cn" for char in set(text))


def _is_unicode(text: Any) -> bool:
    try:
        text.encode("utf-8")
    except (AttributeError, UnicodeEncodeError):
        return False
    return True


def _not_utf8(text: Any) -> Exception:
    if not isinstance(text, str):
        return TypeError(f"text must be str, not {type(text).__name__}")
    shown = text.encode("ascii", "backslashreplace").decode("ascii")
    return UserError("text", shown, "holds a lone surrogate, so it is no UTF-8", "remove it")
