"""Listening and looking tests: mean opinion scores with t intervals, preferences with Wilson intervals. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


@dataclass(frozen=True)
class Opinion:
    """Mean opinion score, standard deviation (n - 1) of the ratings, and half widths of two 95 % intervals.

    ``half_ratings`` takes all ratings as independent, ``half_items`` the item means: quote the latter, since raters of
    one item agree more than raters of two.
    """

    mean: float
    std: float
    half_ratings: float
    half_items: float


@dataclass(frozen=True)
class Preference:
    """Share of wins, its 95 % Wilson interval, and the two-sided exact binomial p of an even chance."""

    rate: float
    low: float
    high: float
    p: float


def mean_opinion(ratings: np.ndarray) -> Opinion:
    """Ratings (items, raters), all given -> `Opinion`; raises ValueError for another shape or missing ratings."""
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2 or min(table.shape) < 1 or table.shape[0] < 2 or not np.isfinite(table).all():
        raise ValueError(f"expected a full table of at least 2 items by 1 rater, got {table.shape} or a missing rating")
    return opinion(table)


def opinion(ratings: Sequence[Sequence[float]] | np.ndarray) -> Opinion:
    """The ratings of each item, which may differ in number -> `Opinion`.

    Raises ValueError for fewer than 2 items, an item without a rating, or a rating that is not finite.
    """
    rows = [np.asarray(row, np.float64) for row in ratings]
    if len(rows) < 2 or not all(row.ndim == 1 and len(row) and np.isfinite(row).all() for row in rows):
        raise ValueError(f"expected ratings of at least 2 items, each with at least one rating, got {len(rows)} items")
    every = np.concatenate(rows)
    return Opinion(
        float(every.mean()), float(every.std(ddof=1)), half_width(every), half_width(np.array([row.mean() for row in rows]))
    )


def krippendorff_alpha(ratings: Sequence[Sequence[float]]) -> float:
    """Agreement of raters about items (Krippendorff 2011, interval data): 1 all agree, 0 as by chance, below 0 they contradict.

    ``ratings`` are those that each item has; items with one rating say nothing. NaN where all ratings are the same, or no item
    has two.
    """
    rows = [np.asarray(row, np.float64) for row in ratings if len(row) > 1]
    if not rows:
        return math.nan
    every = np.concatenate(rows)
    observed = sum(2 * len(row) * float(row.var()) * len(row) / (len(row) - 1) for row in rows) / len(every)
    expected = 2 * len(every) * float(every.var()) / (len(every) - 1)
    return 1 - observed / expected if expected else math.nan


def preference(wins: int, total: int) -> Preference:
    """``wins`` of ``total`` comparisons, ties left out -> `Preference`; raises ValueError for impossible counts."""
    if not 0 <= wins <= total or total < 1:
        raise ValueError(f"{wins} wins of {total} comparisons are impossible: expected 0 <= wins <= total and total >= 1")
    rate, spread = wins / total, Z95**2 / total
    centre = (rate + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(rate * (1 - rate) / total + spread / (4 * total)) / (1 + spread)
    least = math.comb(total, wins)
    p = sum(ways for k in range(total + 1) if (ways := math.comb(total, k)) <= least) / 2**total
    return Preference(rate, centre - half, centre + half, p)


def t_quantile(share: float, freedom: int) -> float:
    """The point of Student's t distribution below which ``share`` (0.5 or more) lies, by bisection."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % t interval of the mean of at least two values (n,)."""
    return t_quantile(0.975, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _t_below(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: half plus the integral of the density, with x = sqrt(freedom) tan(angle)."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * _simpson(lambda angle: math.cos(angle) ** (freedom - 1), 0.0, math.atan(t / math.sqrt(freedom)))


def _simpson(f: Callable[[float], float], start: float, stop: float, pieces: int = 400) -> float:
    step = (stop - start) / pieces
    inner = sum((4 if i % 2 else 2) * f(start + i * step) for i in range(1, pieces))
    return step / 3 * (f(start) + inner + f(stop))
