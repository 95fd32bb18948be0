"""Loudness in octave bands: an encoder without weights, to show what a model's file holds.

Letters: B batch, T samples, L frames, d bands.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xmodal.foundation.base import AudioEncoder, Card, find_card
from xmodal.frozen import Frozen

FRAME = 1024  # samples


class Ear(AudioEncoder):
    """Log power of each octave band in frames of 1024 samples; `embed` is their mean over time.

    ``card`` is a name in `CARDS`: how many bands there are. Raises ValueError for another name.
    """

    def __init__(self, card: str = "octaves") -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "acme-ear")
        self.sample_rate = chosen.sample_rate or 16_000
        self.dim = self.width = chosen.options["bands"]
        bins = torch.arange(FRAME // 2 + 1)
        octave = (bins.clamp(min=1).log2().floor().long()).clamp(max=self.dim - 1)
        self.register_buffer("bands", torch.nn.functional.one_hot(octave, self.dim).float())

    def tokens(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> (B, L, d); ValueError for another shape or less than one frame."""
        if waveform.ndim != 2 or waveform.shape[1] < FRAME:
            raise ValueError(f"Ear takes waveforms (batch, samples) of at least {FRAME} samples, got {tuple(waveform.shape)}")
        power = torch.view_as_real(torch.fft.rfft(waveform.float().unfold(-1, FRAME, FRAME // 2))).square().sum(-1)
        return (power.to(self.bands.dtype) @ self.bands + 1e-6).log()

    def embed(self, inputs: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> (B, d), not normalized."""
        return self.tokens(inputs).mean(1)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Instances for tests."""
    return {"Ear": Ear}


# Read by `xmodal models` without importing this file, so made of literals alone. The weights of a card lie on the hub
# (source "owner/name"), behind an address, or in a path; here there are none.
CARDS = {
    "octaves": Card(
        source="package:", files={}, licence="Apache-2.0", commercial=True, origin="computed, no weights", parameters=0,
        dim=10, sample_rate=16_000, normalized=False, options={"bands": 10},
    ),
}  # fmt: skip
