"""Many runs in one table: means over seeds with their intervals, and paired differences to the first row.

A run's scores are those that `xmodal test` left in its folder, so a table is made of finished runs alone, whoever ran them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmodal.evaluation.measures import LOWER, ROWS, Measure
from xmodal.evaluation.report import STYLE, booktabs, pipes, replace
from xmodal.evaluation.result import MADE
from xmodal.metrics.human import half_width

SUMMARY = Path("suite") / "summary.json"
Scores = Mapping[str, Sequence[float | None]]  # by name: value, low, high


@dataclass(frozen=True)
class Estimate:
    """A mean over ``count`` seeds and its 95 % t interval; of one seed that seed's own interval (over items), if it has one."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Table:
    """``cells`` and ``differences`` (to the first row, over the seeds of both) by row and score; ``missing`` seeds by row."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Estimate]
    differences: Mapping[tuple[str, str], Estimate]
    missing: Mapping[str, tuple[int, ...]]


def scores_of(run: Path) -> Scores | None:
    """What `xmodal test` found in a run's folder; None where it has not ended there."""
    path = run / SUMMARY
    if not path.is_file():
        return None
    found = json.loads(path.read_text("utf-8"))["scores"].get(MADE, {})
    return found or None


def tabulate(found: Mapping[str, Mapping[int, Scores | None]]) -> Table:
    """Sum up scores by row and seed; the first row is what the others are compared with."""
    rows, ended = tuple(found), {row: {seed: s for seed, s in seeds.items() if s is not None} for row, seeds in found.items()}
    known = [score for row in ROWS for score in row.table]
    every = dict.fromkeys(name for seeds in ended.values() for scores in seeds.values() for name in scores)
    columns = tuple(name for name in known if name in every) or tuple(every)
    cells: dict[tuple[str, str], Estimate] = {}
    differences: dict[tuple[str, str], Estimate] = {}
    first = ended[rows[0]] if rows else {}
    for row in rows:
        for name in columns:
            own = {seed: scores[name] for seed, scores in ended[row].items() if name in scores}
            values = {seed: float(each[0]) for seed, each in own.items() if each[0] is not None}
            if not values:
                continue
            cells[row, name] = _estimate(list(values.values()), next(iter(own.values())))
            theirs = {seed: first[seed][name][0] for seed in values if name in first.get(seed, {})}
            pairs = [values[seed] - float(other) for seed, other in theirs.items() if other is not None]
            if row != rows[0] and pairs:
                differences[row, name] = _estimate(pairs)
    missing = {row: tuple(seed for seed, scores in found[row].items() if scores is None) for row in rows}
    return Table(rows, columns, cells, differences, {row: seeds for row, seeds in missing.items() if seeds})


def text(table: Table) -> str:
    """For a terminal."""
    lines = [["", *map(_title, table.columns)]]
    for row in table.rows:
        lines.append([row, *(_cell(table.cells.get((row, name)), name) for name in table.columns)])
        if any((row, name) in table.differences for name in table.columns):
            lines.append(["  less the first", *(_cell(table.differences.get((row, name)), name, True) for name in table.columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*shown, *_notes(table)]) + "\n"


def markdown(table: Table) -> str:
    """One line a row, differences behind the values."""
    return pipes([_title(name) for name in table.columns], _body(table)) + "\n".join(["", *_notes(table), ""])


def latex(table: Table) -> str:
    """The same as a booktabs table."""
    return booktabs([_title(name) for name in table.columns], _body(table))


def page(table: Table) -> str:
    """The table, and for each score the rows' means with their intervals, as one HTML page that needs no network."""
    head = "".join(f"<th>{html.escape(_title(name))}</th>" for name in table.columns)
    body = "".join(
        f"<tr><td>{html.escape(row)}</td>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(table, row))}</tr>"
        for row in table.rows
    )
    plots = "".join(
        f"<figure><figcaption>{html.escape(_title(name))}</figcaption>{_plot(table, name)}</figure>" for name in table.columns
    )
    notes = "".join(f"<p class=note>{html.escape(line)}</p>" for line in _notes(table))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Ablation</title><style>{STYLE}</style><h1>Ablation</h1>"
        f"<div class=wide><table><tr><th></th>{head}</tr>{body}</table></div>{notes}{plots}</html>\n"
    )


def write(table: Table, folder: Path) -> Path:
    """Write ``table.md``, ``table.tex``, ``table.html`` and ``table.json``; returns the page."""
    cells = {f"{row}: {name}": vars(each) for (row, name), each in table.cells.items()}
    less = {f"{row}: {name}": vars(each) for (row, name), each in table.differences.items()}
    data = {"rows": table.rows, "columns": table.columns, "cells": cells, "differences": less, "missing": table.missing}
    for name, content in (
        ("table.md", markdown(table)), ("table.tex", latex(table)), ("table.json", json.dumps(data, indent=1) + "\n"),
        ("table.html", page(table)),
    ):  # fmt: skip
        replace(folder / name, content)
    return folder / "table.html"


def _estimate(values: Sequence[float], single: Sequence[float | None] | None = None) -> Estimate:
    if len(values) == 1:
        _, low, high = single or (None, None, None)
        return Estimate(values[0], low, high, 1)
    mean, half = float(np.mean(values)), half_width(np.asarray(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def _body(table: Table) -> list[tuple[str, list[str]]]:
    return [(row, _cells(table, row)) for row in table.rows]


def _cells(table: Table, row: str) -> list[str]:
    made = []
    for name in table.columns:
        less = table.differences.get((row, name))
        made.append(_cell(table.cells.get((row, name)), name) + (f" (Δ {_cell(less, name, True)})" if less else ""))
    return made


def _cell(found: Estimate | None, name: str, signed: bool = False) -> str:
    if found is None:
        return "–"
    factor, form = (100 if _percent(name) else 1), "+.3g" if signed else ".3g"
    value = format(factor * found.mean, form)
    if found.low is None or found.high is None:
        return value
    return f"{value} [{factor * found.low:{form}}, {factor * found.high:{form}}]"


def _row(name: str) -> Measure | None:
    return next((row for row in ROWS if name in row.titles), None)


def _title(name: str) -> str:
    row = _row(name)
    return name if row is None else row.title(name)


def _percent(name: str) -> bool:
    row = _row(name)
    return row is not None and row.percent


def _notes(table: Table) -> list[str]:
    counts = {each.count for each in table.cells.values()}
    over = "over seeds" if counts and min(counts) > 1 else "over seeds, where there are several; of one seed over its items"
    told = [f"95 % intervals {over}; differences are paired by seed."]
    return told + [f"missing: {row}, seeds {', '.join(map(str, seeds))}" for row, seeds in table.missing.items()]


def _plot(table: Table, name: str) -> str:
    """Dots and intervals, one line a row."""
    found = {row: table.cells[row, name] for row in table.rows if (row, name) in table.cells}
    ends = [part for each in found.values() for part in (each.mean, each.low, each.high) if part is not None]
    if not ends:
        return "<p class=note>nothing has ended</p>"
    low, high = min(ends), max(ends)
    span, factor = (high - low) or 1.0, 100 if _percent(name) else 1
    place = {row: index for index, row in enumerate(found)}
    measure = _row(name)
    best = (min if measure is not None and measure.better == LOWER else max)(found, key=lambda each: found[each].mean)
    parts = []
    for row, each in found.items():
        y, x = 22 * place[row] + 16, 190 + 240 * (each.mean - low) / span
        left, right = (190 + 240 * ((each.mean if part is None else part) - low) / span for part in (each.low, each.high))
        colour = "#0a6b2d" if row == best else "#245"
        parts.append(
            f'<text x="180" y="{y + 4}" text-anchor="end" font-size="12">{html.escape(row[:30])}</text>'
            f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{colour}"/>'
        )
    y = 22 * len(found) + 20
    parts.append(f'<line x1="190" x2="430" y1="{y - 8}" y2="{y - 8}" stroke="#999"/>')
    parts += [
        f'<text x="{x}" y="{y + 6}" text-anchor="middle" font-size="11">{factor * end:.3g}</text>'
        for x, end in ((190, low), (430, high))
    ]
    return f'<svg width="460" height="{y + 14}" role="img" aria-label="{html.escape(name)}">{"".join(parts)}</svg>'
