"""The story of one's own data, in a fresh folder: 24 videos, three commands, a picture and a sound."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.forks import Forks
from tests.test_packaging import ROOT
from xmodal.data.manifest import read_manifest
from xmodal.miniature.render import render_videos


@pytest.fixture
def forks() -> Iterator[Forks]:
    with Forks(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", COLUMNS="200") as runner:
        yield runner


@pytest.mark.slow
def test_from_a_folder_of_videos_to_a_picture_and_a_sound(tmp_path: Path, forks: Forks) -> None:
    def done(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        result = forks.run(["xmodal", *words], cwd)
        assert result.returncode == 0, f"{words}\n{result.stderr}"
        return result

    videos = render_videos(tmp_path / "clips", "train", 24)
    manifest = "clips/manifest.jsonl"
    prepared = done("data", "prepare", "clips", cwd=tmp_path)
    assert "24 clips" in prepared.stdout
    assert "24 with video" in prepared.stdout
    rows = read_manifest(tmp_path / manifest)
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert {row.label for row in rows} == {path.parent.name for path in videos}

    fitted = done("fit", "audiotoken+mini+samples", "--data.manifest", manifest, "--trainer.max_steps", "12", cwd=tmp_path)
    assert "they are stored first" in fitted.stderr
    (run,) = (tmp_path / "outputs" / "audiotoken+mini+samples").iterdir()
    (command,) = (line for line in fitted.stderr.splitlines() if line.startswith("next: xmodal generate"))
    asked = command.removeprefix("next: xmodal ").replace("SOUND.wav", str(videos[0])).split()
    (picture,) = done(*asked, cwd=tmp_path).stdout.splitlines()
    assert Image.open(tmp_path / picture).size == (64, 64)

    assert {path.name[:12] for path in run.glob("version_0/samples/*.png")} == {"step-000012-"}

    again = done("fit", str(run), "--trainer.max_steps", "14", cwd=tmp_path)
    assert "are stored in outputs/cache already" in again.stderr
    assert "step 14 after" in again.stderr
    done("predict", "outputs/audiotoken+mini+samples", "--model.num_inference_steps", "2", cwd=tmp_path)
    assert len(list((run / "predictions").glob("*.png"))) == 24
    assert {path.name for path in run.iterdir()} == {"version_0", "version_1", "predictions"}

    few = ("--config", "v2a-regression+mini+few", "--data.manifest", manifest, "--trainer.max_steps", "8")
    done("fit", *few, "--trainer.val_check_interval", "4", cwd=tmp_path)
    assert list((tmp_path / "outputs" / "v2a-regression+mini+few").rglob("best.ckpt"))
    words = ("--to", "audio", "--adapter", "outputs/v2a-regression+mini+few", "--steps", "2", "-o", "made")
    done("generate", str(videos[0]), *words, cwd=tmp_path)
    assert (tmp_path / "made" / f"{videos[0].stem}.wav").stat().st_size > 10_000
