"""Pictures in any of the forms that people hold them in: paths, videos, Pillow pictures, tensors, arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.data.image import load_image, resize
from xmodal.data.values import pixels
from xmodal.data.video import load_frames
from xmodal.files import IMAGE, KINDS, VIDEO, is_file, kind_of, suffix_of


def is_picture(asked: Any) -> bool:
    """Whether a query is a picture or a video, and not a text: anything but a string, or a path that ends or exists like one."""
    return not isinstance(asked, str) or suffix_of(asked) in IMAGE | VIDEO or is_file(asked)


def read_pictures(asked: Any, size: int, frames: int | Sequence[float] = 1) -> Tensor:
    """Read a picture, or frames of a video, as pixels (N, 3, size, size) in [0, 1], squeezed as `PairedMedia` does it.

    Args:
        asked: path of a picture or a video (the content decides which), or anything that `xmodal.data.values.pixels` takes:
            a Pillow picture, an array or a tensor, or several frames as one, which are all taken.
        frames: of a video: how many, evenly spaced, or at which seconds.

    Raises ValueError, or FileNotFoundError for a missing file.
    """
    if isinstance(frames, int) and frames < 1:
        raise ValueError(f"frames must be at least 1, not {frames}")
    if isinstance(asked, (str, Path)):
        if not moves(asked):
            return load_image(asked, size, size)[None]
        shown = load_frames(asked, frames)
    else:
        shown = pixels(asked)
    several = shown if shown.ndim == 4 else shown[None]
    return torch.stack([each if each.shape[1:] == (size, size) else resize(each, size, size) for each in several])


def moves(path: str | Path) -> bool:
    """Whether a file is a film, or an animation of several pictures; what is not there is judged by its name alone.

    Raises ValueError for a sound.
    """
    kind = kind_of(path) if is_file(path) else KINDS.get(suffix_of(path), "")
    if kind == "audio":
        raise ValueError(f"{path} is a sound: it has no pictures")
    return kind in ("video", "container") or (kind == "image" and suffix_of(path) == ".gif" and _animated(Path(path)))


def _animated(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path, formats=["GIF"]) as picture:
            return bool(getattr(picture, "is_animated", False))
    except (OSError, ValueError, SyntaxError):  # reading it as a picture says what is wrong
        return False
