"""Known answers: a wrong file, a wrong precision and a wrong preprocessing are each caught."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from xmodal.__main__ import run
from xmodal.foundation import clip
from xmodal.foundation.beats import BEATs
from xmodal.foundation.painter_parts import tiny_parts
from xmodal.registry import models as registry
from xmodal.registry.cards import WEIGHTS
from xmodal.verification import answers, cases
from xmodal.verification.answers import Answer
from xmodal.verification.published import ANSWERS, _astronaut


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    if not request.node.get_closest_marker("weights"):  # real weights lie in the user's own
        monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CLIP in its published layout, with random weights."""
    place = Path(shutil.copytree(WEIGHTS / "clip", tmp_path / "clip"))
    torch.manual_seed(0)
    state = {key: value.float() for key, value in load_file(place / "model.safetensors").items()}
    state = {key: value + 0.02 * torch.randn_like(value) for key, value in state.items()}
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    return place


def states(card: Any) -> list[str]:
    return [each.state for each in answers.verify(card)]


# ---- what was recorded


def test_a_record_is_kept_and_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = answers.card_of(f"clip:{folder}")
    assert "no answer is known: `xmodal doctor --record" in next(answers.verify(card)).text
    run(["doctor", "--record", card.name])
    assert states(card) == ["right", "right"]
    run(["doctor", "--verify", card.name, "--json"])
    assert [each["case"] for each in json.loads(capsys.readouterr().out.partition("\n")[2])] == [
        "ImageTower.embed",
        "TextTower.embed",
    ]


def test_a_wrong_file_is_caught(folder: Path) -> None:
    card = answers.card_of(f"clip:{folder}")
    answers.record(card)
    state = load_file(folder / "model.safetensors")
    state["visual_projection.weight"] += 0.01
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (verdict,) = answers.verify(card)
    assert (verdict.state, verdict.case) == ("wrong", "files")
    assert "model.safetensors differ" in verdict.text
    with pytest.raises(SystemExit) as caught:
        run(["doctor", "--verify", card.name])
    assert caught.value.code == 1
    # And by its numbers, had the hash been that of the record.
    known = answers.recorded(card) or {}
    assert "wrong" in [each.state for each in answers.judge(card.name, answers.computed(card), known["results"])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wrong_precision_is_caught(folder: Path, dtype: torch.dtype) -> None:
    tower = clip.ImageTower(str(folder))
    known = answers.results(tower)
    assert [each.state for each in answers.judge("clip", answers.results(tower), known)] == ["right"]
    assert [each.state for each in answers.judge("clip", answers.results(tower.to(dtype)), known)] == ["wrong"]


def test_a_wrong_preprocessing_is_caught(folder: Path) -> None:
    known = answers.results(clip.ImageTower(str(folder)))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    for changed in ({"image_mean": [0.5, 0.5, 0.5]}, {"resample": 2}):
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | changed))
        found = answers.results(clip.ImageTower(str(folder)))
        assert [each.state for each in answers.judge("clip", found, known)] == ["wrong"], changed


def test_a_result_that_is_missing_or_no_number_is_wrong() -> None:
    assert [each.state for each in answers.judge("a", {"embed": [1.0]}, {"tokens": [1.0]})] == ["wrong", "wrong"]
    assert [each.state for each in answers.judge("a", {"embed": [float("nan")]}, {"embed": [1.0]})] == ["wrong"]
    assert [each.state for each in answers.judge("a", {"embed": [1.0]}, {"embed": [1.0, 2.0]})] == ["wrong"]


def test_every_shipped_card_has_an_answer() -> None:
    known = set(json.loads(answers.SHIPPED.read_text()))
    cards = [registry.card(each["model"], each["card"]) for each in registry.records()]
    shipped = {card.name for card in cards if card.shipped and card.files and card.find() is not None}
    assert known == shipped, f"xmodal doctor --record MODEL:CARD --to {answers.SHIPPED}"


@pytest.mark.parametrize(
    "name", ["beats:mini", "picture_tagger:mini", "stable_diffusion:mini", "audioldm:mini", "diffusion_prior:mini"]
)
def test_shipped_weights_answer_rightly(name: str) -> None:
    found = list(answers.verify(registry.card(*name.split(":"))))
    assert found
    assert all(each.state == "right" for each in found), found


def test_the_shipped_answers_tell_precisions_apart() -> None:
    known = json.loads(answers.SHIPPED.read_text())["beats:mini"]["results"]
    ear = BEATs("mini")
    ear.model.to(torch.bfloat16)
    found = {f"BEATs.{name}": values for name, values in answers.results(ear).items()}
    assert all(each.state == "wrong" for each in answers.judge("beats:mini", found, known))


def test_a_damaged_record_is_one_sentence() -> None:
    card = replace(registry.card("beats", "mini"), source="elsewhere", name="beats:other")
    place = answers.place_of(card)
    place.parent.mkdir(parents=True)
    for text in ("{", '{"beats:other": {"files": 3}}', "[]"):
        place.write_text(text)
        with pytest.raises(ValueError, match="is damaged: remove it and run `xmodal doctor --record beats:other`"):
            answers.recorded(card)


# ---- what was published


def test_verdicts_on_published_numbers() -> None:
    answer = Answer("a case", lambda card: (), (1.0, 0.5), 1e-3, "a paper")
    verdicts = {0.0: "right", 5e-4: "right", 5e-3: "near", 0.02: "wrong", float("nan"): "wrong"}
    for off, state in verdicts.items():
        found = answers.compare("a:b", answer, (1.0, 0.5 + off))
        assert found.state == state, off
        assert "where 0.5 was published" in found.text or off == 0
    assert answers.compare("a:b", answer, (1.0,)).state == "wrong"
    assert answers.compare("a:b", replace(answer, relative=True, tolerance=0.1), (1.05, 0.46)).state == "right"


def test_media_that_are_not_here_or_another_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer("a case", lambda card: (1.0,), (1.0,), 1e-3, "a page", media={"a.png": "2689367b"})
    monkeypatch.setitem(ANSWERS, "acme:one", (answer,))
    (verdict,) = answers.published("acme:one", "one")
    assert (verdict.state, verdict.text) == ("open", f"needs a.png of a page in {cache / 'cache' / 'media'}")
    cases.media_folder().mkdir(parents=True)
    (cases.media_folder() / "a.png").write_bytes(b"no")
    assert "is not the file of a page" in next(answers.published("acme:one", "one")).text
    (cases.media_folder() / "a.png").write_bytes(b"\x00\x01")
    assert answer.lacking().startswith(str(cases.media_folder()))


def test_the_paths_of_published_answers_compute_what_the_libraries_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Stable Diffusion and CLIP from fabricated weights: the cases' own code against diffusers' and transformers'."""
    from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    saved = PNDMScheduler(**betas, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    parts = tiny_parts() | {"scheduler": saved}
    pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path / "sd")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    noise = np.random.RandomState(0).standard_normal((1, 4, 32, 32)).astype(np.float32)
    options = {"latents": torch.from_numpy(noise), "num_inference_steps": 3, "guidance_scale": 7.5, "output_type": "np"}
    picture = pipe("a photograph of an astronaut riding a horse", height=32, width=32, **options).images[0]
    case = replace(ANSWERS["stable_diffusion:sd-1.4"][1], expected=[*picture[-3:, -3:, -1].flatten()], tolerance=1e-4)
    monkeypatch.setitem(ANSWERS, "stable_diffusion:sd-1.4", (case,))
    assert [each.state for each in answers.published("stable_diffusion:sd-1.4", str(tmp_path / "sd"))] == ["right"]
    # By another scheduler the same weights make another picture.
    other = replace(case, compute=_astronaut("PNDMScheduler"))
    monkeypatch.setitem(ANSWERS, "stable_diffusion:sd-1.4", (other,))
    assert [each.state for each in answers.published("stable_diffusion:sd-1.4", str(tmp_path / "sd"))] == ["wrong"]

    model = CLIPTextModelWithProjection.from_pretrained(folder)
    ids = CLIPTokenizer.from_pretrained(folder)("a photo of a cat", return_tensors="pt").input_ids
    with torch.no_grad():
        made = model(input_ids=ids)
    states, vector = made.last_hidden_state[0], made.text_embeds[0]
    expected = torch.cat([states[1:4, 1:4].flatten(), states[-1, 1:4], vector[1:4]]).tolist()
    monkeypatch.setitem(ANSWERS, "clip:vit-b-32", (replace(ANSWERS["clip:vit-b-32"][0], expected=expected),))
    assert [each.state for each in answers.published("clip:vit-b-32", str(folder))] == ["right"]


def test_published_answers_are_of_cards_that_there_are() -> None:
    for name, known in ANSWERS.items():
        assert registry.card(*name.split(":", 1)).name == name
        for case in known:
            assert case.tolerance > 0
            assert " at " in case.source
            assert all(np.isfinite(case.expected))


@pytest.mark.weights
@pytest.mark.parametrize("name", ANSWERS)
def test_published_weights_compute_what_was_published(name: str) -> None:
    card = registry.card(*name.split(":", 1))
    if card.find() is None:
        pytest.skip(card.missing())
    found = list(answers.verify(card))
    assert not [each for each in found if each.state == "wrong"], found
