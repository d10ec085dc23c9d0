"""From a trained model to a checkpoint folder that others load as it is."""

from pathlib import Path

from cairn.model import Decoder, save
from cairn.tokens.sentinels import END_OF_TEXT, END_OF_TURN, FILE_SEP
from cairn.tokens.tokenizer import Tokenizer


def write_checkpoint(model: Decoder, tokenizer: Tokenizer, out: Path) -> None:
    """Weights, both configurations and the tokenizer.

    Generation ends at end-of-text, at the next file (a base model would run on into it) and at the
    end of an assistant's turn.
    """
    ends = [tokenizer.id(t) for t in (END_OF_TEXT, FILE_SEP, END_OF_TURN) if tokenizer.has(t)]
    save(model, out, eos_token_ids=ends)
    tokenizer.save(out)
