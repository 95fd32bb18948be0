"""Every recipe parses against the classes that it names; nothing is built."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace, capture_parser

from xmodal.commands import lightning as cli
from xmodal.registry import recipes
from xmodal.registry.recipe import in_one

FOLDER = recipes.folder()
RECIPES = sorted(FOLDER.rglob("*.yaml"))
OVERLAYS = [path for path in RECIPES if path.parent.name == "overlays"]


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["xmodal", "fit"])
        return capture_parser(cli.run)


def test_a_class_in_the_place_of_a_default_keeps_its_own_options(parser: ArgumentParser, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "model:\n  class_path: xmodal.vision2audio.V2AMapper\n  init_args:\n"
        "    encoder: {class_path: xmodal.foundation.clip.ImageTower}\n"
        "    target: {class_path: xmodal.foundation.clap.AudioTower}\n"
        "    generator: {class_path: xmodal.foundation.audioldm.AudioLDM}\n"
        "    adapter: {class_path: xmodal.vision2audio.DiffusionMapper}\n"
        "    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}\n"
        "data: {class_path: xmodal.miniature.data.World, init_args: {parts: []}}\n"
    )
    found = parser.parse_args(["fit", "--config", str(recipe)]).fit.model.init_args
    assert found.adapter.init_args.source_norm == "unit"  # a regression mapper's is "scaled"
    assert found.optimizer.init_args.weight_decay == 0  # AdamW's is 0.01


def parsed(parser: ArgumentParser, *words: str) -> Namespace:
    return parser.parse_args(in_one(["fit", *words]))


@cache
def plain(parser: ArgumentParser, base: str) -> str:
    """A base alone, which many overlays are compared with."""
    return str(parser.dump(parsed(parser, "--config", base)))


@pytest.mark.parametrize("path", [path for path in RECIPES if path not in OVERLAYS], ids=name)
def test_recipe_parses(parser: ArgumentParser, path: Path) -> None:
    config = parser.parse_args(["fit", "--config", str(path)])
    assert config.fit.model.class_path.startswith("xmodal.")
    assert "${" not in parser.dump(config)


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_overlay_parses_over_each_base_that_it_fits_and_changes_it(parser: ArgumentParser, path: Path) -> None:
    found = [(name, base) for name, base in recipes.bases().items() if recipes.fits(path, base)]
    assert found, f"{path} fits no base: its header must name one"
    for base, _ in found[:2]:
        changed = parsed(parser, "--config", f"{base}+{path.stem}")
        assert parser.dump(changed) != plain(parser, base)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_header_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header
    assert any("xmodal fit --config" in line or "# Base:" in line for line in header)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_shared_values_are_used(path: Path) -> None:
    text = path.read_text()
    text += "".join(base.read_text() for base in recipes.bases().values() if path in OVERLAYS and recipes.fits(path, base))
    for key in yaml.safe_load(path.read_text()).get("vars", {}):
        assert "${vars." + key + "}" in text, f"vars.{key} is never used"
