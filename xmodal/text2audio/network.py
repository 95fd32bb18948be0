"""What CLIPSonic trains, as its task and its pipeline know it. Letters: B batch, M mel bands, L frames, d embedding width."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmodal.foundation.base import Adapter, MelAutoencoder, Vocoder
from xmodal.foundation.mel import MelSpec
from xmodal.pipelines import join

# The loudest tones and square waves at full scale reach +2.4 at 22 and 24 kHz and +3.3 at 44.1 kHz, in natural logarithms.
LOUDEST = {"below 44.1 kHz": 2.5, "from 44.1 kHz": 3.3}


class MelNetwork(Adapter):
    """What CLIPSonic trains: a denoiser of mel spectrograms, or of their latents, that remembers of which kind they are.

    Networks see spectrograms whose values from ``low`` to ``high`` are spread over [-1, 1]; latents as they are. Kind, range
    and autoencoder are stored with the weights; weights of another kind are refused.

    Args:
        in_dim: d, of the condition.
        n_mels: M; of latents the numbers of a latent frame, channels times bands.
    """

    def __init__(self, in_dim: int, n_mels: int) -> None:
        super().__init__()
        self.in_dim, self.n_mels = in_dim, n_mels
        self.mel: MelSpec | None = None
        self.low, self.high = -1.0, 1.0
        self.latents = ""

    @abstractmethod
    def prepare(self, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """Conditions (B, d) of any length -> what `forward` takes; "no condition" in rows where ``keep`` (B,) is false."""

    @abstractmethod
    def forward(self, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Answer noisy spectrograms (B, M, L) at times (B,) or () under what `prepare` made, in the same shape."""

    def bind(self, mel: MelSpec, low: float, high: float, latents: str = "", channels: int = 1) -> None:
        """Say of which kind the spectrograms are, and which values become -1 and 1; raises ValueError if they cannot be.

        ``latents`` is the fingerprint of the autoencoder whose latents of such spectrograms are made ("" is none), and
        ``channels`` how many those have.
        """
        if not latents and mel.n_mels != self.n_mels:
            raise ValueError(f"the network was built for {self.n_mels} mel bands, but the vocoder takes {mel}")
        if not low < high:
            raise ValueError(f"the range of mel values must rise, but it is from {low} to {high}")
        self.mel, self.low, self.high, self.latents = mel, float(low), float(high), latents

    def normalize(self, log_mel: Tensor) -> Tensor:
        """Log-mels (B, M, L) -> about [-1, 1], float32."""
        return 2 * (log_mel.float() - self.low) / (self.high - self.low) - 1

    def denormalize(self, normalized: Tensor) -> Tensor:
        """The way back; nothing below the floor of the logarithm comes out."""
        return ((normalized.float() + 1) / 2 * (self.high - self.low) + self.low).clamp(min=self.low)

    def get_extra_state(self) -> Tensor:
        """Kind and range as JSON in bytes, which safetensors can hold and no cast can round."""
        kind = {"mel": None if self.mel is None else self.mel.to_dict(), "low": self.low, "high": self.high}
        text = json.dumps({**kind, "latents": self.latents} if self.latents else kind)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Raise ValueError, with both printed, where the stored weights are for other spectrograms than this network."""
        stored = json.loads(bytes(state.tolist()).decode())
        mel = None if stored["mel"] is None else MelSpec.of(stored["mel"], "the stored network")
        if mel is None or self.mel is None:
            self.mel = self.mel or mel
            self.low, self.high, self.latents = stored["low"], stored["high"], stored.get("latents", "")
            return
        mel.require(self.mel, "the mel of the stored generator", "the mel of the vocoder")
        if stored.get("latents", "") != self.latents:
            makes = f"makes {_made(stored.get('latents', ''))}, this one {_made(self.latents)}"
            raise ValueError(f"the stored generator {makes}: set autoencoder as it was trained")
        if (stored["low"], stored["high"]) != (self.low, self.high):
            own = f"from {self.low} to {self.high}"
            raise ValueError(
                f"the stored generator spreads mel values from {stored['low']} to {stored['high']}, this one {own}: "
                f"set mel_low and mel_high as it was trained"
            )


def _made(latents: str) -> str:
    return f"latents of the autoencoder {latents[:12]}" if latents else "spectrograms"


def build_network(
    factory: Callable[[int, int], MelNetwork],
    dim: int,
    vocoder: Vocoder,
    autoencoder: MelAutoencoder | None = None,
    mel_low: float | None = None,
    mel_high: float | None = None,
) -> MelNetwork:
    """Build the network for conditions of width ``dim`` and bind it to the kind of mel and of latents that it makes.

    ``mel_low`` and ``mel_high`` become -1 and 1; default silence and the loudest that occurs. Raises ValueError where the parts
    do not fit.
    """
    size, latents, channels = vocoder.mel.n_mels, "", 1
    if autoencoder is not None:
        autoencoder.mel.require(vocoder.mel, "the mel of the autoencoder", "the mel of the vocoder")
        size, latents, channels = autoencoder.size, autoencoder.fingerprint(), autoencoder.latent_channels
    network: MelNetwork = join(factory, dim, size)
    low, high = _range(vocoder.mel)
    network.bind(vocoder.mel, low if mel_low is None else mel_low, high if mel_high is None else mel_high, latents, channels)
    return network


def _range(mel: MelSpec) -> tuple[float, float]:
    """Silence and the loudest that occurs."""
    high = LOUDEST["from 44.1 kHz" if mel.sample_rate >= 44_100 else "below 44.1 kHz"]
    return mel.silence, high if mel.log == "ln" else high / 2.302585092994046
