"""From a trained model to a checkpoint folder that others load as it is."""

from pathlib import Path

from cairn.model import Decoder, save
from cairn.tokens.sentinels import END_OF_TEXT, END_OF_TURN, FILE_SEP
from cairn.tokens.tokenizer import Tokenizer
from cairn.train.parallel.ranks import Ranks
from cairn.train.parallel.shard import whole


def write_checkpoint(
    model: Decoder, tokenizer: Tokenizer, out: Path, ranks: Ranks | None = None
) -> None:
    """Weights, both configurations and the tokenizer; of `ranks`, who all come here, by the lead.

    Generation ends at end-of-text, at the next file (a base model would run on into it) and at the
    end of an assistant's turn.
    """
    ends = [tokenizer.id(t) for t in (END_OF_TEXT, FILE_SEP, END_OF_TURN) if tokenizer.has(t)]
    ranks = ranks or Ranks(model.device)
    gathered = whole(model, ranks)
    if gathered is not None:
        save(gathered, out, eos_token_ids=ends)
        tokenizer.save(out)
    ranks.wait()
