"""Pairs of sound and picture from a manifest, with cached features in place of what frozen models would compute again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, default_collate

from xmodal.data.audio import load_audio
from xmodal.data.features import FeatureStore, Key, Rows
from xmodal.data.image import load_image, resize
from xmodal.data.manifest import Manifest, Row
from xmodal.data.video import load_frames
from xmodal.data.window import window

if TYPE_CHECKING:
    from xmodal.task import Feature

DTYPES = {"float16": torch.float16, "float32": torch.float32}
INPUTS = ("waveform", "pixels")


class PairedMediaSet(Dataset[dict[str, Any]]):
    """Rows of a manifest: ``id``, ``name`` (the label), and of ``inputs`` ``waveform`` (T,) and ``pixels`` (3, H, W).

    ``crop`` is ``loudest`` (deterministic) or ``random`` (a new whole second of start at each reading, as published).
    ``stored`` are rows of feature stores, aligned with ``rows``; a whole batch of them is read at once.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        sample_rate: int,
        seconds: float,
        short: str,
        size: tuple[int, int],
        crop: str = "loudest",
        inputs: Sequence[str] = INPUTS,
        stored: Sequence[Rows] = (),
    ) -> None:
        self.rows, self.size, self.crop = rows, size, crop
        self.sample_rate, self.seconds, self.short = sample_rate, seconds, short
        self.inputs, self.stored = tuple(inputs), tuple(stored)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        item: dict[str, Any] = {"id": row.id, "name": row.label}
        if "waveform" in self.inputs:
            item["waveform"] = self._waveform(row)
        if "pixels" in self.inputs:
            item["pixels"] = self._pixels(row)
        return item

    def __getitems__(self, indices: list[int]) -> dict[str, Any]:
        """A batch, collated."""
        batch: dict[str, Any] = default_collate([self[index] for index in indices])
        for rows in self.stored:
            batch |= {name: torch.from_numpy(_plain(array)) for name, array in rows.read(indices).items()}
        return batch

    def _waveform(self, row: Row) -> torch.Tensor:
        source = row.audio or row.video
        if source is None:
            raise ValueError(f"the row {row.id!r} of the manifest names neither audio nor video")
        waveform = load_audio(source, self.sample_rate, start=row.start, duration=row.duration)
        length = round(self.seconds * self.sample_rate)
        if self.crop == "random" and len(waveform) > length:
            starts = (len(waveform) - length) // self.sample_rate + 1
            waveform = waveform[int(torch.randint(starts, ())) * self.sample_rate :][:length]
        return window(waveform, length, self.short)

    def _pixels(self, row: Row) -> torch.Tensor:
        """The clip's picture, or the frame in the middle of its stretch of video."""
        if row.image is not None:
            return load_image(row.image, *self.size)
        if row.video is None:
            raise ValueError(f"the row {row.id!r} of the manifest names neither image nor video")
        times = 1 if row.duration is None else [row.start + row.duration / 2]
        return resize(load_frames(row.video, times)[0], *self.size)


class PairedMedia(LightningDataModule):
    """Sound and picture pairs for training, sounds alone for ``predict``.

    With ``cache``, features that ``xmodal cache`` has stored under the same settings take the place of their media,
    which are then not even read; what is not stored is computed as usual, and gives the same numbers.

    Args:
        manifest: JSON lines or CSV with ``id``, ``audio`` and ``image`` or ``video``, ``label``, ``split`` (docs/data.md).
        sample_rate: Hz; must be what the recipe's audio encoder hears.
        seconds: length of the training crops; ``predict`` gives ``predict_seconds``.
        predict_seconds: length of the window that a prediction is made from.
        short: what shorter sounds get: ``loop`` or ``pad``.
        width, height: pictures are resized to this, in pixels.
        crop: of longer sounds in training: ``random`` (a new second of start each time: nothing heard can be cached) or
            ``loudest`` (the same window each time). Validation and test always hear the loudest.
        batch_size: clips per step.
        num_workers: reading processes.
        cache: folder of feature stores; None computes everything.
        cache_dtype: float16 or float32, of the floating-point features in the stores.
    """

    def __init__(
        self,
        manifest: Path,
        sample_rate: int = 16000,
        seconds: float = 5.0,
        predict_seconds: float = 10.0,
        short: str = "loop",
        width: int = 512,
        height: int = 512,
        crop: str = "random",
        batch_size: int = 16,
        num_workers: int = 4,
        cache: Path | None = None,
        cache_dtype: str = "float16",
    ) -> None:
        super().__init__()
        if crop not in ("random", "loudest"):
            raise ValueError(f"crop must be random or loudest, not {crop!r}")
        if cache_dtype not in DTYPES:
            raise ValueError(f"cache_dtype must be one of {', '.join(DTYPES)}, not {cache_dtype!r}")
        self.manifest, self.sample_rate, self.short = Path(manifest), sample_rate, short
        self.seconds, self.predict_seconds = seconds, predict_seconds
        self.size, self.crop = (width, height), crop
        self.batch_size, self.num_workers = batch_size, num_workers
        self.cache, self.cache_dtype = None if cache is None else Path(cache), DTYPES[cache_dtype]
        self._prints: dict[int, str] = {}

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Split ``train``, in a new order each epoch."""
        return self._loader("train", crop=self.crop)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Split ``validation``."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Split ``test``."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All rows, sounds only."""
        rows = Manifest(self.manifest)
        dataset = PairedMediaSet(rows, self.sample_rate, self.predict_seconds, self.short, self.size, inputs=("waveform",))
        return self._wrap(dataset, shuffle=False)

    def media(self, rows: Sequence[Row], inputs: Sequence[str], crop: str = "loudest") -> PairedMediaSet:
        """The rows with the media named by ``inputs``."""
        return PairedMediaSet(rows, self.sample_rate, self.seconds, self.short, self.size, crop, inputs)

    def store(self, feature: Any, crop: str = "loudest") -> FeatureStore | None:
        """Where a task's feature belongs under these settings; None if its inputs change at every reading.

        ``feature`` is a :class:`xmodal.task.Feature`. Raises ValueError without a ``cache`` folder.
        """
        if self.cache is None:
            raise ValueError("the data has no cache folder: give --data.cache FOLDER")
        if not set(feature.inputs) <= set(INPUTS) or ("waveform" in feature.inputs and crop == "random"):
            return None
        sound = {"sample_rate": self.sample_rate, "seconds": self.seconds, "short": self.short, "crop": crop}
        settings = {"waveform": sound, "pixels": {"size": list(self.size), "resize": "bicubic"}}
        key = Key(
            model=f"{'+'.join(type(part).__qualname__ for part in feature.parts)}.{'+'.join(feature.outputs)}",
            weights="+".join(self._print(part) for part in feature.parts),
            preprocessing={
                **{name: settings[name] for name in feature.inputs},
                "options": dict(feature.options),
                "dtype": str(self.cache_dtype).removeprefix("torch."),
            },
            decoder=decoders(),
        )
        return FeatureStore(self.cache, key)

    def clip_names(self, rows: Sequence[Row], inputs: Sequence[str]) -> list[str]:
        """Name each row by what its files are now: a file that is replaced is another clip."""
        root = self.manifest.parent.resolve()
        return ["|".join([row.id, *(_file_state(row, name, root) for name in inputs)]) for row in rows]

    def _loader(self, split: str, crop: str = "loudest") -> DataLoader[Any]:
        rows = Manifest(self.manifest, split)
        dataset = self.media(rows, INPUTS, crop) if self.cache is None else self._cached(rows, crop)
        return self._wrap(dataset, shuffle=split == "train")

    def _cached(self, rows: Sequence[Row], crop: str) -> PairedMediaSet:
        task = self.trainer.lightning_module if self.trainer is not None else None
        features: dict[str, Feature] = getattr(task, "frozen_features", dict)()
        if task is not None:
            task.feature_dtype = self.cache_dtype  # type: ignore[assignment]
        found: list[tuple[FeatureStore, list[str]]] = []
        needed: set[str] = set() if features else set(INPUTS)
        bad: set[int] = set()
        for name, feature in features.items():
            store = self.store(feature, crop)
            clips = self.clip_names(rows, feature.inputs)
            failed = store.failures() if store is not None else {}
            if store is None or not store.holds([clip for clip in clips if clip not in failed]):
                needed |= set(feature.inputs)
                why = "their crop is random" if store is None else "not all are stored: run `xmodal cache` with this recipe"
                rank_zero_warn(f"the {name} are computed anew in every epoch ({why})")
                continue
            bad |= {index for index, clip in enumerate(clips) if clip in failed}
            found.append((store, clips))
        kept = [index for index in range(len(rows)) if index not in bad]
        if bad:
            rank_zero_warn(f"{len(bad)} of {len(rows)} clips are left out: the cache records them as unreadable")
        stored = [store.locate([clips[index] for index in kept]) for store, clips in found]
        dataset = self.media([rows[index] for index in kept], sorted(needed), crop)
        dataset.stored = tuple(stored)
        return dataset

    def _print(self, part: Any) -> str:
        if id(part) not in self._prints:
            self._prints[id(part)] = part.fingerprint()
        return self._prints[id(part)]

    def _wrap(self, dataset: PairedMediaSet, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset=dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            drop_last=shuffle and len(dataset) >= self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def decoders() -> str:
    """Names and versions of what turns files into numbers."""
    import av
    import PIL
    import soundfile

    return f"av {av.__version__}, libsndfile {soundfile.__libsndfile_version__}, pillow {PIL.__version__}"


def _as_is(batch: Any) -> Any:
    """``__getitems__`` collates by itself."""
    return batch


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _file_state(row: Row, name: str, root: Path) -> str:
    path = {"waveform": row.audio, "pixels": row.image}[name] or row.video
    if path is None:
        return f"no {name}"
    try:
        state = os.stat(path)
    except OSError:
        return f"{path.relative_to(root)}|gone"
    part = f"|{row.start}+{row.duration}" if name == "waveform" or path == row.video else ""
    return f"{path.relative_to(root)}|{state.st_size}|{state.st_mtime_ns}{part}"
