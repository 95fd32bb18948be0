"""`xmodal evaluate`: a suite of metrics over files, made against real, with ceiling and floor, intervals, protocol, a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xmodal.evaluation.judges import Item, Progress, View, collect
from xmodal.evaluation.suites import CLAP, CLIP, COLUMNS, METRICS, PAIRED, SUITES, Judges, assemble, results, verdicts
from xmodal.files import write_beside
from xmodal.metrics.protocol import Difference, Result, Score, compare
from xmodal.registry.models import suggest

MADE, CEILING, FLOOR = "made", "real", "shuffled"


@dataclass
class Evaluation:
    """What a suite found.

    ``rows`` are the results by system and metric: what was made, other systems, the ceiling (the real files, as if they had
    been made) and the floor (what was made, given to other inputs); the last two for scores of single items only.
    ``absent`` says why a metric is missing, ``judged`` holds the tagger's verdict by item, ``unmatched`` counts real items
    that nothing was made for.
    """

    suite: str
    made: list[Item]
    real: list[Item]
    rows: dict[str, dict[str, Result]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    judged: dict[str, str] = field(default_factory=dict)
    unmatched: int = 0

    @property
    def modality(self) -> str:
        """What was made: ``image`` or ``audio``."""
        return SUITES[self.suite]

    @property
    def results(self) -> dict[str, Result]:
        """Of what was made, by metric."""
        return self.rows[MADE]

    def scores(self, row: str = MADE) -> dict[str, Score]:
        """Every score of a row by its own name."""
        return {name: score for result in self.rows[row].values() for name, score in result.scores.items()}


def evaluate(
    suite: str,
    fake: Path,
    real: Path,
    extractor: str | None = None,
    seconds: float = 10.0,
    allow_bias: bool = False,
    draws: int | None = None,
    progress: Progress | None = None,
    clip: str | None = CLIP,
    clap: str | None = CLAP,
    also: Mapping[str, Path] | None = None,
    allow_missing: bool = False,
    split: str | None = None,
    judges: Judges | None = None,
) -> Evaluation:
    """Compare what was made with what is real.

    Args:
        suite: a name in ``SUITES``.
        fake, real: folders, or manifests; items pair by id (the file's stem), and a manifest gives labels, texts and inputs.
        extractor: MODEL:CARD of an encoder, best one that classifies; default the miniature's own.
        seconds: of each sound that is judged.
        allow_bias: give the Fréchet distance also where too few rows make it meaningless.
        draws: of the bootstrap; None is 1,000 for means and 200 for metrics of whole sets, 0 leaves the intervals out.
        clip, clap: MODEL:CARD of encoders of pictures and of sounds for the scores across modalities; None leaves them out.
        also: other systems' folders by name, for the same table.
        allow_missing: judge also where some made items have no real partner, without them where partners are needed.
        split: of a manifest of real items; None takes all.
        judges: in memory, in place of those named above.

    Raises ValueError for an unknown suite, unreadable files or made items without partner. Metrics that these data cannot
    give stand in ``absent``, each with its reason.
    """
    if suite not in SUITES:
        raise ValueError(f"there is no suite {suite!r}: {suggest(suite, SUITES)}")
    truth = collect(real, SUITES[suite], split)
    systems = {MADE: fake, **dict(also or {})}
    items = {
        name: _informed(collect(folder, SUITES[suite]), truth, folder, real, allow_missing) for name, folder in systems.items()
    }
    if judges is None:
        judges = assemble(suite, extractor, clip, clap, seconds, [item.label for item in truth])
    found = Evaluation(suite, items[MADE], truth)
    found.unmatched = len({item.id for item in truth} - {item.id for item in found.made})
    reference = judges.view(truth, real=True, progress=progress)
    views = {name: judges.view(chosen, progress=progress) for name, chosen in items.items()}
    for name, view in views.items():
        found.rows[name], absent = results(judges, reference, view, METRICS[suite], allow_bias, draws)
        if name == MADE:
            found.absent = absent
    paired = [name for name in METRICS[suite] if name in PAIRED and name not in found.absent]
    for name, view_of in _baselines(views[MADE], reference).items():
        found.rows[name], _ = results(judges, reference, view_of, paired, allow_bias, draws)
    found.judged = verdicts(judges, views[MADE])
    return found


def shuffled(items: Sequence[Item]) -> list[int]:
    """For each item the index of another, of another label where no label has more than half of them; always the same."""
    order = sorted(range(len(items)), key=lambda row: (items[row].label, items[row].id))
    counts = Counter(item.label for item in items)
    shift = max(counts.values()) if len(counts) > 1 else max(1, len(items) // 2)
    other = {row: order[(place + shift) % len(order)] for place, row in enumerate(order)}
    return [other[row] for row in range(len(items))]


def write(found: Evaluation, folder: Path) -> Path:
    """Write ``results/METRIC.json``, ``summary.json``, ``table.md``, ``table.tex`` and ``report.html``; returns the last.

    Other rows of the table get their results into ``rows/NAME/results``.
    """
    from xmodal.evaluation.report import html, latex, markdown

    for row, by_metric in found.rows.items():
        place = folder if row == MADE else folder / "rows" / row
        for name, result in by_metric.items():
            result.save(place / "results" / f"{name}.json")
    scores = {row: {name: [s.value, s.low, s.high] for name, s in found.scores(row).items()} for row in found.rows}
    counts = {"made": len(found.made), "real": len(found.real), "real_without_made": found.unmatched}
    content = {"suite": found.suite, **counts, "scores": scores, "absent": found.absent}
    _replace(folder / "table.md", markdown(found, COLUMNS[found.suite]))
    _replace(folder / "table.tex", latex(found, COLUMNS[found.suite]))
    _replace(folder / "summary.json", json.dumps(content, indent=1) + "\n")
    return _replace(folder / "report.html", html(found, COLUMNS[found.suite]))


def differences(first: Path, second: Path) -> dict[str, Difference | str]:
    """Paired differences of all metrics that two evaluations share, or the reason why one cannot be compared.

    ``first`` and ``second`` are folders that `write` filled, their ``summary.json``, or two results (``results/KL.json``).
    Raises FileNotFoundError where there is no result, ValueError for two files of unlike protocols.
    """
    one, two = (path.parent if path.name == "summary.json" else path for path in (first, second))
    if ".json" in (one.suffix, two.suffix):
        return dict(compare(one, two))
    names = []
    for folder in (one, two):
        files = {path.name for path in (folder / "results").glob("*.json")}
        if not files:
            raise FileNotFoundError(
                f"{folder} holds no results: give what `xmodal evaluate` wrote, two folders or two files of their results/"
            )
        names.append(files)
    out: dict[str, Difference | str] = {}
    for name in sorted(names[0] & names[1]):
        try:
            out.update(compare(one / "results" / name, two / "results" / name))
        except ValueError as error:
            out[name.removesuffix(".json")] = str(error)
    for name in sorted(names[0] ^ names[1]):
        out[name.removesuffix(".json")] = f"{one if name in names[0] else two} alone holds it"
    return out


def lines(found: Evaluation) -> Iterable[str]:
    """The table that a terminal shows: one line a score, one column a row."""
    judge = next(iter(found.results.values())).protocol if found.results else None
    yield f"{found.suite}: {len(found.made)} made, {len(found.real)} real" + (f", judged by {judge.extractor}" if judge else "")
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


def shown(score: Score) -> str:
    """A value with its interval."""
    return f"{score.value:.4g}" + ("" if score.low is None else f" [{score.low:.3g}, {score.high:.3g}]")


def _informed(items: Sequence[Item], real: Sequence[Item], fake: Path, source: Path, allow_missing: bool) -> list[Item]:
    """The made items with what the real ones know of their clips; ValueError where only some have a partner."""
    known = {item.id: item for item in real}
    lost = [item.id for item in items if item.id not in known]
    if 0 < len(lost) < len(items) and not allow_missing:
        some = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise ValueError(
            f"{len(lost)} of {len(items)} items of {fake} have no partner of that name in {source} ({some}): mend the names, "
            "or give --allow-missing to leave them out of paired scores"
        )
    return [
        replace(item, label=item.label or other.label, text=item.text or other.text, image=other.image, audio=other.audio)
        for item in items
        for other in [known.get(item.id, item)]
    ]


def _baselines(made: View, real: View) -> dict[str, View]:
    """What the real files, and made ones that belong to other items, would be worth."""
    place = {item_id: row for row, item_id in enumerate(real.ids)}
    found = {}
    if all(item_id in place for item_id in made.ids):
        found[CEILING] = real.pick([place[item_id] for item_id in made.ids], made.items)
    if len(made.items) > 1:
        found[FLOOR] = made.pick(shuffled(made.items), made.items)
    return found


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_beside(path, lambda partial: partial.write_text(text, encoding="utf-8"))
