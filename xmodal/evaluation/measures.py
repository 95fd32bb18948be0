"""The metrics that a suite can compute: one row each.

A new metric is its file in :mod:`xmodal.metrics` and its row in ``ROWS``; one of your own is a `Measure` in a suite of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xmodal.evaluation import BENCHMARK, PICTURES, SOUNDS, SPOKEN
from xmodal.evaluation.items import LOGITS, SAME, View, judge_of, spread
from xmodal.evaluation.judges import SYNC, VIDEO_EYE, Joint, Judges, blocks, captions, prompt, sentences, spoken
from xmodal.metrics.cosine import CS, CosineScore
from xmodal.metrics.desync import DeSync
from xmodal.metrics.features import FeatureMetric
from xmodal.metrics.frechet import FrechetDistance
from xmodal.metrics.inception import InceptionScore
from xmodal.metrics.kernel import CMMD, KAD, KID
from xmodal.metrics.kl import KLDivergence
from xmodal.metrics.prdc import PRDC
from xmodal.metrics.tags import TagAccuracy
from xmodal.metrics.win_rate import AIS, IIS, WinRate, draw_bank
from xmodal.metrics.zero_shot import AIC

LEAST = 2  # shared items
LOWER, HIGHER = "↓", "↑"

Stamp = tuple[str, str, str]  # extractor, weights, preprocessing
Built = tuple[FeatureMetric, Stamp]


@dataclass(frozen=True)
class Measure:
    """One metric of a suite.

    Args:
        name: of its file, ``results/NAME.json``.
        build: what fills the metric from what the judges found, see `Given`; ValueError says why these data cannot give it.
        better: ``LOWER`` or ``HIGHER``.
        scores: its scores and their titles, where they are not its one score called by its own name.
        columns: those of them that stand in the suite's table; None is the first.
        paired: each item has a value, which depends on the item it belongs to, so that there is a ceiling and a floor.
        percent: the scores are shares.
        ranked: place among the scores by which a report finds the worst and the best cases; 0 is none.
        suites: of ours, which compute it.
    """

    name: str
    build: Callable[[Given], Built]
    better: str
    scores: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    paired: bool = False
    percent: bool = False
    ranked: int = 0
    suites: tuple[str, ...] = ()

    @property
    def titles(self) -> Mapping[str, str]:
        """Titles by score."""
        return self.scores or {self.name: self.name}

    def title(self, score: str) -> str:
        """How a table calls a score, with its unit and the way to better values."""
        return f"{self.titles[score]}{' %' if self.percent else ''} {self.better}"

    @property
    def table(self) -> tuple[str, ...]:
        """The scores in the suite's table."""
        return tuple(self.titles)[:1] if self.columns is None else self.columns


@dataclass
class Given:
    """What a metric is built from. Items that a judge could not judge are left out, and noted in ``left`` with the reason."""

    judges: Judges
    real: View
    made: View
    allow_bias: bool = False
    left: dict[str, str] = field(default_factory=dict)

    def rows(self, source: str, side: str = "made") -> dict[str, Tensor]:
        """Rows of a source (``tagger``, ``logits``, ``image``, ``audio``) by id; ValueError where there are none, or where all
        real items are the same to their judge.
        """
        judge, view = self.judges.of(source), self.real if side == "real" else self.made
        found = view.rows.get(source, {})
        if judge_of(source) != source and not found and view.rows.get(judge_of(source)):
            raise ValueError(f"{judge.name} does not classify: give --extractor one that does")
        self.left |= {name if side == "made" else f"{name} (real)": why for name, why in view.lacking.get(source, {}).items()}
        if not found:
            reasons = dict.fromkeys(view.lacking.get(source, {}).values())
            raise ValueError(f"{judge.name} could judge none of the {side} items: {next(iter(reasons), 'there are none')}")
        if side == "real" and (why := alike(self.judges, view, judge_of(source), side)):
            raise ValueError(why)
        return found

    def sets(self, metric: Any, source: str, pairs: bool = False) -> FeatureMetric:
        """The metric, with all rows of both sides, or with those of pairs alone."""
        both = {side: self.rows(source, side) for side in ("real", "made")}
        kept = set(self.pairs(source)[2]) if pairs else None
        for side, name in (("real", "real"), ("made", "fake")):
            for block in blocks({id_: row for id_, row in both[side].items() if kept is None or id_ in kept}):
                metric.update(**{name: torch.stack(list(block.values()))}, ids=list(block))
        return metric  # type: ignore[no-any-return]

    def pairs(self, source: str, other: str | None = None) -> tuple[Tensor, Tensor, list[str]]:
        """Rows (N, d) of made items, rows of their real partners (of another source, if given), and their ids."""
        made, real = self.rows(source), self.rows(other or source, "real")
        ids = [name for name in made if name in real]
        if len(ids) < LEAST:
            few = "no made item has" if not ids else "a single made item has"
            raise ValueError(f"{few} the name of a real one, so nothing can be paired")
        return torch.stack([made[name] for name in ids]), torch.stack([real[name] for name in ids]), ids

    def labelled(self, source: str, known: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        """Rows (N, d) of the made items whose label is known, the label's number (N,), and their ids."""
        rows, answers = self.rows(source), {item.id: item.label for item in self.made.items if item.label in known}
        ids = [name for name in rows if name in answers]
        if not ids:
            raise ValueError("no made item has a label that its judge knows: give --real a manifest with labels")
        return torch.stack([rows[name] for name in ids]), torch.tensor([known.index(answers[name]) for name in ids]), ids

    def joint(self) -> Joint:
        """How pictures and sounds are compared, or ValueError with the reason why they are not."""
        for slot in ("clip", "clap", "joint"):
            if slot in self.judges.missing:
                raise ValueError(self.judges.missing[slot])
        if self.judges.joint is None:
            raise ValueError("pictures and sounds have no judge in common")
        other = "audio" if self.judges.modality == "image" else "image"
        if not any(getattr(item, other) for item in self.real.items):
            what = "sound" if other == "audio" else "picture"
            raise ValueError(f"no real item has a {what}: give --real a manifest that names them, or put them beside the files")
        return self.judges.joint

    def stamp(self, source: str, classes: Sequence[int] | None = None) -> Stamp:
        """What made a source's rows, for the protocol."""
        judge = self.judges.of(source)
        known = len(judge.labels)
        some = f"; {len(classes)} of {known} classes" if classes is not None and len(classes) < known else ""
        return judge.name, judge.weights, judge.preprocessing + some


def alike(judges: Judges, view: View, source: str, side: str) -> str:
    """That all items are the same to their judge, with the cause that is likely; "" where they are not."""
    rows = list(view.rows.get(source, {}).values())
    if judge_of(source) != source or source == SYNC or len(rows) < 2 or (wide := spread(rows)) > SAME:
        return ""
    judge = judges.of(source)
    senses = "looks" if judge.modality == "image" else "sounds"
    return (
        f"everything {side} {senses} the same to {judge.name} ({len(rows)} items, mean cosine {1 - wide:.6f}): numbers from it "
        "mean nothing; either the files are alike, or this judge knows nothing of their kind"
    )


def frechet(name: str, source: str, pairs: bool = False) -> Callable[[Given], Built]:
    """A Fréchet distance of a source's rows, of all or of pairs alone."""

    def build(given: Given) -> Built:
        width = next(iter(given.rows(source).values())).shape[-1]
        metric = FrechetDistance(width, store="rows", allow_bias=given.allow_bias, name=name, sync_on_compute=False)
        return given.sets(metric, source, pairs), given.stamp(source)

    return build


def divergence(name: str, source: str) -> Callable[[Given], Built]:
    """KL(real || made) over pairs, of all of a source's classes."""

    def build(given: Given) -> Built:
        made, own, ids = given.pairs(source + LOGITS)
        metric = KLDivergence(score=name, sync_on_compute=False)
        metric.update(own, made, ids=ids)
        return metric, given.stamp(source)

    return build


def variety(name: str, source: str, pairs: bool = False) -> Callable[[Given], Built]:
    """Inception score of all of a source's classes, over all that was made or over pairs alone, in the order of the items."""

    def build(given: Given) -> Built:
        rows, metric = given.rows(source + LOGITS), InceptionScore(score=name, sync_on_compute=False)
        ids = given.pairs(source + LOGITS)[2] if pairs else list(rows)
        # By place, since the splits depend on the order: by these they are av-benchmark's.
        metric.update(torch.stack([rows[each] for each in ids]), ids=range(len(ids)))
        return metric, given.stamp(source)

    return build


def _bound(given: Given) -> Built:
    """ImageBind score: made sounds against the videos (or pictures) of their clips."""
    made, own, ids = given.pairs("imagebind", VIDEO_EYE)
    metric = CosineScore("IB", sync_on_compute=False)
    metric.update(own, made, ids=ids)
    stamps = given.stamp(VIDEO_EYE), given.stamp("imagebind")
    return metric, (stamps[1][0], "+".join(each[1] for each in stamps), "; ".join(each[2] for each in stamps))


def _apart(given: Given) -> Built:
    """DeSync of made sounds and the videos of their clips."""
    rows, judge = given.rows(SYNC), given.judges.of(SYNC)
    windows = torch.stack(list(rows.values()))
    metric = DeSync(windows.shape[-1], judge.encoder.reach, sync_on_compute=False)
    metric.update(windows, ids=list(rows))
    return metric, given.stamp(SYNC)


def distance(kind: Callable[..., Any], source: str, **options: Any) -> Callable[[Given], Built]:
    """A metric of two sets of a source's rows."""
    return lambda given: (given.sets(kind(sync_on_compute=False, **options), source), given.stamp(source))


def _divergence(given: Given) -> Built:
    made, own, ids = given.pairs("logits")
    classes, metric = given.judges.classes, KLDivergence(sync_on_compute=False)
    metric.update(own[:, classes or slice(None)], made[:, classes or slice(None)], ids=ids)
    return metric, given.stamp("logits", classes)


def _inception(given: Given) -> Built:
    rows, classes, metric = given.rows("logits"), given.judges.classes, InceptionScore(sync_on_compute=False)
    metric.update(torch.stack(list(rows.values()))[:, classes or slice(None)], ids=list(rows))
    return metric, given.stamp("logits", classes)


def _tags(given: Given) -> Built:
    classes, named = given.judges.classes, given.judges.of("tagger").labels
    logits, answers, ids = given.labelled("logits", [named[each] for each in classes])
    metric = TagAccuracy(sync_on_compute=False)
    metric.update(logits[:, classes], answers, ids=ids)
    return metric, given.stamp("logits", classes)


def _pictures(given: Given) -> Built:
    """IIS: made against real pictures, and a bank of real ones."""
    made, own, ids = given.pairs("image")
    metric = _win_rate(IIS, given.rows("image", "real"))
    metric.update(made, own, ids=ids)
    return metric, given.stamp("image")


def _picture_cosine(given: Given) -> Built:
    made, own, ids = given.pairs("image")
    metric = IIS(mode="cosine", sync_on_compute=False)
    metric.update(made, own, ids=ids)
    return metric, given.stamp("image")


def _heard(given: Given) -> Built:
    """AIS: made pictures against the sounds that they were made from, and a bank of sounds."""
    joint, (made, own, ids) = given.joint(), given.pairs("image", "audio")
    sounds = given.rows("audio", "real")
    bank = dict(zip(sounds, joint.sound(torch.stack(list(sounds.values()))), strict=True))
    metric = _win_rate(AIS, bank)
    metric.update(joint.picture(made), joint.sound(own), ids=ids)
    return metric, joint.stamp


def _heard_cosine(given: Given) -> Built:
    joint, (made, own, ids) = given.joint(), given.pairs("image", "audio")
    metric = AIS(mode="cosine", sync_on_compute=False)
    metric.update(joint.picture(made), joint.sound(own), ids=ids)
    return metric, joint.stamp


def _seen(given: Given) -> Built:
    """CS: made sounds against the pictures that they were made from."""
    joint, (made, own, ids) = given.joint(), given.pairs("audio", "image")
    metric = CS(sync_on_compute=False)
    metric.update(joint.picture(own), joint.sound(made), ids=ids)
    return metric, joint.stamp


def _zero_shot(given: Given) -> Built:
    labels, reader = given.judges.labels, given.judges.of("image")
    pictures, answers, ids = given.labelled("image", labels)
    template = prompt(reader.name)
    metric = AIC(sentences(reader.name, [template.format(spoken(label)) for label in labels]), sync_on_compute=False)
    metric.update(pictures, answers, ids=ids)
    stamp = given.stamp("image")
    return metric, (*stamp[:2], f"{stamp[2]}; labels as {template!r}")


def _texts(given: Given) -> Built:
    """CLAP score: made sounds against the texts that they were asked for with; a clip without text is asked for by label."""
    sounds, reader = given.rows("audio"), given.judges.of("audio")
    by_label = prompt("clap:mini")
    asked = {item.id: item.text or (item.label and by_label.format(spoken(item.label))) for item in given.made.items}
    if not all(asked.values()):
        raise ValueError("not every made item has a text or a label: give --real a manifest with texts")
    read = captions(reader.name, asked)
    given.left |= read.lacking
    ids = [name for name in sounds if name in read.rows]
    if not ids:
        raise ValueError(f"no text can be read: {next(iter(read.lacking.values()), 'there is none')}")
    metric = CosineScore("CLAP", sync_on_compute=False)
    metric.update(torch.stack([read.rows[name] for name in ids]), torch.stack([sounds[name] for name in ids]), ids=ids)
    return metric, given.stamp("audio")


def _win_rate(kind: type[WinRate], bank: Mapping[str, Tensor]) -> WinRate:
    names, rows = list(bank), torch.stack(list(bank.values()))
    chosen = draw_bank(len(rows))
    return kind(rows[chosen], [names[row] for row in chosen.tolist()], sync_on_compute=False)


BOTH, ALL = (SOUNDS, SPOKEN), (PICTURES, SOUNDS, SPOKEN)
# In the order of a suite's table: first the papers' columns, in their order, then ours.
ROWS = (
    Measure("FID", frechet("FID", "tagger"), LOWER, suites=(PICTURES,)),
    Measure("FD", frechet("FD", "audio"), LOWER, suites=(SOUNDS,)),
    Measure("FAD", frechet("FAD", "tagger"), LOWER, suites=BOTH),
    Measure("AIS", _heard, HIGHER, paired=True, percent=True, suites=(PICTURES,)),
    Measure(
        "AIC", _zero_shot, HIGHER, {"AIC_top1": "AIC", "AIC_top5": "AIC top 5"}, paired=True, percent=True, suites=(PICTURES,)
    ),
    Measure("IIS", _pictures, HIGHER, paired=True, percent=True, suites=(PICTURES,)),
    Measure("CS", _seen, HIGHER, paired=True, ranked=3, suites=(SOUNDS,)),
    Measure("CLAP", _texts, HIGHER, {"CLAP": "CLAP score"}, paired=True, ranked=2, suites=(SPOKEN,)),
    Measure("KL", _divergence, LOWER, paired=True, ranked=1, suites=ALL),
    Measure("IS", _inception, HIGHER, suites=ALL),
    Measure("tags", _tags, HIGHER, {"tag_top1": "tag accuracy"}, paired=True, percent=True, suites=ALL),
    Measure("AIS_cosine", _heard_cosine, HIGHER, {"AIS_cosine": "AIS cosine"}, paired=True, ranked=4, suites=(PICTURES,)),
    Measure("IIS_cosine", _picture_cosine, HIGHER, {"IIS_cosine": "IIS cosine"}, paired=True, ranked=5, suites=(PICTURES,)),
    Measure("KID", distance(KID, "tagger", subsets=0), LOWER, suites=(PICTURES,)),
    Measure("KAD", distance(KAD, "tagger"), LOWER, suites=BOTH),
    Measure("CMMD", distance(CMMD, "image"), LOWER, suites=(PICTURES,)),
    Measure(
        "PRDC", distance(PRDC, "tagger"), HIGHER, {each: each for each in ("precision", "recall", "density", "coverage")},
        columns=(), suites=ALL,
    ),
    Measure("FD_PaSST", frechet("FD_PaSST", "passt", pairs=True), LOWER, suites=(BENCHMARK,)),
    Measure("FD_PANNs", frechet("FD_PANNs", "panns"), LOWER, suites=(BENCHMARK,)),
    Measure("FD_VGG", frechet("FD_VGG", "vggish"), LOWER, suites=(BENCHMARK,)),
    Measure("KL_PANNs", divergence("KL_PANNs", "panns"), LOWER, paired=True, ranked=2, suites=(BENCHMARK,)),
    Measure("KL_PaSST", divergence("KL_PaSST", "passt"), LOWER, paired=True, ranked=1, suites=(BENCHMARK,)),
    Measure("IS_PANNs", variety("IS_PANNs", "panns"), HIGHER, suites=(BENCHMARK,)),
    Measure("IS_PaSST", variety("IS_PaSST", "passt", pairs=True), HIGHER, suites=(BENCHMARK,)),
    Measure("IB", _bound, HIGHER, {"IB": "IB-score"}, paired=True, ranked=3, suites=(BENCHMARK,)),
    Measure("DeSync", _apart, LOWER, suites=(BENCHMARK,)),
)  # fmt: skip
MEASURES = {row.name: row for row in ROWS}
