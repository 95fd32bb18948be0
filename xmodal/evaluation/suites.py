"""The suites: what is made of what, and which metrics judge it.

A suite of your own is a `Suite` in a module of your own: ``xmodal evaluate --suite my_module.MY_SUITE``, or a task's ``suite``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from xmodal.evaluation import BENCHMARK, PICTURES, SOUNDS, SPOKEN
from xmodal.evaluation.items import View
from xmodal.evaluation.judges import SYNC, VIDEO_EYE, Extractor, Frames, Joint, Judges, Synchrony, one_line
from xmodal.evaluation.measures import ROWS, Given, Measure
from xmodal.metrics.protocol import Result
from xmodal.registry.models import suggest

TAGGERS = {"image": "picture_tagger:mini", "audio": "beats:mini"}
CLIP, CLAP = "clip:mini", "clap:mini"


@dataclass(frozen=True)
class Suite:
    """How what a task makes is judged.

    Args:
        name: as the tables call it.
        modality: what is made, ``image`` or ``audio``.
        takes: what it is made from: ``image``, ``audio`` or ``text``.
        rows: its metrics, in the order of the table.
        judges: encoders of its own by name, MODEL:CARD or "" where there is none to begin with; they take the place of tagger,
            CLIP and CLAP.
        seconds: the most of a sound that these hear, from its start.
    """

    name: str
    modality: str
    takes: str
    rows: tuple[Measure, ...]
    judges: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 8.0

    def __post_init__(self) -> None:
        if self.modality not in TAGGERS or self.takes not in ("image", "audio", "text"):
            raise ValueError(f"a suite judges pictures or sounds made of pictures, sounds or texts, not {self}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores in its table."""
        return tuple(score for row in self.rows for score in row.table)

    def of(self, score: str) -> Measure | None:
        """The row that a score belongs to; None for what has neither title nor direction, such as a standard deviation."""
        return next((row for row in self.rows if score in row.titles), None)


SUITES = {
    name: Suite(name, modality, takes, tuple(row for row in ROWS if name in row.suites))
    for name, modality, takes in ((PICTURES, "image", "audio"), (SOUNDS, "audio", "image"), (SPOKEN, "audio", "text"))
}
CARDS = ("passt:passt-s", "panns:cnn14-16k", "vggish:vggish", "imagebind:huge")
AV_JUDGES = {card.partition(":")[0]: card for card in CARDS} | {SYNC: ""}
SUITES[BENCHMARK] = Suite(BENCHMARK, "audio", "image", tuple(row for row in ROWS if BENCHMARK in row.suites), AV_JUDGES)
PADDED = {"passt": {"seconds": 10.0}}  # options of a judge: av-benchmark fills PaSST's ten seconds with silence


def find(suite: str | Suite) -> Suite:
    """The suite itself, one of ours by name, or one of another module as ``module.NAME``; ValueError where there is none."""
    if isinstance(suite, Suite):
        return suite
    if suite in SUITES:
        return SUITES[suite]
    module, _, name = suite.rpartition(".")
    if not module:
        raise ValueError(f"there is no suite {suite!r}: {suggest(suite, SUITES)}, or module.NAME of your own")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no suite {suite!r} ({one_line(error)})") from error
    if not isinstance(found, Suite):
        raise ValueError(f"{suite} is a {type(found).__name__}, not a Suite (xmodal.evaluation.suites)")
    return found


def assemble(
    suite: str | Suite,
    tagger: str | None,
    clip: str | None,
    clap: str | None,
    seconds: float | None,
    labels: Sequence[str],
    chosen: Mapping[str, str] | None = None,
) -> Judges:
    """Load the judges of a suite; ``chosen`` are others for its own, by name, "none" leaves one out.

    An absent CLIP or CLAP, or one of the suite's own judges, is noted; raises as `find` and `Extractor` for everything else.
    """
    suite = find(suite)
    known = sorted(set(labels) - {""})
    if unknown := sorted(set(chosen or {}) - set(suite.judges)):
        own = f"its own are {', '.join(suite.judges)}" if suite.judges else "it has --extractor, --clip and --clap"
        raise ValueError(f"the suite {suite.name} has no judge {unknown[0]!r}: {own}")
    if suite.judges:
        if tagger is not None:
            raise ValueError(
                f"the suite {suite.name} takes no --extractor: name its judges by --judge ({', '.join(suite.judges)})"
            )
        return _own(suite, {**suite.judges, **(chosen or {})}, suite.seconds if seconds is None else seconds, known)
    judges = Judges(suite.modality, Extractor(tagger or TAGGERS[suite.modality], suite.modality, seconds), labels=known)
    for slot, name, modality in (("clip", clip, "image"), ("clap", clap, "audio")):
        if modality not in (suite.modality, suite.takes):
            continue
        if name is None:
            judges.missing[slot] = f"no encoder of {'pictures' if slot == 'clip' else 'sounds'} was given (--{slot})"
            continue
        try:
            setattr(judges, slot, Extractor(name, modality, seconds))
        except FileNotFoundError as error:
            judges.missing[slot] = f"left out, since {one_line(error)}"
    if judges.clip is not None and judges.clap is not None:
        try:
            judges.joint = Joint(judges.clip, judges.clap, judges.labels)
        except ValueError as error:
            judges.missing["joint"] = str(error)
    return judges


def _own(suite: Suite, chosen: Mapping[str, str], seconds: float, labels: list[str]) -> Judges:
    """The judges that a suite names itself."""
    judges = Judges(suite.modality, None, labels=labels)
    for slot, name in chosen.items():
        if name in ("", "none"):
            judges.missing[slot] = f"no judge was given (--judge {slot}=MODEL:CARD)"
            continue
        try:
            if slot == SYNC:
                judges.others[slot] = Synchrony(name)
                continue
            options = PADDED.get(slot, {}) if name.partition(":")[0] == slot else {}
            judges.others[slot] = Extractor(name, suite.modality, seconds, from_start=True, options=options)
            if slot == "imagebind":
                judges.others[VIDEO_EYE] = Frames(name, seconds)
        except FileNotFoundError as error:
            judges.missing[slot] = f"left out, since {one_line(error)}"
    if "imagebind" in judges.missing:
        judges.missing[VIDEO_EYE] = judges.missing["imagebind"]
    return judges


@dataclass
class Results:
    """By metric: its result, or why there is none; and the items that were left out of it, with the reason."""

    found: dict[str, Result]
    absent: dict[str, str]
    left: dict[str, dict[str, str]]


def results(
    judges: Judges, real: View, made: View, wanted: Sequence[Measure], allow_bias: bool = False, draws: int | None = None
) -> Results:
    """Compute the wanted metrics; ``draws`` None is each metric's own number."""
    all_of_them = Results({}, {}, {})
    for row in wanted:
        given = Given(judges, real, made, allow_bias)
        try:
            metric, stamp = row.build(given)
            all_of_them.found[row.name] = metric.result(*stamp, draws=draws)
            if given.left:
                all_of_them.left[row.name] = given.left
        except (ValueError, RuntimeError) as error:
            all_of_them.absent[row.name] = one_line(error)
    return all_of_them


def verdicts(judges: Judges, view: View) -> dict[str, str]:
    """What the tagger takes each item for, of the classes that occur as labels; empty where it does not classify."""
    classes = judges.classes
    if judges.tagger is None or not classes:
        return {}
    labels = [judges.tagger.labels[each] for each in classes]
    return {name: labels[int(row[classes].argmax())] for name, row in view.rows.get("logits", {}).items()}
