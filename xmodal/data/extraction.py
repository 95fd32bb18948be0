"""`xmodal cache`: frozen features of a recipe's clips, computed once, on any number of processes, resumable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from xmodal.data.features import FeatureStore
from xmodal.data.manifest import valid_rows
from xmodal.data.media import PairedMediaSet
from xmodal.data.module import PairedMedia
from xmodal.frozen import Feature

SPLITS = ("train", "validation", "test")


def extract(
    features: Mapping[str, Feature],
    data: Any,
    trainer: Trainer,
    rows_per_shard: int | None = None,
    splits: Sequence[str] = SPLITS,
) -> list[str]:
    """Fill the stores of ``data.cache`` with a task's features; returns one line of report for each.

    Runs on the trainer's own processes (``devices``, ``num_nodes``): groups of clips (``rows_per_shard`` each, default: the
    data's) are dealt to the ranks, each rank writes whole shards, and shards that are there already are passed over. A clip
    that cannot be read is recorded with the reason and does not stop the rest; rows that are not valid are left out
    (`valid_rows` names them).
    Raises ValueError where nothing can be cached.
    """
    if not isinstance(data, PairedMedia) or not features:
        what = f"{len(features)} features on {type(data).__name__}"
        raise ValueError(f"nothing can be cached ({what}): the recipe needs xmodal.data.PairedMedia and frozen encoders")
    warnings.filterwarnings("ignore", message="predict returned None")  # it writes shards
    rows_per_shard = rows_per_shard or data.rows_per_shard
    every, report = valid_rows(data.manifest)[0], []
    for split in splits:
        crop = data.crop if split == "train" else "loudest"
        rows = [row for row in every if row.split in ("", split)]
        if not rows:
            continue  # a manifest without this split
        for name, feature in features.items():
            store = data.store(feature, crop, trainer.precision)
            if store is None:
                why = "what is read anew each time and cannot be stored (--data.crop loudest would allow it)"
                why = why if crop != "loudest" else "bucket_seconds and cannot be stored"
                report.append(f"{split}: {name} depend on {why}")
                continue
            store.clean_up()
            clips = data.clip_names(rows, feature.inputs)
            source = Groups(data.media(rows, feature.inputs, crop), clips, store, rows_per_shard)
            size = source.bytes_per_clip(feature, data.cache_dtype)
            amount = f"{name} take {size / 1e6:.2g} MB a clip, {size * len(clips) / 1e9:.2g} GB for {len(clips)} clips"
            if size * len(clips) > data.cache_limit * 1e9:
                more = f"(--data.cache_limit {-(-size * len(clips) // 10**9)} would allow it)"
                report.append(f"{split}: {amount}: more than {data.cache_limit:g} GB are not stored unasked {more}")
                continue
            rank_zero_info(f"{split}: {amount}")
            loader: DataLoader[Any] = DataLoader(dataset=source, batch_size=None, num_workers=data.num_workers)
            quiet = None if trainer.is_global_zero else True  # None: on a terminal alone
            with tqdm(
                total=len(clips) // trainer.world_size, desc=f"{split}: {name}", unit="clip", delay=1, disable=quiet
            ) as bar:
                worker = Extractor(feature, store, data.batch_size, data.cache_dtype, bar.update)
                trainer.predict(worker, loader, return_predictions=False)
            trainer.strategy.barrier()  # what is counted is what all processes have written
            failures = store.failures()
            failed = sum(clip in failures for clip in clips)
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

    def bytes_per_clip(self, feature: Feature, dtype: torch.dtype) -> int:
        """What the first readable clip takes in the store; 0 where nothing is left to compute, or readable."""
        size = self.size
        if not list(self.store.missing(self.clips[start : start + size] for start in range(0, len(self.clips), size))):
            return 0
        item = next((item for item in map(self._load, range(len(self.clips))) if not isinstance(item, str)), None)
        if item is None:
            return 0
        with torch.no_grad():
            return sum(_storable(value, dtype).nbytes for value in feature.compute(default_collate([item])).values())

    def _load(self, index: int) -> dict[str, Any] | str:
        """One clip's media, or the reason why there are none."""
        try:
            return self.media[index]
        except (ValueError, OSError) as error:
            return str(error)


class Extractor(LightningModule):
    """Computes one feature and writes its shards; what Lightning's ``predict`` drives on every rank."""

    def __init__(
        self, feature: Feature, store: FeatureStore, batch_size: int, dtype: torch.dtype, done: Callable[[int], object]
    ) -> None:
        super().__init__()
        self.done = done
        self.feature, self.store, self.batch_size, self.dtype_stored = feature, store, batch_size, dtype
        self.parts = torch.nn.ModuleList(feature.built())

    def predict_step(self, batch: tuple[list[str], list[tuple[str, Any]]], batch_idx: int) -> None:
        """Write the shard of one group."""
        names, loaded = batch
        if not loaded:
            self.done(len(names))
            return
        good = [(name, item) for name, item in loaded if not isinstance(item, str)]
        failed = {name: item for name, item in loaded if isinstance(item, str)}
        self.done(len(failed))
        rows: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(good), self.batch_size):
            items = default_collate([item for _, item in good[start : start + self.batch_size]])
            items = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in items.items()}
            for key, value in self.feature.compute(items).items():
                rows.setdefault(key, []).append(_storable(value, self.dtype_stored))
            self.done(len(good[start : start + self.batch_size]))
        arrays = {key: np.concatenate(parts) for key, parts in rows.items()}
        kept = [name for name, _ in good]
        for row in _not_finite(arrays):
            failed[kept[row]] = f"its features are not finite in {str(self.dtype_stored).removeprefix('torch.')}"
        alive = [row for row, name in enumerate(kept) if name not in failed]
        self.store.write(names, [kept[row] for row in alive], {key: array[alive] for key, array in arrays.items()}, failed)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave the group where it is: it is moved piece by piece."""
        return batch


def _storable(value: Tensor, dtype: torch.dtype) -> np.ndarray:
    value = value.detach().cpu()
    return (value.to(dtype) if value.is_floating_point() else value).numpy()


def _not_finite(arrays: Mapping[str, np.ndarray]) -> list[int]:
    bad: set[int] = set()
    for array in arrays.values():
        if array.dtype.kind == "f":
            bad |= set(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1)).tolist())
    return sorted(bad)
