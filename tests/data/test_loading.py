"""Batches: the order of an epoch, taken up again anywhere, on any number of ranks and workers, from files or memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.rounding import agree
from xmodal.data.features import FeatureStore, Key
from xmodal.data.loading import Loader, Resident, stored_bytes
from xmodal.data.manifest import Row
from xmodal.data.media import PairedMediaSet, bucket_lengths
from xmodal.data.module import PairedMedia

RATE = 16000


class Numbers(PairedMediaSet):
    """Clip n is the number n."""

    def __init__(self, count: int) -> None:
        super().__init__([Row(str(number)) for number in range(count)], RATE, 1.0, "pad", (8, 8), inputs=())


def ids(batches: Any) -> list[list[int]]:
    return [[int(name) for name in batch["id"]] for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def test_each_epoch_gives_every_clip_once_in_its_own_order() -> None:
    first, second = (ids(loader) for loader in [Loader(Numbers(12), 4, shuffle=True, seed=3)] for _ in range(2))
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(12))
    assert first != second
    assert ids(Loader(Numbers(12), 4, shuffle=True, seed=3)) == first
    assert ids(Loader(Numbers(12), 4, shuffle=True, seed=3, epoch=1)) == second
    assert ids(Loader(Numbers(12), 4, shuffle=True, seed=4)) != first
    whole = ids(Loader(Numbers(110), 32, shuffle=True))  # accumulated in four pieces: the same clips, in as many steps
    pieces = ids(Loader(Numbers(110), 8, shuffle=True, steps=4))
    assert [sum(pieces[start : start + 4], []) for start in range(0, len(pieces), 4)] == whole
    assert len(Loader(Numbers(110), 8, shuffle=True, steps=4)) == 12
    assert sum(ids(Loader(Numbers(20), 8, shuffle=True, steps=4)), []) == ids(Loader(Numbers(20), 32, shuffle=True))[0]
    assert ids(Loader(Numbers(5), 2)) == [[0, 1], [2, 3], [4]]
    assert [len(batch) for batch in ids(Loader(Numbers(5), 2, shuffle=True))] == [2, 2]
    assert [len(batch) for batch in ids(Loader(Numbers(3), 8, shuffle=True))] == [3]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_position_is_taken_up_with_the_clips_not_yet_given(stop: int) -> None:
    whole = Loader(Numbers(20), 4, shuffle=True)
    expected = [ids(whole), ids(whole)]
    before = Loader(Numbers(20), 4, shuffle=True)
    given = [batch for _, batch in zip(range(stop), before, strict=False)]
    after = Loader(Numbers(20), 4, shuffle=True)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert len(after) == 5
    iter(after)  # Lightning may ask for an iterator that it does not use
    rest = ids(after)
    if stop == 5:  # the epoch was complete: the next one begins
        assert rest == expected[1]
    else:
        assert ids(given) + rest == expected[0]
        assert ids(after) == expected[1]


def test_another_batch_size_and_more_ranks_go_on_with_the_rest() -> None:
    before = Loader(Numbers(24), 4, shuffle=True)
    given = flat(ids(batch for _, batch in zip(range(2), before, strict=False)))
    rest: list[int] = []
    for rank in range(2):
        after = Loader(Numbers(24), 2, shuffle=True, rank=rank, world_size=2)
        after.load_state_dict(before.state_dict())
        rest += flat(ids(after))
    assert sorted(given + rest) == list(range(24))


def test_other_clips_start_the_epoch_again() -> None:
    before = Loader(Numbers(12), 4, shuffle=True)
    next(iter(before))
    after = Loader(Numbers(8), 4, shuffle=True)
    with pytest.warns(UserWarning, match="counts 12 clips .* the data has 8"):
        after.load_state_dict(before.state_dict())
    assert sorted(flat(ids(after))) == list(range(8))


def test_ranks_get_equally_many_batches() -> None:
    for count, shuffle in [(13, True), (13, False), (2, False)]:
        parts = [ids(Loader(Numbers(count), 2, shuffle=shuffle, rank=rank, world_size=3)) for rank in range(3)]
        assert len({len(part) for part in parts}) == 1
        together = flat([batch for part in parts for batch in part])
        assert (len(together) == len(set(together))) if shuffle else (set(together) == set(range(count)))


def test_a_group_is_never_mixed_and_can_be_taken_up() -> None:
    groups = [number % 3 for number in range(20)]
    whole = ids(Loader(Numbers(20), 4, shuffle=True, groups=groups))
    assert sorted(flat(whole)) == list(range(20))
    assert all(len({groups[number] for number in batch}) == 1 for batch in whole)
    assert [groups[batch[0]] for batch in whole] != sorted(groups[batch[0]] for batch in whole)
    before, after = (Loader(Numbers(20), 4, shuffle=True, groups=groups) for _ in range(2))
    given = [batch for _, batch in zip(range(2), before, strict=False)]
    after.load_state_dict(before.state_dict())
    assert ids(given) + ids(after) == whole


class Seen(LightningModule):
    """Remembers what it was given; a checkpoint after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append([int(name) for name in batch["id"]])
        return self.net(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


EVERY = {"step": {"every_n_train_steps": 1}, "epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True}}


def fit(folder: Path, steps: int, checkpoint: Path | None = None, every: str = "step") -> Seen:
    model = Seen()
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=-1, **EVERY[every])],
    )  # fmt: skip
    trainer.fit(model, Loader(Numbers(14), 3, shuffle=True), ckpt_path=checkpoint, weights_only=True)
    return model


@pytest.mark.parametrize(("every", "step"), [("step", 2), ("step", 4), ("step", 6), ("epoch", 4), ("epoch", 8)])
def test_a_resumed_training_sees_what_an_undisturbed_one_sees(tmp_path: Path, every: str, step: int) -> None:
    whole = fit(tmp_path / "whole", 11, every=every).seen  # epochs of four steps
    first = fit(tmp_path / "parts", step, every=every).seen
    second = fit(tmp_path / "parts", 11, tmp_path / "parts" / f"step={step}.ckpt", every).seen
    assert first + second == whole


def sounds(folder: Path, seconds: list[float]) -> Path:
    lines = []
    for number, length in enumerate(seconds):
        noise = 0.1 * np.random.default_rng(number).standard_normal(round(length * RATE))
        soundfile.write(folder / f"{number}.wav", noise, RATE)
        lines.append(json.dumps({"id": str(number), "audio": f"{number}.wav", "text": f"noise {number}", "split": "train"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder / "manifest.jsonl"


def read(manifest: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Sounds of two epochs by epoch and clip."""
    data = PairedMedia(manifest, inputs=["waveform"], **{"seconds": 1.0, "batch_size": 2, "num_workers": 0, **options})
    loader = data.train_dataloader()
    return {
        f"{epoch} {name}": waveform
        for epoch in range(2)
        for batch in loader
        for name, waveform in zip(batch["id"], batch["waveform"], strict=True)
    }


def test_random_crops_depend_on_seed_epoch_and_clip_alone(tmp_path: Path) -> None:
    manifest = sounds(tmp_path, [9.0, 8.0, 7.5, 9.5])
    alone, other = read(manifest), read(manifest, seed=1)
    workers = read(manifest, num_workers=2)
    assert alone.keys() == workers.keys() == {f"{epoch} {number}" for epoch in range(2) for number in range(4)}
    assert all(agree(alone[name], workers[name]) for name in alone)
    assert any(not agree(alone[name], other[name]) for name in alone)
    assert any(not agree(alone[f"0 {number}"], alone[f"1 {number}"]) for number in range(4))


def test_workers_live_from_epoch_to_epoch(tmp_path: Path) -> None:
    data = PairedMedia(sounds(tmp_path, [0.5] * 4), inputs=["waveform"], seconds=0.5, batch_size=2, num_workers=1)
    loader = data.train_dataloader()
    assert loader._loader is not None
    workers = []
    for _ in range(2):
        assert len(list(loader)) == 2
        workers.append([worker.pid for worker in loader._loader._iterator._workers])  # type: ignore[union-attr]
    assert workers[0] == workers[1]
    assert loader._loader.pin_memory is torch.cuda.is_available()


def test_buckets_extend_sounds_to_like_lengths_only(tmp_path: Path) -> None:
    manifest = sounds(tmp_path, [0.4, 1.1, 0.9, 2.9, 7.0, 0.6])
    data = PairedMedia(manifest, inputs=["waveform"], seconds=3.0, batch_size=2, num_workers=0, bucket_seconds=1.0, short="pad")
    found = {name: row for batch in data.train_dataloader() for name, row in zip(batch["id"], batch["waveform"], strict=True)}
    assert {name: len(row) / RATE for name, row in found.items()} == {"0": 1, "1": 2, "2": 1, "3": 3, "4": 3, "5": 1}
    assert float(found["1"][round(1.1 * RATE) :].abs().max()) == 0
    rows = [Row("a", audio=tmp_path / "0.wav", duration=2.5), Row("b", audio=tmp_path / "nothing.wav")]
    assert bucket_lengths(rows, 1.0, 4.0, 10).tolist() == [30, 40]
    with pytest.raises(ValueError, match="bucket_seconds must lie between 0 and seconds"):
        PairedMedia(manifest, seconds=3.0, bucket_seconds=4.0)


def stored(folder: Path, count: int = 10) -> PairedMediaSet:
    store = FeatureStore(folder, Key("m", "w"))
    names = [str(number) for number in range(count)]
    values = np.random.default_rng(0).standard_normal((count, 5))
    arrays = {"pooled": values.astype(np.float16), "grid": values[:, :4].reshape(-1, 2, 2).astype(np.float32)}
    store.extract(names, lambda p: (list(p), {name: array[list(p)] for name, array in arrays.items()}, {}), rows_per_shard=3)
    rows = [Row(name, label=f"thing {name}", text=f"a {name}") for name in names]
    return PairedMediaSet(rows, RATE, 1.0, "pad", (8, 8), inputs=(), stored=(store.locate(names),))


def test_features_in_memory_are_those_of_the_store(tmp_path: Path) -> None:
    media = stored(tmp_path)
    assert stored_bytes(media) == 10 * (5 * 2 + 4 * 4)
    memory = Resident(media, torch.device("cpu"))
    assert memory.arrays["pooled"].dtype == torch.float16
    for one, other in zip(Loader(media, 4, shuffle=True), Loader(memory, 4, shuffle=True), strict=True):
        assert one.keys() == other.keys() == {"id", "name", "caption", "pooled", "grid"}
        assert all(
            torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
            for name, value in one.items()
        )
        assert other["pooled"].dtype == torch.float32
    media.inputs = ("waveform",)
    with pytest.raises(ValueError, match="the waveform is read from files"):
        Resident(media, torch.device("cpu"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_the_gpu(tmp_path: Path) -> None:
    media = stored(tmp_path)
    (batch,) = Loader(Resident(media, torch.device("cuda")), 10)
    assert batch["pooled"].device.type == "cuda"
    assert torch.equal(batch["pooled"].cpu(), media.batch(range(10))["pooled"])


def test_bad_options(tmp_path: Path) -> None:
    for options, message in [
        ({"crop": "middle"}, "crop must be one of random, loudest"),
        ({"inputs": ["smell"]}, "inputs must be one of waveform, pixels, pan, not 'smell'"),
        ({"cache_dtype": "int8"}, "cache_dtype must be one of"),
        ({"backend": "decord"}, "backend 'decord' is not one of default, torchcodec"),
    ]:
        with pytest.raises(ValueError, match=message):
            PairedMedia(tmp_path / "m.jsonl", **options)
