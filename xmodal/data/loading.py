"""Batches in an order that can be taken up again, and features that stay in the memory of the device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from xmodal.data.media import PairedMediaSet, plain
from xmodal.data.packed import Texts


class Loader:
    """Batches of a set, epoch after epoch; Lightning keeps its position in checkpoints.

    The order of an epoch depends on ``seed`` and the epoch's number alone: not on workers, ranks, or what else draws
    random numbers. A run that is resumed in the middle of an epoch goes on with the clips which that epoch has not given
    yet, also with another batch size or number of ranks.

    Args:
        source: gives batches.
        batch_size: clips of a batch on each rank.
        shuffle: another order in each epoch, without its last incomplete batch; otherwise the order of ``source``.
        seed: of the order.
        epoch: number of the first epoch.
        rank, world_size: this rank gets every ``world_size``-th batch, and all get equally many.
        groups: number of a group for each clip; a batch then holds clips of one group.
        num_workers: reading processes; they live as long as the loader.
        pin_memory: for copies to a CUDA device.
        steps: batches whose gradients are accumulated; an epoch gives as many clips as with batches that are not split.
    """

    def __init__(
        self,
        source: PairedMediaSet | Resident,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | np.ndarray | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        steps: int = 1,
    ) -> None:
        self.source, self.batch_size, self.shuffle, self.seed, self.steps = source, batch_size, shuffle, seed, steps
        self.rank, self.world_size = rank, world_size
        self.groups = None if groups is None else np.asarray(groups)
        self.epoch, self.seen, self._resumed, self._peeked = epoch, 0, False, False
        self._turn = _Turn()
        self._loader: DataLoader[Any] | None = None
        if isinstance(source, PairedMediaSet):
            self._loader = DataLoader(
                dataset=_Batches(source),
                batch_size=None,
                sampler=self._turn,
                collate_fn=_as_is,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                pin_memory=pin_memory,
            )

    def __len__(self) -> int:
        if self.groups is None:
            batches = len(_cut(self._counted(), self.batch_size, self._whole())) - 1
        else:
            batches = int((-(-np.unique(self.groups, return_counts=True)[1] // self.batch_size)).sum())
        return batches // self.world_size if self.shuffle else -(-batches // self.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Lightning asks for an iterator more often than it uses one, and stops at the last batch without asking for more.
        if self._peeked:
            self._peeked = False  # the rest of that epoch
        elif self.seen and not self._resumed:
            self.epoch, self.seen = self.epoch + 1, 0
        turn = self._batches(self.epoch, self.seen)
        if not len(turn.begins):  # the checkpoint was written at the end of its epoch
            self.epoch, self.seen = self.epoch + 1, 0
            turn = self._batches(self.epoch, 0)
            # Lightning then takes one batch, finds its epoch done, and asks anew: that batch was trained on.
            self._peeked = self._resumed and len(turn.begins) > self.world_size
        self._resumed = False
        rounds = (turn.ends - turn.begins).reshape(-1, self.world_size).sum(1)
        self._turn.become(turn, slice(self.rank, None, self.world_size))
        for clips, batch in zip(rounds, self._loader or map(self._read, self._turn), strict=True):
            self.seen += int(clips)
            yield batch
            self._peeked = False

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, and clips that it has given to all ranks together."""
        return {"epoch": self.epoch, "seen": self.seen, "clips": len(self.source), "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position; with other clips, or another seed, from the beginning of its epoch and with a warning."""
        self.epoch, self.seen, self._resumed = state["epoch"], state["seen"], True
        if (state["clips"], state["seed"]) != (len(self.source), self.seed):
            rank_zero_warn(
                f"the checkpoint counts {state['clips']} clips in the order of seed {state['seed']}, the data has "
                f"{len(self.source)} and seed {self.seed}: its epoch {self.epoch} starts again"
            )
            self.seen = 0

    def _read(self, batch: tuple[int, list[int]]) -> dict[str, Any]:
        return self.source.batch(batch[1], batch[0])

    def _batches(self, epoch: int, seen: int) -> _Turn:
        """What an epoch gives to all ranks after ``seen`` clips; the number of its batches is a multiple of ``world_size``."""
        random = np.random.default_rng([self.seed, epoch])
        order = np.arange(len(self.source), dtype=np.uint32)
        if self.shuffle:
            random.shuffle(order)
        if self.groups is None:
            cuts = _cut(self._counted() - seen, self.batch_size, self._whole()) + seen
            begins, ends = cuts[:-1], cuts[1:]
        else:
            order = order[np.argsort(self.groups[order], kind="stable")]
            edges = np.concatenate([[0], np.cumsum(np.unique(self.groups, return_counts=True)[1])]).tolist()
            each = [_cut(end - start, self.batch_size) + start for start, end in pairwise(edges)]
            begins, ends = (np.concatenate([cuts[part] for cuts in each]) for part in (slice(None, -1), slice(1, None)))
            if self.shuffle:
                mixed = random.permutation(len(begins))
                begins, ends = begins[mixed], ends[mixed]
            # The batches after the first ``seen`` clips; one that was begun is given again.
            first = int(np.searchsorted(np.cumsum(ends - begins), seen, "right"))
            begins, ends = begins[first:], ends[first:]
        if extra := len(begins) % self.world_size:
            # In training a few clips wait for another epoch; elsewhere the first are given again, as Lightning does.
            count = len(begins) - extra + (0 if self.shuffle else self.world_size)
            begins, ends = np.resize(begins, count), np.resize(ends, count)
        return _Turn(epoch, order, begins, ends)

    def _whole(self) -> bool:
        """Whether an incomplete last batch is left out."""
        return self.shuffle and len(self.source) >= self.batch_size * self.steps

    def _counted(self) -> int:
        """Clips of an epoch: without those of an incomplete accumulation."""
        clips, step = len(self.source), self.batch_size * self.steps * self.world_size
        return clips - clips % step if self.shuffle and self.steps > 1 and clips >= step else clips


class _Turn:
    """Batches of one epoch, as (epoch, numbers of clips); lists are made of them one at a time."""

    def __init__(self, epoch: int = 0, *arrays: np.ndarray) -> None:
        self.epoch = epoch
        self.order, self.begins, self.ends = arrays or (np.empty(0, np.uint32), *(np.empty(0, np.int64) for _ in range(2)))

    def become(self, other: _Turn, part: slice) -> None:
        """Give some batches of another from now on; who iterates already goes on with the former ones."""
        self.epoch, self.order, self.begins, self.ends = other.epoch, other.order, other.begins[part], other.ends[part]

    def __len__(self) -> int:
        return len(self.begins)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        epoch, order = self.epoch, self.order
        return ((epoch, order[begin:end].tolist()) for begin, end in zip(self.begins, self.ends, strict=True))


class Resident:
    """All stored features of a set, in the memory of one device, in the type they are stored in.

    Takes the place of a `PairedMediaSet` that reads no media; gives the same batches. Raises ValueError for one that does.
    """

    def __init__(self, media: PairedMediaSet, device: torch.device) -> None:
        if media.inputs:
            raise ValueError(
                f"the {' and the '.join(media.inputs)} is read from files: run `xmodal cache` first, with no random crop"
            )
        self._texts = Texts(json.dumps((row.id, row.label, row.text)) for row in media.rows)
        self.device = device
        self.arrays: dict[str, torch.Tensor] = {}
        for rows in media.stored:
            for name, (shape, dtype) in rows.kinds().items():
                array = torch.empty((len(rows), *shape), dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device=device)
                self.arrays[name] = array
            for start in range(0, len(rows), 4096):
                part = rows.read(np.arange(start, min(start + 4096, len(rows))))
                for name, values in part.items():
                    self.arrays[name][start : start + len(values)] = torch.from_numpy(values)

    def __len__(self) -> int:
        return len(self._texts)

    def batch(self, indices: Sequence[int], epoch: int = 0) -> dict[str, Any]:
        """Clips by number, (B, ...) each, float16 as float32."""
        ids, names, captions = zip(*(json.loads(self._texts[index]) for index in indices), strict=True)
        chosen = torch.as_tensor(indices, device=self.device)
        rows = {name: plain(array.index_select(0, chosen)) for name, array in self.arrays.items()}
        return {"id": list(ids), "name": list(names), "caption": list(captions), **rows}


def stored_bytes(media: PairedMediaSet) -> int:
    """Bytes of all stored features of a set."""
    return sum(
        len(rows) * int(np.prod(shape)) * dtype.itemsize for rows in media.stored for shape, dtype in rows.kinds().values()
    )


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, in bytes; that of the machine for the CPU, and 0 where it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 0


class _Batches(Dataset[dict[str, Any]]):
    """A set by whole batches: what workers are asked for is an epoch and the clips' numbers."""

    def __init__(self, media: PairedMediaSet) -> None:
        self.media = media

    def __getitem__(self, batch: tuple[int, list[int]]) -> dict[str, Any]:
        return self.media.batch(batch[1], batch[0])


def _cut(clips: int, size: int, whole: bool = False) -> np.ndarray:
    """Where batches of so many clips begin and end, one after the other; the last one may be smaller unless all are whole."""
    cuts = np.arange(0, max(clips, 0) + 1, size)
    return cuts if whole or cuts[-1] == max(clips, 0) else np.append(cuts, clips)


def _as_is(batch: Any) -> Any:
    """The set collates by itself; torch's own function would look at every text."""
    return batch
