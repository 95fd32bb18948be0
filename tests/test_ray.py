"""examples/ray_features.py gives the stores that `xmodal cache` gives; run where ray is installed (extra `ray`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer

from xmodal.data import PairedMedia
from xmodal.data.extraction import extract
from xmodal.data.features import Shard
from xmodal.foundation.audioldm import AudioLDM
from xmodal.foundation.clap import AudioTower
from xmodal.foundation.clip import ImageTower
from xmodal.miniature.render import render
from xmodal.vision2audio import V2AMapper

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_ray_fills_the_same_stores(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'xmodal[ray]'")
    manifest = render(tmp_path / "world", "train", 24)
    next((tmp_path / "world").glob("*.wav")).write_text("no sound")
    words = ["--manifest", manifest, "--cache", tmp_path / "ray", "--rows-per-shard", "10"]
    command = [sys.executable, str(ROOT / "examples" / "ray_features.py"), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "image_embedding of 24 clips" in done.stdout
    assert "audio_embedding of 23 clips" in done.stdout

    task = V2AMapper(ImageTower("mini"), lambda: AudioTower("mini"), lambda: AudioLDM("mini"), seconds=2.5)
    data = PairedMedia(
        manifest, seconds=2.5, width=64, height=64, crop="loudest", batch_size=16, num_workers=0, cache=tmp_path / "cache"
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    extract(task.frozen_features(), data, Trainer(accelerator="cpu", **quiet), 10, ("train",))  # type: ignore[arg-type]

    def shards(cache: str) -> dict[str, Shard]:
        return {str(path.relative_to(tmp_path / cache)): Shard(path) for path in (tmp_path / cache).rglob("*.safetensors")}

    ours, theirs = shards("cache"), shards("ray")
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * 3
    for name, shard in ours.items():
        assert (shard.clips, shard.failed) == (theirs[name].clips, theirs[name].failed)
        for kind, array in shard.arrays.items():  # of normalised embeddings in float16; another process may add in another order
            np.testing.assert_allclose(theirs[name].arrays[kind], array, rtol=2e-3, atol=2e-4)
