"""Asking for sounds of pictures and videos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch.nn import functional as F

from tests.rounding import agree
from tests.vision2audio.parts import DIFFUSION, RATE, Ears, Voice, colour, task
from xmodal.vision2audio import RegressionMapper, V2AMapperPipeline, slerp


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def made(**options: Any) -> V2AMapperPipeline:
    return task(adapter=DIFFUSION, **options).eval().pipeline()


@pytest.fixture
def pipe() -> V2AMapperPipeline:
    return made()


def gif(folder: Path, *names: str) -> Path:
    frames = [Image.fromarray((colour(name, 16).permute(1, 2, 0) * 255).byte().numpy()) for name in names]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=500, loop=0)
    return folder / "a.gif"


def test_output(pipe: V2AMapperPipeline) -> None:
    found = pipe(colour("red"), audio_length_in_s=0.2, num_waveforms_per_prompt=2, generator=noise(0, 1))
    assert isinstance(found.audios, np.ndarray)
    assert found.audios.shape == (2, 800)
    assert found.audios.dtype == np.float32
    assert np.abs(found.audios).max() <= 1
    assert found.sampling_rate == RATE
    assert torch.allclose(found.embeddings.norm(dim=1), torch.ones(2))
    assert pipe(colour("red"), output_type="pt").audios.shape == (1, 400)


def test_a_mapper_that_draws_gives_each_sound_its_own_embedding(pipe: V2AMapperPipeline) -> None:
    several = pipe([colour("red"), colour("green")], num_waveforms_per_prompt=2, generator=noise(0, 1, 0, 1))
    assert not torch.allclose(several.embeddings[0], several.embeddings[1], atol=1e-2)
    alone = pipe(colour("green"), generator=noise(1))
    assert torch.allclose(several.embeddings[3], alone.embeddings[0], atol=1e-5)
    assert np.allclose(several.audios[3], alone.audios[0], atol=1e-5)
    sure = task(adapter=RegressionMapper).eval().pipeline()
    twice = sure(colour("red"), num_waveforms_per_prompt=2, generator=noise(0, 1))
    assert agree(twice.embeddings[0], twice.embeddings[1])
    assert not np.allclose(twice.audios[0], twice.audios[1], atol=1e-2)


def test_every_form_of_a_picture_is_the_same_picture(pipe: V2AMapperPipeline, tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), picture, np.asarray(picture), colour("red", 16)]
    found = pipe.encode(forms, noise(*[7] * 5))
    assert torch.allclose(found, found[:1].expand(5, -1), atol=1e-5)


def test_frames_of_a_video_by_each_way(tmp_path: Path) -> None:
    path = gif(tmp_path, "red", "green", "blue")
    for how, expected in {"first": ["red"], "middle": ["green"], "mean": ["red", "green", "blue"]}.items():
        pipe = made(aggregation=how, frames=3)
        rows = pipe.encoder.embed(torch.stack([colour(name) for name in expected]))
        source = F.normalize(rows, dim=-1).mean(0, keepdim=True)
        close = {"rtol": 0, "atol": 0.03}  # a gif's palette
        torch.testing.assert_close(pipe.encode(path, noise(3)), pipe.mapper.sample(source, generator=noise(3)), **close)
    each = made(aggregation="per_frame", frames=3)
    one = torch.Generator().manual_seed(3)
    stacked = torch.stack([colour(name) for name in ("red", "green", "blue")])
    expected = F.normalize(each.mapper.sample(each.encoder.embed(stacked), generator=[one] * 3).mean(0, keepdim=True), dim=-1)
    torch.testing.assert_close(each.encode(stacked, noise(3)), expected)
    assert each.encode([path, stacked], noise(3, 4), frames=2).shape == (2, 6)
    drawn = made(aggregation="random")
    found = [drawn.encode(stacked, noise(seed)) for seed in (0, 0, 1, 2, 3)]
    assert agree(found[0], found[1])
    assert len({round(float(each[0, 0]), 4) for each in found}) > 2


def test_candidates_are_ranked_by_what_the_target_hears(pipe: V2AMapperPipeline) -> None:
    built = Ears.built
    best = pipe(colour("red"), candidates=8, generator=noise(0))
    assert Ears.built == built + 1
    assert best.audios.shape == (1, 400)
    asked = {"num_waveforms_per_embedding": 8, "seconds": 0.1, "generator": noise(0)}
    pipe.encode(colour("red"), asked["generator"])  # the mapper draws first
    every = pipe.generator.generate(best.embeddings, **asked)
    scores = pipe.closeness(every, best.embeddings.expand(8, -1))
    assert torch.allclose(every[scores.argmax()], torch.from_numpy(best.audios[0]), atol=1e-6)
    assert scores.max() > scores.min()


def test_options_reach_generator_and_mapper(pipe: V2AMapperPipeline) -> None:
    asked: list[Any] = []
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler = scheduler
    sample = pipe.mapper.sample
    pipe.mapper.sample = lambda source, **options: asked.append(options) or sample(source, generator=None)  # type: ignore
    generator, steps_seen = torch.Generator(), []
    pipe(
        colour("red"), num_inference_steps=7, guidance_scale=1.5, generator=generator, mapper_options={"eta": 0.0},
        callback_on_step_end=lambda step, steps: steps_seen.append((step, steps)),
    )  # fmt: skip
    assert asked == [{"generator": generator, "eta": 0.0}]
    given = dict(pipe.generator.asked)
    given.pop("callback")(1, 7)
    assert steps_seen == [(1, 7)]
    assert given == {
        "seconds": 0.1, "num_inference_steps": 7, "guidance_scale": 1.5, "generator": generator, "scheduler": scheduler,
        "negative": None, "latents": None,
    }  # fmt: skip
    pipe(colour("red"))
    assert pipe.generator.asked["num_inference_steps"] == 25
    assert pipe.generator.asked["guidance_scale"] == 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
        ({"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt must be at least 1"),
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"audio_length_in_s": float("nan")}, "audio_length_in_s must be above 0"),
        ({"output_type": "wav"}, "output_type must be one of np, pt"),
        ({"generator": noise(0, 1)}, "2 generators for 1 sounds"),
    ],
)
def test_arguments_that_cannot_work(pipe: V2AMapperPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(colour("red"), **options)
    assert pipe.generator.asked == {}


def test_what_cannot_be_seen(pipe: V2AMapperPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture missing\.png"):
        pipe("missing.png")
    with pytest.raises(ValueError, match="nothing to make sounds of"):
        pipe([])
    with pytest.raises(ValueError, match=r"a picture is \(3, H, W\)"):
        pipe(torch.full((3, 8, 8), 2.0))
    with pytest.raises(ValueError, match="frames must be at least 1"):
        pipe(gif(tmp_path, "red", "green"), frames=0)


def test_parts_that_do_not_fit() -> None:
    one = task()
    with pytest.raises(ValueError, match="embeddings of size 6, but the generator is conditioned on size 7"):
        V2AMapperPipeline(one.encoder, one.adapter, Voice("seven"))
    with pytest.raises(ValueError, match="aggregation 'sum'"):
        V2AMapperPipeline(one.encoder, one.adapter, Voice(), aggregation="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ranked by the target encoder, which this pipeline lacks"):
        V2AMapperPipeline(one.encoder, one.adapter, Voice())(colour("red"), candidates=2)


def test_the_way_between_two_embeddings(pipe: V2AMapperPipeline) -> None:
    ends = pipe.encode([colour("red"), colour("blue")], noise(0, 1))
    way = slerp(ends[0], 5 * ends[1], 5)
    assert torch.allclose(way.norm(dim=1), torch.ones(5))
    assert torch.allclose(way[[0, -1]], ends, atol=1e-5)
    steps = (way[1:] * way[:-1]).sum(1)
    assert torch.allclose(steps, steps[:1].expand(4), atol=1e-5)
    assert pipe.generate(way, 0.1, 2).shape == (5, 400)
    with pytest.raises(ValueError, match="the same or opposite"):
        slerp(ends[0], ends[0])
    with pytest.raises(ValueError, match="at least 2"):
        slerp(ends[0], ends[1], 1)


def test_real_generator_with_candidates() -> None:
    """The parts of AudioLDM, tiny: shapes, candidates, and that each sound depends on its own noise alone."""
    from xmodal.foundation import audioldm, clap

    build = audioldm.tiny()["AudioLDM"]
    one = task(
        target=clap.tiny()["AudioTower"],
        generator=build,
        adapter=partial(DIFFUSION, width=12),
        seconds=0.5,
        num_inference_steps=2,
    )
    assert one.adapter.out_dim == 12
    pipe = one.eval().pipeline()
    several = pipe([colour("red"), colour("blue")], generator=noise(0, 1), candidates=2)
    alone = pipe(colour("blue"), generator=noise(1), candidates=2)
    assert several.audios.shape == (2, pipe.generator.sample_rate // 2)
    assert np.allclose(several.audios[1], alone.audios[0], atol=1e-4)
