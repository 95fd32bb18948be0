"""The door for values from memory: waveforms, pixels and numbers are what they seem to be, or refused in one sentence.

The same checks as for files: an array is no better than the file that it was read from.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.audio import LOUDEST, SHORTEST, SILENCE, mixed_down
from xmodal.data.image import as_pixels, is_pillow, over_paper, upright

MOST_CHANNELS = 8
FAR_MORE = 16  # a sound has at least so many times more samples than channels; otherwise its shape says nothing
INTEGERS = {torch.int8: 2.0**7, torch.int16: 2.0**15, torch.int32: 2.0**31, torch.uint8: 2.0**7}
OVERSHOOT = 1e-3  # what resizing leaves of values beyond 0 and 1


def waveform(value: Any, sampling_rate: Any) -> Tensor:
    """A sound from memory as mono float32 (T,), full scale 1; arguments and errors as in `channels`.

    Raises ValueError also for channels that cancel each other.
    """
    return mixed_down(channels(value, sampling_rate), "the waveform")


def channels(value: Any, sampling_rate: Any) -> Tensor:
    """A sound from memory as float32 (C, T), full scale 1.

    Args:
        value: array or tensor (T,), (C, T), or (T, C) as soundfile reads it, of at most 8 channels; floats, or integers of
            8, 16 or 32 bits, which are scaled.
        sampling_rate: Hz, a whole number.

    Raises ValueError for anything else: another shape, a shape that can be read both ways, other kinds of numbers, samples
    that are not finite or beyond full scale by far, silence, less than 0.2 s.
    """
    if sampling_rate is None:
        raise ValueError("a waveform needs its sampling_rate (Hz); only files know their own")
    rate = whole("sampling_rate", sampling_rate, 1)
    samples = _oriented(_tensor(value, "a waveform"))
    if samples.dtype in INTEGERS:
        scaled = (samples.double() - (128.0 if samples.dtype == torch.uint8 else 0.0)) / INTEGERS[samples.dtype]
    elif samples.is_floating_point():
        scaled = samples
    else:
        kinds = "floats with full scale 1, or integers of 8, 16 or 32 bits"
        raise ValueError(f"a waveform of {_kind(samples)} has no full scale: give {kinds}")
    check_waveform(scaled)
    seconds, peak = samples.shape[1] / rate, float(scaled.abs().max())
    if seconds < SHORTEST:
        raise ValueError(f"the waveform has only {seconds:.2f} s of sound at {rate} Hz; at least {SHORTEST} s are needed")
    if peak < SILENCE:
        raise ValueError(f"the waveform is silent (its loudest sample is {peak:.1e} of full scale)")
    return scaled.float().contiguous()


def pixels(value: Any) -> Tensor:
    """A picture from memory as float32 (3, H, W) in [0, 1], or frames as (N, 3, H, W).

    Args:
        value: a Pillow picture (turned upright, laid on white), or an array or tensor (H, W), (H, W, C) or (C, H, W) with 1, 3
            or 4 channels, the fourth alpha; with one more axis in front, frames. Floats lie in [0, 1], integers are of 8 or 16
            bits without sign.

    Raises ValueError for anything else: floats of 0 to 255, values that are not finite, a shape that can be read both ways.
    """
    if is_pillow(value):
        return as_pixels(upright(value))
    given = _tensor(value, "a picture")
    planes = _planes(given)
    if planes.dtype in (torch.uint8, torch.uint16):
        scaled = planes.float() / (255 if planes.dtype == torch.uint8 else 65535)
    elif planes.is_floating_point():
        scaled = planes.float()
        if not torch.isfinite(scaled).all():
            raise ValueError(f"the picture of shape {tuple(given.shape)} holds values that are not finite numbers")
        low, high = float(scaled.min()), float(scaled.max())
        if low < -OVERSHOOT or high > 1 + OVERSHOOT:
            mend = "divide by 255" if low >= 0 and high <= 255.5 else "bring them there"
            raise ValueError(f"a picture is (3, H, W) or (H, W, 3) in [0, 1]; this one has {low:.4g} to {high:.4g}: {mend}")
        scaled = scaled.clamp(0, 1)
    else:
        raise ValueError(f"a picture of {_kind(planes)} has no full scale: give uint8, uint16, or floats in [0, 1]")
    if scaled.shape[-3] == 4:
        rgba = (scaled * 255).round().byte().movedim(-3, -1).numpy()
        return torch.from_numpy(over_paper(rgba)).movedim(-1, -3).float() / 255
    return scaled.expand(*scaled.shape[:-3], 3, *scaled.shape[-2:]).contiguous()


def finite(name: str, value: Any) -> float:
    """The number as a float; ValueError, with its name, for what is no number, infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, (Real, np.number, Tensor)) or not math.isfinite(float(value)):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return float(value)


def whole(name: str, value: Any, least: int = 1) -> int:
    """The number as an int; ValueError, with its name, for what is no whole number of at least ``least``."""
    number = finite(name, value)
    if number != int(number) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(number)


def check_waveform(samples: Tensor) -> None:
    """Raise ValueError for a waveform (..., T) that no model should hear: no floats, empty, not finite, or not scaled."""
    if not samples.is_floating_point():
        raise ValueError(f"expected a waveform of floats with full scale 1, got {_kind(samples)}")
    if not samples.numel():
        raise ValueError(f"the waveform of shape {tuple(samples.shape)} holds no samples")
    peak = float(samples.detach().abs().max())  # NaN, and infinity, pass through the maximum
    if not math.isfinite(peak):
        raise ValueError(f"the waveform of shape {tuple(samples.shape)} must hold samples, all of them finite")
    if peak > LOUDEST:
        raise ValueError(f"the waveform has samples up to {peak:.4g} where full scale is 1: are they integers stored as floats?")


def check_pixels(values: Tensor) -> None:
    """Raise ValueError for pixels (..., 3, H, W) that no model should see: no floats, empty, not finite, far from [0, 1]."""
    if not values.is_floating_point():
        raise ValueError(f"expected pixels as floats in [0, 1], got {_kind(values)}")
    if not values.numel() or values.ndim < 3 or values.shape[-3] != 3:
        raise ValueError(f"expected pixels (B, 3, H, W), got shape {tuple(values.shape)}")
    low, high = (float(each) for each in torch.aminmax(values.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"the pixels of shape {tuple(values.shape)} must all be finite")
    if low < -0.5 or high > 1.5:  # interpolation overshoots a little; 255 and normalized values lie far beyond
        raise ValueError(f"expected pixels in [0, 1], got values between {low:.4g} and {high:.4g}")


def _tensor(value: Any, what: str) -> Tensor:
    try:
        made = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} is an array or a tensor of numbers, not {type(value).__name__} ({error})") from error
    if made.is_complex() or made.dtype == torch.bool:
        raise ValueError(f"{what} cannot be made of {_kind(made)} numbers")
    if not made.numel():
        raise ValueError(f"{what} of shape {tuple(made.shape)} holds nothing: it must hold samples")
    return made


def _oriented(samples: Tensor) -> Tensor:
    """Samples (T,), (C, T) or (T, C) as (C, T)."""
    if samples.ndim == 1:
        return samples[None]
    if samples.ndim != 2:
        raise ValueError(f"a waveform is (T,), (channels, T) or (T, channels), got {tuple(samples.shape)}")
    rows, columns = samples.shape
    if rows <= MOST_CHANNELS and columns >= FAR_MORE * rows:
        return samples
    if columns <= MOST_CHANNELS and rows >= FAR_MORE * columns:
        return samples.T
    readings = f"{rows} channels of {columns} samples or {columns} channels of {rows} samples"
    raise ValueError(
        f"a waveform of shape ({rows}, {columns}) may be {readings}: give (T,), or at most {MOST_CHANNELS} channels and far "
        "more samples than channels (a list holds several sounds)"
    )


def _planes(given: Tensor) -> Tensor:
    """Any layout of a picture, or of frames, as (..., C, H, W)."""
    if given.ndim == 2:
        return given[None]
    if given.ndim not in (3, 4):
        raise ValueError(f"a picture is (3, H, W) or (H, W, 3), or frames of these, got {tuple(given.shape)}")
    first, last = (given.shape[axis] in (1, 3, 4) for axis in (-3, -1))
    if first and last:
        readings = f"{given.shape[-3]} channels in front or {given.shape[-1]} at the end"
        raise ValueError(f"a picture of shape {tuple(given.shape)} may have {readings}: make one of them clear")
    if not (first or last):
        raise ValueError(f"a picture has 1, 3 or 4 channels, in front or at the end, got {tuple(given.shape)}")
    return given if first else given.movedim(-1, -3)


def _kind(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")
