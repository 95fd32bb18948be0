"""Features stored by a recipe are the features that it would compute, and are found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn

from xmodal.commands.cache import listing, remove, verify
from xmodal.data.claims import Claims
from xmodal.data.extraction import extract
from xmodal.data.features import FeatureStore, Shard
from xmodal.data.loading import Resident
from xmodal.data.media import PairedMediaSet
from xmodal.data.module import PairedMedia
from xmodal.foundation.base import AudioEncoder, ImageEncoder
from xmodal.frozen import Feature
from xmodal.task import Task

RATE = 16000


class Ear(AudioEncoder):
    """Random signs of 20 ms frames: sums of 16-bit samples, which are exact in float32 in whatever order they are added."""

    sample_rate = RATE

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.dim = self.width = 6
        self.net = nn.Linear(320, 6)
        signs = torch.randint(0, 2, (6, 320), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
        self.net.weight.data.copy_(signs)
        nn.init.zeros_(self.net.bias)
        self.calls = 0

    def tokens(self, waveform: Tensor) -> Tensor:
        self.calls += len(waveform)
        return self.net(waveform.unfold(1, 320, 320))

    def embed(self, inputs: Tensor) -> Tensor:
        return self.tokens(inputs).mean(1)


class Eye(ImageEncoder):
    """Mean colour in whole steps of 8 bits, exact whatever the order of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.image_size, self.calls = 3, 32, 0
        self.scale = nn.Parameter(torch.full((3,), 2.0))

    def embed(self, inputs: Tensor) -> Tensor:
        self.calls += len(inputs)
        return (inputs * 255).round().mean((2, 3)) * self.scale


class Match(Task):
    """Regress what is heard on what is seen."""

    def __init__(self, ear: AudioEncoder, eye: ImageEncoder) -> None:
        super().__init__()
        self.ear, self.eye = ear, eye
        self.adapter = nn.Linear(6, 3)  # type: ignore[assignment]
        self.seen: list[Tensor] = []

    def frozen_features(self) -> dict[str, Feature]:
        def hear(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"heard": self.ear.tokens(batch["waveform"])}

        def see(batch: Mapping[str, Any]) -> dict[str, Tensor]:
            return {"colour": self.eye.embed(batch["pixels"])}

        return {
            "heard": Feature(("waveform",), ("heard",), (self.ear,), hear),
            "colour": Feature(("pixels",), ("colour",), (self.eye,), see),
        }

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        batch = {**batch, **self.features(batch)}
        self.seen.append(torch.cat([batch["heard"].flatten(1), batch["colour"]], 1))
        return {"regression": (self.adapter(batch["heard"].mean(1)) - batch["colour"]).square().mean()}


def write_clips(folder: Path, count: int = 10, seconds: float = 0.5) -> Path:
    """Clips of noise and plain pictures; clip 3 of each ten is a text file named .wav."""
    random = np.random.default_rng(0)
    lines = []
    for number in range(count):
        sound, picture = folder / f"clip {number}.wav", folder / f"clip {number}.png"
        soundfile.write(sound, 0.1 * random.standard_normal(round(seconds * RATE)), RATE)
        if number % 10 == 3:
            sound.write_text("no sound")
        Image.fromarray(np.full((32, 32, 3), random.integers(0, 255, 3), np.uint8)).save(picture)
        split = "validation" if number % 5 == 4 else "train"
        lines.append(json.dumps({"id": f"c{number}", "audio": sound.name, "image": picture.name, "split": split}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines))
    return manifest


def media(manifest: Path, cache: Path | None, **options: Any) -> PairedMedia:
    sizes = {"seconds": 0.4, "width": 32, "height": 32, "crop": "loudest", "batch_size": 3, "num_workers": 0}
    return PairedMedia(manifest=manifest, cache=cache, **{**sizes, **options})


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", **{**quiet, **options})


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_clips(tmp_path)


def store_all(manifest: Path, folder: Path, **options: Any) -> list[str]:
    return extract(Match(Ear(), Eye()).frozen_features(), media(manifest, folder, **options), trainer(folder), rows_per_shard=4)


@pytest.mark.parametrize("resident", ["auto", True, False])
def test_cached_and_computed_numbers_are_the_same(manifest: Path, tmp_path: Path, resident: Any) -> None:
    report = store_all(manifest, tmp_path / "cache")
    assert [line.split(" in ")[0] for line in report] == [
        "train: heard of 7 clips", "train: colour of 8 clips", "validation: heard of 2 clips", "validation: colour of 2 clips"
    ]  # fmt: skip
    assert "1 unreadable" in report[0]
    cached = Match(Ear(), Eye())
    data = media(manifest, tmp_path / "cache", device_resident=resident)
    trainer(tmp_path).validate(cached, data, verbose=False)
    assert isinstance(data.trainer.val_dataloaders.source, Resident) is bool(resident)
    assert (cached.ear.calls, cached.eye.calls) == (0, 0)
    computed = Match(Ear(), Eye())
    with pytest.warns(UserWarning, match="not all are stored"):
        trainer(tmp_path).validate(computed, media(manifest, tmp_path / "empty"), verbose=False)
    assert computed.ear.calls == computed.eye.calls == 2
    assert torch.equal(torch.cat(cached.seen), torch.cat(computed.seen))


def test_training_leaves_unreadable_clips_out_and_reads_no_media(manifest: Path, tmp_path: Path) -> None:
    store_all(manifest, tmp_path / "cache")
    for path in tmp_path.glob("*.wav"):
        content = path.stat()
        path.write_bytes(b"\0" * content.st_size)
        os.utime(path, ns=(content.st_atime_ns, content.st_mtime_ns))  # only the content is gone: nobody may read it
    task = Match(Ear(), Eye())
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(task, media(manifest, tmp_path / "cache"))
    assert sum(map(len, task.seen)) == 6  # seven readable clips, batches of three, the last incomplete one dropped
    assert task.ear.calls == 0


@pytest.mark.parametrize("change", ["weights", "seconds", "size", "file", "dtype"])
def test_nothing_stale_is_served(manifest: Path, tmp_path: Path, change: str) -> None:
    store_all(manifest, tmp_path / "cache")
    data, task = media(manifest, tmp_path / "cache"), Match(Ear(), Eye())
    if change == "weights":
        task = Match(Ear(seed=1), Eye())
    elif change == "seconds":
        data = media(manifest, tmp_path / "cache", seconds=0.3)
    elif change == "size":
        data = media(manifest, tmp_path / "cache", width=16)
    elif change == "dtype":
        data = media(manifest, tmp_path / "cache", cache_dtype="float32")
    else:
        soundfile.write(tmp_path / "clip 4.wav", np.full(9000, 0.2), RATE)
    with pytest.warns(UserWarning, match="are computed anew"):
        trainer(tmp_path).validate(task, data, verbose=False)
    assert task.ear.calls + task.eye.calls in (2, 4)


def test_features_of_another_precision_are_another_store(manifest: Path, tmp_path: Path) -> None:
    data, features = media(manifest, tmp_path / "cache"), Match(Ear(), Eye()).frozen_features()
    for precision in ("32-true", "bf16-mixed"):
        extract(features, data, trainer(tmp_path, precision=precision))
    assert len(listing(tmp_path / "cache")) == 1 + 2 * 2
    assert data.store(features["heard"], precision="bf16-mixed").root != data.store(features["heard"]).root  # type: ignore[union-attr]
    task = Match(Ear(), Eye())
    trainer(tmp_path, precision="bf16-mixed").validate(task, media(manifest, tmp_path / "cache"), verbose=False)
    assert task.ear.calls == 0


def test_failures_are_read_once(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = FeatureStore.failures
    monkeypatch.setattr(FeatureStore, "failures", lambda store: asked.append(1) or plain(store))
    assert len(asked) == 0
    report = store_all(manifest, tmp_path / "cache")
    assert len(asked) == len(report)


def test_the_data_says_how_many_clips_a_shard_holds(manifest: Path, tmp_path: Path) -> None:
    extract(Match(Ear(), Eye()).frozen_features(), media(manifest, tmp_path, rows_per_shard=3), trainer(tmp_path))
    assert max(len(Shard(path).clips) for path in tmp_path.rglob("*.safetensors")) == 3
    with pytest.raises(ValueError, match="rows_per_shard must be at least 1, not 0"):
        media(manifest, None, rows_per_shard=0)


def test_a_random_crop_is_not_stored(manifest: Path, tmp_path: Path) -> None:
    report = store_all(manifest, tmp_path / "cache", crop="random")
    assert "train: heard depend on what is read anew each time and cannot be stored" in report[0]
    assert "train: colour of 8 clips" in report[1]


def test_what_is_read_from_files_cannot_stay_in_memory(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is read from files: run `xmodal cache` first"):
        trainer(tmp_path).validate(Match(Ear(), Eye()), media(manifest, None, device_resident=True), verbose=False)


def test_what_is_large_is_stored_only_when_asked_for(manifest: Path, tmp_path: Path) -> None:
    report = store_all(manifest, tmp_path / "cache", cache_limit=1e-6)
    # 20 tokens of 6 numbers of 2 bytes for 8 readable and unreadable clips; the colours are 3 numbers
    assert report[0] == (
        "train: heard take 0.00024 MB a clip, 1.9e-06 GB for 8 clips: more than 1e-06 GB are not stored unasked "
        "(--data.cache_limit 1 would allow it)"
    )
    assert "train: colour of 8 clips" in report[1]


def test_listing_verifying_and_removing(manifest: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store_all(manifest, cache)
    rows = listing(cache)
    assert [(row[1], row[2]) for row in rows[1:]] == [("10", "0"), ("9", "1")]
    assert verify(cache) == []
    with pytest.raises(ValueError, match="has no store 'nothing': it holds colour-"):
        remove(cache, "nothing")
    shard = next((cache / rows[1][0]).glob("*.safetensors"))
    (shard.parent / ".0.safetensors.0123.partial").write_bytes(b"what a killed writer left")
    assert verify(cache) == []
    assert not list(cache.rglob("*.partial"))
    shard.write_bytes(shard.read_bytes()[:-2])
    assert len(verify(cache)) == 1
    remove(cache, rows[1][0])
    assert len(listing(cache)) == 2


def test_what_cannot_be_cached_is_said(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(ValueError, match="nothing can be cached .2 features on object"):
        extract(Match(Ear(), Eye()).frozen_features(), object(), trainer(tmp_path))
    with pytest.raises(ValueError, match="no cache folder: give --data.cache"):
        extract(Match(Ear(), Eye()).frozen_features(), media(manifest, None), trainer(tmp_path))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "fingerprints.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_group_is_read_and_computed_in_batches(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, most, plain_get, plain_embed = 0, 0, PairedMediaSet.__getitem__, Eye.embed

    def get(media: PairedMediaSet, index: int) -> dict[str, Any]:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return plain_get(media, index)

    def embed(eye: Eye, inputs: Tensor) -> Tensor:
        nonlocal waiting
        assert len(inputs) <= 2
        waiting -= len(inputs)
        return plain_embed(eye, inputs)

    monkeypatch.setattr(PairedMediaSet, "__getitem__", get)
    monkeypatch.setattr(Eye, "embed", embed)
    colour = {"colour": Match(Ear(), Eye()).frozen_features()["colour"]}
    extract(colour, media(manifest, tmp_path / "cache", batch_size=2), trainer(tmp_path), 100, ("train",))
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    assert len(Shard(shard).clips) == 8
    assert most <= 2 * 2  # one batch is read ahead
    monkeypatch.undo()
    store_all(manifest, tmp_path / "readers", num_workers=2, batch_size=2)
    store_all(manifest, tmp_path / "whole", batch_size=100)
    assert contents(tmp_path / "readers") == contents(tmp_path / "whole")


@pytest.mark.parametrize("ending", ["given up", "silent", "finished"])
def test_what_another_has_claimed_is_waited_for(manifest: Path, tmp_path: Path, ending: str) -> None:
    store_all(manifest, tmp_path / "whole")
    store_all(manifest, tmp_path / "shared")
    for path in (tmp_path / "shared").rglob("*.safetensors"):
        path.unlink()
    data, feature = media(manifest, tmp_path / "shared"), Match(Ear(), Eye()).frozen_features()["colour"]
    store = data.store(feature)
    assert store is not None
    shards = (tmp_path / "whole" / store.root.name).glob("*.safetensors")
    name = next(path.name for path in shards if len(Shard(path).clips) == 4)
    other = Claims(store.root, [name])
    assert other.take() == 0
    (claim,) = store.root.glob(".*.claim")

    def end() -> None:
        if ending == "silent":
            os.utime(claim, (0, 0))
        else:
            if ending == "finished":
                (store.root / name).write_bytes((tmp_path / "whole" / store.root.name / name).read_bytes())
            other.close()

    timer = Timer(1.0, end)
    timer.start()
    report = store_all(manifest, tmp_path / "shared")
    assert not timer.is_alive()
    assert report[1].startswith("train: colour of 8 clips")
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")
    other.close()


def test_a_limited_run_says_what_is_missing_and_gives_up_its_group(manifest: Path, tmp_path: Path) -> None:
    colour = {"colour": Match(Ear(), Eye()).frozen_features()["colour"]}
    (line,) = extract(colour, media(manifest, tmp_path), trainer(tmp_path, limit_predict_batches=3), 4, ("train",))
    assert line.startswith("train: colour of 4 clips in ")  # two batches make a group of four
    assert line.endswith(", 4 not yet computed")
    assert not list(tmp_path.rglob(".*.claim"))


KILL = """
import faulthandler, logging, os, signal, sys, time, warnings
from pathlib import Path
from random import Random
from threading import RLock
from tqdm import tqdm
from tests.data.test_extraction import Ear, Eye, Match, media, trainer
from xmodal.data.extraction import extract

faulthandler.dump_traceback_later(500, exit=True)
tqdm.set_lock(RLock())  # its own is one lock of all forks: killed while it made a bar, one would hold it for ever
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
folder = Path(sys.argv[1])

def run(cache):
    began = time.monotonic()
    data = media(folder / "manifest.jsonl", folder / cache)
    extract(Match(Ear(), Eye()).frozen_features(), data, trainer(folder), rows_per_shard=2)
    return time.monotonic() - began

lasts = [run("whole"), run("again")][1]
random, kills, tries = Random(0), 0, 0
while kills < 30 and tries < 200:  # one that was done before its moment does not count
    tries += 1
    child = os.fork()
    if not child:
        try:
            run("broken")
        finally:
            os._exit(0)
    time.sleep(random.uniform(0, lasts))
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    shards = sorted((folder / "broken").rglob("*.safetensors"))
    if len(shards) > 40:  # nearly done: take some away, so that the following kills meet something
        for path in shards[:: random.randint(2, 4)]:
            path.unlink()
run("broken")
print(kills)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="starts thirty extractions by fork: importing torch thirty times would take minutes"
)
def test_an_extraction_killed_thirty_times_ends_with_the_same_files(tmp_path: Path) -> None:
    write_clips(tmp_path, count=60)
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent.parent), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILL, str(tmp_path)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, timeout=600)
    assert int(done.stdout.split()[-1]) == 30

    def contents(cache: str) -> dict[str, bytes]:
        files = (path for path in (tmp_path / cache).rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / cache)): path.read_bytes() for path in files}

    assert contents("broken") == contents("whole")
    assert len(contents("whole")) == 2 * (24 + 6 + 1)  # two features of 48 training and 12 validation clips, and their keys


TWO = """
import sys
from pathlib import Path
from tests.data.test_extraction import Ear, Eye, Match, media, trainer
from xmodal.data.extraction import extract

if __name__ == "__main__":
    manifest, cache, devices = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    strategy = "ddp" if devices > 1 else "auto"
    processes = trainer(cache, devices=devices, strategy=strategy)
    extract(Match(Ear(), Eye()).frozen_features(), media(manifest, cache), processes, rows_per_shard=2)
"""


@pytest.mark.slow
def test_two_processes_one_killed_then_resumed_give_the_same_store(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path, count=60)
    script = tmp_path / "two.py"
    script.write_text(TWO)
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent.parent), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def start(cache: str, devices: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(manifest), str(tmp_path / cache), str(devices)]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    assert start("whole", 1).wait(300) == 0
    process = start("broken", 2)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "broken").rglob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the other rank
    before = sorted((tmp_path / "broken").rglob("*.safetensors"))
    assert before
    for path in before:
        Shard(path).verify()
    assert start("broken", 2).wait(300) == 0

    def contents(cache: str) -> dict[str, bytes]:
        return {str(path.relative_to(tmp_path / cache)): path.read_bytes() for path in (tmp_path / cache).rglob("*.safetensors")}

    assert contents("broken") == contents("whole")
    assert all(len(FeatureStore.open(root)) > 0 for root in (tmp_path / "whole").iterdir() if root.is_dir())
