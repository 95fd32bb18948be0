"""The example of every model in docs/models.md runs as it is printed, offline, with tiny instances."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.registry import models as registry

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
PAGE = PAGE[PAGE.index("## An example of each") :].partition("\n## ")[0]
START, *_ = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = dict(re.findall(r"^### (\w+)\n\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
OWN = [name for name in registry.available() if registry._homes()[name].startswith(registry.GROUP)]


def test_every_model_has_one() -> None:
    assert list(EXAMPLES) == OWN


@pytest.mark.parametrize("model", EXAMPLES)
def test_example(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refused)
    space: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(START + EXAMPLES[model], space)
    made = [value for name, value in space.items() if isinstance(value, torch.Tensor) and name not in ("sound", "picture")]
    assert made
    assert all(value.isfinite().all() for value in made if value.is_floating_point())


@pytest.mark.parametrize("model", EXAMPLES)
def test_cards_that_comments_name(model: str) -> None:
    """What is to be put in the place of the tiny instance is a card of the model."""
    for tag in re.findall(r"#.*?\.\w+\(\"([^\"]+)\"", EXAMPLES[model]):
        assert tag in registry.listing(model).cards
