"""What judges files: encoders of the registry with the reading that they need, and what they share a space with.

Letters: N items, d embedding size, C sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xmodal.data.audio import load_audio
from xmodal.data.image import load_image, resize
from xmodal.data.video import even_times, load_frames, video_duration
from xmodal.data.window import window
from xmodal.evaluation.items import Item, Judgement, Progress, View, first, judge_of, middle_frame
from xmodal.files import VIDEO, suffix_of
from xmodal.foundation.base import Classifier, Synchronizer
from xmodal.metrics.features import normalized
from xmodal.registry.models import load, resolve, towers

# Sentences about a label, by encoder; published protocols read the bare label.
PROMPTS = {"clip:mini": "a photo of a {}", "clap:mini": "the sound of a {}"}
# How many of a judge's labels, from the first, name things: sizes and counts are other questions, with answers of their own.
THINGS = {"beats:mini": 18}
FRAMES = 5  # of a video, for a judge of pictures
VIDEO_EYE, SYNC = "imagebind_video", "sync"  # sources that are not of one made file alone
LONGEST = 10.0  # seconds of a sound, as in the papers; a longer one is judged by its loudest stretch


class Extractor:
    """A frozen encoder of the registry with the reading of files that it needs.

    Args:
        name: MODEL or MODEL:CARD.
        modality: ``image`` or ``audio``.
        seconds: the most of a sound that is judged: longer ones give their loudest stretch. A shorter one is judged over its
            own length, since an encoder would hear the silence that it were padded with. None is ``LONGEST``.
        encoder: one in memory, in place of what ``name`` would load.
        from_start: take the first ``seconds`` of a sound, less their mean, as av-benchmark does.
        options: of the encoder, where it is loaded.

    VGGish gives one row for every 0.96 s, every other encoder one row an item. Raises ValueError for another modality's
    encoder, FileNotFoundError where weights are not on this machine.
    """

    def __init__(
        self,
        name: str,
        modality: str,
        seconds: float | None = None,
        encoder: Any = None,
        from_start: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        tower = "ImageTower" if modality == "image" else "AudioTower"
        self.encoder = encoder if encoder is not None else load_tower(name, tower, **(options or {}))
        self.from_start = from_start
        needed = "image_size" if modality == "image" else "sample_rate"
        if not hasattr(self.encoder, needed):
            raise ValueError(f"{name} does not take {modality}s: choose an encoder that does (`xmodal models`)")
        self.name, self.modality, self.seconds = name, modality, LONGEST if seconds is None else seconds
        self.frames = name.partition(":")[0] == "vggish"
        self.classifies = isinstance(self.encoder, Classifier)
        self.labels: list[str] = list(self.encoder.labels) if self.classifies else []
        self.weights: str = self.encoder.fingerprint()

    @property
    def things(self) -> list[str]:
        """The labels that compete with each other where the data name none."""
        return self.labels[: THINGS.get(self.name)]

    @property
    def preprocessing(self) -> str:
        """What happens to a file before the encoder."""
        if self.modality == "image":
            if hasattr(self.encoder, "preprocessing"):
                return str(self.encoder.preprocessing)
            return f"bicubic to {self.encoder.image_size} x {self.encoder.image_size}"
        if self.from_start:
            padded = getattr(self.encoder, "seconds", None)
            filled = f", padded to {padded:g} s" if padded else ""
            return f"mono, {self.encoder.sample_rate} Hz, the first {self.seconds:g} s less their mean{filled}"
        return f"mono, {self.encoder.sample_rate} Hz, own length, of longer ones the loudest {self.seconds:g} s"

    def __call__(
        self, items: Sequence[Item], batch_size: int = 32, progress: Progress | None = None, of: str | None = None
    ) -> Judgement:
        """Rows of files, and logits where the encoder classifies.

        ``of`` takes the pictures or sounds of the items' clips in place of the items' own files. What cannot be read, or is
        too short for the encoder, gets a reason in place of a row.
        """
        found = Judgement()
        for start in range(0, len(items), batch_size):
            read: dict[str, Tensor] = {}
            for item in items[start : start + batch_size]:
                try:
                    read[item.id] = self._read(item, of)
                except (ValueError, OSError) as error:
                    found.lacking[item.id] = one_line(error)
            for alike in blocks(read):
                self._judge(alike, found)
            if progress is not None:
                progress(min(start + batch_size, len(items)), len(items))
        return found

    @torch.no_grad()
    def judge(self, read: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Rows (N, d) or (N, K, d) of inputs of one shape, and logits (N, classes); in one pass where the encoder can do both."""
        inputs = torch.stack(list(read))
        if self.classifies:
            return self.encoder.embed_and_classify(inputs)  # type: ignore[no-any-return]
        return self.encoder.tokens(inputs) if self.frames else self.encoder.embed(inputs), None

    def _judge(self, read: Mapping[str, Tensor], found: Judgement) -> None:
        """Judge inputs of one shape; where that fails, each by itself, so that one does not cost the others their rows."""
        try:
            rows, logits = self.judge(list(read.values()))
        except (ValueError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            for name, each in read.items() if len(read) > 1 else ():
                self._judge({name: each}, found)
            if len(read) == 1:
                found.lacking[next(iter(read))] = one_line(error)
            return
        for index, name in enumerate(read):
            if not rows[index].isfinite().all():
                found.lacking[name] = f"{self.name} gives numbers for it that are not finite"
                continue
            found.rows[name] = rows[index]
            if logits is not None:
                found.logits[name] = logits[index]

    def _read(self, item: Item, of: str | None) -> Tensor:
        path = item.path if of is None else getattr(item, of)
        if self.modality == "image":
            size = None if getattr(self.encoder, "reads_any_size", False) else self.encoder.image_size
            if suffix_of(path) not in VIDEO:
                return load_image(path, size, size)
            frame = middle_frame(item, path)
            return frame if size is None else resize(frame, size, size)
        start, duration = item.stretch(path)
        if self.from_start:
            return first(item, path, self.encoder.sample_rate, self.seconds)
        waveform = load_audio(path, self.encoder.sample_rate, start=start, duration=duration)
        longest = round(self.seconds * self.encoder.sample_rate)
        return window(waveform, longest) if len(waveform) > longest else waveform


class Frames(Extractor):
    """An encoder of pictures over a video: the mean of the directions of ``FRAMES`` of its pictures, evenly spaced over the first
    ``seconds``. A picture stands for itself.
    """

    def __init__(self, name: str, seconds: float | None = None, encoder: Any = None) -> None:
        super().__init__(name, "image", seconds, encoder)

    @property
    def preprocessing(self) -> str:
        """See `Extractor.preprocessing`."""
        return f"{super().preprocessing}; mean of {FRAMES} frames of the first {self.seconds:g} s"

    @torch.no_grad()
    def judge(self, read: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Rows (N, d) of stacks of frames (K, 3, H, W) of one shape."""
        stacks = torch.stack(list(read))
        return normalized(self.encoder.embed(stacks.flatten(0, 1))).unflatten(0, stacks.shape[:2]).mean(1), None

    def _read(self, item: Item, of: str | None) -> Tensor:
        path = item.path if of is None else getattr(item, of)
        if suffix_of(path) not in VIDEO:
            return super()._read(item, of)[None]
        start, duration = item.stretch(path)
        left = min(video_duration(path) - start, self.seconds, duration or self.seconds)
        frames = load_frames(path, [start + time for time in even_times(left, FRAMES)])
        if getattr(self.encoder, "reads_any_size", False):
            return frames
        return torch.stack([resize(frame, self.encoder.image_size, self.encoder.image_size) for frame in frames])


class Synchrony:
    """A `Synchronizer` with the reading that it needs: what was made, against the pictures of its clip's video.

    Each clip gives its logits (K, C), in K windows. A clip without a video, or one too short, gets a reason in place of them.
    """

    modality, labels = "audio", ()

    def __init__(self, name: str, encoder: Any = None) -> None:
        self.encoder = encoder if encoder is not None else load_tower(name, "Synchronizer")
        if not isinstance(self.encoder, Synchronizer):
            raise ValueError(f"{name} does not tell offsets: DeSync needs a Synchronizer (xmodal.foundation.base)")
        self.name, self.weights = name, self.encoder.fingerprint()

    @property
    def preprocessing(self) -> str:
        """What happens to a clip before the network."""
        shown, heard = f"{self.encoder.frame_rate:g} pictures a second", f"mono, {self.encoder.sample_rate} Hz less the mean"
        return f"the first {self.encoder.seconds:g} s, {shown} of {self.encoder.image_size} pixels, {heard}"

    @torch.no_grad()
    def __call__(self, items: Sequence[Item], progress: Progress | None = None) -> Judgement:
        """Logits (K, C) of each item as its rows."""
        found = Judgement()
        for item in items:
            try:
                found.rows[item.id] = self.encoder.offsets(*(each[None] for each in self._read(item)))[0]
            except (ValueError, OSError) as error:
                found.lacking[item.id] = one_line(error)
        return found

    def _read(self, item: Item) -> tuple[Tensor, Tensor]:
        seconds, rate, film = self.encoder.seconds, self.encoder.sample_rate, item.image
        if film is None or suffix_of(film) not in VIDEO:
            raise ValueError("its clip has no video")
        waveform = first(item, item.path, rate, seconds)
        if len(waveform) < round(seconds * rate):
            raise ValueError(f"{item.path} lasts {len(waveform) / rate:.2f} s, but {self.name} hears {seconds:g} s")
        start, size = item.stretch(film)[0], self.encoder.image_size
        count = round(seconds * self.encoder.frame_rate)
        frames = load_frames(film, [start + (index + 0.5) / self.encoder.frame_rate for index in range(count)])
        return torch.stack([resize(frame, size, size) for frame in frames]), waveform


class Joint:
    """How near pictures and sounds are: cosines in one space, or through sentences where their encoders share none.

    An encoder without a text tower (Wav2CLIP), or of the pictures' own model (ImageBind), is compared directly. Otherwise
    a picture is what its encoder finds each of C sentences to fit, a sound likewise with its own encoder and sentences,
    and these C cosines, less their mean, are compared.
    """

    def __init__(self, image: Extractor, audio: Extractor, labels: Sequence[str]) -> None:
        self.image, self.audio, self.labels = image, audio, list(labels)
        model = audio.name.partition(":")[0]
        self.direct = model == image.name.partition(":")[0] or "TextTower" not in towers(resolve(model))
        if self.direct and image.encoder.dim != audio.encoder.dim:
            sizes = f"{image.name} has embeddings of size {image.encoder.dim}, {audio.name} of size {audio.encoder.dim}"
            raise ValueError(f"{sizes}: they lie in no common space, so choose a pair that was trained together")
        if not self.direct and len(self.labels) < 3:
            raise ValueError(
                f"{image.name} and {audio.name} are compared through sentences about the labels, and {len(self.labels)} labels "
                "are known: give --real a manifest with labels, or an encoder of sounds in the pictures' space (wav2clip)"
            )
        self._sentences: dict[str, Tensor] = {}

    def picture(self, rows: Tensor) -> Tensor:
        """Embeddings (N, d) of pictures -> (N, d) or (N, C)."""
        return rows if self.direct else self._profile(self.image.name, rows)

    def sound(self, rows: Tensor) -> Tensor:
        """Embeddings (N, d) of sounds -> (N, d) or (N, C)."""
        return rows if self.direct else self._profile(self.audio.name, rows)

    @property
    def stamp(self) -> tuple[str, str, str]:
        """Extractor, weights and preprocessing for the protocol."""
        how = "compared directly"
        if not self.direct:
            sentences = " and ".join(repr(prompt(each.name)) for each in (self.image, self.audio))
            how = f"compared through {len(self.labels)} labels as {sentences}"
        pair = (self.image, self.audio)
        preprocessing = "; ".join([*(each.preprocessing for each in pair), how])
        return " and ".join(each.name for each in pair), "+".join(each.weights for each in pair), preprocessing

    def _profile(self, name: str, rows: Tensor) -> Tensor:
        if name not in self._sentences:
            self._sentences[name] = sentences(name, [prompt(name).format(spoken(label)) for label in self.labels])
        cosines = normalized(rows.double()) @ normalized(self._sentences[name].double()).T
        return cosines - cosines.mean(1, keepdim=True)


@dataclass
class Judges:
    """The extractors that judge what was made, pictures or sounds; ``missing`` says why one is not there.

    ``others`` are a suite's own: of them ``VIDEO_EYE`` judges the videos of real clips, ``SYNC`` what was made with them.
    """

    modality: str
    tagger: Extractor | None
    clip: Extractor | None = None
    clap: Extractor | None = None
    joint: Joint | None = None
    missing: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    others: dict[str, Extractor | Synchrony] = field(default_factory=dict)

    @property
    def classes(self) -> list[int]:
        """The tagger's classes that occur as labels; without labels all that name things, if any."""
        if self.tagger is None:
            return []
        known = self.tagger.labels
        return sorted({known.index(label) for label in self.labels if label in known}) or list(range(len(self.tagger.things)))

    def of(self, source: str) -> Extractor | Synchrony:
        """The judge that gives a source's rows, or ValueError with the reason why there is none."""
        slot = {"image": "clip", "audio": "clap"}.get(source, judge_of(source))
        named = {"clip": self.clip, "clap": self.clap, "tagger": self.tagger}
        judge = named[slot] if slot in named else self.others.get(slot)
        if judge is None:
            raise ValueError(self.missing.get(slot, f"no judge gives {source} rows"))
        return judge

    def view(self, items: Sequence[Item], real: bool = False, progress: Progress | None = None) -> View:
        """All that a suite needs to know of these items; of real ones, of the other half of their clips, too."""
        found = View(list(items))
        if self.tagger is not None:
            found.add("tagger", self.tagger(items, progress=progress))
        for source, other in self.others.items():
            if source == SYNC and not real:
                found.add(source, other(items))
            elif source == VIDEO_EYE and real:
                seen = [item for item in items if item.image]
                found.add(source, other(seen, of="image"))  # type: ignore[call-arg]
                found.lacking[source] |= {item.id: "its clip has no picture" for item in items if not item.image}
            elif source not in (SYNC, VIDEO_EYE):
                found.add(source, other(items, progress=progress))
        for judge in (self.clip, self.clap):
            if judge is None:
                continue
            if judge.modality == self.modality:
                found.add(judge.modality, judge(items))
            elif real and self.joint is not None:
                half = judge([item for item in items if getattr(item, judge.modality)], of=judge.modality)
                what = "sound" if judge.modality == "audio" else "picture"
                half.lacking |= {item.id: f"its clip has no {what}" for item in items if not getattr(item, judge.modality)}
                found.add(judge.modality, half)
        return found


def load_tower(name: str, tower: str, **options: Any) -> Any:
    """Load MODEL or MODEL:CARD from the registry; of several towers the named one. Raises as `xmodal.registry.models.load`."""
    model, _, card = name.partition(":")
    several = towers(resolve(model))
    if len(several) > 1 and tower not in several:
        raise ValueError(f"{name} has no {tower}, only {', '.join(several)}: choose another model (`xmodal models`)")
    return load(model, card=card or None, tower=tower if len(several) > 1 else None, **options)


@torch.no_grad()
def sentences(name: str, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Embeddings (C, d) of sentences by the text tower of MODEL:CARD; raises ValueError for one that it cannot read."""
    reader = load_tower(name, "TextTower")
    return torch.cat([reader.embed(list(texts[start : start + batch_size])) for start in range(0, len(texts), batch_size)])


@torch.no_grad()
def captions(name: str, texts: Mapping[str, str], batch_size: int = 64) -> Judgement:
    """Embeddings of texts by id, and why some have none: a caption that is too long does not cost the others theirs."""
    found, ids, reader = Judgement(), list(texts), load_tower(name, "TextTower")

    def read(some: list[str]) -> None:
        try:
            found.rows |= dict(zip(some, reader.embed([texts[each] for each in some]), strict=True))
        except ValueError as error:
            if len(some) == 1:
                found.lacking[some[0]] = one_line(error)
            for each in some if len(some) > 1 else ():
                read([each])

    for start in range(0, len(ids), batch_size):
        read(ids[start : start + batch_size])
    return found


def blocks(rows: Mapping[str, Tensor]) -> Iterable[dict[str, Tensor]]:
    """The rows in groups of one shape, each in its order."""
    found: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for name, row in rows.items():
        found.setdefault(tuple(row.shape), {})[name] = row
    return found.values()


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def prompt(name: str) -> str:
    """The template of a sentence about a label."""
    return PROMPTS.get(name, "{}")


def spoken(label: str) -> str:
    """A label as words."""
    return label.replace("_", " ")
