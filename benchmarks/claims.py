"""What the three papers claim, and what the miniature says of it.  python benchmarks/claims.py

Reads what audiotoken_table.py, v2a_mini.py, mapper_ambiguity.py, clipsonic_mini.py and sweeps.py wrote under benchmarks/results
(`make claims` runs them all), computes a verdict for each claim, and writes docs/claims.md with its plots.

A part of a claim compares two rows in one score. It *holds* where the 95 % intervals over seeds (Student's t) lie apart in the
claimed direction, does *not hold* where they lie apart in the other, and is *not decided* where they overlap. A claim holds if all
of its parts do, and does not hold if one does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trial import over_seeds

from xmodal.files import write_beside
from xmodal.metrics.protocol import Score

ROOT = Path(__file__).parent.parent
RESULTS, PAGE, PLOTS = ROOT / "benchmarks" / "results", ROOT / "docs" / "claims.md", ROOT / "docs" / "images"
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
LOWER = {"FID", "FD", "FAD", "KL", "FD of sounds"}
PERCENT = {"AIC", "AIS", "IIS", "tag accuracy"}
Rows = Mapping[str, Mapping[str, Sequence[float]]]  # by row and score: one value a seed


@dataclass(frozen=True)
class Part:
    """``better`` is claimed to be better than ``worse`` in ``score``; with ``at_least`` not to be worse is enough."""

    better: str
    worse: str
    score: str
    at_least: bool = False

    def verdict(self, rows: Rows) -> str:
        """Holds, does not hold or not decided, by intervals that lie apart."""
        up, down = (over_seeds(rows[name][self.score]) for name in (self.better, self.worse))
        if self.score in LOWER:
            up, down = Score(-up.value, *_turned(up)), Score(-down.value, *_turned(down))
        if up.low is None or up.high is None or down.low is None or down.high is None:
            return OPEN
        if up.low > down.high:
            return HOLDS
        return FAILS if up.high < down.low else OPEN

    @property
    def sentence(self) -> str:
        """What is claimed."""
        return f"{self.better} {'at least as good as' if self.at_least else 'better than'} {self.worse} in {self.score}"


def _turned(score: Score) -> tuple[float | None, float | None]:
    return (None if score.high is None else -score.high, None if score.low is None else -score.low)


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, the rows and scores that bear on it, and what they cannot say."""

    name: str
    sentence: str
    rows: Rows
    parts: tuple[Part, ...]
    command: str
    limits: str
    note: str = ""

    @property
    def verdict(self) -> str:
        """Of all parts together."""
        found = {part.verdict(self.rows) for part in self.parts}
        if not found:
            return OPEN
        return FAILS if FAILS in found else HOLDS if found == {HOLDS} else OPEN


def shown(values: Sequence[float], score: str) -> str:
    """A mean with its interval over seeds."""
    found, factor = over_seeds(values), 100 if score in PERCENT else 1
    form = ".1f" if factor == 100 else ".3g"
    value = format(factor * found.value, form)
    if found.low is None or found.high is None:
        return f"{value} (one seed)"
    return f"{value} [{factor * found.low:{form}}, {factor * found.high:{form}}]"


def table(rows: Rows) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(score for cells in rows.values() for score in cells))
    lines = [
        "| | " + " | ".join(f"{name} {'↓' if name in LOWER else '↑'}" for name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row, cells in rows.items():
        lines.append(f"| {row} | " + " | ".join(shown(cells[name], name) if name in cells else "–" for name in columns) + " |")
    return "\n".join(lines)


def plot(rows: Rows, scores: Sequence[str]) -> str:
    """Dots and intervals, one panel a score, as an SVG."""
    parts, height, left, wide = [], 22 * len(rows) + 56, 210, 200
    for column, score in enumerate(scores):
        found = {row: over_seeds(cells[score]) for row, cells in rows.items() if score in cells}
        ends = [x for each in found.values() for x in (each.value, each.low, each.high) if x is not None]
        low, high = min(ends), max(ends)
        span, start, factor = (high - low) or 1.0, left + column * (wide + 40), 100 if score in PERCENT else 1
        place = {row: 22 * index + 40 for index, row in enumerate(rows)}
        arrow = "←" if score in LOWER else "→"
        parts.append(f'<text x="{start + wide / 2}" y="18" text-anchor="middle" font-weight="bold">{score} {arrow}</text>')
        for row, each in found.items():
            y = place[row]
            x, one, two = (
                start + wide * ((each.value if v is None else v) - low) / span for v in (each.value, each.low, each.high)
            )
            parts.append(f'<line x1="{one:.1f}" x2="{two:.1f}" y1="{y}" y2="{y}" stroke="#245" stroke-width="2"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="#0a6b2d"/>')
        y = height - 12
        parts.append(f'<line x1="{start}" x2="{start + wide}" y1="{y - 12}" y2="{y - 12}" stroke="#999"/>')
        for x, end, anchor in ((start, low, "start"), (start + wide, high, "end")):
            parts.append(f'<text x="{x}" y="{y + 4}" text-anchor="{anchor}">{factor * end:.3g}</text>')
    for index, row in enumerate(rows):
        parts.append(f'<text x="{left - 12}" y="{22 * index + 44}" text-anchor="end">{row}</text>')
    width = left + len(scores) * (wide + 40)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
