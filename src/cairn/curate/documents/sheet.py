"""What a manual page shows, gathered into headings, paragraphs and examples."""

import re

_QUOTES = re.compile(r"`++")


class Sheet:
    """Paragraphs that are filled from lines, and examples that are kept."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.words: list[str] = []
        self.code: list[str] | None = None

    def text(self, text: str) -> None:
        if self.code is not None:
            self.code.append(text.rstrip())
        elif text.strip():
            self.words.append(text)
        else:
            self.flush()

    def flush(self) -> None:
        """End the paragraph."""
        text = " ".join(" ".join(self.words).split())
        self.words = []
        if text:
            self.blocks.append(text)

    def heading(self, level: int, text: str) -> None:
        self.end_code()
        self.flush()
        if text.strip():
            self.blocks.append("#" * level + " " + " ".join(text.split()))

    def begin_code(self) -> None:
        self.flush()
        self.code = self.code if self.code is not None else []

    def end_code(self) -> None:
        self.flush()
        if self.code is None:
            return
        lines, self.code = self.code, None
        text = "\n".join(lines).strip("\n")
        if text.strip():
            run = "`" * max(3, 1 + max(map(len, _QUOTES.findall(text)), default=0))
            self.blocks.append(f"{run}\n{text}\n{run}")

    def done(self) -> str:
        self.end_code()
        return "\n\n".join(self.blocks) + "\n" if self.blocks else ""
