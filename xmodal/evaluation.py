"""`xmodal evaluate`: suites of metrics over two folders, made against real, with intervals, protocol and a report.

A suite says which modality was made and which metrics tell something about it. An extractor is an encoder of the
registry; where it also classifies (``class_logits`` and ``labels``), the metrics on classes join in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.data.audio import CONTAINERS, LIBSNDFILE, load_audio
from xmodal.data.image import load_image
from xmodal.data.manifest import read_manifest
from xmodal.data.window import window
from xmodal.metrics.frechet import FrechetDistance
from xmodal.metrics.inception import InceptionScore
from xmodal.metrics.kernel import KernelDistance
from xmodal.metrics.kl import KLDivergence
from xmodal.metrics.prdc import PRDC
from xmodal.metrics.protocol import Difference, Result, compare
from xmodal.metrics.tags import TagAccuracy
from xmodal.registry import load, suggest

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SUITES = {"audio2image": "image", "vision2audio": "audio", "text2audio": "audio"}
DEFAULTS = {"image": "picture_tagger:mini", "audio": "beats:mini"}
DISTANCE = {"image": "FID", "audio": "FAD"}
KERNEL = {"image": "KID", "audio": "KAD"}
COLUMNS = {
    "audio2image": ("tag_top1", "FID", "KID", "KL", "IS", "precision", "recall"),
    "vision2audio": ("tag_top1", "FAD", "KAD", "KL", "IS", "precision", "recall"),
    "text2audio": ("tag_top1", "FAD", "KAD", "KL", "IS", "precision", "recall"),
}


@dataclass(frozen=True)
class Item:
    """One made or real thing: its file, and the label that it should have ("" where unknown)."""

    id: str
    path: Path
    label: str = ""


@dataclass
class Features:
    """Rows of one side, in the items' order; ``logits`` is None where the extractor does not classify."""

    items: list[Item]
    embedding: Tensor
    logits: Tensor | None = None

    @property
    def ids(self) -> list[str]:
        """The items' names."""
        return [item.id for item in self.items]


@dataclass
class Evaluation:
    """What a suite found: results by metric, why others are absent, and per item values for the report."""

    suite: str
    modality: str
    results: dict[str, Result]
    absent: dict[str, str]
    made: list[Item]
    real: list[Item]
    judged: dict[str, str] = field(default_factory=dict)

    def scores(self) -> dict[str, Any]:
        """Every score by its own name."""
        return {name: score for result in self.results.values() for name, score in result.scores.items()}


class Extractor:
    """A frozen encoder with the reading of files that it needs.

    ``name`` is MODEL:CARD; ``seconds`` the stretch of a sound that is judged (the loudest window of longer ones).
    """

    def __init__(self, name: str, modality: str, seconds: float = 10.0) -> None:
        model, _, card = name.partition(":")
        tower = "ImageTower" if modality == "image" else "AudioTower"
        try:
            self.encoder = load(model, card=card or None)
        except ValueError as error:
            if "several towers" not in str(error):
                raise
            self.encoder = load(model, card=card or None, tower=tower)
        needed = "image_size" if modality == "image" else "sample_rate"
        if not hasattr(self.encoder, needed):
            raise ValueError(f"{name} does not take {modality}s: choose an encoder that does (`xmodal models`)")
        self.name, self.modality, self.seconds = name, modality, seconds
        self.labels: list[str] = list(getattr(self.encoder, "labels", None) or [])
        self.weights: str = self.encoder.fingerprint()

    @property
    def preprocessing(self) -> str:
        """What happens to a file before the encoder."""
        if self.modality == "image":
            return f"bicubic to {self.encoder.image_size} x {self.encoder.image_size}"
        return f"mono, {self.encoder.sample_rate} Hz, loudest {self.seconds:g} s, zero-padded"

    @torch.no_grad()
    def __call__(
        self, items: Sequence[Item], batch_size: int = 32, progress: Callable[[int, int], None] | None = None
    ) -> Features:
        """Features of files; raises ValueError that names the first file that cannot be read."""
        embeddings, logits = [], []
        for start in range(0, len(items), batch_size):
            inputs = torch.stack([self._read(item.path) for item in items[start : start + batch_size]])
            embeddings.append(self.encoder.embed(inputs))
            if self.labels and hasattr(self.encoder, "class_logits"):
                logits.append(self.encoder.class_logits(inputs))
            if progress is not None:
                progress(min(start + batch_size, len(items)), len(items))
        return Features(list(items), torch.cat(embeddings), torch.cat(logits) if logits else None)

    def _read(self, path: Path) -> Tensor:
        if self.modality == "image":
            return load_image(path, self.encoder.image_size, self.encoder.image_size)
        rate = self.encoder.sample_rate
        return window(load_audio(path, rate), round(self.seconds * rate), "pad")


def collect(source: Path, modality: str) -> list[Item]:
    """The items of a folder (id: a file's stem) or of a manifest; raises ValueError or FileNotFoundError where there are none."""
    suffixes = PICTURES if modality == "image" else LIBSNDFILE | CONTAINERS
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in suffixes and path.name[0] != ".")
        items = [Item(path.stem, path) for path in files]
    else:
        rows = read_manifest(source)
        paths = [(row, row.image if modality == "image" else row.audio or row.video) for row in rows]
        items = [Item(row.id, path, row.label) for row, path in paths if path is not None]
    if not items:
        raise ValueError(f"{source} holds no {'pictures' if modality == 'image' else 'sounds'}")
    if len({item.id for item in items}) < len(items):
        raise ValueError(f"two files of {source} have the same stem: each item needs a name of its own")
    return items


def evaluate(
    suite: str,
    fake: Path,
    real: Path,
    extractor: str | None = None,
    seconds: float = 10.0,
    allow_bias: bool = False,
    draws: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare what was made with what is real.

    Args:
        suite: a name in ``SUITES``.
        fake, real: folders, or manifests; items pair by id (the file's stem), and a manifest gives the labels.
        extractor: MODEL:CARD of an encoder; default the miniature's own.
        seconds: of each sound that is judged.
        allow_bias: give the Fréchet distance also where too few rows make it meaningless.
        draws: of the bootstrap; 0 leaves the intervals out.

    Raises ValueError for an unknown suite or unreadable files. Metrics that these data cannot give stand in ``absent``.
    """
    if suite not in SUITES:
        raise ValueError(f"there is no suite {suite!r}: {suggest(suite, SUITES)}")
    modality = SUITES[suite]
    made, truth = collect(fake, modality), collect(real, modality)
    labels = {item.id: item.label for item in truth if item.label}
    made = [Item(item.id, item.path, item.label or labels.get(item.id, "")) for item in made]
    judge = Extractor(extractor or DEFAULTS[modality], modality, seconds)
    one, two = judge(truth, progress=progress), judge(made, progress=progress)
    found = Evaluation(suite, modality, {}, {}, made, truth)
    stamp = {"extractor": judge.name, "weights": judge.weights, "preprocessing": judge.preprocessing, "draws": draws}
    for name, measure in _measures(modality, judge, one, two, allow_bias).items():
        try:
            found.results[name] = measure().result(**stamp)
        except (ValueError, RuntimeError) as error:
            found.absent[name] = " ".join(str(error).split())
    if two.logits is not None:
        found.judged = dict(zip(two.ids, (judge.labels[i] for i in two.logits.argmax(1).tolist()), strict=True))
    return found


def write(found: Evaluation, folder: Path) -> Path:
    """Write ``results/METRIC.json``, ``summary.json``, ``table.md``, ``table.tex`` and ``report.html``; returns the last."""
    from xmodal.report import html, latex, markdown

    for name, result in found.results.items():
        result.save(folder / "results" / f"{name}.json")
    scores = {name: [score.value, score.low, score.high] for name, score in found.scores().items()}
    summary = {"suite": found.suite, "made": len(found.made), "real": len(found.real), "scores": scores, "absent": found.absent}
    _replace(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    _replace(folder / "table.md", markdown(found, COLUMNS[found.suite]))
    _replace(folder / "table.tex", latex(found, COLUMNS[found.suite]))
    return _replace(folder / "report.html", html(found))


def differences(first: Path, second: Path) -> dict[str, Difference | str]:
    """Paired differences of all metrics that two evaluations share, or the reason why one cannot be compared.

    Raises FileNotFoundError where a folder holds no results.
    """
    names = []
    for folder in (first, second):
        files = {path.name for path in (folder / "results").glob("*.json")}
        if not files:
            raise FileNotFoundError(f"{folder} holds no results: give two folders that `xmodal evaluate` wrote")
        names.append(files)
    out: dict[str, Difference | str] = {}
    for name in sorted(names[0] & names[1]):
        try:
            out.update(compare(first / "results" / name, second / "results" / name))
        except ValueError as error:
            out[name.removesuffix(".json")] = str(error)
    return out


def _measures(
    modality: str, judge: Extractor, real: Features, fake: Features, allow_bias: bool
) -> Mapping[str, Callable[[], Any]]:
    """The metrics that these features allow, by name, to be computed when called."""

    def distance() -> Any:
        metric = FrechetDistance(fake.embedding.shape[1], store="rows", allow_bias=allow_bias, name=DISTANCE[modality])
        metric.update(real=real.embedding, ids=real.ids)
        metric.update(fake=fake.embedding, ids=fake.ids)
        return metric

    def kernel() -> Any:
        metric = KernelDistance(scale=100.0)
        metric.update(real=real.embedding, ids=real.ids)
        metric.update(fake=fake.embedding, ids=fake.ids)
        return metric

    def manifold() -> Any:
        metric = PRDC()
        metric.update(real=real.embedding, ids=real.ids)
        metric.update(fake=fake.embedding, ids=fake.ids)
        return metric

    measures: dict[str, Callable[[], Any]] = {DISTANCE[modality]: distance, KERNEL[modality]: kernel, "PRDC": manifold}
    if real.logits is None or fake.logits is None:
        return measures
    real_logits, fake_logits = real.logits, fake.logits
    place = {item_id: row for row, item_id in enumerate(real.ids)}
    shared = [row for row, item_id in enumerate(fake.ids) if item_id in place]
    labelled = [row for row, item in enumerate(fake.items) if item.label in judge.labels]
    classes = sorted({judge.labels.index(fake.items[row].label) for row in labelled}) or list(range(len(judge.labels)))

    def divergence() -> Any:
        if not shared:
            raise ValueError("no made item has the name of a real one, so nothing can be paired")
        metric = KLDivergence()
        ids = [fake.ids[row] for row in shared]
        metric.update(real_logits[[place[item_id] for item_id in ids]][:, classes], fake_logits[shared][:, classes], ids=ids)
        return metric

    def inception() -> Any:
        metric = InceptionScore()
        metric.update(fake_logits[:, classes], ids=fake.ids)
        return metric

    def tags() -> Any:
        if not labelled:
            raise ValueError("no made item has a label that the extractor knows: give --real a manifest with labels")
        metric = TagAccuracy()
        answers = torch.tensor([classes.index(judge.labels.index(fake.items[row].label)) for row in labelled])
        metric.update(fake_logits[labelled][:, classes], answers, ids=[fake.ids[row] for row in labelled])
        return metric

    return {**measures, "KL": divergence, "IS": inception, "tags": tags}


def _replace(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def lines(found: Evaluation) -> Iterable[str]:
    """The table that a terminal shows."""
    judge = next(iter(found.results.values())).protocol if found.results else None
    yield f"{found.suite}: {len(found.made)} made, {len(found.real)} real" + (f", judged by {judge.extractor}" if judge else "")
    for name, score in found.scores().items():
        interval = "" if score.low is None else f"  [{score.low:.4g}, {score.high:.4g}]"
        yield f"  {name:<12}{score.value:>12.4g}{interval}"
    for name, reason in found.absent.items():
        yield f"  {name:<12}{'-':>12}  {reason}"
