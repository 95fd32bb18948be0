"""The shipped CLIPSonic: pictures and texts become sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import xmodal
from tests.miniature.hearing import CLIPS, right
from xmodal.__main__ import run
from xmodal.miniature import world


@pytest.mark.slow
@pytest.mark.parametrize("query", ["image", "prior"])
def test_the_tagger_hears_what_was_asked_for(query: str) -> None:
    pictures = [torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in CLIPS]
    texts = [world.random_caption(clip, np.random.default_rng(clip.seed)) for clip in CLIPS]
    noise = [torch.Generator().manual_seed(index) for index in range(len(CLIPS))]
    asked = pictures if query == "image" else texts
    options = {"audio_length_in_s": 2.5, "num_inference_steps": 10, "output_type": "pt"}  # 25, the default, take twice as long
    made = xmodal.pipeline("clipsonic-mini")(asked, query=query, generator=noise, **options)
    assert made.audios.shape == (36, 40_000)
    assert right(made.audios, CLIPS) >= 27
    assert right(made.audios, CLIPS[1:] + CLIPS[:1]) <= 10


@pytest.mark.slow
def test_generate_makes_a_sound_of_a_text(tmp_path: Path) -> None:
    run(["generate", "two large bells", "--to", "audio", "--output", str(tmp_path)])
    (made,) = tmp_path.glob("*.wav")
    sound, rate = soundfile.read(made)
    assert rate == 16_000
    assert abs(sound).max() > 0.01
