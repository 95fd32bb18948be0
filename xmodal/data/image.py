"""Pictures from files and from Pillow: upright, over white, with their full range, in eight bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.opening import handed, located

if TYPE_CHECKING:
    from PIL import Image

# The only formats that Pillow may try: others start programs (EPS starts Ghostscript) or are no pictures that people have.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
PAPER = (255, 255, 255)  # what is seen through transparent parts


def load_image(path: str | Path, width: int | None = None, height: int | None = None) -> Tensor:
    """Read a picture as float32 (3, height, width) in [0, 1], resized bicubically without keeping its aspect ratio.

    It is turned as its metadata say, laid on white where it is transparent, and the first of an animation. Without
    ``width`` and ``height`` it keeps its size.

    Raises FileNotFoundError for a missing file and ValueError for one that is not a readable picture.
    """
    path = located(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no picture {path}")
    return as_pixels(read_picture(path), width, height)


def read_picture(path: Path) -> Image.Image:
    """The file's picture as `upright` gives it; ValueError for one that is not a readable picture."""
    from PIL import Image

    with handed(path) as file:
        try:
            with Image.open(file, formats=FORMATS) as picture:
                return upright(picture)
        except Exception as error:  # Pillow's readers raise a dozen kinds for damage, of which SyntaxError is one
            reason = " ".join(str(error).split()) or type(error).__name__
            expected = ", ".join(each.lower() for each in FORMATS)
            raise ValueError(f"{path} is not a readable picture: expected {expected} ({reason[:300]})") from error


def upright(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as people see it: RGB of eight bits, turned by its orientation, over white where it is transparent.

    Raises ValueError for values that are not finite or below 0.
    """
    from PIL import Image, ImageOps

    picture.load()
    source = picture.format or ""
    transparent = picture.info.get("transparency")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture).astype(np.float64)
        grey = (values / _full_scale(values, picture.mode, source) * 255).round().astype(np.uint8)
        if isinstance(transparent, int):  # one grey level stands for nothing
            grey[values == transparent] = PAPER[0]
        return Image.fromarray(grey).convert("RGB")
    if transparent is not None or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        colour = picture.convert("LA") if picture.mode == "La" else picture
        over = colour if colour.mode == "RGBA" else colour.convert("RGBA")
        paper = Image.new("RGBA", over.size, (*PAPER, 255))
        return Image.alpha_composite(paper, over).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def as_pixels(picture: Image.Image, width: int | None = None, height: int | None = None) -> Tensor:
    """An RGB picture as float32 (3, height, width) in [0, 1], resized bicubically; its own size by default."""
    from PIL import Image

    size = (width or picture.width, height or picture.height)
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized, np.float32).transpose(2, 0, 1) / 255)


def resize(pixels: Tensor, width: int, height: int) -> Tensor:
    """Resize a frame (3, H, W) in [0, 1] as `load_image` resizes a file: bicubic, eight bits, aspect ratio not kept."""
    from PIL import Image

    return as_pixels(Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()), width, height)


def over_paper(rgba: np.ndarray) -> np.ndarray:
    """uint8 (..., H, W, 4) laid on white: uint8 (..., H, W, 3)."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * alpha + np.float32(PAPER[0]) * (1 - alpha)).round().astype(np.uint8)


def _full_scale(values: np.ndarray, mode: str, source: str) -> float:
    """The value that is white, of a mode with more than eight bits.

    Sixteen bits say it themselves. Of the modes I and F only the picture's own values tell: Pillow puts eight bits into
    both as they are, tiff has sixteen bits and more, and fractions end at 1.
    """
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("it has values that are negative or not finite numbers, so nothing says what is black and white")
    most = float(values.max())
    if mode.startswith("I;16") or source == "PNG":
        return 65535.0
    steps = (1.0, 255.0, 65535.0, float(2**31 - 1)) if mode == "F" else (255.0, 65535.0, float(2**31 - 1))
    return next((step for step in steps if most <= step), most)


def is_pillow(value: Any) -> bool:
    """Whether a value is a Pillow picture, asked without importing Pillow."""
    return hasattr(value, "convert") and hasattr(value, "getexif")
