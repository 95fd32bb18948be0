"""`xmodal cache`: frozen features of a recipe's clips, computed once, on any number of processes, resumable."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from xmodal.data.features import FeatureStore, stores
from xmodal.data.manifest import read_manifest
from xmodal.data.module import PairedMedia, PairedMediaSet
from xmodal.task import Feature, Task

SPLITS = ("train", "validation", "test")


def extract(task: Task, data: Any, trainer: Trainer, rows_per_shard: int = 256, splits: Sequence[str] = SPLITS) -> list[str]:
    """Fill the stores of ``data.cache`` with ``task``'s features; returns one line of report for each.

    Runs on the trainer's own processes (``devices``, ``num_nodes``): groups of clips are dealt to the ranks, each rank
    writes whole shards, and shards that are there already are passed over. A clip that cannot be read is recorded with
    the reason and does not stop the rest. Raises ValueError where nothing can be cached.
    """
    if not isinstance(data, PairedMedia) or not task.frozen_features():
        kinds = f"{type(task).__name__} on {type(data).__name__}"
        raise ValueError(f"nothing of {kinds} can be cached: the recipe needs xmodal.data.PairedMedia and frozen encoders")
    report = []
    for split in splits:
        crop = data.crop if split == "train" else "loudest"
        try:
            rows = read_manifest(data.manifest, split)
        except ValueError:
            continue  # a manifest without this split
        for name, feature in task.frozen_features().items():
            store = data.store(feature, crop)
            if store is None:
                report.append(
                    f"{split}: {name} depend on a random crop and cannot be stored (--data.crop loudest would allow it)"
                )
                continue
            clips = data.clip_names(rows, feature.inputs)
            source = Groups(data.media(rows, feature.inputs, crop), clips, store, rows_per_shard)
            loader: DataLoader[Any] = DataLoader(dataset=source, batch_size=None, num_workers=data.num_workers)
            worker = Extractor(feature, store, data.batch_size, data.cache_dtype)
            trainer.predict(worker, loader, return_predictions=False)
            failed = sum(clip in store.failures() for clip in clips)
            report.append(
                f"{split}: {name} of {len(clips) - failed} clips in {store.root}" + f", {failed} unreadable" * (failed > 0)
            )
    return report


class Groups(Dataset[tuple[int, list[tuple[int, Any]]]]):
    """Groups of consecutive clips, with their media loaded, or nothing for a group whose shard exists."""

    def __init__(self, media: PairedMediaSet, clips: list[str], store: FeatureStore, size: int) -> None:
        self.media, self.clips, self.store, self.size = media, clips, store, size

    def __len__(self) -> int:
        return -(-len(self.clips) // self.size)

    def __getitem__(self, group: int) -> tuple[list[str], list[tuple[str, Any]]]:
        names = self.clips[group * self.size : (group + 1) * self.size]
        if not list(self.store.missing([names])):
            return names, []
        return names, [(name, self._load(group * self.size + number)) for number, name in enumerate(names)]

    def _load(self, index: int) -> dict[str, Any] | str:
        """One clip's media, or the reason why there are none."""
        try:
            return self.media[index]
        except (ValueError, OSError) as error:
            return str(error)


class Extractor(LightningModule):
    """Computes one feature and writes its shards; what Lightning's ``predict`` drives on every rank."""

    def __init__(self, feature: Feature, store: FeatureStore, batch_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.feature, self.store, self.batch_size, self.dtype_stored = feature, store, batch_size, dtype
        self.parts = torch.nn.ModuleList(feature.parts)

    def predict_step(self, batch: tuple[list[str], list[tuple[str, Any]]], batch_idx: int) -> None:
        """Write the shard of one group."""
        names, loaded = batch
        if not loaded:
            return
        good = [(name, item) for name, item in loaded if not isinstance(item, str)]
        failed = {name: item for name, item in loaded if isinstance(item, str)}
        rows: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(good), self.batch_size):
            items = default_collate([item for _, item in good[start : start + self.batch_size]])
            items = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in items.items()}
            for key, value in self.feature.compute(items).items():
                rows.setdefault(key, []).append(_storable(value, self.dtype_stored))
        arrays = {key: np.concatenate(parts) for key, parts in rows.items()}
        kept = [name for name, _ in good]
        for row in _not_finite(arrays):
            failed[kept[row]] = f"its features are not finite in {str(self.dtype_stored).removeprefix('torch.')}"
        alive = [row for row, name in enumerate(kept) if name not in failed]
        self.store.write(names, [kept[row] for row in alive], {key: array[alive] for key, array in arrays.items()}, failed)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the group where it is: it is moved piece by piece."""
        return batch


def command(arguments: Sequence[str]) -> None:
    """`xmodal cache ls | verify | rm`, or `xmodal cache --config RECIPE`, which reads sys.argv as `xmodal fit` does."""
    if arguments and not arguments[0].startswith("-"):
        _manage(arguments)
        return
    from xmodal.cli import parse_without_running

    cli = parse_without_running()
    cli.trainer.logger = None
    for line in extract(cli.model, cli.datamodule, cli.trainer):
        if cli.trainer.is_global_zero:
            print(line)


def _manage(arguments: Sequence[str]) -> None:
    parser = ArgumentParser("xmodal cache", description="Feature stores. `xmodal cache --config RECIPE` fills them.")
    parser.add_argument("what", choices=["ls", "verify", "rm"], help="list, read and compare every byte, remove one")
    parser.add_argument("store", nargs="?", help="name of the store to remove")
    parser.add_argument("--folder", type=Path, default=Path("outputs/cache"), help="of the stores (default: outputs/cache)")
    options = parser.parse_args(arguments)
    if options.what == "ls":
        rows = listing(options.folder)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    elif options.what == "verify":
        if damaged := verify(options.folder):
            raise ValueError(f"{len(damaged)} shards are damaged: {'; '.join(damaged)}")
        print(f"{len(stores(options.folder))} stores are as they were written")
    elif options.store is None:
        parser.error("rm needs the name of a store: see xmodal cache ls")
    else:
        print(f"removed {remove(options.folder, options.store)}")


def listing(folder: Path) -> list[tuple[str, ...]]:
    """One row for each store below a folder: name, rows, unreadable clips, megabytes, model."""
    rows: list[tuple[str, ...]] = [("store", "rows", "unreadable", "MB", "model")]
    for store in stores(folder):
        size = sum(path.stat().st_size for path in store.root.iterdir())
        rows.append((store.root.name, str(len(store)), str(len(store.failures())), f"{size / 1e6:.1f}", store.key.model))
    return rows


def verify(folder: Path) -> list[str]:
    """Return one sentence for each damaged shard below a folder; reads every byte."""
    return [reason for store in stores(folder) for _, reason in store.verify()]


def remove(folder: Path, name: str) -> Path:
    """Remove one store; raises ValueError for a name that is no store of this folder."""
    known = {store.root.name: store.root for store in stores(folder)}
    if name not in known:
        raise ValueError(f"{folder} has no store {name!r}: it holds {', '.join(known) or 'none'}")
    shutil.rmtree(known[name])
    return known[name]


def _storable(value: Tensor, dtype: torch.dtype) -> np.ndarray:
    value = value.detach().cpu()
    return (value.to(dtype) if value.is_floating_point() else value).numpy()


def _not_finite(arrays: Mapping[str, np.ndarray]) -> list[int]:
    bad: set[int] = set()
    for array in arrays.values():
        if array.dtype.kind == "f":
            bad |= set(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1)).tolist())
    return sorted(bad)
