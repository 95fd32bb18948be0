"""The miniature world as a Lightning data module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from xmodal.data.pan import pan_of
from xmodal.miniature import world

JUDGED = ("waveform", "pixels", "name", "full_heard_caption")  # what judges of a clip read


class Clips(Dataset[dict[str, Any]]):
    """``count`` clips of one split, rendered when asked for.

    Each item holds ``clip`` (its number) and what ``parts`` names: ``pixels`` float32 (3, 64, 64) in [0, 1],
    ``waveform`` float32 mono (40000,) at 16 kHz, ``caption`` str (a new one at every reading), ``full_caption`` str with all
    attributes, ``heard_caption`` and ``full_heard_caption`` likewise of what a mono sound tells, ``phrase`` that in as few words
    as can be ("two large bells"), ``name`` of the thing, ``attributes`` float32 (24,): thing, size and count as a multi-hot
    vector, ``factors`` int64 (6,): the number of each factor's value, in the order of :data:`world.FACTORS`, and ``pan``
    float32 (scalar) from -1, left, to 1, right: what the
    stereo sound's two channels say, with its background noise, not where the world put the thing.
    """

    def __init__(self, split: str, count: int, parts: tuple[str, ...], seed: int = 0) -> None:
        self.split, self.count, self.parts, self.seed = split, count, parts, seed
        self.readings = 0
        self.pans: dict[world.Clip, Tensor] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip = world.sample(self.split, index, self.seed)
        self.readings += 1
        return {"clip": index, **{part: getattr(self, f"_{part}")(clip) for part in self.parts}}

    def _pixels(self, clip: world.Clip) -> Tensor:
        return torch.from_numpy(world.picture(clip).transpose(2, 0, 1).astype(np.float32) / 255)

    def _waveform(self, clip: world.Clip) -> Tensor:
        return torch.from_numpy(_sound(clip).mean(0))

    def _pan(self, clip: world.Clip) -> Tensor:
        if clip not in self.pans:  # one number is worth keeping: making the sound again takes longer than a step
            self.pans[clip] = pan_of(torch.from_numpy(_sound(clip)))
        return self.pans[clip]

    def _caption(self, clip: world.Clip) -> str:
        return world.random_caption(clip, np.random.default_rng([clip.seed, 3, self.readings]))

    def _full_caption(self, clip: world.Clip) -> str:
        return world.caption(clip)

    def _heard_caption(self, clip: world.Clip) -> str:
        return heard_caption(clip, np.random.default_rng([clip.seed, 4, self.readings]))

    def _phrase(self, clip: world.Clip) -> str:
        return world.caption(clip, ("count", "size"))

    def _full_heard_caption(self, clip: world.Clip) -> str:
        return heard_caption(clip)

    def _name(self, clip: world.Clip) -> str:
        return clip.thing

    def _factors(self, clip: world.Clip) -> Tensor:
        return torch.tensor([[str(v) for v in labels].index(str(getattr(clip, name))) for name, labels in world.FACTORS.items()])

    def _attributes(self, clip: world.Clip) -> Tensor:
        return torch.from_numpy(_multi_hot(clip))


@lru_cache(maxsize=1)
def _sound(clip: world.Clip) -> np.ndarray:
    """The stereo sound, which waveform and pan both read: made once."""
    return world.sound(clip)


def heard_caption(clip: world.Clip, rng: np.random.Generator | None = None) -> str:
    """Say what a mono sound tells: "the sound of two large bells"; with ``rng`` attributes may be missing, and nouns vary."""
    attributes = tuple(name for name in ("count", "size") if rng is None or rng.random() < 0.6)
    noun = world.SYNONYMS.get(clip.thing, "") if rng is not None and rng.random() < 0.25 else ""
    prefix = "the sound of " if rng is None or rng.random() < 0.7 else ""
    return prefix + world.caption(clip, attributes, noun)


LABELS = (*world.THINGS, *world.SIZES, *(str(count) for count in world.COUNTS))


def _multi_hot(clip: world.Clip) -> np.ndarray:
    """Multi-hot float32 (24,) over :data:`LABELS`: what can be both heard and seen in mono."""
    hot = np.zeros(len(LABELS), np.float32)
    hot[[world.THINGS.index(clip.thing), 18 + world.SIZES.index(clip.size), 21 + world.COUNTS.index(clip.count)]] = 1
    return hot


class Featured(Dataset[dict[str, Any]]):
    """Clips whose frozen features were computed once; the remaining ``parts`` are rendered as usual."""

    def __init__(self, clips: Clips, features: Mapping[str, Tensor]) -> None:
        self.clips, self.features = clips, features

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.clips[index], **{name: rows[index].float() for name, rows in self.features.items()}}


class World(LightningDataModule):
    """Clips of the miniature world, seeded.

    Args:
        parts: what the model reads of each clip, see :class:`Clips`.
        frozen_parts: what only the model's frozen parts read. The model's ``features(batch)`` is then run once over
            every clip before training, and its float16 results take the place of these parts.
        train_count, val_count: number of clips; with a fresh ``seed`` the world never repeats itself.
        batch_size: clips per step.
        num_workers: rendering processes; 0 renders in the training process.
        seed: of the world.
    """

    def __init__(
        self,
        parts: list[str],
        frozen_parts: list[str] | None = None,
        train_count: int = 20000,
        val_count: int = 512,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.parts, self.frozen_parts = tuple(parts), tuple(frozen_parts or ())
        self.counts = {"train": train_count, "validation": val_count, "test": val_count}
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self._sets: dict[str, Dataset[dict[str, Any]]] = {}

    def whole_clips(self) -> None:
        """Give pictures, sounds and names themselves from now on, and no features of them: what makes and judges needs."""
        self.parts = tuple(dict.fromkeys((*self.parts, *self.frozen_parts, *JUDGED)))
        self.frozen_parts = ()
        self._sets.clear()

    def whole(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch with ``id``, the names of its clips, and the caption of what a mono sound tells."""
        return {
            **batch, "id": [f"clip-{int(number):06d}" for number in batch["clip"]], "caption": batch["full_heard_caption"],
        }  # fmt: skip

    def keep(self, batch: Mapping[str, Any], folder: Path) -> list[dict[str, str]]:
        """Write the pictures and sounds of a batch of `whole`, and return their rows of a manifest."""
        import soundfile
        from PIL import Image

        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for index, name in enumerate(batch["id"]):
            soundfile.write(folder / f"{name}.wav", batch["waveform"][index].float().cpu().numpy(), world.sounds.SAMPLE_RATE)
            pixels = batch["pixels"][index].float().cpu().clamp(0, 1).permute(1, 2, 0)
            Image.fromarray((pixels * 255).round().byte().numpy()).save(folder / f"{name}.png")
            row = {"id": name, "label": batch["name"][index], "text": batch["caption"][index]}
            rows.append({**row, "audio": f"{name}.wav", "image": f"{name}.png"})
        return rows

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[dict[str, Any]]:
        if split not in self._sets:
            self._sets[split] = self._dataset(split)
        return DataLoader(
            dataset=self._sets[split],
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _dataset(self, split: str) -> Dataset[dict[str, Any]]:
        clips = self.clips(split, self.parts)
        if not self.frozen_parts:
            return clips
        if self.trainer is None:
            raise RuntimeError("frozen_parts needs a trainer: its model computes the features")
        return Featured(clips, precompute(self.trainer.lightning_module, self.clips(split, self.frozen_parts)))

    def clips(self, split: str, parts: tuple[str, ...]) -> Dataset[dict[str, Any]]:
        """The clips of a split, with these parts of each; the same clips whatever the parts."""
        return Clips(split, self.counts[split], parts, self.seed)


@torch.no_grad()
def precompute(model: LightningModule, clips: Any, batch_size: int = 64) -> dict[str, Tensor]:
    """Run ``model.features`` once over all clips; float16 tensors on the CPU, one row per clip."""
    rows: list[dict[str, Tensor]] = []
    starts = range(0, len(clips), batch_size)
    for start in tqdm(starts, f"frozen features of {len(clips)} clips", unit="batch", delay=1, disable=None):
        if model._trainer is not None and model._trainer.received_sigterm:
            raise SIGTERMException
        batch = default_collate([clips[i] for i in range(start, min(start + batch_size, len(clips)))])
        batch = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        rows.append({name: value.half().cpu() for name, value in model.features(batch).items()})
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
