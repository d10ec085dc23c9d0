"""What weights of 8 bits cost a checkpoint: bits a token over texts, and how far logits move.

Prints one JSON line for each kind of weights: bits a token, the divergence from the first kind's
distributions in bits, and the share of tokens at which the likeliest token is the same. On a CPU
products of 8 bits are computed by their definition.

    python bench/weights.py CHECKPOINT [--device cuda] [--dtype float32] [TEXT ...]
"""

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from cairn.engine.weights import narrow_weights
from cairn.model import Spans, load
from cairn.tokens.tokenizer import Tokenizer

TOKENS = 4096  # of each text at most
AT_ONCE = 512


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("texts", type=Path, nargs="*", help="none: this Python's argparse and ast")
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    told = parser.parse_args()
    texts = told.texts or [Path(argparse.__file__), Path(argparse.__file__).with_name("ast.py")]
    tokenizer = Tokenizer.load(told.checkpoint)
    documents = [tokenizer.encode(text.read_text())[:TOKENS] for text in texts]
    first = None
    for kind in (told.dtype, "float8"):
        model = load(told.checkpoint, told.device, getattr(torch, told.dtype))
        narrowed = narrow_weights(model) if kind == "float8" else 0
        with torch.inference_mode():
            found = [
                torch.cat(
                    [
                        model.head(rows).log_softmax(-1)
                        for rows in model.hidden(torch.tensor(ids), Spans.of([len(ids)])).split(
                            AT_ONCE
                        )
                    ]
                )
                for ids in documents
            ]
        first = found if first is None else first
        whole = sum(p.nbytes for p in (*model.parameters(), *model.buffers()))
        line = {
            "weights": kind,
            "matrices_in_8_bits": narrowed,
            "mebibytes": round(whole / 2**20, 2),
            **compared(first, found, documents),
        }
        print(json.dumps({"bench": "weights", "tokens": sum(map(len, documents))} | line))


def compared(first: list[Tensor], found: list[Tensor], documents: list[list[int]]) -> dict:
    """Figures of log-probabilities [L, V] of each document beside the first kind's."""
    spent = moved = same = count = 0.0
    for old, new, ids in zip(first, found, documents, strict=True):
        targets = torch.tensor(ids[1:], device=new.device)
        spent -= float(new[:-1].gather(1, targets[:, None]).sum())
        moved += float((old.exp() * (old - new)).sum())
        same += float((old.argmax(-1) == new.argmax(-1)).sum())
        count += len(ids)
    return {
        "bits_a_token": round(spent / (count - len(documents)) / math.log(2), 5),
        "divergence_bits": round(moved / count / math.log(2), 6),
        "likeliest_the_same": round(same / count, 4),
    }


if __name__ == "__main__":
    main()
