"""The README.md beside a published adapter: what it joins, under which licences, what it was made from, and how good it is.

Its ``record`` holds plain values, all of them optional: ``imported`` (files: name, bytes, sha256), ``measured`` (name -> value).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from xmodal.registry.licences import strictest
from xmodal.registry.recipe import Part, parts


def model_card(name: str, section: Mapping[str, Any], weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """Return the card's text (markdown) of an adapter called ``name`` built from a recipe's ``model:`` section."""
    count = sum(value.numel() for value in weights.values())
    lines = ["---", "library_name: xmodal", "tags: [xmodal, adapter]", "---", f"# {name}", ""]
    lines += [f"Adapter of `{section['class_path']}`, {count:,} parameters. The models it joins are frozen and not included.", ""]
    lines += ["```python", "import xmodal", "", f'pipe = xmodal.pipeline("{name}")', "```", ""]
    lines += ["## Parts", "", "| part | class | card | licence | commercial use |", "|---|---|---|---|---|"]
    found = parts({"model": section})
    lines += [f"| {' | '.join(row)} |" for row in map(_row, found)]
    lines += ["", f"Strictest terms of these parts, which also bind what the adapter makes: {strictest(found)}.", ""]
    if imported := record.get("imported"):
        lines += ["## Made from", "", "| file | bytes | sha256 |", "|---|---|---|"]
        lines += [f"| `{each['file']}` | {each['bytes']:,} | `{each['sha256']}` |" for each in imported]
        lines += [""]
    lines += ["## Measured", ""]
    measured = record.get("measured", {})
    lines += [f"- {key}: {value:.4g}" for key, value in measured.items()] or ["Nothing was recorded when it was saved."]
    return "\n".join(lines) + "\n"


def _row(part: Part) -> tuple[str, ...]:
    commercial = "yes" if part.card.commercial else "unknown" if part.card.licence == "unknown" else "no"
    tag = part.card.name.partition(":")[2] or part.card.source
    return part.place.removeprefix("model."), f"`{part.class_path}`", f"`{tag}`", part.card.licence, commercial
