"""Pairs of sound and picture from a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from xmodal.data.audio import load_audio
from xmodal.data.image import load_image
from xmodal.data.manifest import Row, read_manifest
from xmodal.data.window import window


class PairedMediaSet(Dataset[dict[str, Any]]):
    """Rows of a manifest, read when asked for: ``id``, ``name`` (its label), ``waveform`` (T,) and, if ``size``, ``pixels``.

    ``crop`` is ``loudest`` (deterministic) or ``random`` (a new whole second of start at each reading, as published).
    """

    def __init__(
        self, rows: list[Row], sample_rate: int, seconds: float, short: str, size: tuple[int, int] | None, crop: str
    ) -> None:
        self.rows, self.size, self.crop = rows, size, crop
        self.sample_rate, self.seconds, self.short = sample_rate, seconds, short

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        if row.audio is None:
            raise ValueError(f"the row {row.id!r} of the manifest names no audio")
        waveform = load_audio(row.audio, self.sample_rate, start=row.start, duration=row.duration)
        length = round(self.seconds * self.sample_rate)
        if self.crop == "random" and len(waveform) > length:
            starts = (len(waveform) - length) // self.sample_rate + 1
            waveform = waveform[int(torch.randint(starts, ())) * self.sample_rate :][:length]
        item = {"id": row.id, "name": row.label, "waveform": window(waveform, length, self.short)}
        if self.size:
            if row.image is None:
                raise ValueError(f"the row {row.id!r} of the manifest names no image")
            item["pixels"] = load_image(row.image, *self.size)
        return item


class PairedMedia(LightningDataModule):
    """Sound and picture pairs for training, sounds alone for ``predict``.

    Args:
        manifest: JSON lines with ``id``, ``audio``, ``image``, ``label``, ``split`` (train, validation, test).
        sample_rate: Hz; must be what the recipe's audio encoder hears.
        seconds: length of the training crops; ``predict`` gives ``predict_seconds``.
        predict_seconds: length of the window that a prediction is made from.
        short: what shorter sounds get: ``loop`` or ``pad``.
        width, height: pictures are resized to this, in pixels.
        batch_size: clips per step.
        num_workers: reading processes.
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
        batch_size: int = 16,
        num_workers: int = 4,
    ) -> None:
        super().__init__()
        self.manifest, self.sample_rate, self.short = Path(manifest), sample_rate, short
        self.seconds, self.predict_seconds = seconds, predict_seconds
        self.size = (width, height)
        self.batch_size, self.num_workers = batch_size, num_workers

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Split ``train``, in a new order each epoch."""
        return self._loader("train", self.seconds, self.size, crop="random")

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Split ``validation``."""
        return self._loader("validation", self.seconds, self.size)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Split ``test``."""
        return self._loader("test", self.seconds, self.size)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All rows, sounds only."""
        return self._loader(None, self.predict_seconds, None)

    def _loader(self, split: str | None, seconds: float, size: tuple[int, int] | None, crop: str = "loudest") -> DataLoader[Any]:
        rows = read_manifest(self.manifest, split)
        return DataLoader(
            dataset=PairedMediaSet(rows, self.sample_rate, seconds, self.short, size, crop),
            batch_size=self.batch_size,
            shuffle=crop == "random",
            drop_last=crop == "random" and len(rows) >= self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
