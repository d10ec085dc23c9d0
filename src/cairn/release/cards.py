"""Model card and data card, written from manifests: no figure that a stage did not record."""

from collections import Counter
from typing import Any

import pyarrow as pa

from cairn.base.artifact import Manifest

CARD_HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [code, nemotron_h, mamba-2, hybrid]
---
"""

LIMITS = """## Limits

- Code that the model writes is untested: run it only in a sandbox.
- Text that repeats training data carries the licence of its source. `cairn trace --text` finds
  such passages and names repository, path, licence and SWHID.
- `license_type` tells what a rule-based scan of licence files and headers found. It is no legal
  advice.
"""


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table; numbers right-aligned."""
    if not rows:
        return "(none)\n"
    keys = list(rows[0])
    number = {key: all(isinstance(row[key], int | float) for row in rows) for key in keys}
    lines = ["| " + " | ".join(keys) + " |"]
    lines.append("|" + "|".join("---:" if number[key] else "---" for key in keys) + "|")
    for row in rows:
        lines.append("| " + " | ".join(_cell(row[key]) for key in keys) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def model_card(
    title: str,
    config: dict[str, Any],
    ancestry: list[Manifest],
    scores: dict[str, Any] | None,
    licences: list[dict[str, Any]],
    facts: dict[str, Any],
) -> str:
    """README.md of a release."""
    shape = ["hidden_size", "num_hidden_layers", "num_attention_heads", "mamba_num_heads"]
    rows = [
        {"key": key, "value": str(config[key])} for key in [*shape, "vocab_size"] if key in config
    ]
    made = [
        {"stage": m.name, "recipe": m.kind, "result": m.headline, "digest": m.digest[:16]}
        for m in reversed(ancestry)
    ]
    parts = [
        CARD_HEAD,
        f"# {title}\n",
        f"A {config['model_type']} model of {facts['parameters']:,} parameters, made with cairn.\n",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained(".")\n'
        'tokenizer = AutoTokenizer.from_pretrained(".")\n```\n',
        f"Check: {facts['verified']}.\n",
        "## Shape\n",
        markdown_table(rows),
        "## How it was made\n",
        markdown_table(made),
        "## Scores\n",
        markdown_table(_score_rows(scores)) if scores else "Not evaluated.\n",
        "## What it learned from\n",
        f"{facts['files']:,} files, {facts['bytes']:,} bytes; each by its SWHID in `swhids.txt`, "
        "with repository, path and licence in `origins.parquet`. More in `DATA.md`.\n",
        markdown_table(licences),
        LIMITS,
    ]
    return "\n".join(parts)


def _score_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "task": score["task"],
            "metric": score["metric"],
            "value": score["value"],
            "n": score["n"],
            "standard error": ""
            if score.get("standard_error") is None
            else score["standard_error"],
        }
        for score in scores["scores"]
    ]


def data_card(
    title: str, documents: pa.Table, licences: list[dict[str, Any]], ancestry: list[Manifest]
) -> str:
    """DATA.md of a release: sources, languages, licences, rules, and how to find a file."""
    corpus = next((m for m in reversed(ancestry) if m.kind == "Curate"), None)
    columns = documents.select(["repo_name", "language", "bytes"]).to_pylist()
    parts = [
        f"# Data card of {title}\n",
        "Every file of the training split; held-out files are left out of this list.\n",
        "## Repositories\n",
        markdown_table(_count(columns, "repo_name")),
        "## Languages\n",
        markdown_table(_count(columns, "language")),
        "## Licences\n",
        markdown_table(licences),
    ]
    if corpus is not None:
        settings = [
            {"field": key, "value": str(value)}
            for key, value in corpus.recipe.items()
            if key not in {"kind", "sources"}
        ]
        parts += ["## Curation\n", f"{corpus.headline}. Settings:\n", markdown_table(settings)]
    parts += [
        "## Is a file in here?\n",
        "`swhids.txt` lists the Software Heritage identifier of each file (git's blob id).\n",
        "```sh\ngrep $(git hash-object FILE) swhids.txt\n```\n",
    ]
    return "\n".join(parts)


def _count(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    files: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for row in rows:
        files[row[key]] += 1
        size[row[key]] += row["bytes"]
    order = sorted(files, key=lambda name: (-size[name], name))
    return [{key: name, "files": files[name], "bytes": size[name]} for name in order]
