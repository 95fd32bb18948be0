"""Log-mel spectrograms: one description that front ends, generators and vocoders must share, and the transform itself.

Letters: B batch, T samples, L frames, M mel bands, F frequency bins (n_fft / 2 + 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Scale = Literal["slaney", "htk"]
Log = Literal["ln", "log10"]
Padding = Literal["centre", "hop"]


@dataclass(frozen=True)
class MelSpec:
    """What a log-mel spectrogram is made of; two spectrograms mean the same only if all of this agrees.

    Args:
        sample_rate: Hz.
        n_fft, win_length, hop_length: samples; the Hann window is shorter than the transform or as long.
        n_mels: bands, triangles between ``f_min`` and ``f_max`` (Hz).
        scale: where the bands lie: Slaney's (linear below 1 kHz) or HTK's.
        norm: "slaney" gives every triangle the same area, None the same height.
        power: of the magnitude that is summed: 1 or 2.
        offset: added to the squared magnitude first.
        log: base of the logarithm.
        floor: bands are raised to at least this before the logarithm.
        padding: "centre" mirrors n_fft / 2 samples at each end, so that frame i lies around sample i * hop_length and there
            are 1 + T // hop_length frames; "hop" mirrors (n_fft - hop_length) / 2, which makes T // hop_length frames.

    Raises ValueError for values that cannot work.
    """

    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min: float
    f_max: float
    scale: Scale = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    power: float = 1.0
    offset: float = 0.0
    log: Log = "ln"
    floor: float = 1e-5
    padding: Padding = "centre"

    def __post_init__(self) -> None:
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(f"hop_length, win_length and n_fft must rise from above 0, but this is {self}")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(f"f_min and f_max must rise within 0 and half the sample rate, but this is {self}")
        if self.floor <= 0 or self.offset < 0 or self.n_mels < 1 or self.power not in (1, 2):
            raise ValueError(f"floor must be above 0, offset at least 0, n_mels at least 1, power 1 or 2, but this is {self}")
        for name, choices in (("scale", Scale), ("log", Log), ("padding", Padding)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, but this is {self}")
        if self.norm not in ("slaney", None):
            raise ValueError(f"norm must be slaney or None, but this is {self}")
        if self.padding == "hop" and (self.n_fft - self.hop_length) % 2:
            raise ValueError(f"padding by hop needs n_fft and hop_length both even or both odd, but this is {self}")

    @classmethod
    def of(cls, config: Mapping[str, Any], origin: Any) -> Self:
        """Build from the content of a config file; raises ValueError, naming ``origin``, if it is no such description."""
        known = {field.name for field in fields(cls)}
        if not isinstance(config, Mapping) or not set(config) <= known:
            raise ValueError(f"{origin} describes no mel spectrogram: expected {', '.join(sorted(known))}, found {config}")
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(f"{origin} does not describe the mel spectrogram in full: {error}") from error

    @property
    def pad(self) -> int:
        """Samples mirrored at each end."""
        return self.n_fft // 2 if self.padding == "centre" else (self.n_fft - self.hop_length) // 2

    @property
    def silence(self) -> float:
        """The value of a band in which there is nothing."""
        return math.log(self.floor) if self.log == "ln" else math.log10(self.floor)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest waveform that can be mirrored and fills a frame."""
        return max(self.pad + 1, self.n_fft - 2 * self.pad)

    def frames(self, samples: int) -> int:
        """Return the number of frames of that many samples."""
        return 1 + (samples + 2 * self.pad - self.n_fft) // self.hop_length

    def require(self, other: MelSpec, own: str = "this one", others: str = "the other") -> None:
        """Raise ValueError that names the fields in which two descriptions differ, and prints both."""
        if self != other:
            wrong = ", ".join(name for name, value in asdict(self).items() if value != getattr(other, name))
            both = f"{own} is {self}, {others} is {other}"
            raise ValueError(f"{own} and {others} disagree on {wrong}: {both}; take two that were made for each other")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a config file."""
        return asdict(self)


def log_mel(waveform: Tensor, spec: MelSpec) -> Tensor:
    """Waveforms (B, T) at ``spec.sample_rate`` -> log-mel spectrograms (B, M, L), float32; differentiable.

    Computed in float32 whatever autocast says. Raises ValueError for another shape or fewer than ``spec.min_samples``.
    """
    if waveform.ndim != 2:
        raise ValueError(f"log_mel takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
    if waveform.shape[1] < spec.min_samples:
        raise ValueError(f"log_mel needs at least {spec.min_samples} samples, got {waveform.shape[1]}, for {spec}")
    with torch.autocast(waveform.device.type, enabled=False):
        padded = F.pad(waveform.float(), (spec.pad, spec.pad), mode="reflect")
        magnitude = stft(padded, spec).abs()
        if spec.offset or spec.power == 2:
            magnitude = magnitude.square() + spec.offset
            magnitude = magnitude if spec.power == 2 else magnitude.sqrt()
        bands = mel_filters(spec).to(magnitude.device) @ magnitude
        bands = bands.clamp(min=spec.floor)
        return bands.log() if spec.log == "ln" else bands.log10()


def from_log_mel(log_mel: Tensor, spec: MelSpec) -> Tensor:
    """Undo bands and logarithm: (B, M, L) -> the least-squares magnitudes, not negative, (B, F, L) float32."""
    with torch.autocast(log_mel.device.type, enabled=False):
        values = log_mel.float()
        bands = values.exp() if spec.log == "ln" else 10**values
        found = (inverse_filters(spec).to(bands.device) @ bands).clamp(min=0)
        return found if spec.power == 1 else found.sqrt()


def stft(padded: Tensor, spec: MelSpec) -> Tensor:
    """Padded waveforms (B, T + 2 pad) -> complex spectra (B, F, L)."""
    return torch.fft.rfft(padded.unfold(-1, spec.n_fft, spec.hop_length) * window(spec).to(padded.device)).transpose(1, 2)


def window(spec: MelSpec) -> Tensor:
    """Return the periodic Hann window in the middle of ``n_fft`` samples, float32."""
    missing = spec.n_fft - spec.win_length
    return F.pad(torch.hann_window(spec.win_length), (missing // 2, missing - missing // 2))


def triangles(edges: np.ndarray, bins: np.ndarray, equal_area: bool = False) -> np.ndarray:
    """Filters (F, M) over ``bins`` (F,): number m rises from ``edges[m]`` to 1 at ``edges[m + 1]`` and falls to ``edges[m + 2]``.

    Edges (M + 2,) and bins are of one unit, hertz or mel, and of the precision of the result. With ``equal_area`` each is
    divided by its area (Slaney).
    """
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    made = np.clip(np.minimum(rising, falling), 0, None)
    return made * (2 / (edges[2:] - edges[:-2])) if equal_area else made


@lru_cache(maxsize=32)
def mel_filters(spec: MelSpec) -> Tensor:
    """Return the triangles (M, F), float32, equal to librosa's ``filters.mel`` (Slaney or HTK scale).

    Made in float64 outside inference mode, on the CPU: what is kept must serve training too.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        low, high = (_to_mel(frequency, spec.scale) for frequency in (spec.f_min, spec.f_max))
        corners = _to_hertz(torch.linspace(low, high, spec.n_mels + 2, dtype=torch.float64), spec.scale)
        bins = torch.linspace(0, spec.sample_rate / 2, spec.n_fft // 2 + 1, dtype=torch.float64)
        return torch.from_numpy(triangles(corners.numpy(), bins.numpy(), spec.norm == "slaney")).T.float().contiguous()


@lru_cache(maxsize=8)
def inverse_filters(spec: MelSpec) -> Tensor:
    """Return the pseudo-inverse (F, M) of the triangles, float32."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        return torch.linalg.pinv(mel_filters(spec).double()).float()


# Slaney's scale: 200/3 Hz a step up to 1 kHz, then 27 steps for a factor of 6.4.
_STEP, _BREAK, _GROWTH = 200 / 3, 1000.0, math.log(6.4) / 27


def _to_mel(hertz: float, scale: Scale) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + hertz / 700)
    return hertz / _STEP if hertz < _BREAK else _BREAK / _STEP + math.log(hertz / _BREAK) / _GROWTH


def _to_hertz(mel: Tensor, scale: Scale) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = mel - _BREAK / _STEP
    return torch.where(above < 0, mel * _STEP, _BREAK * (above * _GROWTH).exp())


def _bigvgan(sample_rate: int, n_fft: int, hop_length: int, n_mels: int, f_max: float | None = None) -> MelSpec:
    return MelSpec(sample_rate, n_fft, n_fft, hop_length, n_mels, 0.0, f_max or sample_rate / 2, offset=1e-9, padding="hop")


AUDIOLDM = MelSpec(16_000, 1024, 1024, 160, 64, 0.0, 8_000.0)
MINIATURE = MelSpec(16_000, 1024, 1024, 256, 64, 0.0, 8_000.0, padding="hop")  # 160 frames for 2.56 s

PRESETS: dict[str, MelSpec] = {
    "audioldm": AUDIOLDM,
    "bigvgan-22k-80": _bigvgan(22_050, 1024, 256, 80),
    "bigvgan-22k-80-fmax8k": _bigvgan(22_050, 1024, 256, 80, 8_000.0),
    "bigvgan-24k-100": _bigvgan(24_000, 1024, 256, 100),
    "bigvgan-44k-128": _bigvgan(44_100, 2048, 512, 128),
    "bigvgan-44k-128-256x": _bigvgan(44_100, 1024, 256, 128),
    "vocos-24k-100": MelSpec(24_000, 1024, 1024, 256, 100, 0.0, 12_000.0, scale="htk", norm=None, floor=1e-7),
    "miniature": MINIATURE,
}


def preset(name: str) -> MelSpec:
    """Return the description of that name; raises ValueError that lists the known ones."""
    if name not in PRESETS:
        raise ValueError(f"there is no mel spectrogram {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name]
