"""`xmodal evaluate`: a suite of metrics over files, made against real, with ceiling and floor, intervals, protocol, a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from filecmp import cmp
from pathlib import Path

from xmodal.evaluation.items import Item, Progress, View, collect
from xmodal.evaluation.judges import Judges
from xmodal.evaluation.measures import HIGHER, alike
from xmodal.evaluation.result import CEILING, FLOOR, MADE, Evaluation
from xmodal.evaluation.suites import CLAP, CLIP, Suite, assemble, find, results, verdicts


def evaluate(
    suite: str | Suite,
    fake: Path,
    real: Path,
    extractor: str | None = None,
    seconds: float | None = None,
    allow_bias: bool = False,
    draws: int | None = None,
    progress: Progress | None = None,
    clip: str | None = CLIP,
    clap: str | None = CLAP,
    also: Mapping[str, Path] | None = None,
    allow_missing: bool = False,
    split: str | None = None,
    judges: Judges | None = None,
    judge: Mapping[str, str] | None = None,
) -> Evaluation:
    """Compare what was made with what is real.

    Args:
        suite: one of ours by name, one of another module as ``module.NAME``, or a `Suite`.
        fake, real: folders, or manifests; items pair by id (the file's stem), and a manifest gives labels, texts and inputs.
        extractor: MODEL:CARD of an encoder, best one that classifies; default the miniature's own.
        seconds: the most of each sound that is judged; a shorter one is judged over its own length. None is 10, or the suite's.
        allow_bias: give the Fréchet distance also where too few rows make it meaningless.
        draws: of the bootstrap; None is 1,000 for means and 200 for metrics of whole sets, 0 leaves the intervals out.
        clip, clap: MODEL:CARD of encoders of pictures and of sounds for the scores across modalities; None leaves them out.
        also: other systems' folders by name, for the same table.
        allow_missing: judge also where some made items have no real partner, without them where partners are needed.
        split: of a manifest of real items; None takes all.
        judges: in memory, in place of those named above.
        judge: MODEL:CARD by name, for a suite that has judges of its own (av-benchmark); "none" leaves one out.

    Items that cannot be judged are left out of the columns that need them, and counted. Metrics that these data cannot give
    stand in ``absent``, each with its reason. Raises ValueError for an unknown suite or made items without partner, and where
    nothing at all could be judged.
    """
    suite = find(suite)
    truth = collect(real, suite.modality, split)
    systems = {MADE: fake, **dict(also or {})}
    items = {
        name: _informed(collect(folder, suite.modality), truth, folder, real, allow_missing) for name, folder in systems.items()
    }
    if judges is None:
        judges = assemble(suite, extractor, clip, clap, seconds, [item.label for item in truth], judge)
    found = Evaluation(suite, items[MADE], truth)
    found.unmatched = len({item.id for item in truth} - {item.id for item in found.made})
    reference = judges.view(truth, real=True, progress=progress)
    views = {name: judges.view(chosen, progress=progress) for name, chosen in items.items()}
    for name, view in views.items():
        given = results(judges, reference, view, suite.rows, allow_bias, draws)
        found.rows[name], found.left[name] = given.found, given.left
        if name == MADE:
            found.absent = given.absent
    if not found.results:
        why = "; ".join(f"{name}: {reason}" for name, reason in found.absent.items())
        raise ValueError(f"nothing could be judged: {why}")
    paired = [row for row in suite.rows if row.paired and row.name not in found.absent]
    for name, view in _baselines(views[MADE], reference).items():
        found.rows[name] = results(judges, reference, view, paired, allow_bias, draws).found
    found.judged = verdicts(judges, views[MADE])
    found.warnings = [*_alike(judges, reference, views), *_copies(items, truth), *_undecided(found)]
    return found


def shuffled(items: Sequence[Item]) -> list[int]:
    """For each item the index of another, of another label where no label has more than half of them; always the same."""
    order = sorted(range(len(items)), key=lambda row: (items[row].label, items[row].id))
    counts = Counter(item.label for item in items)
    shift = max(counts.values()) if len(counts) > 1 else max(1, len(items) // 2)
    other = {row: order[(place + shift) % len(order)] for place, row in enumerate(order)}
    return [other[row] for row in range(len(items))]


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


def _alike(judges: Judges, reference: View, views: Mapping[str, View]) -> Iterable[str]:
    """Sets of embeddings without spread."""
    for source in reference.rows:
        if why := alike(judges, reference, source, CEILING):
            yield why
    for name, view in views.items():
        for source in view.rows:
            if why := alike(judges, view, source, name):
                yield why


def _copies(items: Mapping[str, Sequence[Item]], truth: Sequence[Item]) -> Iterable[str]:
    """Made files that are the real ones, byte for byte."""
    real = {item.id: item.path for item in truth}
    for name, made in items.items():
        same = sum(item.id in real and _equal(item.path, real[item.id]) for item in made)
        if same:
            how = "byte for byte: their scores say nothing of a system"
            yield f"{same} of {len(made)} files of {name} are the real ones, {how}"


def _equal(one: Path, two: Path) -> bool:
    try:
        return cmp(one, two, shallow=False)
    except OSError:  # told with the items that are left out
        return False


def _undecided(found: Evaluation) -> Iterable[str]:
    """Scores that cannot tell the real files from what was made for other inputs."""
    if CEILING not in found.rows or FLOOR not in found.rows:
        return
    top, bottom = found.scores(CEILING), found.scores(FLOOR)
    for name in top:
        row = found.suite.of(name)
        if row is None or name not in bottom:
            continue
        floor, sign = bottom[name], 1 if row.better == HIGHER else -1
        edge = floor.value if floor.low is None or floor.high is None else floor.high if sign > 0 else floor.low
        if not sign * top[name].value > sign * edge:
            yield (
                f"{name} of the real files themselves ({top[name].value:.4g}) is no better than that of the floor "
                f"({floor.value:.4g}): its judge cannot tell these data apart, so the column means nothing"
            )
