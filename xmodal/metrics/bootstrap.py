"""Seeded bootstrap. The draws depend on the seed, the number of items and the number of draws alone, so that two systems
that were judged on the same items with the same seed have paired replicates.

numpy's RandomState is used because its stream is frozen for all versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

LEVEL = 0.95
CHUNK = 4_000_000  # drawn indices held at once


def draw_items(count: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks (b, count) of item indices drawn with replacement, ``draws`` rows in all.

    Rows are drawn one by one, so the first rows are the same whatever ``draws`` is.
    """
    random = np.random.RandomState(seed)
    block = max(1, CHUNK // max(1, count))
    for start in range(0, draws, block):
        yield np.stack([random.randint(0, count, count) for _ in range(min(block, draws - start))])


def draw_counts(count: int, draws: int, seed: int) -> np.ndarray:
    """(draws, count) float64: how often each item occurs in each draw of `draw_items`."""
    blocks = draw_items(count, draws, seed)
    return np.concatenate([np.stack([np.bincount(row, minlength=count) for row in block]) for block in blocks]).astype(np.float64)


def replicate(values: np.ndarray, reduce: Callable[..., np.ndarray], draws: int, seed: int) -> np.ndarray:
    """(draws,) values of ``reduce(x, axis=-1)`` over resampled items; values (items,)."""
    return np.concatenate([reduce(values[block], axis=-1) for block in draw_items(len(values), draws, seed)])


def percentiles(replicates: np.ndarray, centre: float | None = None) -> tuple[float, float]:
    """The 95 % interval of replicates, moved so that their mean falls on ``centre`` if that is given.

    Distances between sets grow when rows repeat, so their raw percentiles may not even hold the estimate; the moved
    interval tells the spread at this sample count and says nothing of the bias.
    """
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    shift = 0.0 if centre is None else centre - float(replicates.mean())
    return float(low) + shift, float(high) + shift
