"""The ears in the miniature CLIP's space, and the painter out of it: they learn, and what is written loads as any other card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch.nn import functional as F

from xmodal.foundation.clip import ImageTower
from xmodal.foundation.imagebind import AudioTower
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.foundation.stable_unclip import StableUnCLIP, reads_condition
from xmodal.foundation.wav2clip import Wav2CLIP
from xmodal.miniature import world
from xmodal.miniature.data import Clips, World
from xmodal.miniature.training import TrainImageBind, TrainUnCLIP, TrainWav2CLIP


def fit(task: Any, parts: list[str], steps: int) -> None:
    data = World(["factors"], parts, train_count=16, val_count=8, batch_size=8)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=steps, accelerator="cpu", enable_model_summary=False, **quiet).fit(task, data)


@pytest.mark.parametrize(("kind", "ear"), [(TrainWav2CLIP, Wav2CLIP), (TrainImageBind, AudioTower)])
def test_an_ear_is_written_as_a_card(tmp_path: Path, kind: Any, ear: Any) -> None:
    torch.manual_seed(0)
    task = kind(output=tmp_path / "ear", encoder=ImageTower("mini"), optimizer=lambda rows: torch.optim.AdamW(rows, 1e-3))
    fit(task, ["waveform", "pixels"], 2)
    waveform = Clips("test", 2, ("waveform",))[0]["waveform"][None]
    heard = ear(str(tmp_path / "ear")).embed(waveform)
    assert heard.shape == (1, 128)
    known = task.hear(task.published.eval(), task.spectrogram(waveform))
    if kind is TrainWav2CLIP:  # ImageBind hears a longer sound in pieces
        assert F.cosine_similarity(heard, known).item() > 0.999
    assert not [name for name in task.state_dict() if name.startswith("encoder")]


@pytest.mark.parametrize("ear", [Wav2CLIP, AudioTower])
def test_the_shipped_ears_hear_what_is_seen(ear: Any) -> None:
    clips = [world.sample("test", index, 1) for index in range(36)]
    pictures = torch.stack([torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in clips])
    sounds = torch.stack([torch.from_numpy(world.sound(clip).mean(0)) for clip in clips])
    seen, heard = F.normalize(ImageTower("mini").embed(pictures), dim=-1), F.normalize(ear("mini").embed(sounds), dim=-1)
    nearest = (heard @ seen.T).argmax(1).tolist()
    right = sum(clips[found].thing == clip.thing for found, clip in zip(nearest, clips, strict=True))
    assert right >= 24  # of 36, by another picture's thing: chance is some 2


def test_what_paints_lies_over_the_painter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = TrainUnCLIP(
        output=tmp_path / "unclip", encoder=ImageTower("mini"), judged=2, optimizer=lambda rows: torch.optim.AdamW(rows, 1e-4)
    )
    fit(task, ["pixels", "full_caption"], 2)
    written = load_file(tmp_path / "unclip" / "model.safetensors")
    assert set(written) == {name for name in task.net.state_dict() if reads_condition(name)}
    model, base = StableUnCLIP(str(tmp_path / "unclip")), StableDiffusion("mini")
    kept, own = base.unet.state_dict(), model.unet.state_dict()
    for name, value in kept.items():
        if not reads_condition(name):
            assert torch.equal(own[name], value), name
    seen = torch.randn(2, 128)
    states = model.prompt_embeds(["", ""])
    made = model.generate(states, states, 2, 2.0, torch.Generator().manual_seed(0), image_embedding=seen)
    other = model.generate(states, states, 2, 2.0, torch.Generator().manual_seed(0), image_embedding=-seen)
    assert made.shape == (2, 3, 64, 64)
    assert (made - other).abs().max() > 1e-3  # the embedding is read


def test_a_folder_that_lies_over_nothing_is_refused(tmp_path: Path) -> None:
    import shutil

    source = Path(str(next(Path(world.__file__).parent.glob("weights/stable_unclip"))))
    folder = shutil.copytree(source, tmp_path / "unclip")
    (folder / "config.json").write_text(json.dumps({"base": "sd-9", "embedding_dim": 128}))
    with pytest.raises(ValueError, match="lies over 'sd-9', which is no card of stable_diffusion"):
        StableUnCLIP(str(folder))
