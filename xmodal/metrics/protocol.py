"""What a number means: its protocol, its interval, and whether two numbers may be compared. Free of torch.

A `Result` is what a report stores (JSON). `compare` refuses unlike protocols and pairs items or bootstrap draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from xmodal.files import write_beside
from xmodal.metrics.bootstrap import percentiles, replicate

REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median}
FORMAT = 1


@dataclass(frozen=True)
class Protocol:
    """All that must agree before two values of a metric may stand in one table.

    ``metric`` and ``version`` name the definition and ``options`` its switches; ``extractor``, ``weights`` (sha256 of the
    weight file, "" where unknown) and ``preprocessing`` what made the features; ``counts`` the items and rows of every
    side, ``items`` a digest of their ids ("" where none were given); ``seed`` and ``interval`` the bootstrap.
    ``small_sample`` marks values from too few items to be quoted.
    """

    metric: str
    version: int
    extractor: str
    weights: str
    preprocessing: str
    counts: Mapping[str, int]
    seed: int
    interval: str
    small_sample: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, str] = field(default_factory=dict)

    def differences(self, other: Protocol) -> list[str]:
        """Names of the fields that disagree, with both values."""
        mine, theirs = _plain(asdict(self)), _plain(asdict(other))
        return [f"{name} ({mine[name]!r} and {theirs[name]!r})" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class Score:
    """One value with its 95 % interval (``None`` where there is none).

    ``values`` by item id lead to paired intervals of ``reduce``; metrics of whole sets keep ``replicates`` of the
    bootstrap instead. Not-a-number items (nothing to measure) are left out and counted in ``skipped``.
    """

    value: float
    low: float | None = None
    high: float | None = None
    reduce: str = "mean"
    values: Mapping[str, float] | None = None
    replicates: tuple[float, ...] | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Result:
    """The scores of one metric under one protocol."""

    protocol: Protocol
    scores: Mapping[str, Score]

    def save(self, path: str | Path) -> Path:
        """Write JSON, whole or not at all; returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **_plain(asdict(self))}, indent=1, allow_nan=False) + "\n"
        return write_beside(path, lambda partial: partial.write_text(text, "utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; raises FileNotFoundError, or ValueError that names the file and what it lacks."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: give the path of a result that was written by Result.save")
        try:
            content = json.loads(path.read_text("utf-8"))
            if content.get("format") != FORMAT:
                raise ValueError(f"format {content.get('format')!r}, but this version reads {FORMAT}")
            scores = {name: Score(**score) for name, score in content["scores"].items()}
            return cls(Protocol(**content["protocol"]), scores)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no result of this version ({error}): write it again with Result.save") from error


@dataclass(frozen=True)
class Difference:
    """First minus second, with its paired 95 % interval; ``apart`` where that excludes zero."""

    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def compare(first: Result | str | Path, second: Result | str | Path, draws: int = 1000) -> dict[str, Difference]:
    """Paired difference (first minus second) of every score of two results, given as objects or as paths of JSON files.

    Items are paired by id and resampled ``draws`` times with the results' own seed; metrics of whole sets pair the
    replicates that both results stored, moved so that their mean falls on the difference. Raises ValueError where the
    protocols differ in anything, and where nothing can be paired.
    """
    one, two = (result if isinstance(result, Result) else Result.load(result) for result in (first, second))
    unlike = one.protocol.differences(two.protocol)
    if unlike:
        raise ValueError(f"the protocols differ in {'; '.join(unlike)}: evaluate both systems in the same way")
    if not one.protocol.items or not all(one.protocol.items.values()):
        raise ValueError(f"the results of {one.protocol.metric} name no items, so they cannot be paired: give ids to update()")
    if set(one.scores) != set(two.scores):
        odd = ", ".join(sorted(set(one.scores) ^ set(two.scores)))
        raise ValueError(f"the results hold different scores ({odd} in one alone): write both with the same version")
    scored = [name for name in one.scores if any(result.scores[name].low is not None for result in (one, two))]
    if not scored:
        raise ValueError(f"the results of {one.protocol.metric} hold no intervals: make both with result(draws=...)")
    return {name: _difference(name, one.scores[name], two.scores[name], draws, one.protocol.seed) for name in scored}


def _difference(name: str, one: Score, two: Score, draws: int, seed: int) -> Difference:
    value = one.value - two.value
    if one.values is not None and two.values is not None:
        shared = [key for key in one.values if key in two.values]
        if len(shared) < 2:
            raise ValueError(f"{name}: the results share {len(shared)} items, but a paired bootstrap needs at least 2")
        reduce = REDUCTIONS[one.reduce]
        pairs = [np.array([score.values[key] for key in shared], np.float64) for score in (one, two) if score.values]
        value = float(reduce(pairs[0]) - reduce(pairs[1]))
        made = [replicate(side, reduce, draws, seed) for side in pairs]
        return Difference(value, *percentiles(made[0] - made[1]))
    if one.replicates and two.replicates and len(one.replicates) == len(two.replicates):
        spread = np.array(one.replicates) - np.array(two.replicates)
        return Difference(value, *percentiles(spread, centre=value))
    raise ValueError(f"{name}: the results hold neither values by item nor as many replicates: make both with result(draws=...)")


def _plain(value: Any) -> Any:
    """JSON's own types; a number that is not finite becomes None, since JSON has none."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
