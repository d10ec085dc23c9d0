"""Code to complete with what stands around it: the rest of the file, and other files. No torch.

The layout is that of training: `<repo_name>`name, then `<file_sep>`path, newline, content for each
file; fill-in-the-middle inside one file, whose path belongs to its prefix (StarCoder2, arXiv
2402.19173, section 5).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cairn.base import UserError
from cairn.tokens import infilling
from cairn.tokens.sentinels import (
    END_OF_TEXT,
    FILE_SEP,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
)
from cairn.tokens.tokenizer import Tokenizer

STOPS = (FILE_SEP, END_OF_TEXT, REPO_NAME, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
"""Where training data ended a middle or a file: at the next file, document or piece."""


@dataclass(frozen=True)
class SourceText:
    """One whole file of a repository."""

    path: str
    content: str


@dataclass(frozen=True, kw_only=True)
class CodePrompt:
    """A file up to the cursor (`prefix`), after it (`suffix`), and what it stands among.

    With a suffix the completion is what is between the two; without, it goes on after the prefix.
    `path` is the file's own; `repository` its repository's name, `files` others of it, of which
    the nearest stand last. The completion ends with the file.
    """

    prefix: str
    suffix: str | None = None
    path: str | None = None
    repository: str | None = None
    files: tuple[SourceText, ...] = ()

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids; sentinels that are spelled in a text are text. UserError where one lacks."""
        if self.path is None and (self.repository is not None or self.files):
            raise UserError("path", None, "is needed beside a repository or files", "name the file")
        ids: list[int] = []
        if self.repository is not None:
            ids += [self._mark(REPO_NAME, tokenizer), *tokenizer.encode(self.repository)]
        for file in self.files:
            ids.append(self._mark(FILE_SEP, tokenizer))
            ids += [*tokenizer.encode(f"{file.path}\n"), *tokenizer.encode(file.content)]
        if self.path is not None:
            ids.append(self._mark(FILE_SEP, tokenizer))
        if self.suffix is None:
            line = [] if self.path is None else tokenizer.encode(f"{self.path}\n")
            return [*ids, *line, *tokenizer.encode(self.prefix)]
        for name in STOPS:
            self._mark(name, tokenizer)
        head = "" if self.path is None else f"{self.path}\n"
        return [*ids, *infilling.prompt(head + self.prefix, self.suffix, tokenizer)]

    def stops(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Tokens that end the completion, beside those of the checkpoint."""
        return frozenset(tokenizer.id(name) for name in self._stops() if tokenizer.has(name))

    def _stops(self) -> Iterator[str]:
        if self.suffix is not None or self.path is not None:
            yield from STOPS

    def _mark(self, name: str, tokenizer: Tokenizer) -> int:
        if not tokenizer.has(name):
            field = "suffix" if self.suffix is not None else "path"
            value = self.suffix if self.suffix is not None else self.path
            raise UserError(field, value, f"the tokenizer has no {name}", "leave it out")
        return tokenizer.id(name)
