"""What a row of a manifest becomes: the pan of its very window of sound, and frames of its stretch of video."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.data.test_video import FPS, numbers, write_video
from xmodal.data.media import augmented_picture, augmented_sound
from xmodal.data.module import PairedMedia
from xmodal.data.pan import from_known_pan, heard_pan, known_pan, panned
from xmodal.frozen import Feature

RATE = 16_000


def write_manifest(folder: Path, rows: list[Mapping[str, Any]]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(json.dumps({"split": "train", **row}) for row in rows))
    return path


def media(manifest: Path, **options: Any) -> PairedMedia:
    sizes = {"seconds": 1.0, "width": 16, "height": 12, "crop": "loudest", "batch_size": 8, "num_workers": 0}
    return PairedMedia(manifest, **{**sizes, **options})


def clips(data: PairedMedia) -> dict[str, dict[str, Any]]:
    """Each clip's tensors, by name."""
    found = {}
    for batch in data.train_dataloader():
        for index, name in enumerate(batch["id"]):
            found[name] = {key: value[index] for key, value in batch.items() if isinstance(value, torch.Tensor)}
    return found


def write_noise(path: Path, seconds: list[float], gains: list[float], pans: list[float], rate: int = RATE) -> None:
    """Stretches of noise, each with its loudness and pan."""
    random = np.random.default_rng(0)
    parts = []
    for length, gain, pan in zip(seconds, gains, pans, strict=True):
        mono = torch.from_numpy(gain * random.standard_normal(round(length * rate)))[None]
        parts.append(panned(mono, torch.tensor([pan], dtype=torch.float64))[0].numpy().T)
    soundfile.write(path, np.concatenate(parts), rate, subtype="FLOAT")


def test_pan_is_that_of_the_window_that_is_heard(tmp_path: Path) -> None:
    """Loud on the right between quiet on the left: the whole file's pan is another."""
    for rate in (16_000, 44_100, 8_000):
        write_noise(tmp_path / f"{rate}.wav", [1.5, 1.0, 2.0], [0.02, 0.1, 0.02], [-0.8, 0.6, -0.8], rate)
    write_noise(tmp_path / "short.wav", [0.5], [0.1], [-0.3])
    rows = [{"id": str(rate), "audio": f"{rate}.wav"} for rate in (16_000, 44_100, 8_000)]
    rows += [{"id": "short", "audio": "short.wav"}, {"id": "part", "audio": "16000.wav", "start": 2.6, "duration": 1.5}]
    manifest = write_manifest(tmp_path, rows)
    found = clips(media(manifest, inputs=["waveform", "pan"]))
    pans = {name: float(clip["pan"]) for name, clip in found.items()}
    for name, expected in {"16000": 0.6, "44100": 0.6, "8000": 0.6, "short": -0.3, "part": -0.8}.items():
        assert pans[name] == pytest.approx(expected, abs=0.02), name
    plain = clips(media(manifest, inputs=["waveform"]))
    assert all(torch.equal(plain[name]["waveform"], found[name]["waveform"]) for name in plain)
    assert "pan" not in plain["short"]
    assert list(clips(media(manifest, inputs=["pan"]))["short"]) == ["pan"]


def test_pan_follows_a_random_crop(tmp_path: Path) -> None:
    """Each second stands elsewhere, and is as loud as its place is far to the right."""
    pans = [-0.75, -0.25, 0.25, 0.75]
    expected = dict(zip((0.004, 0.02, 0.1, 0.5), pans, strict=True))
    write_noise(tmp_path / "a.wav", [1.0] * 4, list(expected), pans)
    data = media(write_manifest(tmp_path, [{"id": "a", "audio": "a.wav"}]), crop="random", inputs=["waveform", "pan"])
    loader, seen = data.train_dataloader(), set()
    for batch in [batch for _ in range(12) for batch in loader]:
        loudness = float(batch["waveform"].square().mean().sqrt())
        level = min(expected, key=lambda each: abs(np.log(each / loudness)))
        assert float(batch["pan"]) == pytest.approx(expected[level], abs=0.01)
        seen.add(level)
    assert len(seen) > 1


def test_what_tells_no_place_has_no_pan(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE, 6))
    for name, sound in {"mono": noise[:, :1], "twice": noise[:, [0, 0]], "film": noise, "stereo": noise[:, :2]}.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE)
    manifest = write_manifest(tmp_path, [{"id": name, "audio": f"{name}.wav"} for name in ("mono", "twice", "film", "stereo")])
    found = clips(media(manifest, inputs=["pan"]))
    assert [name for name, clip in found.items() if not clip["pan"].isnan()] == ["stereo"]
    assert abs(float(found["stereo"]["pan"])) < 0.02
    pans = torch.tensor([-1.0, torch.nan, 0.0])
    assert torch.equal(known_pan(pans), torch.tensor([[-1.0, 1], [0, 0], [0, 1]]))
    torch.testing.assert_close(from_known_pan(known_pan(pans)), pans, equal_nan=True)
    assert heard_pan(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]), 0, 2).isnan()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 4 s whose frames tell their numbers, with sound; stretches of it; a picture."""
    folder = tmp_path_factory.mktemp("films")
    write_video(folder / "film.mp4", sound=True)
    Image.fromarray(np.full((12, 16, 3), 6 * 7, np.uint8)).save(folder / "seven.png")
    rows = [
        {"id": "whole", "video": "film.mp4"},
        {"id": "part", "video": "film.mp4", "start": 1.0, "duration": 2.0},
        {"id": "rest", "video": "film.mp4", "start": 2.0},
        {"id": "over", "video": "film.mp4", "start": 3.0, "duration": 5.0},
        {"id": "picture", "audio": "film.mp4", "image": "seven.png"},
    ]
    return write_manifest(folder, rows)


@pytest.mark.parametrize("count", [1, 4])
def test_frames_are_spread_over_the_clips_stretch_of_video(films: Path, count: int) -> None:
    found = clips(media(films, frames=count, inputs=["pixels"]))
    shape = (3, 12, 16) if count == 1 else (4, 3, 12, 16)
    assert {tuple(clip["pixels"].shape) for clip in found.values()} == {shape}
    shown = {name: numbers(clip["pixels"].reshape(count, 3, 12, 16)) for name, clip in found.items()}
    stretches = {"whole": (0, 4), "part": (1, 3), "rest": (2, 4), "over": (3, 4)}
    for name, (begin, end) in stretches.items():
        times = [begin + (end - begin) * (index + 0.5) / count for index in range(count)]
        assert all(abs(number - time * FPS) <= 1 for number, time in zip(shown[name], times, strict=True)), name
    assert shown["picture"] == [7] * count


def test_a_number_of_frames_is_a_feature_of_its_own(films: Path, tmp_path: Path) -> None:
    feature = Feature(("pixels",), ("colour",), (), lambda batch: {"colour": batch["pixels"].mean((-1, -2))})
    sound = Feature(("waveform",), ("heard",), (), lambda batch: {"heard": batch["waveform"]})
    few, many = (media(films, cache=tmp_path, frames=count) for count in (1, 4))
    assert few.store(feature).root != many.store(feature).root  # type: ignore[union-attr]
    assert few.store(sound).root == many.store(sound).root  # type: ignore[union-attr]
    pan = Feature(("pan",), ("known_pan",), (), lambda batch: {"known_pan": known_pan(batch["pan"])})
    assert few.store(pan).root != media(films, cache=tmp_path, seconds=2.0).store(pan).root  # type: ignore[union-attr]
    assert few.store(pan, "random") is None


def test_bad_options_and_rows(films: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames must be at least 1, not 0"):
        media(films, frames=0)
    with pytest.raises(ValueError, match="predict_inputs must be one of waveform, pixels, not 'pan'"):
        media(films, predict_inputs=["pan"])
    write_video(tmp_path / "film.mp4", 1.0)
    late = media(write_manifest(tmp_path, [{"id": "late", "video": "film.mp4", "start": 3.0}]), inputs=["pixels"])
    with pytest.raises(ValueError, match=r"film.mp4 ends before 3.00 s, where the clip 'late' begins"):
        clips(late)


def test_augmented_reading_depends_on_seed_epoch_and_clip_alone() -> None:
    random = lambda: np.random.default_rng([0, 1, 2, 3])  # noqa: E731
    sound, picture = torch.rand(1000) - 0.5, torch.rand(2, 3, 16, 12)
    heard, seen = augmented_sound(sound, random()), augmented_picture(picture, random())
    assert torch.equal(heard, augmented_sound(sound, random()))
    assert torch.equal(seen, augmented_picture(picture, random()))
    assert heard.shape == sound.shape
    assert seen.shape == picture.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    assert heard.abs().max() <= sound.abs().max()
    shifts = [augmented_sound(torch.ones(1000), np.random.default_rng(seed)) for seed in range(20)]
    assert all(0.9 * 1000 <= int((each > 0).sum()) <= 1000 for each in shifts)
    assert all(10 ** (-6 / 20) <= float(each.max()) <= 1 for each in shifts)
    whole = torch.linspace(0, 1, 12).expand(3, 16, 12)
    mirrored = [augmented_picture(whole, np.random.default_rng(seed))[0, 0].diff().mean() < 0 for seed in range(40)]
    assert 5 < sum(map(bool, mirrored)) < 35
    assert not any(
        augmented_picture(whole, np.random.default_rng(seed), mirror=False)[0, 0].diff().mean() < 0 for seed in range(20)
    )
