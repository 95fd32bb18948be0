"""The README.md beside a published adapter: what it joins, under which licences, and how good it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from torch import Tensor


def model_card(name: str, section: Mapping[str, Any], weights: Mapping[str, Tensor], metrics: Mapping[str, float]) -> str:
    """Return the card's text (markdown) of an adapter called ``name`` built from a recipe's ``model:`` section."""
    count = sum(value.numel() for value in weights.values())
    lines = ["---", "library_name: xmodal", "tags: [xmodal, adapter]", "---", f"# {name}", ""]
    lines += [f"Adapter of `{section['class_path']}`, {count:,} parameters. The models it joins are frozen and not included.", ""]
    lines += ["```python", "import xmodal", "", f'pipe = xmodal.pipeline("{name}")', "```", ""]
    lines += ["## Parts", "", "| part | class | card | licence | commercial use |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _parts(section)]
    lines += ["", "The strictest of these licences also binds what the adapter makes.", "", "## Measured", ""]
    lines += [f"- {key}: {value:.4g}" for key, value in metrics.items()] or ["Nothing was recorded when it was saved."]
    return "\n".join(lines) + "\n"


def _parts(section: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    for name, part in (section.get("init_args") or {}).items():
        if not isinstance(part, Mapping) or "class_path" not in part:
            continue
        tag = (part.get("init_args") or {}).get("card")
        if tag is None:
            continue
        # The card is looked up by the class's own module: foundation files, built in or not, keep CARDS beside the class.
        card = getattr(import_module(part["class_path"].rpartition(".")[0]), "CARDS", {}).get(tag)
        licence, commercial = (card.licence, "yes" if card.commercial else "no") if card else ("unknown", "unknown")
        yield name, f"`{part['class_path']}`", f"`{tag}`", licence, commercial
