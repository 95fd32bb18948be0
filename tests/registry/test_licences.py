"""The strictest terms of a recipe's parts, and the refusal of parts that are not free for commerce."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xmodal.__main__ import main, run
from xmodal.registry import licences
from xmodal.registry import recipe as parts
from xmodal.registry.adapters import parts_of
from xmodal.registry.build import late_parts
from xmodal.registry.cards import Card
from xmodal.registry.modelcard import model_card

BEATS = {"class_path": "xmodal.foundation.beats.BEATs", "init_args": {"card": "mini"}}
SD = {"class_path": "xmodal.foundation.stable_diffusion.StableDiffusion", "init_args": {"card": "sd-1.4"}}
BOUND = {"class_path": "xmodal.foundation.imagebind.AudioTower"}
KARLO = {"class_path": "xmodal.foundation.diffusion_prior.KarloPrior", "init_args": {"card": "karlo"}}
NOTHING = {"class_path": "xmodal.foundation.diffusion_prior.Identity"}


def found(**named: Any) -> list[parts.Part]:
    return parts.parts({"model": {"class_path": "any.Task", "init_args": named}})


def card(licence: str, commercial: bool) -> Card:
    return Card("x", {}, licence, commercial, "", 0)


@pytest.mark.parametrize(
    ("licence", "commercial", "expected"),
    [
        ("MIT", True, "permissive"),
        ("Apache-2.0", True, "permissive"),
        ("CC-BY-4.0", True, "attribution"),
        ("CreativeML OpenRAIL++-M", True, "use-restricted"),
        ("CC-BY-NC-SA-4.0", False, "non-commercial"),
        ("unverified", False, "unclear"),
        ("unknown", False, "unclear"),
    ],
)
def test_kinds(licence: str, commercial: bool, expected: str) -> None:
    assert licences.kind(card(licence, commercial)) == expected


def test_strictest() -> None:
    assert licences.strictest(found(encoder=BEATS)) == "permissive (Apache-2.0: beats:mini)"
    assert licences.strictest(found(encoder=BEATS, generator=SD)).startswith("use-restricted (CreativeML OpenRAIL-M: stable_")
    assert licences.strictest(found(a=BEATS, b=SD, c=BOUND)) == "non-commercial (CC-BY-NC-SA-4.0: imagebind:huge)"
    both = licences.strictest(found(a=KARLO, b=BOUND))
    assert both == "non-commercial (CC-BY-NC-SA-4.0: imagebind:huge); unclear (unverified: diffusion_prior:karlo)"
    assert licences.strictest(found(prior=NOTHING)) == "no foundation weights"


def test_refusal_names_each_part_and_its_place() -> None:
    licences.refuse_non_commercial(found(encoder=BEATS, generator=SD))
    with pytest.raises(
        ValueError, match=r"imagebind:huge \(CC-BY-NC-SA-4.0\) as model.ear, diffusion_prior:karlo .unverified.*p"
    ):
        licences.refuse_non_commercial(found(ear=BOUND, generator=SD, prior=KARLO))


def test_a_path_has_unknown_terms(tmp_path: Path) -> None:
    own = {"class_path": BEATS["class_path"], "init_args": {"card": str(tmp_path)}}
    with pytest.raises(ValueError, match="unknown"):
        licences.refuse_non_commercial(found(encoder=own))


def test_parts_follow_variables_lists_and_defaults() -> None:
    section = {"init_args": {"many": [BEATS, {**SD, "init_args": {"card": "${vars.which}"}}], "prior": NOTHING}}
    names = [(part.place, part.name) for part in parts.parts({"vars": {"which": "sd-2.1"}, "model": section})]
    assert names == [("model.many[0]", "beats:mini"), ("model.many[1]", "stable_diffusion:sd-2.1")]
    assert parts.parts({"model": {**SD, "init_args": {"card": "${vars.absent}"}}}) == []
    assert [part.name for part in parts.parts({"model": BOUND})] == ["imagebind:huge"]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text("""# A recipe
model:
  class_path: xmodal.audio2image.AudioToken
  init_args:
    encoder: {class_path: xmodal.foundation.beats.BEATs, init_args: {card: mini}}
    generator: {class_path: xmodal.foundation.stable_diffusion.StableDiffusion, init_args: {card: mini}}
""")
    return str(path)


def test_overlays_and_options_replace_parts(recipe: str, tmp_path: Path) -> None:
    overlay = tmp_path / "over.yaml"
    overlay.write_text(f"model: {{init_args: {{encoder: {{class_path: {BOUND['class_path']}, init_args: {{card: huge}}}}}}}}")
    words = ["fit", "--config", recipe, f"--config={overlay}", "--model.generator.card", "sd-1.5", "--trainer.max_steps=3"]
    assert [part.name for part in parts.of_command(words)] == ["imagebind:huge", "stable_diffusion:sd-1.5"]
    words = ["fit", "-c", recipe, "--model.init_args.encoder", BOUND["class_path"], "--model.encoder.init_args.card=huge"]
    assert [part.name for part in parts.of_command(words)] == ["imagebind:huge", "stable_diffusion:mini"]


def error_of(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    monkeypatch.setattr("sys.argv", ["xmodal", *words])
    monkeypatch.delitem(__import__("sys").modules, "xmodal.commands.lightning", raising=False)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == status
    assert "xmodal.commands.lightning" not in __import__("sys").modules  # nothing was loaded for the refusal
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_fit_refuses_before_anything_loads(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.encoder.class_path", BOUND["class_path"], "--model.encoder.card", "huge", "--commercial"]
    line = error_of(["fit", "--config", recipe, *options], monkeypatch, capsys)
    assert "--commercial refuses imagebind:huge (CC-BY-NC-SA-4.0) as model.encoder" in line


def test_missing_weights_end_at_once_with_the_command(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    line = error_of(["fit", "--config", recipe, "--model.generator.card", "sd-1.4"], monkeypatch, capsys)
    names = ("model.generator", "CompVis/stable-diffusion-v1-4", "text_encoder/model.safetensors", "4.26 GB if in float32")
    assert all(words in line for words in names)
    assert "run `xmodal pull stable_diffusion:sd-1.4`" in line
    line = error_of(["fit", "--config", recipe, "--model.generator.card", "sd-9"], monkeypatch, capsys)
    assert "has no card 'sd-9'" in line
    line = error_of(["fit", "--config", str(tmp_path / "absent.yaml")], monkeypatch, capsys, 2)
    assert "there is no recipe" in line


def test_training_asks_only_for_what_it_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "nothing"))
    words = ["fit", "--config", str(parts.__file__).replace("xmodal/registry/recipe.py", "recipes/miniature/v2a_diffusion.yaml")]
    for late in ("generator", "target"):
        words += [f"--model.{late}.card", {"generator": "audioldm-s-full-v2", "target": "audioldm"}[late]]
    found = parts.of_command(words)
    lacking = {part.place for part in found if part.card.find() is None}
    assert lacking == {"model.generator", "model.target"}
    with pytest.raises(FileNotFoundError):
        parts.check_weights(found)
    parts.check_weights(found, parts.in_training(words))
    words += ["--model.encoder.card", "vit-b-32"]
    with pytest.raises(FileNotFoundError, match=r"model\.encoder"):
        parts.check_weights(parts.of_command(words), parts.in_training(words))


def test_parts_that_are_made_later() -> None:
    assert late_parts("xmodal.vision2audio.V2AMapper") == {"target", "generator"}
    assert late_parts("xmodal.text2audio.CLIPSonic") == {"text_encoder", "prior"}
    assert late_parts("no.such.Task") == late_parts(None) == frozenset()


def adapter(folder: Path, card: str) -> Path:
    folder.mkdir()
    part = f"{{class_path: {BOUND['class_path']}, init_args: {{card: {card}}}}}"
    (folder / "adapter.safetensors").touch()
    (folder / "recipe.yaml").write_text(f"model: {{class_path: any.Task, init_args: {{encoder: {part}}}}}")
    return folder


def test_generate_refuses_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(adapter(tmp_path / "mine", "huge"))
    (tmp_path / "any.wav").touch()
    words = ["generate", str(tmp_path / "any.wav"), "--to", "image", "--adapter", folder]
    assert "--commercial refuses imagebind:huge" in error_of([*words, "--commercial"], monkeypatch, capsys)
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path))
    assert "imagebind_huge.pth" in error_of(words, monkeypatch, capsys)


def test_a_checkpoint_says_its_parts(tmp_path: Path) -> None:
    import torch

    folder = adapter(tmp_path / "mine", "huge")
    torch.save({"recipe": (folder / "recipe.yaml").read_text(), "state_dict": {}}, tmp_path / "last.ckpt")
    assert [part.name for part in parts_of(str(tmp_path / "last.ckpt"))] == ["imagebind:huge"]
    with pytest.raises(ValueError, match="'no-such-adapter' is neither a built-in adapter nor a path"):
        parts_of("no-such-adapter")


def test_an_adapter_on_the_hub_is_looked_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "any.wav").touch()
    words = ["generate", str(tmp_path / "any.wav"), "--to", "image", "--adapter", "acme/bells", "--commercial"]
    line = error_of(words, monkeypatch, capsys)
    assert all(
        word in line for word in ("'acme/bells'", "recipe.yaml", "https://huggingface.co/acme/bells", "offline", "without")
    )
    place = tmp_path / "models--acme--bells"
    (place / "snapshots").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c0ffee")
    for name in ("adapter.safetensors", "README.md"):
        (adapter(place / "snapshots" / "c0ffee", "huge") if name[0] == "a" else place / "snapshots" / "c0ffee").joinpath(
            name
        ).touch()
    assert "--commercial refuses imagebind:huge" in error_of(words, monkeypatch, capsys)


def test_recipes_show_the_strictest_terms(capsys: pytest.CaptureFixture[str]) -> None:
    run(["recipes"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("audiotoken "))
    assert line.endswith("use-restricted")


def test_model_card_states_the_strictest_terms() -> None:
    section = {"class_path": "xmodal.audio2image.AudioToken", "init_args": {"encoder": BOUND, "generator": SD, "seconds": 2}}
    text = model_card("mine", section, {}, {})
    assert "| encoder | `xmodal.foundation.imagebind.AudioTower` | `huge` | CC-BY-NC-SA-4.0 | no |" in text
    assert "| generator | `xmodal.foundation.stable_diffusion.StableDiffusion` | `sd-1.4` | CreativeML OpenRAIL-M | yes |" in text
    assert "bind what the adapter makes: non-commercial (CC-BY-NC-SA-4.0: imagebind:huge)." in text
