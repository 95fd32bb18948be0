"""torchcodec as another decoder behind `load_audio` and `load_frames`: pip install "xmodal[codec]", and FFmpeg's libraries.

It may choose other frames and other samples at the edges than the default decoders, so its name belongs to the key of
cached features. Back-ends are ``default`` (libsndfile and PyAV) and ``torchcodec``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.opening import Source

BACKENDS = ("default", "torchcodec")


def check_backend(backend: str) -> None:
    """Raise ValueError for a back-end that does not exist."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")


def codec_name() -> str:
    """Name and version of torchcodec and of the FFmpeg it has found; ImportError where it cannot work."""
    module = _import()
    return f"torchcodec {module.__version__} with FFmpeg {getattr(module, 'ffmpeg_major_version', '')}".strip()


def open_sound(path: Path) -> Any:
    """Decoder of a file's sound.

    Raises ValueError for a file that torchcodec cannot read, and ImportError without torchcodec.
    """
    decoders = _import().decoders
    try:
        return decoders.AudioDecoder(path.open("rb") if isinstance(path, Source) else str(path))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable sound file ({_line(error)})") from error


def read_samples(decoder: Any, path: Path, start: float, stop: float | None) -> tuple[np.ndarray, int, float]:
    """Samples (T, C) float32 between two times of the file's own stamps, their rate, and when the first of them is heard.

    Nothing (0, C) where the sound has not begun yet. Errors as in `open_sound`.
    """
    begin = max(start, float(decoder.metadata.begin_stream_seconds_from_header or 0.0))
    rate = int(decoder.metadata.sample_rate)
    if stop is not None and begin >= stop:
        return np.zeros((0, int(decoder.metadata.num_channels or 1)), np.float32), rate, stop
    try:
        samples = decoder.get_samples_played_in_range(begin, stop)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is damaged: its sound cannot be decoded ({_line(error)})") from error
    return samples.data.T.contiguous().numpy(), samples.sample_rate, max(begin, float(samples.pts_seconds))


def read_frames(path: Path, times: Sequence[float], origin: float, begin: float) -> Tensor:
    """Frames shown at ``times`` (s of a clock that begins at ``origin`` of the file's stamps), uint8 (N, 3, H, W).

    Before ``begin`` of that clock it is the first picture. Errors as in `open_sound`.
    """
    decoders = _import().decoders
    try:
        decoder = decoders.VideoDecoder(path.open("rb") if isinstance(path, Source) else str(path))
        first = float(decoder.metadata.begin_stream_seconds or 0.0)
        # The last picture is shown until the end, where rounding may put a time just behind it.
        latest = float(decoder.metadata.end_stream_seconds) - 1e-4
        frames = decoder.get_frames_played_at([min(max(origin + max(time, begin), first), latest) for time in times]).data
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a readable video, or damaged ({_line(error)})") from error
    return frames if isinstance(frames, Tensor) else torch.as_tensor(frames)


def _import() -> ModuleType:
    try:
        import torchcodec
        import torchcodec.decoders  # noqa: F401
    except ImportError as error:
        raise ImportError('the back-end torchcodec is not installed: pip install "xmodal[codec]", or use default') from error
    except (RuntimeError, OSError) as error:
        raise ImportError(
            f"torchcodec finds no FFmpeg libraries ({_line(error)}): install FFmpeg, or use the back-end default"
        ) from error
    if getattr(torchcodec, "ffmpeg_major_version", "old") is None:  # recent versions look for them when they are first used
        raise ImportError("torchcodec finds no FFmpeg libraries: install FFmpeg, or use the back-end default")
    return torchcodec


def _line(error: Exception) -> str:
    """The first line of an error that may hold a page."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
