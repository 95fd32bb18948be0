"""Batches in an order that can be taken up again, and features that stay in the memory of the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from xmodal.data.media import PairedMediaSet, plain


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
        groups: Sequence[int] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.source, self.batch_size, self.shuffle, self.seed = source, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.groups = None if groups is None else np.asarray(groups)
        self.epoch, self.seen, self._resumed, self._peeked = epoch, 0, False, False
        self._order: list[tuple[int, list[int]]] = []
        self._loader: DataLoader[Any] | None = None
        if isinstance(source, PairedMediaSet):
            self._loader = DataLoader(
                dataset=_Batches(source),
                batch_size=None,
                sampler=self._order,
                collate_fn=_as_is,
                num_workers=num_workers,
                persistent_workers=num_workers > 0,
                pin_memory=pin_memory,
            )

    def __len__(self) -> int:
        return len(self._batches(self.epoch, 0)) // self.world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Lightning asks for an iterator more often than it uses one, and stops at the last batch without asking for more.
        if self._peeked:
            self._peeked = False  # the rest of that epoch
        elif self.seen and not self._resumed:
            self.epoch, self.seen = self.epoch + 1, 0
        batches = self._batches(self.epoch, self.seen)
        if not batches:  # the checkpoint was written at the end of its epoch
            self.epoch, self.seen = self.epoch + 1, 0
            batches = self._batches(self.epoch, 0)
            # Lightning then takes one batch, finds its epoch done, and asks anew: that batch was trained on.
            self._peeked = self._resumed and len(batches) > self.world_size
        self._resumed = False
        self._order[:] = [(self.epoch, batch) for batch in batches[self.rank :: self.world_size]]
        rounds = range(0, len(batches), self.world_size)
        for start, batch in zip(rounds, self._loader or map(self._read, list(self._order)), strict=True):
            self.seen += sum(map(len, batches[start : start + self.world_size]))
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

    def _batches(self, epoch: int, seen: int) -> list[list[int]]:
        """What an epoch gives to all ranks after ``seen`` clips; their number is a multiple of ``world_size``."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.source)) if self.shuffle else np.arange(len(self.source))
        if self.groups is None:
            batches = _cut(order[seen:], self.batch_size)
            if self.shuffle and len(order) >= self.batch_size and batches and len(batches[-1]) < self.batch_size:
                batches.pop()
        else:
            batches = [
                part for group in np.unique(self.groups) for part in _cut(order[self.groups[order] == group], self.batch_size)
            ]
            if self.shuffle:
                batches = [batches[number] for number in random.permutation(len(batches))]
            batches = _after(batches, seen)
        if extra := len(batches) % self.world_size:
            # In training a few clips wait for another epoch; elsewhere the first are given again, as Lightning does.
            batches = batches[:-extra] if self.shuffle else batches + (batches * self.world_size)[: self.world_size - extra]
        return batches


class Resident:
    """All stored features of a set, in the memory of one device, in the type they are stored in.

    Takes the place of a `PairedMediaSet` that reads no media; gives the same batches. Raises ValueError for one that does.
    """

    def __init__(self, media: PairedMediaSet, device: torch.device) -> None:
        if media.inputs:
            raise ValueError(
                f"the {' and the '.join(media.inputs)} is read from files: run `xmodal cache` first, with no random crop"
            )
        self.texts = [(row.id, row.label, row.text) for row in media.rows]
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
        return len(self.texts)

    def batch(self, indices: Sequence[int], epoch: int = 0) -> dict[str, Any]:
        """Clips by number, (B, ...) each, float16 as float32."""
        ids, names, captions = zip(*(self.texts[index] for index in indices), strict=True)
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


def _cut(order: np.ndarray, size: int) -> list[list[int]]:
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]


def _after(batches: list[list[int]], seen: int) -> list[list[int]]:
    """The batches after the first ``seen`` clips; a batch that was begun is given again."""
    first = 0
    while first < len(batches) and seen >= len(batches[first]):
        seen -= len(batches[first])
        first += 1
    return batches[first:]


def _as_is(batch: Any) -> Any:
    """The set collates by itself; torch's own function would look at every text."""
    return batch
