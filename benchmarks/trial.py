"""What the benchmarks of trained adapters share: tasks trained from recipes with several seeds, and the judges of what they make.

A task's frozen features are computed once and serve every seed, while what they were made of is the same. The judges are those of
`xmodal evaluate`, of tensors in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer, seed_everything
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from xmodal.evaluation.items import Item, Judgement, View
from xmodal.evaluation.judges import Judges
from xmodal.evaluation.measures import MEASURES
from xmodal.evaluation.suites import CLAP, CLIP, assemble, results
from xmodal.files import write_beside
from xmodal.metrics.protocol import Score
from xmodal.miniature import world
from xmodal.miniature.data import Clips, Featured, heard_caption, precompute
from xmodal.registry.build import Builder
from xmodal.task import Task

RECIPES = Path(__file__).parent.parent / "recipes"
RESULTS = Path(__file__).parent / "results"
SECONDS, RATE = 2.5, 16_000


def load_recipe(name: str, *overlays: str, **variables: Any) -> dict[str, Any]:
    """A recipe of this repository with overlays and other ``vars``, resolved."""
    parts = [OmegaConf.load(RECIPES / f"{each}.yaml") for each in (name, *overlays)]
    merged = OmegaConf.merge(*parts, {"vars": variables})
    return OmegaConf.to_container(merged, resolve=True)  # type: ignore[return-value]


def featured(recipe: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """What the frozen parts make of the recipe's training clips; ``file`` keeps it, and serves the next call with the same."""
    data, task = recipe["data"]["init_args"], Builder("the recipe", trust=True, training=True).build(recipe["model"], Task)
    origin = made_of(task, [data["train_count"], data["frozen_parts"]])
    if not kept(file, origin):
        torch.save(precompute(task, Clips("train", data["train_count"], tuple(data["frozen_parts"]))), file)
        keep(file, origin)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def made_of(task: Any, settings: Any) -> str:
    """A digest of settings and of what a task has computed before the first step: whose weights, with which options."""
    before = {
        name: [feature.outputs, dict(feature.options), [part.fingerprint() for part in feature.parts]]
        for name, feature in task.frozen_features().items()
    }
    text = json.dumps([world.VERSION, before, settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of the numbers of each."""
    return {name: hashlib.sha256(rows.detach().numpy().tobytes()).hexdigest() for name, rows in tensors.items()}


def kept(file: Path, origin: str) -> bool:
    """Whether a file is there, and was made of the same: weights may have been trained on since."""
    note = file.with_name(f"{file.name}.made_of")
    return file.is_file() and note.is_file() and note.read_text("utf-8") == origin


def keep(file: Path, origin: str) -> None:
    """Note what a file was made of."""
    file.with_name(f"{file.name}.made_of").write_text(origin, encoding="utf-8")


def trained(recipe: Mapping[str, Any], features: Mapping[str, Tensor], seed: int, file: Path) -> Task:
    """The recipe's task trained with ``seed``; ``file`` keeps the weights, and serves the next call with the same."""
    seed_everything(seed, verbose=False)
    task = Builder("the recipe", trust=True, training=True).build(recipe["model"], Task)
    task.recipe = OmegaConf.to_yaml(OmegaConf.create(recipe["model"]))
    # The state holds what the seed drew, or what the recipe's ``weights`` were trained to be.
    origin = made_of(task, [recipe, seed, digests(features), digests(task.state_dict())])
    if kept(file, origin):
        return type(task).from_checkpoint(file)
    data = recipe["data"]["init_args"]
    clips = Clips("train", data["train_count"], tuple(data["parts"]))
    loader = DataLoader(Featured(clips, features), batch_size=data["batch_size"], shuffle=True, drop_last=True)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=recipe["trainer"]["max_steps"],
        gradient_clip_val=recipe["trainer"]["gradient_clip_val"],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(task, loader)
    trainer.save_checkpoint(file)
    keep(file, origin)
    return task.eval()


def unseen(count: int, seed: int = 1) -> list[world.Clip]:
    """Clips that no training has met."""
    return [world.sample("test", index, seed) for index in range(count)]


def waveforms(clips: Sequence[world.Clip]) -> Tensor:
    """Their sounds (N, T), mono."""
    return torch.stack([torch.from_numpy(world.sound(clip).mean(0)) for clip in clips])


def pixels(clips: Sequence[world.Clip]) -> Tensor:
    """Their pictures (N, 3, 64, 64) in [0, 1]."""
    return torch.stack([torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in clips])


def captions(clips: Sequence[world.Clip]) -> list[str]:
    """What somebody might write to ask for them: some attributes, now and then another noun."""
    return [world.random_caption(clip, np.random.default_rng([clip.seed, 5])) for clip in clips]


def things(clips: Sequence[world.Clip]) -> Tensor:
    """Number of each clip's thing (N,)."""
    return torch.tensor([world.THINGS.index(clip.thing) for clip in clips])


def in_batches(make: Callable[[Tensor, list[torch.Generator]], Tensor], rows: Tensor, seed: int = 0, size: int = 32) -> Tensor:
    """What ``make`` makes of rows and streams of noise, some at a time; a row's noise does not depend on the others."""
    noise = streams(len(rows), seed)
    parts = [make(rows[start : start + size], noise[start : start + size]) for start in range(0, len(rows), size)]
    return torch.cat(parts)


def save(name: str, report: Mapping[str, Any]) -> None:
    """Write results/NAME.json whole."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(report, indent=1) + "\n"
    write_beside(RESULTS / f"{name}.json", lambda path: path.write_text(text, "utf-8"))


def load(name: str) -> dict[str, Any]:
    """What a benchmark wrote by `save`."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))  # type: ignore[no-any-return]


def score_of(found: Mapping[str, Any], scale: float = 1) -> Score:
    """A stored score, times ``scale``; percentages are stored with their interval as a pair."""
    low, high = found["interval"] if "percent" in found else (found["low"], found["high"])
    return Score(scale * found.get("percent", found.get("value")), scale * low, scale * high)


def streams(count: int, seed: int = 0) -> list[torch.Generator]:
    """One seeded stream of noise for each sound, so that batches do not matter."""
    return [torch.Generator().manual_seed(1_000_000 * seed + index) for index in range(count)]


class Reader:
    """A classifier of two layers that finds the thing in embeddings (N, d) of any length: fitted to those of ``clips``."""

    def __init__(self, embeddings: Tensor, clips: Sequence[world.Clip], steps: int = 800) -> None:
        rows, self.size = F.normalize(embeddings.float(), dim=-1), embeddings.shape[1]
        torch.manual_seed(0)
        wanted = things(clips)
        self.net = torch.nn.Sequential(torch.nn.Linear(self.size, 256), torch.nn.SiLU(), torch.nn.Linear(256, len(world.THINGS)))
        optimizer = torch.optim.AdamW(self.net.parameters(), 2e-3, weight_decay=0.05)
        for _ in range(steps):
            pick = torch.randint(len(rows), (128,))
            noisy = rows[pick] * self.size**0.5 + 0.3 * torch.randn(128, self.size)
            loss = F.cross_entropy(self.net(noisy), wanted[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def __call__(self, embeddings: Tensor, clips: Sequence[world.Clip]) -> float:
        """Share of the clips whose thing is found in the embeddings that belong to them."""
        found = self.net(F.normalize(embeddings.float(), dim=-1) * self.size**0.5).argmax(1)
        return float((found == things(clips)).float().mean())


class Panel:
    """The judges of a suite, and what they make of the real clips; ``more`` of them widen the real side of set distances."""

    def __init__(self, suite: str, clips: Sequence[world.Clip], more: int = 768) -> None:
        self.judges: Judges = assemble(suite, None, CLIP, CLAP, SECONDS, world.THINGS)
        self.clips = list(clips)
        everything = self.clips + [world.sample("test", index, seed=2) for index in range(more)]
        real = {"image": pixels, "audio": waveforms}
        own = self.judges.modality
        self.real = self._view(real[own](everything), everything)
        if self.judges.clip is not None and self.judges.clap is not None:
            other = "audio" if own == "image" else "image"
            judge = self.judges.clap if other == "audio" else self.judges.clip
            self.real.add(other, _judged(judge, real[other](everything), self.real.ids))

    def score(
        self, made: Tensor, wanted: Iterable[str], clips: Sequence[world.Clip] | None = None, draws: int | None = None
    ) -> dict[str, Score]:
        """Scores of sounds (N, T) or pictures (N, 3, H, W) that were asked for with the panel's clips, or with ``clips``."""
        rows = [MEASURES[name] for name in wanted]
        given = results(self.judges, self.real, self._view(made, clips or self.clips), rows, True, draws)
        if given.absent:
            raise RuntimeError("; ".join(f"{name}: {why}" for name, why in given.absent.items()))
        return {name: score for result in given.found.values() for name, score in result.scores.items()}

    def _view(self, made: Tensor, clips: Sequence[world.Clip]) -> View:
        both = {"image": Path(), "audio": Path()}  # every clip has a picture and a sound, in memory
        items = [Item(f"{index:06d}", Path(), clip.thing, heard_caption(clip), **both) for index, clip in enumerate(clips)]
        view, own = View(items), self.judges.modality
        judge = self.judges.clip if own == "image" else self.judges.clap
        if judge is None:
            raise RuntimeError(f"the panel needs a {'CLIP' if own == 'image' else 'CLAP'}")
        view.add("tagger", _judged(self.judges.tagger, made, view.ids))
        view.add(own, _judged(judge, made, view.ids))
        return view


def _judged(judge: Any, inputs: Tensor, ids: Sequence[str]) -> Judgement:
    """Rows and logits of many inputs of one length."""
    found = Judgement()
    for start in range(0, len(inputs), 64):
        rows, logits = judge.judge(list(inputs[start : start + 64]))
        names = ids[start : start + 64]
        found.rows |= dict(zip(names, rows, strict=True))
        if logits is not None:
            found.logits |= dict(zip(names, logits, strict=True))
    return found


def spoken_score(score: Score, digits: int = 3) -> str:
    """A value with its interval."""
    if score.low is None or score.high is None:
        return f"{score.value:.{digits}f}"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"


def over_seeds(values: Sequence[float]) -> Score:
    """Mean over seeds with its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Score(mean)
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[len(values)]
    half = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Score(mean, mean - half, mean + half)
