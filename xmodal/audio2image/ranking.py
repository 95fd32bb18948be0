"""Of several pictures the one that is nearest to what was asked for, as DALL-E (arXiv 2102.12092, section 2.6) ranks by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.data.audio import resample
from xmodal.diffusion.sampling import children
from xmodal.foundation.base import AudioEncoder, Encoder, ImageEncoder, TextEncoder
from xmodal.frozen import Frozen
from xmodal.pipelines import Generators


class PictureRanker(Frozen):
    """Compares pictures with what they were made of, in a space in which both lie.

    A score that is measured with the same towers profits from the choice: judge ranked pictures with others.

    Args:
        eye: sees the pictures: the image tower of a CLIP, or of ImageBind. As ``reader`` a part, or what builds it; so a recipe's
            are built with the ranker, when pictures are first ranked.
        reader: of the eye's own space: hears the sounds (Wav2CLIP, ImageBind's AudioTower), or reads the prompts (TextTower).

    Raises ValueError where the two are of other kinds, or their embeddings known to be no neighbours.
    """

    eye: ImageEncoder
    reader: Any  # its embed takes what its kind does

    def __init__(
        self,
        eye: Callable[[], ImageEncoder] | ImageEncoder,
        reader: Callable[[], AudioEncoder] | Callable[[], TextEncoder] | AudioEncoder | TextEncoder,
    ) -> None:
        super().__init__()
        eye, reader = (part if isinstance(part, Encoder) else part() for part in (eye, reader))  # type: ignore[assignment]
        if not isinstance(eye, ImageEncoder) or not isinstance(reader, AudioEncoder | TextEncoder):
            found = f"a {type(eye).__name__} and a {type(reader).__name__}"
            raise ValueError(f"a ranker is of an ImageEncoder and of an AudioEncoder or TextEncoder, not of {found}")
        if isinstance(reader, AudioEncoder):
            check_ear(reader)
        if eye.dim != reader.dim:
            raise ValueError(
                f"{type(reader).__name__} gives embeddings of {reader.dim} numbers, but {type(eye).__name__} of {eye.dim}: "
                "take two towers of one space"
            )
        seen, asked = spaces(eye), spaces(reader)
        if seen and asked and not seen & asked:
            raise ValueError(
                f"{type(reader).__name__} gives embeddings of {' and '.join(sorted(asked))}, but {type(eye).__name__} of "
                f"{' and '.join(sorted(seen))}: take two towers of one space"
            )
        self.eye, self.reader = eye, reader

    @property
    def hears(self) -> bool:
        """Whether it is asked with sounds, not with prompts."""
        return isinstance(self.reader, AudioEncoder)

    def heard(self, waveforms: Tensor, sampling_rate: int) -> Tensor:
        """Sounds (B, T) at ``sampling_rate`` (Hz) -> what pictures are compared with, (B, d) of length 1."""
        return F.normalize(self.reader.embed(resample(waveforms, sampling_rate, self.reader.sample_rate)), dim=-1)

    def read(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> what pictures are compared with, (B, d) of length 1."""
        return F.normalize(self.reader.embed(list(prompts)), dim=-1)

    def best(self, pixels: Tensor, wanted: Tensor, batch_size: int | None = None) -> Tensor:
        """Of pictures (B * k, 3, H, W) in [0, 1], k in a row for each of ``wanted`` (B, d), the nearest: (B, 3, H, W).

        ``batch_size`` pictures are looked at at once; default all. Raises ValueError for embeddings that are not finite.
        """
        seen = torch.cat([F.normalize(self.eye.embed(part), dim=-1) for part in pixels.split(batch_size or len(pixels))])
        near = torch.einsum("bkd,bd->bk", seen.unflatten(0, (len(wanted), -1)), wanted)
        if not near.isfinite().all():
            raise ValueError("the ranker's embeddings hold NaN or infinity: use a precision that its towers bear, or 1 candidate")
        places = near.argmax(1)
        rows = torch.arange(len(wanted), device=places.device)
        return pixels.unflatten(0, (len(wanted), -1))[rows, places]


def check_ear(encoder: AudioEncoder, mend: str = "") -> None:
    """Raise ValueError for an ear whose embeddings do not lie with pictures; ``mend`` is what else would help."""
    if encoder.picture_space is None:
        ears = "Wav2CLIP, ImageBind's AudioTower or another that was trained to pictures"
        raise ValueError(f"the embedding of {type(encoder).__name__} does not lie with pictures: take {ears}{mend}")


def own_generators(generator: Generators, results: int, candidates: int) -> Generators:
    """A generator for each candidate of each result, which the result's own seeds; a single one for all stays as it is.

    So a candidate depends on nothing else that is made with it. Raises ValueError for another number than ``results``.
    """
    if candidates == 1 or not isinstance(generator, (list, tuple)):
        return generator
    if len(generator) != results:
        raise ValueError(f"{len(generator)} generators for {results} results: give one for each, or a single one")
    return [child for each in generator for child in children(each, candidates)]


def spaces(tower: Encoder) -> set[str]:
    """Names of the spaces that a tower's embeddings are known to lie in; none where nothing is known."""
    found = {tower.picture_space} if isinstance(tower, AudioEncoder) and tower.picture_space else set()
    card = (tower.constructed_with or {}).get("card")
    package, _, model = type(tower).__module__.rpartition(".")
    known = package == "xmodal.foundation" and card in import_module(type(tower).__module__).CARDS  # no folder, no hub id
    return found | ({f"{model}:{card}"} if known else set())
