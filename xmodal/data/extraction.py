"""`xmodal cache`: frozen features of a recipe's clips, computed once, on any number of processes and machines, resumable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from xmodal.data.features import FeatureStore, finite_rows
from xmodal.data.manifest import Manifest, valid_rows
from xmodal.data.media import PairedMediaSet
from xmodal.data.module import PairedMedia
from xmodal.data.packed import Texts
from xmodal.frozen import Feature

SPLITS = ("train", "validation", "test")
PATIENT = 10.0  # seconds of waiting for others of which nothing is said


def extract(
    features: Mapping[str, Feature],
    data: Any,
    trainer: Trainer,
    rows_per_shard: int | None = None,
    splits: Sequence[str] = SPLITS,
) -> list[str]:
    """Fill the stores of ``data.cache`` with a task's features; returns one line of report for each.

    Groups of clips (``rows_per_shard`` each, default: the data's) are dealt by claims in the stores to the trainer's own
    processes (``devices``, ``num_nodes``) and to all others that fill the same stores at that time. Each process returns
    when all groups are there; what others had claimed and lost, it computes itself. A clip that cannot be read is recorded
    with the reason and does not stop the rest; rows that are not valid are left out (`valid_rows` names them).
    Raises ValueError where nothing can be cached.
    """
    if not isinstance(data, PairedMedia) or not features:
        what = f"{len(features)} features on {type(data).__name__}"
        raise ValueError(f"nothing can be cached ({what}): the recipe needs xmodal.data.PairedMedia and frozen encoders")
    warnings.filterwarnings("ignore", message="predict returned None")  # it writes shards
    size, every = rows_per_shard or data.rows_per_shard, valid_rows(data.manifest, remote=data.remote)[0]
    plan: list[Job | str] = []
    for split in splits:
        if len(rows := every.of(split)):  # or a manifest without this split
            crop = data.crop if split == "train" else "loudest"
            plan += [_planned(f"{split}: {name}", feature, data, trainer, rows, crop, size) for name, feature in features.items()]
    jobs = [each for each in plan if isinstance(each, Job)]
    for job in jobs:
        job.run(trainer, waits=False)
    for job in jobs:  # nobody waits for another's groups before all others are there
        if trainer.strategy.broadcast(job.left):
            job.run(trainer, waits=True)
    trainer.strategy.barrier()  # what is counted is what all processes have written
    return [each if isinstance(each, str) else each.report() for each in plan]


def _planned(
    title: str, feature: Feature, data: PairedMedia, trainer: Trainer, rows: Manifest, crop: str, size: int
) -> Job | str:
    """What is to be done for one feature of one split, or why nothing is."""
    store = data.store(feature, crop, trainer.precision)
    if store is None:
        why = "what is read anew each time and cannot be stored (--data.crop loudest would allow it)"
        return f"{title} depend on {why if crop != 'loudest' else 'bucket_seconds and cannot be stored'}"
    store.clean_up()
    job = Job(title, feature, store, data, rows, crop, size)
    if job.claims.pending:
        one = job.bytes_per_clip()
        amount = f"{title} take {one / 1e6:.2g} MB a clip, {one * len(rows) / 1e9:.2g} GB for {len(rows)} clips"
        if one * len(rows) > data.cache_limit * 1e9:
            more = f"(--data.cache_limit {-(-one * len(rows) // 10**9)} would allow it)"
            return f"{amount}: more than {data.cache_limit:g} GB are not stored unasked {more}"
        rank_zero_info(amount)
    return job


class Job:
    """One feature of one split, and its store.

    A group is a piece of work and a shard; it is read and computed in batches, so that no more than some batches of media,
    and one group's features, are in memory.
    """

    def __init__(
        self, title: str, feature: Feature, store: FeatureStore, data: PairedMedia, rows: Manifest, crop: str, size: int
    ) -> None:
        self.title, self.feature, self.store, self.data, self.size = title, feature, store, data, size
        # Named once: a file that changes meanwhile must not move its group to another shard.
        self.clips, self.media = Texts(data.clip_names(rows, feature.inputs)), data.media(rows, feature.inputs, crop)
        self.claims, self.left = store.claims(self.clips, size), False  # left: to others, when there was nothing else to do

    def group(self, number: int) -> range:
        """Positions of a group's clips."""
        return range(number * self.size, min((number + 1) * self.size, len(self.clips)))

    def run(self, trainer: Trainer, waits: bool) -> None:
        """Compute groups until none is free; if it ``waits``, until all are there."""
        if trainer.world_size == 1 and not self.claims.pending:
            return
        stored = len(self.clips) - sum(len(self.group(number)) for number in self.claims.pending)
        quiet = None if trainer.is_global_zero else True  # None: on a terminal alone
        bar = tqdm(total=len(self.clips), initial=stored, desc=self.title, unit="clip", delay=1, disable=quiet)
        self.claims.seen = lambda number: bar.update(len(self.group(number)))
        with bar, self.claims:
            trainer.predict(Extractor(self, bar.update), Pieces(self, waits), return_predictions=False)

    def bytes_per_clip(self) -> int:
        """What the first readable clip takes in the store; 0 where none is readable."""
        loaded = (_loaded(self.media, index) for index in range(len(self.clips)))
        item = next((item for item in loaded if not isinstance(item, str)), None)
        if item is None:
            return 0
        with torch.no_grad():
            made = self.feature.compute(default_collate([item]))
        return sum(_storable(value, self.data.cache_dtype).nbytes for value in made.values())

    def report(self) -> str:
        """How many clips are in the store, counted there."""
        places, failures = self.store.places(self.clips)
        failed, stored = int(failures.sum()), int((places.shard >= 0).sum())
        rest = len(self.clips) - stored - failed  # of a run that was limited
        told = f"{self.title} of {stored} clips in {self.store.root}" + f", {failed} unreadable" * (failed > 0)
        return told + f", {rest} not yet computed" * (rest > 0)


@dataclass
class Piece:
    """A batch of a group: positions and media of the clips that could be read, and why the others could not."""

    group: int
    last: bool
    good: list[int] = field(default_factory=list)
    batch: dict[str, Any] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class Pieces:
    """The batches of the groups that this process gets; None where there is none for now, but others may lose theirs."""

    def __init__(self, job: Job, waits: bool) -> None:
        self.job, self.waits = job, waits
        workers = job.data.num_workers
        self.loader: DataLoader[Piece] = DataLoader(
            dataset=_Reader(job.media),
            batch_size=None,
            sampler=_Dealt(job),  # asked in this process, a few batches ahead
            collate_fn=_as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def __iter__(self) -> Iterator[Piece | None]:
        while pending := self.job.claims.pending:
            yield from self.loader
            self.job.left = bool(pending)
            if pending and not self.waits:
                return
            if pending:
                yield None  # the wait is in the step: what was given before is computed first


class _Dealt:
    """Group, positions, and whether they are its last: of each batch of each group that could be claimed."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __iter__(self) -> Iterator[tuple[int, range, bool]]:
        step = self.job.data.batch_size
        while (number := self.job.claims.take()) is not None:
            group = self.job.group(number)
            for start in range(0, len(group), step):
                yield number, group[start : start + step], start + step >= len(group)


class _Reader(Dataset[Piece]):
    """Reads batches; in the worker processes, which know of no claims."""

    def __init__(self, media: PairedMediaSet) -> None:
        self.media = media

    def __getitem__(self, place: tuple[int, range, bool]) -> Piece:
        number, positions, last = place
        piece, items = Piece(number, last), []
        for position in positions:
            item = _loaded(self.media, position)
            if isinstance(item, str):
                piece.failed[position] = item
            else:
                piece.good.append(position)
                items.append(item)
        piece.batch = default_collate(items) if items else {}
        return piece


class Extractor(LightningModule):
    """Computes one feature and writes its shards; what Lightning's ``predict`` drives on every rank."""

    def __init__(self, job: Job, progress: Callable[[int], object]) -> None:
        super().__init__()
        self.job, self.progress, self.waited = job, progress, 0.0
        self.parts = torch.nn.ModuleList(job.feature.built())
        self._begin()

    def _begin(self) -> None:
        self.kept: list[int] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.failed: dict[int, str] = {}

    def predict_step(self, piece: Piece | None, batch_idx: int) -> None:
        """Compute a batch; after a group's last one write its shard. The batches of a group follow each other."""
        claims = self.job.claims
        if piece is None:
            before, self.waited = self.waited, self.waited + claims.wait()
            if before < PATIENT <= self.waited:
                rank_zero_info(f"{self.job.title}: waiting for the last {len(claims.pending)} groups, which others work on")
            return
        self.failed |= piece.failed
        if piece.good:
            self._compute(piece)
        self.progress(len(piece.good) + len(piece.failed))
        claims.working()
        if piece.last:
            clips, count = self.job.clips, len(self.kept)
            names = [clips[position] for position in self.job.group(piece.group)]
            arrays = {name: array[:count] for name, array in self.arrays.items()}
            failed = {clips[position]: reason for position, reason in self.failed.items()}
            self.job.store.write(names, [clips[position] for position in self.kept], arrays, failed)
            claims.done(piece.group)
            self._begin()

    def _compute(self, piece: Piece) -> None:
        """Put the features of a batch into the group's arrays, but for those that are not finite in the stored type."""
        dtype = self.job.data.cache_dtype
        items = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in piece.batch.items()}
        made = {name: _storable(value, dtype) for name, value in self.job.feature.compute(items).items()}
        finite = np.logical_and.reduce([finite_rows(value) for value in made.values()])
        if not finite.all():
            why = f"its features are not finite in {str(dtype).removeprefix('torch.')}"
            self.failed |= {position: why for position, fine in zip(piece.good, finite, strict=True) if not fine}
            made = {name: value[finite] for name, value in made.items()}
        start = len(self.kept)
        self.kept += [position for position, fine in zip(piece.good, finite, strict=True) if fine]
        for name, value in made.items():
            if name not in self.arrays:
                self.arrays[name] = np.empty((len(self.job.group(piece.group)), *value.shape[1:]), value.dtype)
            self.arrays[name][start : len(self.kept)] = value

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave it to the step: there may be no batch."""
        return batch


def _loaded(media: PairedMediaSet, index: int) -> dict[str, Any] | str:
    """One clip's media, or the reason why there are none."""
    try:
        return media[index]
    except (ValueError, OSError) as error:
        return str(error)


def _as_is(piece: Any) -> Any:
    return piece


def _storable(value: Tensor, dtype: torch.dtype) -> np.ndarray:
    value = value.detach().cpu()
    return (value.to(dtype) if value.is_floating_point() else value).numpy()
