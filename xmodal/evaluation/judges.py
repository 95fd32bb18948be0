"""What judges files: encoders of the registry with the reading that they need, and what they share a space with.

Letters: N items, d embedding size, C sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.data.audio import load_audio
from xmodal.data.image import load_image
from xmodal.data.manifest import read_manifest
from xmodal.data.window import window
from xmodal.files import AUDIO, IMAGE, VIDEO
from xmodal.metrics.features import normalised
from xmodal.registry.models import load, resolve, towers

PICTURES = IMAGE
SOUNDS = AUDIO | VIDEO
SUFFIXES = {"image": PICTURES, "audio": SOUNDS}
# Sentences about a label, by encoder; published protocols read the bare label.
PROMPTS = {"clip:mini": "a photo of a {}", "clap:mini": "the sound of a {}"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """One made or real thing: its file, and what is known of its clip ("" or None where nothing is)."""

    id: str
    path: Path
    label: str = ""
    text: str = ""
    image: Path | None = None
    audio: Path | None = None
    start: float = 0.0
    duration: float | None = None


@dataclass
class View:
    """What the judges make of some items: tensors with one row (or several) an item, in the items' order."""

    items: list[Item]
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """The items' names."""
        return [item.id for item in self.items]

    def pick(self, order: Sequence[int], ids: Sequence[Item] | None = None) -> View:
        """The rows in another order, under the names of other items if those are given."""
        index = torch.tensor(order, dtype=torch.int64)
        items = list(ids) if ids is not None else [self.items[row] for row in order]
        return View(items, {name: rows[index] for name, rows in self.rows.items()})


class Extractor:
    """A frozen encoder of the registry with the reading of files that it needs.

    Args:
        name: MODEL or MODEL:CARD.
        modality: ``image`` or ``audio``.
        seconds: the stretch of a sound that is judged: the loudest window of longer ones, shorter ones are padded.
        encoder: one in memory, in place of what ``name`` would load.

    VGGish gives one row for every 0.96 s, every other encoder one row an item. Raises ValueError for another modality's
    encoder, FileNotFoundError where weights are not on this machine.
    """

    def __init__(self, name: str, modality: str, seconds: float = 10.0, encoder: Any = None) -> None:
        tower = "ImageTower" if modality == "image" else "AudioTower"
        self.encoder = encoder if encoder is not None else load_tower(name, tower)
        needed = "image_size" if modality == "image" else "sample_rate"
        if not hasattr(self.encoder, needed):
            raise ValueError(f"{name} does not take {modality}s: choose an encoder that does (`xmodal models`)")
        self.name, self.modality, self.seconds = name, modality, seconds
        self.frames = name.partition(":")[0] == "vggish"
        self.labels: list[str] = list(getattr(self.encoder, "labels", None) or [])
        self.weights: str = self.encoder.fingerprint()

    @property
    def preprocessing(self) -> str:
        """What happens to a file before the encoder."""
        if self.modality == "image":
            if hasattr(self.encoder, "preprocessing"):
                return str(self.encoder.preprocessing)
            return f"bicubic to {self.encoder.image_size} x {self.encoder.image_size}"
        return f"mono, {self.encoder.sample_rate} Hz, loudest {self.seconds:g} s, zero-padded"

    @torch.no_grad()
    def __call__(
        self, items: Sequence[Item], batch_size: int = 32, progress: Progress | None = None, of: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows (N, d) or (N, K, d) of files, and logits (N, classes) where the encoder classifies.

        ``of`` takes the pictures or sounds of the items' clips in place of the items' own files. Raises ValueError that names
        the first file that cannot be read.
        """
        rows, logits = [], []
        for start in range(0, len(items), batch_size):
            row, logit = self.judge([self._read(item, of) for item in items[start : start + batch_size]])
            rows.append(row)
            if logit is not None:
                logits.append(logit)
            if progress is not None:
                progress(min(start + batch_size, len(items)), len(items))
        return torch.cat(rows), torch.cat(logits) if logits else None

    def judge(self, read: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Rows and logits of some inputs; in one pass where the encoder can do both."""
        if len({each.shape for each in read}) > 1:  # pictures at their own sizes, for an encoder that asks for them
            return torch.cat([self.encoder.embed(each[None]) for each in read]), None
        inputs = torch.stack(read)
        if self.labels and hasattr(self.encoder, "embed_and_classify"):
            return self.encoder.embed_and_classify(inputs)  # type: ignore[no-any-return]
        heads = getattr(self.encoder, "class_logits", None) or getattr(self.encoder, "logits", None)
        row = self.encoder.tokens(inputs) if self.frames else self.encoder.embed(inputs)
        return row, heads(inputs) if self.labels and heads is not None else None

    def _read(self, item: Item, of: str | None) -> Tensor:
        path = item.path if of is None else getattr(item, of)
        if self.modality == "image":
            if getattr(self.encoder, "reads_any_size", False):
                return load_image(path)
            return load_image(path, self.encoder.image_size, self.encoder.image_size)
        rate = self.encoder.sample_rate
        # A manifest names a stretch of its sound; what was made has none.
        start, duration = (item.start, item.duration) if path == item.audio else (0.0, None)
        return window(load_audio(path, rate, start=start, duration=duration), round(self.seconds * rate), "pad")


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
        cosines = normalised(rows.double()) @ normalised(self._sentences[name].double()).T
        return cosines - cosines.mean(1, keepdim=True)


def load_tower(name: str, tower: str) -> Any:
    """Load MODEL or MODEL:CARD from the registry; of several towers the named one. Raises as `xmodal.registry.models.load`."""
    model, _, card = name.partition(":")
    several = towers(resolve(model))
    if len(several) > 1 and tower not in several:
        raise ValueError(f"{name} has no {tower}, only {', '.join(several)}: choose another model (`xmodal models`)")
    return load(model, card=card or None, tower=tower if len(several) > 1 else None)


@torch.no_grad()
def sentences(name: str, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """Embeddings (C, d) of sentences by the text tower of MODEL:CARD."""
    reader = load_tower(name, "TextTower")
    return torch.cat([reader.embed(list(texts[start : start + batch_size])) for start in range(0, len(texts), batch_size)])


def prompt(name: str) -> str:
    """The template of a sentence about a label."""
    return PROMPTS.get(name, "{}")


def spoken(label: str) -> str:
    """A label as words."""
    return label.replace("_", " ")


def collect(source: Path, modality: str, split: str | None = None) -> list[Item]:
    """The items of a folder (id: a file's stem) or of a manifest (its rows of ``split``), in the order of their ids.

    In a folder, a picture and a sound of the same stem belong to one clip. Raises ValueError where there are none or two of
    one name, FileNotFoundError where the source does not exist.
    """
    if source.is_dir():
        pictures, sounds = _stems(source, "image"), _stems(source, "audio")
        own = pictures if modality == "image" else sounds
        items = [Item(stem, path, image=pictures.get(stem), audio=sounds.get(stem)) for stem, path in own.items()]
    elif source.is_file():
        items = []
        for row in read_manifest(source, split):
            files = {"image": row.image, "audio": row.audio or row.video}
            path = files[modality]
            if path is not None:
                items.append(Item(row.id, path, row.label, row.text, files["image"], files["audio"], row.start, row.duration))
        if len({item.id for item in items}) < len(items):
            raise ValueError(f"two rows of {source} have the same id: each clip needs a name of its own")
    else:
        raise FileNotFoundError(
            f"there is no folder and no manifest {source}: give a folder of files, or a manifest (docs/data.md)"
        )
    if not items:
        raise ValueError(f"{source} holds no {'pictures' if modality == 'image' else 'sounds'}")
    return sorted(items, key=lambda item: item.id)


def _stems(folder: Path, modality: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES[modality] and path.name[0] != ".":
            if path.stem in found:
                raise ValueError(
                    f"two files of {folder} have the same stem ({found[path.stem]} and {path}): each item needs a name of its own"
                )
            found[path.stem] = path
    return found
