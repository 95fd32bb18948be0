"""V2A-Mapper on the files of a manifest: several frames in training and in the cache, and sounds for pictures and videos."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from PIL import Image

from tests.data.test_video import write_video
from tests.text2audio import parts as text2audio
from tests.vision2audio.parts import CARDS, COLOURS, RATE, Ears, colour, task
from xmodal.data import PairedMedia
from xmodal.data.extraction import extract
from xmodal.data.pan import from_known_pan, panned
from xmodal.vision2audio import StereoPan

PANS = {"red": -0.7, "green": 0.1, "blue": 0.7}


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **{"max_steps": 4, "max_epochs": -1, **quiet, **options})


def media(manifest: Path, **options: Any) -> PairedMedia:
    sizes = {"sample_rate": RATE, "seconds": 0.5, "width": 8, "height": 8, "crop": "loudest", "batch_size": 2, "num_workers": 0}
    return PairedMedia(manifest, **{**sizes, **options})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures and two stretches of a video that has no sound."""
    folder = tmp_path_factory.mktemp("seen")
    for name in ("red", "green"):
        Image.fromarray(np.full((8, 8, 3), np.array(COLOURS[name]) * 255, np.uint8)).save(folder / f"{name}.png")
    write_video(folder / "film.mp4")
    rows = [{"id": name, "label": name, "image": f"{name}.png"} for name in ("red", "green")]
    rows += [{"id": "film", "video": "film.mp4"}, {"id": "end", "video": "film.mp4", "start": 3.0}]  # type: ignore[dict-item]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "manifest.jsonl"


def test_predictions_for_a_manifest_without_sounds(manifest: Path, tmp_path: Path) -> None:
    one = task(predictions=tmp_path / "sounds", aggregation="mean")
    run = trainer(tmp_path)
    run.predict(one, media(manifest, frames=3))
    found = {path.stem: (path.read_bytes(), soundfile.read(path, dtype="float32")[0]) for path in (tmp_path / "sounds").iterdir()}
    assert set(found) == {"red", "green", "film", "end"}
    pipe, folder = one.pipeline(), manifest.parent
    for name, asked in {"red": folder / "red.png", "green": folder / "green.png", "film": folder / "film.mp4"}.items():
        expected = pipe(asked, frames=3, generator=torch.Generator().manual_seed(crc32(name.encode()))).audios[0]
        assert np.abs(found[name][1] - expected).max() < 1e-3, name
    lost = tmp_path / "sounds" / "film.wav"
    lost.unlink()
    trainer(tmp_path).predict(one, media(manifest, frames=3))
    assert {path.stem: path.read_bytes() for path in lost.parent.iterdir()} == {name: made for name, (made, _) in found.items()}


def test_what_predictions_are_made_of(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the row 'red' of the manifest names neither audio nor video"):
        trainer(tmp_path).predict(task(predictions=tmp_path), media(manifest, predict_inputs=["waveform"]))
    with pytest.raises(ValueError, match="names neither audio nor video"):
        next(iter(media(manifest).predict_dataloader()))  # without a task that says otherwise, sounds
    batch = next(iter(media(manifest, predict_inputs=["pixels"]).predict_dataloader()))
    assert set(batch) == {"id", "name", "caption", "pixels"}
    assert set(next(iter(media(manifest, predict_inputs=[]).predict_dataloader()))) == {"id", "name", "caption"}


def test_clipsonic_answers_the_pictures_of_a_manifest(manifest: Path, tmp_path: Path) -> None:
    one = text2audio.task(predictions=tmp_path / "sounds", num_inference_steps=2)
    trainer(tmp_path).predict(one, media(manifest, frames=2))
    assert {path.name for path in (tmp_path / "sounds").iterdir()} == {"red.wav", "green.wav", "film.wav", "end.wav"}


def test_clipsonic_answers_the_texts_of_a_manifest_without_media(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "label": "red"}\n{"id": "b", "label": "green"}')
    reader = text2audio.Reader(text2audio.Eyes())
    one = text2audio.task(predictions=tmp_path / "sounds", num_inference_steps=1, query="text", text_encoder=reader)
    trainer(tmp_path).predict(one, media(tmp_path / "manifest.jsonl"))
    assert {path.name for path in (tmp_path / "sounds").iterdir()} == {"a.wav", "b.wav"}


def write_panned(folder: Path) -> Path:
    """Each colour has its pan; grey is a mono file, in one channel, and black twice the same."""
    rows, noise = [], torch.from_numpy(0.1 * np.random.default_rng(0).standard_normal((1, RATE)))
    for name, shade in {**COLOURS, "black": (0.0, 0.0, 0.0)}.items():
        Image.fromarray(np.full((8, 8, 3), np.array(shade) * 255, np.uint8)).save(folder / f"{name}.png")
        sound = panned(noise, torch.tensor([PANS[name]], dtype=torch.float64))[0] if name in PANS else noise.repeat(2, 1)
        soundfile.write(folder / f"{name}.wav", sound[:1].T if name == "grey" else sound.T, RATE)
        rows.append({"id": name, "audio": f"{name}.wav", "image": f"{name}.png"})
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "manifest.jsonl"


@pytest.mark.parametrize("cached", [False, True])
def test_a_pan_head_gets_the_pans_of_files_unasked(tmp_path: Path, cached: bool) -> None:
    manifest = write_panned(tmp_path)
    one = task(adapter=partial(StereoPan, hidden_dim=16), optimizer=lambda found: torch.optim.AdamW(found, lr=1e-2))
    data = media(manifest, batch_size=5, cache=tmp_path / "cache" if cached else None)
    if cached:
        report = extract(one.frozen_features(), data, trainer(tmp_path))
        assert sum("known_pan of 5 clips" in line for line in report) == 3
        for path in tmp_path.glob("*.wav"):
            content = path.stat()
            path.write_bytes(b"\0" * content.st_size)
            os.utime(path, ns=(content.st_atime_ns, content.st_mtime_ns))  # nobody may read it again
    run = trainer(tmp_path, max_steps=200, limit_val_batches=0)
    run.fit(one, data)
    assert "train/pan" in run.callback_metrics
    (batch,) = data.val_dataloader()
    pan = from_known_pan(batch["known_pan"]) if cached else batch["pan"]
    assert [name for name, each in zip(batch["id"], pan, strict=True) if each.isnan()] == ["grey", "black"]
    guessed = one.adapter.pan(one.encoder.embed(torch.stack([colour(name) for name in PANS])))  # type: ignore[operator]
    torch.testing.assert_close(guessed, torch.tensor(list(PANS.values())), atol=0.1, rtol=0)
    if not cached:
        other = media(manifest)
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(task(), other)
        assert "pan" not in next(iter(other.val_dataloader()))


def test_training_on_frames_computed_and_cached(tmp_path: Path) -> None:
    rows = [{"id": "film", "video": "film.mp4"}, {"id": "end", "video": "film.mp4", "start": 2.0, "duration": 2.0}]
    write_video(tmp_path / "film.mp4", sound=True)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    seen = {}
    for count in (1, 3):
        data = media(manifest, cache=tmp_path / "cache", frames=count, cache_dtype="float32")
        if count == 3:
            with pytest.warns(UserWarning, match="image_embedding are computed anew"):  # one frame's are not those of three
                trainer(tmp_path).validate(task(), data, verbose=False)
        extract(task().frozen_features(), data, trainer(tmp_path))
        data = media(manifest, cache=tmp_path / "cache", frames=count, cache_dtype="float32")
        one = task(aggregation="per_frame")
        one.encoder.embed = None  # type: ignore[method-assign, assignment]  # nothing may look again
        one.target.embed = None  # type: ignore[method-assign, assignment]
        run = trainer(tmp_path)
        run.fit(one, data)
        (batch,) = data.val_dataloader()
        seen[count] = batch["image_embedding"]
        assert torch.isfinite(run.callback_metrics["val/cosine"])
    assert seen[1].shape == (2, 5)
    assert seen[3].shape == (2, 3, 5)
    torch.testing.assert_close(seen[3][:, 1], seen[1], atol=0.05, rtol=0)  # the middle one of three is the middle one
    assert (seen[3][:, 2] - seen[3][:, 0]).abs().max() > 0.2
    plain = task().features(next(iter(media(manifest, frames=3).val_dataloader())))
    torch.testing.assert_close(seen[3], plain["image_embedding"])


def test_the_target_is_not_built_where_all_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, built = write_panned(tmp_path), Ears.built
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model").write_text("one")
    card = replace(CARDS["six"], source=str(weights), sample_rate=RATE)
    monkeypatch.setitem(CARDS, "six", card)

    def fitted() -> int:
        before = Ears.built
        run = trainer(tmp_path, max_steps=1)
        run.fit(task(target=partial(Ears, card="six")), media(manifest, cache=tmp_path / "cache"))
        return Ears.built - before

    extract(
        task(target=partial(Ears, card="six")).frozen_features(), media(manifest, cache=tmp_path / "cache"), trainer(tmp_path)
    )
    assert Ears.built == built + 1
    assert fitted() == 0
    (weights / "model").write_text("another")  # as far as can be told unbuilt: it is looked at, and found to be the same
    assert fitted() == 1
    assert fitted() == 0
    (tmp_path / "cache" / "fingerprints.json").write_text("damaged")
    assert fitted() == 1
    with pytest.raises(ValueError, match="sounds at 16000 Hz, but the target hears 4000 Hz"):
        trainer(tmp_path).fit(task(target=partial(Ears, card="six")), media(manifest, sample_rate=16_000))
