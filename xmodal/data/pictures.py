"""Pictures in any of the forms that people hold them in: paths, videos, Pillow pictures, tensors, arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.image import load_image, resize
from xmodal.data.video import load_frames

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
VIDEOS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif"}


def is_picture(asked: Any) -> bool:
    """Whether a query is a picture or a video, and not a text: anything but a string, or a path that ends or exists like one."""
    if not isinstance(asked, str):
        return True
    return Path(asked).suffix.lower() in PICTURES | VIDEOS or (len(asked) < 256 and Path(asked).is_file())


def read_pictures(asked: Any, size: int, frames: int | Sequence[float] = 1) -> Tensor:
    """Read a picture, or frames of a video, as pixels (N, 3, size, size) in [0, 1], squeezed as `PairedMedia` does it.

    Args:
        asked: path of a picture or a video, a Pillow picture, pixels (3, H, W) in [0, 1] or array (H, W, 3), or several
            frames as one tensor (N, 3, H, W) or array (N, H, W, 3), which are all taken.
        frames: of a video: how many, evenly spaced, or at which seconds.

    Raises ValueError, or FileNotFoundError for a missing file.
    """
    if isinstance(asked, (str, Path)) and Path(asked).suffix.lower() in VIDEOS:
        if isinstance(frames, int) and frames < 1:
            raise ValueError(f"frames must be at least 1, not {frames}")
        asked = load_frames(asked, frames)
    several = isinstance(asked, (Tensor, np.ndarray)) and asked.ndim == 4 and len(asked)
    return torch.stack([_square(each, size) for each in (asked if several else [asked])])


def _square(asked: Any, size: int) -> Tensor:
    """Pixels (3, size, size) in [0, 1]."""
    if isinstance(asked, (str, Path)):
        return load_image(asked, size, size)
    if isinstance(asked, Tensor):
        pixels = asked.detach().float().cpu()
    else:
        array = np.asarray(asked.convert("RGB") if hasattr(asked, "convert") else asked)
        scale = 255 if array.dtype == np.uint8 else 1
        pixels = torch.from_numpy(array.astype(np.float32) / scale)
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
    if pixels.ndim != 3 or len(pixels) != 3 or not 0 <= pixels.min() <= pixels.max() <= 1:
        raise ValueError(f"a picture is (3, H, W) in [0, 1] as tensor or (H, W, 3) as array, got {tuple(pixels.shape)}")
    return pixels if pixels.shape[1:] == (size, size) else resize(pixels, size, size)
