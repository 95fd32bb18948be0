"""One sound file per clip, written whole or not at all, so that a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from xmodal.files import cannot_write, write_beside

Make = Callable[[list[int], list[torch.Generator]], tuple[Any, int]]
"""``(numbers of the clips to make, a generator for each) -> (sounds (N, T) or (N, T, C), their rate in Hz)``."""


def write_sound(path: Path, sound: Any, sample_rate: int) -> Path:
    """Write a wav: array or tensor (T,), or (T, C), float32 in [-1, 1]. It appears under ``path`` when it is complete.

    Raises ValueError for samples that are not finite: a file would hold full scale in their place.
    """
    import soundfile

    array = sound.detach().float().cpu().numpy() if isinstance(sound, Tensor) else np.asarray(sound)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"{path} is not written: the sound of shape {array.shape} holds no samples, or some that are not finite")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return write_beside(path, lambda partial: soundfile.write(partial, array, sample_rate, format="WAV"))
    except soundfile.LibsndfileError as error:  # it says "System error." of a full disk
        raise cannot_write(path, OSError(error.error_string)) from error


def write_missing(folder: Path, names: Sequence[str], make: Make) -> list[Path]:
    """Make and write ``NAME.wav`` of those clips that have none yet; returns the paths of all.

    A clip's generator is seeded by its name alone: a run that was stopped and resumed gives the same sounds.
    """
    targets = [folder / f"{name}.wav" for name in names]
    missing = [index for index, path in enumerate(targets) if not path.exists()]
    if missing:
        noise = [torch.Generator().manual_seed(crc32(names[index].encode())) for index in missing]
        sounds, sample_rate = make(missing, noise)
        for index, sound in zip(missing, sounds, strict=True):
            write_sound(targets[index], sound, sample_rate)
    return targets
