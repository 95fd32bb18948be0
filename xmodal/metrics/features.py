"""Base classes of the metrics: rows of features in, one number with its protocol out.

Letters: N items, K feature rows of one item (frames, windows), d width of a row. All arithmetic is float64, and rows are
brought into one order before anything is computed, so a value depends on the set of rows alone: not on batches, on their
order, nor on how many processes held them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from xmodal.metrics.bootstrap import draw_counts, percentiles, replicate
from xmodal.metrics.protocol import REDUCTIONS, Protocol, Result, Score

Ids = Sequence[str] | Sequence[int] | Tensor
SMALL = 256  # items; a value from no more is marked small_sample
REPEAT_TOLERANCE = 1e-3  # relative difference up to which two rows of one id are the same item seen twice


def key_of(name: str | int) -> int:
    """An id as a 63-bit number: integers as they are, text by its hash."""
    if isinstance(name, str):
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    return int(name)


def normalized(rows: Tensor) -> Tensor:
    """Rows of length one along the last dimension; rows of zeros stay zero."""
    scale = rows.abs().amax(-1, keepdim=True)
    rows = rows / torch.where(scale > 0, scale, 1)  # squares of tiny or huge rows must not leave the range
    length = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(length > 0, length, 1)


@dataclass(frozen=True)
class Rows:
    """All rows of one side in their final order: values (n, d); ``item`` (n,) numbers the item of each; ids or None."""

    values: Tensor
    item: Tensor
    ids: tuple[int, ...] | None

    @property
    def items(self) -> int:
        """How many items the rows belong to."""
        return int(self.item[-1]) + 1 if len(self.item) else 0


class FeatureMetric(Metric):
    """A metric over stored rows of features.

    ``sides`` are the names of the row sets. A subclass writes ``update`` (calling `add`) and ``scores``. ``ids`` name the
    items: with them, repeats that a distributed sampler pads with are dropped, and results of two systems can be paired.
    Either all rows carry ids or none. Calling the metric is the same as ``update``: a batch has no value of its own.
    """

    full_state_update = False
    is_differentiable = False
    version = 1
    sides: tuple[str, ...] = ("real", "fake")
    draws = 1000  # default of `result`

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for side in self.sides:
            self.add_state(side, [], dist_reduce_fx="cat")
            self.add_state(f"{side}_keys", [], dist_reduce_fx="cat")

    @property
    def name(self) -> str:
        """Under which the metric stands in a protocol."""
        return type(self).__name__

    def options(self) -> dict[str, Any]:
        """The switches that change the value; part of the protocol."""
        return {}

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Same as ``update``: a batch has no value of its own."""
        self.update(*args, **kwargs)

    def check(self, side: str, features: Tensor, ids: Ids | None = None, width: int | None = None) -> Tensor:
        """Features (N, d) or (N, K, d) as float64 (N, K, d) on the metric's device.

        Raises ValueError for another shape, an unlike width, ids of another count, or values that are not finite.
        """
        if features.ndim not in (2, 3):
            found = tuple(features.shape)
            raise ValueError(f"{self.name}: {side} is {found}, but expected (items, width) or (items, rows, width)")
        rows = features.detach().to(self.device, torch.float64)
        rows = rows[:, None] if rows.ndim == 2 else rows
        if width is not None and rows.shape[-1] != width:
            raise ValueError(f"{self.name}: {side} has {rows.shape[-1]} columns, but expected {width}")
        if ids is not None and len(ids) != len(rows):
            raise ValueError(f"{self.name}: {side} has {len(rows)} items, but {len(ids)} ids were given")
        bad = ~rows.isfinite().all(-1).all(-1)
        if bad.any():
            where = bad.nonzero()[:, 0].tolist()
            names = ids.tolist() if isinstance(ids, Tensor) else ids
            named = [f"row {i}" if names is None else str(names[i]) for i in where[:5]]
            raise ValueError(
                f"{self.name}: {side} holds nan or inf in {len(where)} of {len(rows)} items ({', '.join(named)}"
                f"{', ...' if len(where) > 5 else ''}): mend what made these features"
            )
        return rows

    def add(self, side: str, rows: Tensor, ids: Ids | None = None) -> None:
        """Store rows (N, K, d) that `check` returned; raises ValueError for a width unlike that of earlier rows."""
        count, each, width = rows.shape
        stored = getattr(self, side)
        if stored and stored[0].shape[-1] != width:
            raise ValueError(f"{self.name}: {side} has {width} columns, but earlier rows had {stored[0].shape[-1]}")
        if not count * each:
            return
        stored.append(rows.reshape(-1, width))
        if ids is not None:
            items = torch.tensor([key_of(name) for name in (ids.tolist() if isinstance(ids, Tensor) else ids)])
            keys = torch.stack([items.repeat_interleave(each), torch.arange(each).repeat(count)], dim=1)
            getattr(self, f"{side}_keys").append(keys.to(self.device))

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        """Gather every state. A process without rows joins in with none, which the base class cannot."""
        for name, reduction in self._reductions.items():
            state, group = getattr(self, name), process_group or self.process_group
            if isinstance(state, list):
                empty = torch.empty(0, 0, dtype=torch.int64 if name.endswith("_keys") else torch.float64, device=self.device)
                parts = dist_sync_fn(torch.cat(state) if state else empty, group=group)
                setattr(self, name, [part for part in parts if len(part)])
            elif callable(reduction):
                setattr(self, name, reduction(torch.stack(dist_sync_fn(state, group=group))))

    def rows(self, side: str) -> Rows:
        """All rows of one side in their final order: by id, or by content where no ids were given.

        Raises RuntimeError if there are none, ValueError if only some carry ids or one id names unlike rows.
        """
        stored, keys = getattr(self, side), getattr(self, f"{side}_keys")
        if not stored:
            raise RuntimeError(f"{self.name}: no {side} features were given: call update() before compute()")
        values = torch.cat(list(stored)) if isinstance(stored, list) else stored
        if not len(keys):
            order = torch.from_numpy(_content_order(values)).to(values.device)
            return Rows(values[order], torch.arange(len(values), device=values.device), None)
        keyed = torch.cat(list(keys)) if isinstance(keys, list) else keys
        if len(keyed) != len(values):
            some = f"{len(keyed)} of {len(values)} {side} rows carry ids"
            raise ValueError(f"{self.name}: {some}: give ids to every update() or to none")
        return self._by_id(side, values, keyed)

    def _by_id(self, side: str, values: Tensor, keys: Tensor) -> Rows:
        # By content first, so that of two nearly equal rows of one id the same one stays whatever the order of arrival.
        order = torch.arange(len(keys), device=keys.device)
        if _repeats(keys):
            order = torch.from_numpy(_content_order(values)).to(keys.device)
        for column in (1, 0):
            order = order[keys[order, column].argsort(stable=True)]
        values, keys = values[order], keys[order]
        fresh = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        fresh[1:] = (keys[1:] != keys[:-1]).any(1)
        twice = (~fresh).nonzero()[:, 0]
        gap = (values[twice] - values[twice - 1]).abs().amax(1) if len(twice) else values.new_zeros(0)
        if len(twice) and (gap > REPEAT_TOLERANCE * values[twice].abs().amax(1)).any():
            name = int(keys[twice[gap.argmax()], 0])
            raise ValueError(f"{self.name}: two different {side} rows carry the id {name}: give every sample an id of its own")
        values, keys = values[fresh], keys[fresh]
        ids, item = keys[:, 0].unique(return_inverse=True)
        return Rows(values, item, tuple(ids.tolist()))

    @abstractmethod
    def scores(self, draws: int, seed: int) -> tuple[dict[str, Score], dict[str, Rows | int]]:
        """Every score, with its interval if ``draws`` > 0, and the sides (rows, or a count) that the protocol names."""

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The value as a float64 scalar, or a dict of scalars where the metric has several."""
        values = {name: torch.tensor(score.value, dtype=torch.float64) for name, score in self.scores(0, 0)[0].items()}
        return values if len(values) > 1 else next(iter(values.values()))

    def small_sample(self, counts: Mapping[str, int]) -> bool:
        """Whether the value comes from too few items to be quoted."""
        return min(count for name, count in counts.items() if name.endswith("items")) <= SMALL

    def result(
        self, extractor: str = "", weights: str = "", preprocessing: str = "", draws: int | None = None, seed: int = 0
    ) -> Result:
        """Scores with 95 % bootstrap intervals and protocol, over the rows of all processes.

        ``extractor``, ``weights`` (sha256) and ``preprocessing`` say what made the features; ``draws`` = 0 leaves the
        intervals out. Raises what ``compute`` raises.
        """
        draws = self.draws if draws is None else draws
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync):
            scores, sides = self.scores(draws, seed)
        counts, items = {}, {}
        for side, rows in sides.items():
            counts[f"{side}_items"] = rows if isinstance(rows, int) else rows.items
            counts[f"{side}_rows"] = rows if isinstance(rows, int) else len(rows.values)
            items[side] = _digest(rows.ids) if isinstance(rows, Rows) and rows.ids else ""
        some = any(score.low is not None for score in scores.values())
        protocol = Protocol(
            metric=self.name, version=self.version, extractor=extractor, weights=weights, preprocessing=preprocessing,
            counts=counts, seed=seed, interval=f"bootstrap 95 %, {draws} draws of {self.resampled}" if some else "none",
            small_sample=self.small_sample(counts), options=self.options(), items=items,
        )  # fmt: skip
        return Result(protocol, scores)

    resampled = "items"


class ItemMetric(FeatureMetric):
    """A metric that is the mean (or another reduction) of one value per item: intervals come from resampling the items."""

    @abstractmethod
    def per_item(self) -> tuple[dict[str, tuple[Tensor, str]], dict[str, Rows]]:
        """By score: one value per item (N,) and the side whose items they are; and the sides' rows in that order."""

    def reduction(self, name: str) -> str:
        """How the values of a score are reduced: a key of ``REDUCTIONS``."""
        return "mean"

    def scores(self, draws: int, seed: int) -> tuple[dict[str, Score], dict[str, Rows | int]]:
        """See `FeatureMetric.scores`."""
        found, sides = self.per_item()
        made = {}
        for name, (tensor, side) in found.items():
            rows, values = sides[side], tensor.cpu().numpy()
            kept = values[~np.isnan(values)]
            reduce = self.reduction(name)
            value = float(REDUCTIONS[reduce](kept)) if len(kept) else float("nan")
            low, high, named = None, None, None
            if draws and len(kept) > 1:
                low, high = percentiles(replicate(kept, REDUCTIONS[reduce], draws, seed))
            if draws and rows.ids:
                named = {str(key): float(v) for key, v in zip(rows.ids, values, strict=True) if not np.isnan(v)}
            made[name] = Score(value, low, high, reduce, named, None, len(values) - len(kept))
        return made, dict(sides)


class PairMetric(ItemMetric):
    """A metric whose values are known as soon as a pair is seen: only they are stored, one column per name in ``columns``."""

    sides = ("pairs",)
    columns: tuple[str, ...] = ("value",)

    def per_item(self) -> tuple[dict[str, tuple[Tensor, str]], dict[str, Rows]]:
        """See `ItemMetric.per_item`."""
        rows = self.rows("pairs")
        return {name: (rows.values[:, index], "pairs") for index, name in enumerate(self.columns)}, {"pairs": rows}

    def paired(self, first: tuple[str, Tensor], second: tuple[str, Tensor], ids: Ids | None) -> tuple[Tensor, Tensor]:
        """Two named sides of as many items each, checked, as (N, K, d); raises ValueError."""
        one, two = self.check(*first, ids), self.check(*second, ids)
        if len(one) != len(two):
            raise ValueError(f"{self.name}: {len(one)} {first[0]} and {len(two)} {second[0]} items, but pairs are expected")
        if one.shape[-1] != two.shape[-1]:
            widths = f"{first[0]} is {one.shape[-1]} wide and {second[0]} {two.shape[-1]}"
            raise ValueError(f"{self.name}: {widths}, but both must lie in one space")
        return one, two


class SetMetric(FeatureMetric):
    """A metric of a whole set (against another): the items of the last side are resampled, the other side is held fixed."""

    draws = 200
    resampled = "the last side's items"

    @abstractmethod
    def values(self, sides: dict[str, Rows], counts: np.ndarray | None) -> dict[str, tuple[float, np.ndarray | None]]:
        """By score: the value, and its replicates (draws,) under ``counts`` (draws, items of the last side) if given."""

    def scores(self, draws: int, seed: int) -> tuple[dict[str, Score], dict[str, Rows | int]]:
        """See `FeatureMetric.scores`."""
        sides = {side: self.rows(side) for side in self.sides}
        widths = {side: rows.values.shape[1] for side, rows in sides.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"{self.name}: the sides are of unlike widths ({widths}): use one extractor for all")
        items = sides[self.sides[-1]].items
        counts = draw_counts(items, draws, seed) if draws and items > 1 else None
        made = {}
        for name, (value, again) in self.values(sides, counts).items():
            low, high = percentiles(again, centre=value) if again is not None else (None, None)
            kept = tuple(float(item) for item in again) if again is not None else None
            made[name] = Score(value, low, high, replicates=kept)
        return made, dict(sides)


def _content_order(values: Tensor) -> np.ndarray:
    """An order of the rows (n, d) that depends on their bytes alone."""
    plain = np.ascontiguousarray((values + 0.0).cpu().numpy())  # -0.0 becomes 0.0
    return plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1])))[:, 0].argsort(kind="stable")


def _repeats(keys: Tensor) -> bool:
    return len(keys.unique(dim=0)) < len(keys)


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(np.array(ids, np.int64).tobytes()).hexdigest()[:16]
