"""The suites: which judges look at what was made, and which metrics their views lead to.

A judge is an extractor. The tagger classifies; ``clip`` sees pictures, ``clap`` hears sounds, and both read sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xmodal.evaluation.judges import Extractor, Item, Joint, Progress, View, prompt, sentences, spoken
from xmodal.metrics.cosine import CS, CosineScore
from xmodal.metrics.features import FeatureMetric
from xmodal.metrics.frechet import FrechetDistance
from xmodal.metrics.inception import InceptionScore
from xmodal.metrics.kernel import CMMD, KAD, KID
from xmodal.metrics.kl import KLDivergence
from xmodal.metrics.prdc import PRDC
from xmodal.metrics.protocol import Result
from xmodal.metrics.tags import TagAccuracy
from xmodal.metrics.win_rate import AIS, IIS, WinRate, draw_bank
from xmodal.metrics.zero_shot import AIC

SUITES = {"audio2image": "image", "vision2audio": "audio", "text2audio": "audio"}
TAGGERS = {"image": "picture_tagger:mini", "audio": "beats:mini"}
CLIP, CLAP = "clip:mini", "clap:mini"
# What a suite computes.
METRICS = {
    "audio2image": ("FID", "AIS", "AIC", "IIS", "tags", "AIS_cosine", "IIS_cosine", "KID", "CMMD", "KL", "IS", "PRDC"),
    "vision2audio": ("FD", "FAD", "CS", "KL", "IS", "tags", "KAD", "PRDC"),
    "text2audio": ("FAD", "CLAP", "KL", "tags", "KAD", "IS", "PRDC"),
}
# The scores in its table: first the papers' columns, in their order.
COLUMNS = {
    "audio2image": ("FID", "AIS", "AIC_top1", "IIS", "tag_top1", "AIS_cosine", "IIS_cosine", "KID", "CMMD", "KL", "IS"),
    "vision2audio": ("FD", "FAD", "CS", "KL", "IS", "tag_top1", "KAD"),
    "text2audio": ("FAD", "CLAP", "KL", "tag_top1", "KAD", "IS"),
}
PAIRED = (
    "tags",
    "KL",
    "AIS",
    "IIS",
    "AIS_cosine",
    "IIS_cosine",
    "AIC",
    "CS",
    "CLAP",
)  # a value for each item, which depends on the item it belongs to
LEAST = 2  # shared items

Stamp = tuple[str, str, str]  # extractor, weights, preprocessing
Built = tuple[FeatureMetric, Stamp]


@dataclass
class Judges:
    """The extractors of a suite; ``missing`` says why ``clip``, ``clap`` or ``joint`` is not there."""

    suite: str
    tagger: Extractor
    clip: Extractor | None = None
    clap: Extractor | None = None
    joint: Joint | None = None
    missing: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)

    @property
    def modality(self) -> str:
        """What is made: ``image`` or ``audio``."""
        return SUITES[self.suite]

    def view(self, items: Sequence[Item], real: bool = False, progress: Progress | None = None) -> View:
        """All that the suite needs to know of these items; of real ones, of the other half of their clips, too."""
        found = View(list(items))
        found.rows["tagger"], logits = self.tagger(items, progress=progress)
        if logits is not None:
            found.rows["logits"] = logits
        for judge in (self.clip, self.clap):
            if judge is None:
                continue
            if judge.modality == self.modality:
                found.rows[judge.modality] = judge(items)[0]
            elif real and self.joint is not None and all(getattr(item, judge.modality) for item in items):
                found.rows[judge.modality] = judge(items, of=judge.modality)[0]
        return found


def assemble(suite: str, tagger: str | None, clip: str | None, clap: str | None, seconds: float, labels: Sequence[str]) -> Judges:
    """Load the judges of a suite. An absent CLIP or CLAP is noted; raises as `Extractor` for everything else."""
    judges = Judges(suite, Extractor(tagger or TAGGERS[SUITES[suite]], SUITES[suite], seconds), labels=sorted(set(labels) - {""}))
    for slot, name, modality in (("clip", clip, "image"), ("clap", clap, "audio")):
        if slot == "clip" and suite == "text2audio":
            continue
        if name is None:
            judges.missing[slot] = f"no encoder of {'pictures' if slot == 'clip' else 'sounds'} was given (--{slot})"
            continue
        try:
            setattr(judges, slot, Extractor(name, modality, seconds))
        except FileNotFoundError as error:
            judges.missing[slot] = f"left out, since {' '.join(str(error).split())}"
    if judges.clip is not None and judges.clap is not None:
        try:
            judges.joint = Joint(judges.clip, judges.clap, judges.labels)
        except ValueError as error:
            judges.missing["joint"] = str(error)
    return judges


def results(
    judges: Judges, real: View, fake: View, wanted: Sequence[str], allow_bias: bool = False, draws: int | None = None
) -> tuple[dict[str, Result], dict[str, str]]:
    """Results of the wanted metrics by name, and why others are absent; ``draws`` None is each metric's own number."""
    made, absent = {}, {}
    for name in wanted:
        try:
            metric, stamp = BUILDERS[name](judges, real, fake, allow_bias)
            made[name] = metric.result(*stamp, draws=draws)
        except (ValueError, RuntimeError) as error:
            absent[name] = " ".join(str(error).split())
    return made, absent


def verdicts(judges: Judges, view: View) -> dict[str, str]:
    """What the tagger takes each item for, of the classes that occur as labels; empty where it does not classify."""
    if "logits" not in view.rows:
        return {}
    classes = _classes(judges)
    best = view.rows["logits"][:, classes].argmax(1).tolist()
    return dict(zip(view.ids, (judges.tagger.labels[classes[index]] for index in best), strict=True))


def _frechet(name: str, source: str) -> Callable[..., Built]:
    def build(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
        rows, stamp = _rows(judges, fake, source), _stamp(judges, source)
        metric = FrechetDistance(rows.shape[-1], store="rows", allow_bias=allow_bias, name=name, sync_on_compute=False)
        return _sets(metric, real, fake, source), stamp

    return build


def _distance(kind: Callable[..., Any], source: str) -> Callable[..., Built]:
    def build(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
        _rows(judges, fake, source)
        return _sets(kind(sync_on_compute=False), real, fake, source), _stamp(judges, source)

    return build


def _sets(metric: Any, real: View, fake: View, source: str) -> FeatureMetric:
    metric.update(real=real.rows[source], ids=real.ids)
    metric.update(fake=fake.rows[source], ids=fake.ids)
    return metric  # type: ignore[no-any-return]


def _divergence(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    made, own, ids = _pairs(real, fake)
    classes = _classes(judges)
    metric = KLDivergence(sync_on_compute=False)
    metric.update(_logits(judges, real)[own][:, classes], _logits(judges, fake)[made][:, classes], ids=ids)
    return metric, _stamp(judges, "tagger", classes)


def _inception(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    classes = _classes(judges)
    metric = InceptionScore(sync_on_compute=False)
    metric.update(_logits(judges, fake)[:, classes], ids=fake.ids)
    return metric, _stamp(judges, "tagger", classes)


def _tags(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    logits, classes = _logits(judges, fake), _classes(judges)
    named = [row for row, item in enumerate(fake.items) if item.label in judges.tagger.labels]
    if not named:
        raise ValueError("no made item has a label that the extractor knows: give --real a manifest with labels")
    answers = torch.tensor([classes.index(judges.tagger.labels.index(fake.items[row].label)) for row in named])
    metric = TagAccuracy(sync_on_compute=False)
    metric.update(logits[named][:, classes], answers, ids=[fake.ids[row] for row in named])
    return metric, _stamp(judges, "tagger", classes)


def _pictures(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    """IIS: made against real pictures, and a bank of real ones."""
    made, own, ids = _pairs(real, fake)
    pictures = _rows(judges, real, "image")
    metric = _win_rate(IIS, pictures, real.ids)
    metric.update(_rows(judges, fake, "image")[made], pictures[own], ids=ids)
    return metric, _stamp(judges, "image")


def _heard(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    """AIS: made pictures against the sounds that they were made from, and a bank of sounds."""
    joint, made, own, ids = _joint(judges, real, fake)
    sounds = joint.sound(real.rows["audio"])
    metric = _win_rate(AIS, sounds, real.ids)
    metric.update(joint.picture(fake.rows["image"])[made], sounds[own], ids=ids)
    return metric, joint.stamp


def _seen(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    """CS: made sounds against the pictures that they were made from."""
    joint, made, own, ids = _joint(judges, real, fake)
    metric = CS(sync_on_compute=False)
    metric.update(joint.picture(real.rows["image"])[own], joint.sound(fake.rows["audio"])[made], ids=ids)
    return metric, joint.stamp


def _zero_shot(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    pictures, reader = _rows(judges, fake, "image"), judges.clip
    named = [row for row, item in enumerate(fake.items) if item.label in judges.labels]
    if not named or reader is None:
        raise ValueError("no made item has a label: give --real a manifest with labels")
    template = prompt(reader.name)
    texts = sentences(reader.name, [template.format(spoken(label)) for label in judges.labels])
    metric = AIC(texts, sync_on_compute=False)
    answers = torch.tensor([judges.labels.index(fake.items[row].label) for row in named])
    metric.update(pictures[named], answers, ids=[fake.ids[row] for row in named])
    stamp = _stamp(judges, "image")
    return metric, (*stamp[:2], f"{stamp[2]}; labels as {template!r}")


def _texts(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
    """CLAP score: made sounds against the texts that they were asked for with; a clip without text is asked for by label."""
    sounds, reader = _rows(judges, fake, "audio"), judges.clap
    asked = [item.text or (prompt("clap:mini").format(spoken(item.label)) if item.label else "") for item in fake.items]
    if not all(asked) or reader is None:
        raise ValueError("not every made item has a text or a label: give --real a manifest with texts")
    metric = CosineScore("CLAP", sync_on_compute=False)
    metric.update(sentences(reader.name, asked), sounds, ids=fake.ids)
    return metric, _stamp(judges, "audio")


def _win_rate(kind: type[WinRate], bank: Tensor, ids: Sequence[str]) -> WinRate:
    chosen = draw_bank(len(bank))
    return kind(bank[chosen], [ids[row] for row in chosen.tolist()], sync_on_compute=False)


def _plain(build: Callable[..., Built], mode: type[WinRate], rows: str) -> Callable[..., Built]:
    """The cosine of the same pairs that a win rate judges."""

    def built(judges: Judges, real: View, fake: View, allow_bias: bool) -> Built:
        metric = mode(mode="cosine", sync_on_compute=False)
        if rows == "image":
            made, own, ids = _pairs(real, fake)
            metric.update(_rows(judges, fake, "image")[made], _rows(judges, real, "image")[own], ids=ids)
            return metric, _stamp(judges, "image")
        joint, made, own, ids = _joint(judges, real, fake)
        metric.update(joint.picture(fake.rows["image"])[made], joint.sound(real.rows["audio"])[own], ids=ids)
        return metric, joint.stamp

    return built


BUILDERS: Mapping[str, Callable[[Judges, View, View, bool], Built]] = {
    "FID": _frechet("FID", "tagger"),
    "FAD": _frechet("FAD", "tagger"),
    "FD": _frechet("FD", "audio"),
    "KID": _distance(lambda **options: KID(subsets=0, **options), "tagger"),
    "KAD": _distance(KAD, "tagger"),
    "CMMD": _distance(CMMD, "image"),
    "PRDC": _distance(PRDC, "tagger"),
    "KL": _divergence,
    "IS": _inception,
    "tags": _tags,
    "AIS": _heard,
    "AIS_cosine": _plain(_heard, AIS, "audio"),
    "IIS": _pictures,
    "IIS_cosine": _plain(_pictures, IIS, "image"),
    "AIC": _zero_shot,
    "CS": _seen,
    "CLAP": _texts,
}


def _rows(judges: Judges, view: View, source: str) -> Tensor:
    """Rows of a judge, or ValueError with the reason why there are none."""
    if source in view.rows:
        return view.rows[source]
    raise ValueError(judges.missing.get({"image": "clip", "audio": "clap"}.get(source, source), f"no judge gave {source} rows"))


def _logits(judges: Judges, view: View) -> Tensor:
    if "logits" not in view.rows:
        raise ValueError(f"{judges.tagger.name} does not classify: give --extractor one that does")
    return view.rows["logits"]


def _joint(judges: Judges, real: View, fake: View) -> tuple[Joint, list[int], list[int], list[str]]:
    for slot in ("clip", "clap", "joint"):
        if slot in judges.missing:
            raise ValueError(judges.missing[slot])
    if judges.joint is None:
        raise ValueError("pictures and sounds have no judge in common")
    other = "audio" if judges.modality == "image" else "image"
    if other not in real.rows:
        what = "sound" if other == "audio" else "picture"
        raise ValueError(
            f"not every real item has a {what}: give --real a manifest that names them, or put them beside the files"
        )
    return judges.joint, *_pairs(real, fake)


def _pairs(real: View, fake: View) -> tuple[list[int], list[int], list[str]]:
    """Rows of made items, rows of their real partners, and their ids."""
    place = {item_id: row for row, item_id in enumerate(real.ids)}
    made = [row for row, item_id in enumerate(fake.ids) if item_id in place]
    if len(made) < LEAST:
        few = "no made item has" if not made else "a single made item has"
        raise ValueError(f"{few} the name of a real one, so nothing can be paired")
    ids = [fake.ids[row] for row in made]
    return made, [place[item_id] for item_id in ids], ids


def _classes(judges: Judges) -> list[int]:
    """The tagger's classes that occur as labels; all where there are no labels."""
    known = judges.tagger.labels
    return sorted({known.index(label) for label in judges.labels if label in known}) or list(range(len(known)))


def _stamp(judges: Judges, source: str, classes: Sequence[int] | None = None) -> Stamp:
    judge = judges.tagger if source == "tagger" else judges.clip if source == "image" else judges.clap
    if judge is None:
        raise ValueError(f"no judge gave {source} rows")
    known = len(judge.labels)
    some = f"; {len(classes)} of {known} classes" if classes is not None and len(classes) < known else ""
    return judge.name, judge.weights, judge.preprocessing + some
