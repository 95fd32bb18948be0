"""What a suite found: the results by system and metric, and all that must be said beside the numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xmodal.evaluation.items import Item
from xmodal.evaluation.suites import Suite
from xmodal.metrics.protocol import Result, Score

MADE, CEILING, FLOOR = "made", "real", "shuffled"
NAMED = 5  # items that a terminal names for one reason


@dataclass
class Evaluation:
    """What a suite found.

    ``rows`` are the results by system and metric: what was made, other systems, the ceiling (the real files, as if they had
    been made) and the floor (what was made, given to other inputs); the last two for scores of single items only.
    ``absent`` says why a metric is missing, ``left`` by row and metric which items were left out and why, ``warnings`` why
    numbers should not be believed. ``judged`` holds the tagger's verdict by item, ``unmatched`` counts real items that nothing
    was made for.
    """

    suite: Suite
    made: list[Item]
    real: list[Item]
    rows: dict[str, dict[str, Result]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    left: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    judged: dict[str, str] = field(default_factory=dict)
    unmatched: int = 0

    @property
    def modality(self) -> str:
        """What was made: ``image`` or ``audio``."""
        return self.suite.modality

    @property
    def results(self) -> dict[str, Result]:
        """Of what was made, by metric."""
        return self.rows[MADE]

    def scores(self, row: str = MADE) -> dict[str, Score]:
        """Every score of a row by its own name."""
        return {name: score for result in self.rows[row].values() for name, score in result.scores.items()}

    def left_out(self) -> list[str]:
        """One sentence for each reason why items of a system were left out of some of its columns."""
        return [line for row, by_metric in self.left.items() for line in _sentences(row, by_metric)]


def lines(found: Evaluation) -> Iterable[str]:
    """The table that a terminal shows: one line a score, one column a row."""
    judge = next(iter(found.results.values())).protocol if found.results else None
    by = f", judged by {judge.extractor}" if judge and not found.suite.judges else ""
    yield f"{found.suite.name}: {len(found.made)} made, {len(found.real)} real{by}"
    if found.unmatched:
        yield f"for {found.unmatched} of the real items nothing was made"
    names = list(dict.fromkeys(name for row in found.rows for name in found.scores(row)))
    yield f"  {'':<16}" + "".join(f"{row:<26}" for row in found.rows).rstrip()
    for name in names:
        cells = [found.scores(row).get(name) for row in found.rows]
        yield f"  {name:<16}" + "".join(f"{'' if cell is None else shown(cell):<26}" for cell in cells).rstrip()
    if any(result.protocol.small_sample for result in found.results.values()):
        yield "  from few items: for training logs, not for tables"
    for name, reason in found.absent.items():
        yield f"  {name:<16}- {reason}"
    yield from (f"  left out: {line}" for line in found.left_out())
    yield from (f"  WARNING: {line}" for line in found.warnings)


def shown(score: Score) -> str:
    """A value with its interval."""
    return f"{score.value:.4g}" + ("" if score.low is None else f" [{score.low:.3g}, {score.high:.3g}]")


def _sentences(row: str, by_metric: dict[str, dict[str, str]]) -> Iterable[str]:
    reasons: dict[str, str] = {item: why for left in by_metric.values() for item, why in left.items()}
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for item, why in reasons.items():
        columns = tuple(name for name, left in by_metric.items() if item in left)
        grouped.setdefault((why, columns), []).append(item)
    by_columns: dict[tuple[str, ...], list[str]] = {}
    for (why, columns), items in grouped.items():
        more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
        by_columns.setdefault(columns, []).append(f"{', '.join(items[:NAMED])}{more} ({why})")
    for columns, parts in by_columns.items():
        count = sum(1 for (_, each), items in grouped.items() if each == columns for _ in items)
        more = f"; and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
        yield f"{count} of {row}, in {', '.join(columns)}: {'; '.join(parts[:NAMED])}{more}"
