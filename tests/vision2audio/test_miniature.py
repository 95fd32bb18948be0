"""The shipped V2A-Mapper: unseen pictures become their sounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

import xmodal
from tests.miniature.hearing import CLIPS, right
from xmodal.__main__ import run
from xmodal.miniature import world


def pixels() -> list[torch.Tensor]:
    return [torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in CLIPS]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["v2a-mini", "v2a-regression-mini"])
def test_the_tagger_hears_what_the_pictures_show(adapter: str) -> None:
    noise = [torch.Generator().manual_seed(index) for index in range(len(CLIPS))]
    made = xmodal.pipeline(adapter)(pixels(), generator=noise, num_inference_steps=10, output_type="pt")  # of 25
    assert made.audios.shape == (36, 40_000)
    assert made.sampling_rate == 16_000
    assert right(made.audios, CLIPS) >= 28
    assert right(made.audios, CLIPS[1:] + CLIPS[:1]) <= 10


@pytest.mark.slow
def test_generate_makes_a_sound_of_a_picture(tmp_path: Path) -> None:
    picture = Path(__file__).parents[2] / "examples" / "pictures" / "bell.png"
    run(["generate", str(picture), "--to", "audio", "--output", str(tmp_path), "--spectrogram"])
    sound, rate = soundfile.read(tmp_path / "bell.wav")
    assert (rate, len(sound)) == (16_000, 40_000)
    assert abs(sound).max() > 0.01
    assert (tmp_path / "bell.spectrogram.png").is_file()
