"""Every full-size recipe and overlay over weights in the published layouts at reduced width: by the command, offline.

The weights come from a stand-in of the hub by `xmodal pull` where the hub has them, else they lie as a published file does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants
from lightning.pytorch import Callback, LightningDataModule, Trainer
from omegaconf import OmegaConf
from PIL import Image

import xmodal
from tests.hub import Hub, serving
from tests.layouts import LAYOUTS, SIZE, write
from tests.tiny import build
from xmodal.__main__ import main
from xmodal.commands.generate import _noise
from xmodal.data.soundfiles import write_sound
from xmodal.registry import models as registry
from xmodal.registry import recipes
from xmodal.registry.recipe import parts, read
from xmodal.task import Task

ROOT = Path(__file__).parent.parent
BASES = {name: path for name, path in recipes.bases().items() if path.parent.name != recipes.MINIATURE}
OVERLAYS = [f"{base}+{name}" for base, path in BASES.items() for name in recipes.fitting(path)]
VARIANT = "stable_diffusion_xl:sdxl-base-1.0"  # published in both precisions; fetched in half
PINNED = "stable_diffusion:sd-1.5"
SIZED = ("clip", "clap", "audioldm")  # whose cards state the size of pictures or the width of embeddings
HALVES = {"unet", "vae", "text_encoder", "text_encoder_2"}
FITTING = {
    "DiffusionMapper": {"width": 16, "depth": 1, "heads": 2, "dim_head": 8, "num_inference_steps": 2},
    "RegressionMapper": {"hidden_dim": 16},
    "MelUNet": {
        "block_out_channels": [8, 8, 8, 16], "attention": [False, False, False, True], "layers_per_block": 1,
        "attention_head_dim": 8, "norm_num_groups": 4,
    },
}  # fmt: skip


def run(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["xmodal", *words])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


@contextmanager
def hub(cache: Path) -> Iterator[Hub]:
    """The stand-in, for this process."""
    with serving() as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "ENDPOINT", found.url)
        patch.setattr("huggingface_hub.hf_api.ENDPOINT", found.url, raising=False)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}")
        yield found


def serve(served: Hub, repository: str, folder: Path, revision: str) -> None:
    revision = revision or f"{len(served.commits):040x}"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    served.branches[repository] = {"main": revision}
    served.commits[revision] = files


def source(name: str, made: Path | str) -> tuple[str, str]:
    """The repository that has a card's files, and what a recipe's ``card`` must then be: "" where it stays as it is.

    Cards with a sha256 refuse other files, and those of `SIZED` state sizes: theirs are put up as somebody's own. What the hub
    does not have is a path.
    """
    model, _, tag = name.partition(":")
    listing = registry.listing(model)
    if tag not in listing.cards or isinstance(made, str):
        return "", str(made)
    card = registry.card(model, tag)
    if card.repository and not (any(card.files.values()) or card.forms or model in SIZED):
        return card.repository, ""
    own = f"somebody/{re.sub(r'[^a-z0-9]+', '-', name)}"
    return (own, own) if made.is_dir() and card.repository and "card_of" in listing.functions else ("", str(made))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands for each card in a recipe; all that the hub has came by `xmodal pull`."""
    root = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
        patch.setenv("XMODAL_CACHE", str(root / "own"))
        cards, asked = {}, []
        with hub(root / "hub") as served:
            for index, name in enumerate(LAYOUTS):
                made = write(name, root / str(index))
                repository, cards[name] = source(name, made)
                if not repository:
                    continue
                revision = "" if cards[name] else registry.card(*name.split(":", 1)).revision
                serve(served, repository, root / str(index), revision)
                if name != VARIANT:
                    asked.append(name if not cards[name] else f"{name.partition(':')[0]}:{cards[name]}")
            assert run("pull", *asked) == 0
            assert run("pull", "--variant", "fp16", VARIANT) == 0
            assert {each.parent.name for each in (root / "hub").rglob("*.fp16.safetensors")} == HALVES
            pinned = registry.card(*PINNED.split(":"))
            serve(served, str(pinned.repository), root / "0", pinned.revision)
            assert run("pull", PINNED) == 1  # it is not what its sha256 says
            assert pinned.find() is None
        yield cards


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of one second, with names."""
    folder, noise = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    rows = []
    for index, name in enumerate(("dog", "bell", "rain", "horn")):
        write_sound(folder / f"{index}.wav", (0.2 * noise.standard_normal(16000)).astype(np.float32), 16000)
        Image.fromarray(noise.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{index}.png")
        rows.append(
            f'{{"id": "{index}", "audio": "{index}.wav", "image": "{index}.png", "text": "a {name}", "label": "{name}"}}\n'
        )
    (folder / "manifest.jsonl").write_text("".join(rows))
    return folder


def narrowed(node: Any, place: str) -> Iterator[str]:
    """The options that make the trained parts of a recipe as narrow as the frozen ones."""
    if isinstance(node, dict):
        kind = str(node.get("class_path")).rpartition(".")[2]
        yield from (f"--{place}.{option}={value}" for option, value in FITTING.get(kind, {}).items())
        for key, inner in (node.get("init_args") or {}).items():
            yield from narrowed(inner, f"{place}.{key}")


def options(recipe: str, weights: dict[str, str], clips: Path) -> list[str]:
    """What a full-size recipe is run with here: other weights where theirs are pinned, short clips, two at a time."""
    document = read([recipe])
    named = [(part.place, weights.get(part.name, "")) for part in parts(document)]
    assert all(part.name in weights or part.card.shipped for part in parts(document)), recipe
    model = document["model"]["init_args"]
    short = ["--model.seconds=1"] if "seconds" in model else []
    data = {"manifest": clips / "manifest.jsonl", "seconds": 1, "batch_size": 2, "num_workers": 0, "width": SIZE, "height": SIZE}
    return [
        *(f"--{place}.card={value}" for place, value in named if value), *narrowed(document["model"], "model"), *short,
        *(f"--data.{name}={value}" for name, value in data.items()), "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", "--model.num_inference_steps=2",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", BASES)
def test_a_recipe_from_pull_to_predictions(
    recipe: str,
    weights: dict[str, str],
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options(recipe, weights, clips)
    trained = "max_steps" in read([recipe])["trainer"]
    assert run("fit", recipe, *given, *(["--trainer.max_steps=2"] if trained else [])) == 0
    (folder,) = Path("outputs", recipe).iterdir()
    if trained:
        assert run("fit", recipe, *given, "--trainer.max_steps=4", "--ckpt_path=last") == 0
        assert torch.load(folder / "version_1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert run("export", str(folder), "-o", "adapter") == 0
    taken = {"audio": str(clips / "0.wav"), "image": str(clips / "0.png"), "text": "a dog"}[task_of(recipe).takes[0]]
    makes = task_of(recipe).makes
    status = run("generate", taken, "--adapter", "adapter", "--to", makes, "--steps", "2", "-o", "made", "--device", "cpu")
    if recipe == "label-text":  # told the labels of a manifest; without them it would need something that names sounds
        assert status == 1
        assert "no label was given" in capsys.readouterr().err
    else:
        assert status == 0
        (made,) = Path("made").iterdir()
        check(made, makes)
        if recipe == "audiotoken":
            equals_the_pipeline(made, clips / "0.wav")
    words = ["predict", str(folder), "--model.num_inference_steps=2"]
    assert run(*words) == 0
    found = sorted((folder / "predictions").glob("*.png" if makes == "image" else "*.wav"))
    assert len(found) == 4
    for each in found:
        check(each, makes)


def equals_the_pipeline(made: Path, sound: Path) -> None:
    """The picture of `generate` is what diffusers' own pipeline paints from the same folder, embeddings and noise."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    pipe = xmodal.pipeline("adapter")
    folder = registry.card("stable_diffusion", "sd-1.4").folder()
    kinds = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer}
    peer = StableDiffusionPipeline(
        **{name: kind.from_pretrained(folder / name, local_files_only=True) for name, kind in kinds.items()},
        scheduler=pipe.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    embeds = pipe.generator.prompt_embeds([pipe.prompt], pipe.encode(str(sound)))
    (noise,) = _noise(1, 0)
    expected = peer(
        prompt_embeds=embeds, negative_prompt_embeds=pipe.generator.prompt_embeds([""]), generator=noise, num_inference_steps=2,
        guidance_scale=pipe.guidance_scale, output_type="np",
    ).images[0]  # fmt: skip
    found = np.asarray(Image.open(made)) / 255
    assert found.std() > 0.01
    assert np.abs(found - expected).max() < 0.6 / 255  # half a step of eight bits


def task_of(recipe: str) -> Any:
    from xmodal.registry.build import kind_of

    return kind_of(read([recipe])["model"]["class_path"], recipe)


def check(path: Path, makes: str) -> None:
    if makes == "image":
        assert np.asarray(Image.open(path)).std() > 0
    else:
        sound, rate = soundfile.read(path)
        assert rate in (16_000, 22_050)
        assert len(sound) == rate  # one second
        assert np.abs(sound).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OVERLAYS)
def test_an_overlay_takes_two_steps(
    recipe: str, weights: dict[str, str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built from the recipe by the library, without the command line, which would take most of the time."""
    monkeypatch.chdir(tmp_path)
    given = [tuple(word.removeprefix("--").split("=", 1)) for word in options(recipe, weights, clips)]
    document: Any = OmegaConf.to_container(OmegaConf.create(read([recipe], given)), resolve=True)  # type: ignore[arg-type]
    task, data = build(document["model"], Task), build(document["data"], LightningDataModule)
    trainer = document["trainer"] | {"max_steps": 2, "max_epochs": 2, "logger": False, "enable_model_summary": False}
    trainer |= {"num_sanity_val_steps": 1, "limit_val_batches": 1}  # of two; some overlays validate before the training alone
    trainer["callbacks"] = [build(each, Callback) for each in trainer.get("callbacks", [])]
    before = {name: value.clone() for name, value in task.adapter.state_dict().items()}
    runs = Trainer(**trainer)
    runs.fit(task, datamodule=data)
    changed = [name for name, value in task.adapter.state_dict().items() if not torch.equal(before[name], value)]
    if task.configure_optimizers() is None or not before:
        return
    assert runs.global_step == 2
    assert changed
    assert all(value.isfinite().all() for value in task.adapter.state_dict().values())


def rows() -> list[str]:
    """What is driven here, as a table."""
    said = ["| recipe | weights | overlays |", "|---|---|---|"]
    for name, path in BASES.items():
        cards = ", ".join(dict.fromkeys(part.name for part in parts(read([name]))))
        said.append(f"| {name} | {cards} | {', '.join(recipes.fitting(path))} |")
    return said


def test_the_documents_list_is_what_is_driven() -> None:
    said = [line for line in (ROOT / "docs/models.md").read_text().splitlines() if line.startswith("|")]
    assert said == rows(), "\n".join(rows())
