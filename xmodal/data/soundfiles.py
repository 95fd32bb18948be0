"""Sound files, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from xmodal.files import cannot_write, write_beside


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
