"""The pre-training stream: any sample of it, from (seed, number) alone.

An epoch's documents lie in one long run of tokens (`contexts.Layout`); the run is cut into windows
and the windows are shuffled over the whole epoch, so that a batch mixes repositories and a large
file does not fill it. Fill-in-the-middle works inside a window on the part of a file that it shows
(StarCoder2, arXiv 2402.19173, section 5), so that a model always sees all three pieces and where
the middle ends; the few tokens that no longer fit are left out until the next epoch's windows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from cairn.base import UserError
from cairn.tokens.batch import Batch, Window, assemble
from cairn.tokens.contexts import Formats, Layout, kinds, lay_out, repositories
from cairn.tokens.epochs import Epochs
from cairn.tokens.infilling import infill
from cairn.tokens.layouts import Orders
from cairn.tokens.packing import cut_anywhere, pack_whole
from cairn.tokens.sentinels import (
    END_OF_TEXT,
    FILE_SEP,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    REPO_NAME,
)
from cairn.tokens.shards import TokenShards
from cairn.tokens.tokenizer import Tokenizer

LAYOUT, ORDER, WINDOW, DOCUMENT = range(4)  # what a generator is for; part of its seed
GROWTH = 4  # tokens that reordering adds, about: three marks, and pieces that no longer merge
SHORTEST = 16  # tokens of a cut file that are worth reordering


@dataclass(frozen=True)
class _Piece:
    """What a window shows of one document's stretch."""

    header: np.ndarray  # of <repo_name> and the name
    opening: np.ndarray  # of <file_sep> and the path line
    code: np.ndarray
    line: str | None  # the path line (empty without metadata) where the opening is whole
    ends: bool  # the window shows the file's end
    row: int  # of the ledger


@dataclass
class _Writer:
    """Collects the pieces of one window of `length` tokens."""

    length: int
    pieces: list[np.ndarray] = field(default_factory=list)
    bounds: list[int] = field(default_factory=lambda: [0])
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    used: int = 0
    closed: bool = False

    def add(self, *pieces: np.ndarray) -> None:
        self.pieces.extend(pieces)
        self.used += sum(len(tokens) for tokens in pieces)
        self.closed = self.used >= self.length

    def end_span(self, end: np.ndarray) -> None:
        self.add(end)
        self.bounds.append(self.used)

    def window(self, padding: int) -> Window:
        """Cut to the length, or fill up with padding in a span of its own."""
        used = min(self.used, self.length)
        tokens = np.full(self.length, padding, np.int64)
        tokens[:used] = np.concatenate(self.pieces)[: self.length]
        bounds = [bound for bound in self.bounds if bound < used] + [used]
        if used < self.length:
            bounds.append(self.length)
        rows = [(row, a, min(b, used)) for row, a, b in self.rows if a < used]
        return Window(tokens, bounds, rows, used)


class PretrainingStream:
    """Windows of `sequence_length` tokens over one split of shards, numbered through all epochs.

    A window is a pure function of (seed, number), whatever was read before and by whom. Every
    epoch shuffles anew. Spans end where contexts end and where windows end.
    """

    def __init__(
        self,
        shards: TokenShards,
        tokenizer: Tokenizer,
        sequence_length: int,
        seed: int,
        formats: Formats | None = None,
    ) -> None:
        self.formats = formats or Formats()
        self.formats.check()
        if sequence_length < 2:
            raise UserError("sequence_length", sequence_length, "is too small", "take more")
        if seed < 0:
            raise UserError("seed", seed, "is negative", "take 0 or more")
        if not len(shards):
            raise UserError("shards", str(shards.folder), "hold no documents")
        if shards.index["tokenizer_sha256"] != tokenizer.digest:
            mend = "use the tokenizer that stands in the shards' folder"
            raise UserError("tokenizer", tokenizer.digest[:12], "did not write these shards", mend)
        self.shards, self.tokenizer, self.seed = shards, tokenizer, seed
        self.sequence_length = sequence_length
        self._repository, names = repositories(shards)
        opening = tokenizer.id(REPO_NAME)
        encoded = tokenizer.encode_arrays(names)
        self._headers = [np.concatenate([[opening], ids]) for ids in encoded]
        self._header_tokens = np.array([len(ids) for ids in self._headers], np.int64)
        self._separator = np.array([tokenizer.id(FILE_SEP)])
        self._end = np.array([tokenizer.id(END_OF_TEXT)])
        if self.formats.infilling_rate:
            for mark in (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX):
                tokenizer.id(mark)
        self._ledger_rows = shards.documents["ledger_row"].to_numpy()
        self._paths = shards.documents["path"].combine_chunks()
        self._kinds, self._kind_names = kinds(shards)
        self._orders = Orders(tokenizer)
        self._planned: dict[int, tuple[Layout, np.ndarray, np.ndarray]] = {}
        self.epochs = Epochs(self.windows)

    def windows(self, epoch: int) -> int:
        """Windows in an epoch; epochs differ a little, for contexts are grouped anew."""
        return len(self._plan(epoch)[2])

    def window(self, sample: int) -> Window:
        """The window of a number: 0, 1, 2, ... through epoch after epoch."""
        epoch, place = self.epochs.place(sample)
        layout, edges, order = self._plan(epoch)
        return self._window(epoch, layout, edges, int(order[place]))

    def batch(self, samples: Iterable[int]) -> Batch:
        """The windows of these numbers, end to end."""
        return assemble([self.window(sample) for sample in samples])

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])

    def _plan(self, epoch: int) -> tuple[Layout, np.ndarray, np.ndarray]:
        """Layout, windows' edges and their order in an epoch; the two used last are kept."""
        if epoch not in self._planned:
            layout = lay_out(
                self.shards,
                self._repository,
                self._header_tokens,
                self.formats,
                self._generator(epoch, LAYOUT),
            )
            if self.formats.packing == "whole":
                layout, edges = pack_whole(layout, self.sequence_length)
            else:
                edges = cut_anywhere(layout, self.sequence_length)
            order = self._generator(epoch, ORDER).permutation(len(edges) - 1)
            while len(self._planned) > 1:
                self._planned.pop(next(iter(self._planned)))
            self._planned[epoch] = (layout, edges, order)
        return self._planned[epoch]

    def _window(self, epoch: int, layout: Layout, edges: np.ndarray, number: int) -> Window:
        """Render tokens [edges[number], edges[number + 1]) of the epoch's run."""
        begin, end = edges[number : number + 2].tolist()
        first = int(np.searchsorted(layout.starts, begin, side="right")) - 1
        stop = int(np.searchsorted(layout.starts, end, side="left"))
        infilling = layout.infilling[layout.contexts[first:stop]].any()
        generator = self._generator(epoch, WINDOW, number) if infilling else None
        writer = _Writer(self.sequence_length)
        for place in range(first, stop):
            start, after = int(layout.starts[place]), int(layout.starts[place + 1])
            piece = self._piece(
                epoch, layout, place, max(begin - start, 0), min(end, after) - start
            )
            told = layout.infilling[layout.contexts[place]]
            self._write(writer, piece, generator if told else None)
            if layout.closes[place] and end >= after and not writer.closed:
                writer.end_span(self._end)
            if writer.closed:
                break
        return writer.window(int(self._end[0]))

    def _piece(self, epoch: int, layout: Layout, place: int, low: int, high: int) -> _Piece:
        """Tokens [low, high) of one document's stretch, without <|endoftext|>."""
        document = int(layout.documents[place])
        header, opening, line = self._separator[:0], self._separator, ""
        if layout.bare[place]:
            opening = header
        if layout.metadata[layout.contexts[place]]:
            line = f"{self._paths[document].as_py()}\n"
            opening = np.concatenate([opening, self.tokenizer.encode_array(line)])
            if layout.opens[place]:
                header = self._headers[self._repository[document]]
        code = self._told(epoch, document)
        begin = len(header)  # of the opening, then of the code
        shown = opening[max(low - begin, 0) : max(high - begin, 0)]
        begin += len(opening)
        return _Piece(
            header[low:high],
            shown,
            code[max(low - begin, 0) : max(high - begin, 0)],
            line if len(shown) == len(opening) else None,
            high - begin >= len(code),
            int(self._ledger_rows[document]),
        )

    def _told(self, epoch: int, document: int) -> np.ndarray:
        """A document's tokens, its pieces in the order of this epoch, whoever asks for it."""
        ids, kind = self.shards.document(document), self._kind_names[self._kinds[document]]
        if not self._orders.draws(kind):
            return ids
        return self._orders.draw(kind, ids, self._generator(epoch, DOCUMENT, document))

    def _write(self, writer: _Writer, piece: _Piece, generator: np.random.Generator | None) -> None:
        writer.add(piece.header)
        begin = writer.used
        fitting = piece.line is not None or not len(piece.opening)  # no window cuts the path
        rate = self.formats.file_infilling_rate
        infilled = None
        if generator is not None and fitting and generator.random() < rate:
            infilled = self._infilled(piece, writer.length - begin, generator)
        cut = False
        if infilled is None:
            writer.add(piece.opening, piece.code)
        else:
            ids, cut = infilled
            writer.add(self._separator[: len(piece.opening)], ids)
        if writer.used > begin:
            writer.rows.append((piece.row, begin, writer.used))
        if cut:
            writer.end_span(self._end)
            writer.closed = True

    def _infilled(
        self, piece: _Piece, room: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, bool] | None:
        """A piece in fill-in-the-middle order, and whether it was cut; None without room for it.

        Where a window cuts the file, the piece is shortened until all of its middle stands in the
        window, with <|endoftext|> after it: a middle without an end would teach not to stop.
        """
        room -= len(self._separator) + len(self._end)
        size = min(len(piece.code), room - len(piece.opening) - GROWTH)
        if size < min(len(piece.code), SHORTEST) or not len(piece.code):
            return None
        ids = self._reordered(piece.code[:size], piece.line or "", generator)
        while len(ids) > room and size > SHORTEST:
            size = max(size - (len(ids) - room), SHORTEST)
            ids = self._reordered(piece.code[:size], piece.line or "", generator)
        if len(ids) > room:
            return None
        return np.asarray(ids), not piece.ends or size < len(piece.code)

    def _reordered(self, code: np.ndarray, line: str, generator: np.random.Generator) -> list[int]:
        """A part of a file; bytes of a character that a window cuts in two are left out."""
        text = self.tokenizer.decode_bytes(code.tolist()).decode("utf-8", errors="ignore")
        return infill(text, self.tokenizer, generator, head=line, spm_rate=self.formats.spm_rate)
