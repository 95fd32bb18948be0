"""Asking the generator: by picture, by text, by text through a prior; and what a scheduler may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import xmodal
from tests.rounding import agree
from tests.text2audio.parts import COLOURS, MEL, Eyes, Guess, Oracle, Reader, task
from xmodal.foundation.mel import from_log_mel
from xmodal.foundation.vocoder import GriffinLim
from xmodal.text2audio import CLIPSonicPipeline
from xmodal.text2audio.pipeline import check_scheduler, within


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def pipe() -> CLIPSonicPipeline:
    eyes = Eyes()
    return task(encoder=eyes, text_encoder=Reader(eyes), prior=Guess(), num_inference_steps=2).eval().pipeline()


def red(size: int = 8) -> torch.Tensor:
    return torch.tensor(COLOURS["red"])[:, None, None].expand(3, size, size)


def test_output(pipe: CLIPSonicPipeline) -> None:
    made = pipe("a red bell", audio_length_in_s=0.3, num_waveforms_per_prompt=2, generator=noise(0, 1))
    assert isinstance(made.audios, np.ndarray)
    assert made.audios.shape == (2, 1_200)
    assert made.audios.dtype == np.float32
    assert np.abs(made.audios).max() <= 1
    assert made.sampling_rate == 4_000
    assert made.mels.shape == (2, 14, 19)
    assert torch.allclose(made.embeddings.norm(dim=1), torch.ones(2))
    assert pipe("red", output_type="pt", generator=noise(0)).audios.shape == (1, 2_000)


def test_a_sound_depends_on_its_own_query_and_noise_only(pipe: CLIPSonicPipeline) -> None:
    for kind in ("text", "prior"):
        alone = pipe("green", query=kind, generator=noise(3))
        together = pipe(["red", "green"], query=kind, generator=noise(1, 3))
        assert torch.allclose(alone.mels[0], together.mels[1], atol=1e-3)
        assert not torch.allclose(together.mels[0], together.mels[1], atol=1e-1)


def test_sounds_of_one_query_stand_together_and_differ(pipe: CLIPSonicPipeline) -> None:
    made = pipe(["red", "green"], query="text", num_waveforms_per_prompt=2, generator=noise(0, 1, 0, 1))
    assert agree(made.embeddings[0], made.embeddings[1])
    assert not torch.allclose(made.embeddings[1], made.embeddings[2])
    assert not torch.allclose(made.mels[0], made.mels[1], atol=1e-2)


def test_every_form_of_a_picture_is_the_same_picture(pipe: CLIPSonicPipeline, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.save(tmp_path / "a.png")
    forms: list[Any] = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        picture,
        red(16),
        np.asarray(picture),
        red().permute(1, 2, 0).numpy(),
    ]
    embeddings = pipe.encode(forms)
    assert torch.allclose(embeddings, F.normalize(pipe.encoder.embed(red()[None]), dim=-1).expand(6, -1), atol=1e-5)


def test_a_video_is_the_mean_of_its_frames(pipe: CLIPSonicPipeline, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500, loop=0)
    found = pipe.encode(tmp_path / "a.gif", frames=2)
    each = F.normalize(pipe.encoder.embed(torch.stack([red(), red().roll(1, 0)])), dim=-1)
    assert torch.allclose(found, F.normalize(each.mean(0, keepdim=True), dim=-1), atol=0.02)


def test_query_paths_on_one_generator() -> None:
    """The bare text lies beside the picture's place; the prior leads there."""
    eyes = Eyes()
    prior = Guess(gap=0.0)
    pipe = task(encoder=eyes, text_encoder=Reader(eyes, gap=0.5), prior=prior).eval().pipeline()
    picture, text = pipe.encode(red(), "image"), pipe.encode("red", "text")
    assert float((picture * text).sum()) < 0.95
    assert pipe.kind("red") == "prior"
    assert pipe.kind(red()) == "image"
    assert pipe.kind("red", "text") == "text"
    pipe.prior = None
    assert pipe.kind("red") == "text"


def test_prior_gets_words_generators_and_options() -> None:
    eyes = Eyes()
    prior = Guess(reads_tokens=True)
    pipe = task(encoder=eyes, text_encoder=Reader(eyes), prior=prior, num_inference_steps=1).eval().pipeline()
    generators = noise(0, 1)
    pipe("red", num_waveforms_per_prompt=2, generator=generators, prior_options={"candidates": 3})
    assert prior.asked["candidates"] == 3
    assert prior.asked["generator"] is generators
    assert prior.asked["tokens"].shape == (2, 5, 6)
    assert prior.asked["mask"].all()


def test_defaults_of_the_prior_give_way_to_those_of_the_call() -> None:
    eyes, prior = Eyes(), Guess()
    options = {"candidates": 3, "guidance_scale": 2.0}
    pipe = (
        task(encoder=eyes, text_encoder=Reader(eyes), prior=prior, prior_options=options, num_inference_steps=1).eval().pipeline()
    )
    pipe.encode("red")
    assert (prior.asked["candidates"], prior.asked["guidance_scale"]) == (3, 2.0)
    pipe("red", prior_options={"candidates": 1})
    assert (prior.asked["candidates"], prior.asked["guidance_scale"]) == (1, 2.0)


def test_an_unknown_option_of_the_prior_is_named() -> None:
    options = {"guidence_scale": 2.0}
    pipe = xmodal.pipeline("clipsonic-mini")
    with pytest.raises(ValueError, match=r"no 'guidence_scale' for a DiffusionPrior: choose from .*guidance_scale, candidates"):
        pipe.encode("a dog", "prior", prior_options=options)


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_sampling_arrives_at_what_the_network_knows(kind: str) -> None:
    """An exact network gives the exact spectrogram; with guidance 2 the way from nothing is doubled."""
    pipe = CLIPSonicPipeline(Eyes(), Oracle(kind), GriffinLim.from_spec(MEL, 1), prediction_type=kind)
    condition = torch.tensor([[0.8, 0.6, 0, 0, 0, 0]])
    for scale, expected in ((1.0, 0.4), (2.0, 0.8)):
        made = pipe.generator.normalize(pipe.generate(condition, 10, 25, scale, noise(0)))
        assert made.mean() == pytest.approx(expected, abs=0.02)
    assert set(pipe.generator.batches[:25]) == {1}
    assert set(pipe.generator.batches[25:]) == {2}


def test_noise_that_would_mean_too_much_is_lessened() -> None:
    """An answer that is off by little at the cosine schedule's first step stands for a guess of hundreds."""
    shares, noisy = Oracle("epsilon").alphas, torch.linspace(-2, 2, 40).view(1, 4, 10)
    first, middle = torch.tensor(999), torch.tensor(500.0)
    for limit in (1.0, 5.0):
        answer = within(lambda noisy, timestep: noisy + 0.01, shares, limit)(noisy, first)
        guess = (noisy - (1 - shares[999]).sqrt() * answer) / shares[999].sqrt()
        assert guess.abs().max() <= limit + 0.01
        assert (answer - noisy).abs().max() < 1e-3
    kept = within(lambda noisy, timestep: noisy, shares, 5.0)(noisy, middle)
    assert torch.allclose(kept, noisy, atol=1e-5)


def test_other_schedulers_and_those_that_are_refused(pipe: CLIPSonicPipeline) -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

    for kind in (DDIMScheduler, UniPCMultistepScheduler):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        assert np.isfinite(pipe("red", generator=noise(0)).audios).all()
    with pytest.raises(ValueError, match="use_karras_sigmas with the cosine schedule"):
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_lu_lambdas=True)
    with pytest.raises(ValueError, match="but the generator was trained with"):
        pipe.scheduler = DDIMScheduler(prediction_type="epsilon")
    linear = {"prediction_type": "epsilon", "beta_schedule": "linear", "num_train_timesteps": 1000}
    check_scheduler(DPMSolverMultistepScheduler(**linear, use_karras_sigmas=True), linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
        ({"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt must be at least 1"),
        ({"audio_length_in_s": 0.0}, "audio_length_in_s must be above 0"),
        ({"output_type": "wav"}, "output_type must be one of np, pt"),
        ({"query": "sound"}, "query must be one of image, text, prior"),
        ({"generator": noise(0, 1)}, "2 generators for 1 results"),
        ({"query": "image"}, "there is no picture red"),
    ],
)
def test_arguments_that_cannot_work(pipe: CLIPSonicPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pipe("red", **options)


def test_queries_that_cannot_be_read(pipe: CLIPSonicPipeline) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture missing\.png"):
        pipe("missing.png")
    with pytest.raises(ValueError, match="queries of one kind"):
        pipe(["red", red()])
    with pytest.raises(ValueError, match="takes texts, got a Tensor"):
        pipe(red(), query="text")
    with pytest.raises(ValueError, match="nothing to make sounds of"):
        pipe([])
    with pytest.raises(ValueError, match=r"a picture is \(3, H, W\)"):
        pipe(torch.full((3, 8, 8), 2.0))
    silent = task().eval().pipeline()
    with pytest.raises(ValueError, match="has no text_encoder"):
        silent("red")
    with pytest.raises(ValueError, match="needs a prior"):
        task(text_encoder=Reader(Eyes())).eval().pipeline()("red", query="prior")
    with pytest.raises(ValueError, match="condition_dropout above 0"):
        task(condition_dropout=0.0).eval().pipeline()(red(), guidance_scale=2.0)
    with pytest.raises(ValueError, match="ask by text"):
        task(encoder=Reader(Eyes())).eval().pipeline()(red())


def test_parts_that_do_not_fit_together() -> None:
    one = task()
    with pytest.raises(ValueError, match="prior has embeddings of size 7, but the generator was trained with size 6"):
        task(prior=Guess(dim=7)).pipeline()
    other = GriffinLim.from_spec(replace(MEL, floor=1e-4))
    with pytest.raises(ValueError, match="disagree on floor") as caught:
        CLIPSonicPipeline(one.encoder, one.average, other)
    assert str(caught.value).count("MelSpec(") == 2


def test_text_tower_as_encoder_answers_texts() -> None:
    reader = Reader(Eyes())
    pipe = task(encoder=reader, num_inference_steps=1).eval().pipeline()
    assert torch.allclose(pipe.encode("red"), F.normalize(reader.embed(["red"]), dim=-1))
    assert pipe("red").audios.shape == (1, 2_000)


def test_silence_goes_through_as_silence() -> None:
    network = Oracle()
    quiet = network.denormalize(torch.full((1, 14, 10), -1.0))
    assert from_log_mel(quiet, MEL).max() < 1e-3
