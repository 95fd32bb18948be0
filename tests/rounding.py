"""How far two right results may lie apart: nothing here may rest on what a processor decides.

The last bits of a sum depend on the instructions that the processor has, on the number of threads and even on where the
operands lie in memory (weights mapped from a file, or allocated). So tests compare weights and copies bit for bit with
``torch.equal``, and everything that was summed with what stands here.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def agree(one: Tensor, other: Tensor) -> bool:
    """Tell whether two results are equal but for the rounding of float32: 256 eps (3e-5) of the largest value.

    One sum of n terms is off by about sqrt(n) eps; tens of layers of a few hundred terms add up to less than 256 eps,
    while another weight, seed or input moves some value by 1e-3 of the largest and more.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool((one - other).abs().max() <= 256 * EPS * other.abs().max())  # what is not finite agrees with nothing


def agree_log_mel(one: Tensor, other: Tensor, atol: float, dim: int, power: float = 1.0, unit: float = 1.0) -> bool:
    """Tell whether two log-mels are equal to ``atol``, but for bands that are next to silent in their frame.

    Another Fourier transform, or a window another by its last bit, moves every amplitude of a frame by about an eps of the
    largest, up to 0.8 of it with four transforms tried; the logarithm magnifies that by as much as a band is weaker than the
    largest. Two eps are allowed, which in a band as strong as the largest is nothing.

    Args:
        one, other: natural logarithms of band amplitudes to the ``power``, divided by ``unit``, plus anything.
        atol: what strong bands may differ by.
        dim: of the bands.
    """
    weakness = (other.amax(dim, keepdim=True) - other).double().mul(unit / power).exp()
    return bool(((one - other).abs() <= atol + 2 * EPS * weakness * power / unit).all())


def alike(one: Any, other: Any, rel: float = 1e-5) -> bool:
    """Tell whether two reports are the same (lists, dicts and records of anything), their floats up to rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=rel, abs=rel, nan_ok=True)
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return alike(vars(one), vars(other), rel)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[name], rel) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(alike(*pair, rel) for pair in zip(one, other))
    return bool(one == other)
