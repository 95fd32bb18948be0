"""Pictures from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def load_image(path: str | Path, width: int | None = None, height: int | None = None) -> Tensor:
    """Read a picture as float32 (3, height, width) in [0, 1], resized bicubically without keeping its aspect ratio.

    Without ``width`` and ``height`` it keeps its size.

    Raises FileNotFoundError for a missing file and ValueError for one that is not a readable picture.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with Image.open(path) as picture:
            size = (width or picture.width, height or picture.height)
            resized = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable picture: expected jpg, png or webp ({error})") from error
    return torch.from_numpy(np.asarray(resized, np.float32).transpose(2, 0, 1) / 255)


def resize(pixels: Tensor, width: int, height: int) -> Tensor:
    """Resize a frame (3, H, W) in [0, 1] as `load_image` resizes a file: bicubic, eight bits, aspect ratio not kept."""
    from PIL import Image

    picture = Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
    resized = picture.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, np.float32).transpose(2, 0, 1) / 255)
