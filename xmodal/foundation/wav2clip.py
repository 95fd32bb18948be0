"""Wav2CLIP: sounds in the space of CLIP ViT-B/32 (Wu et al., "Wav2CLIP", arXiv 2110.11499).

Waveform 16 kHz -> power spectrogram (512-point FFT, hop 353) -> logarithm, standardised -> ResNet-18 with one input
channel -> two-layer perceptron. Module names equal those of the published file, so its state dict loads as it is.

Letters: B batch, T samples, N windows, F frames, L positions in time, c channels of the last stage, d embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, find_card
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_pickle, unfilled, write_folder

SAMPLE_RATE = 16_000
FFT, HOP = 512, 353  # samples: 32 ms, 22 ms
MIN_SAMPLES = FFT // 2 + 1  # what mirroring half a window at each end takes
FLOOR = 1e-7  # added to the power before the logarithm
ORIGIN = "https://github.com/descriptinc/lyrebird-wav2clip/releases/download/v0.1.0-alpha/Wav2CLIP.pt"
Normalization = Literal["clip", "batch"]


@dataclass(frozen=True)
class Wav2CLIPConfig:
    """Channels of the ResNet's four stages, and hidden and output size of the perceptron."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden: int = 512
    dim: int = 512

    def __post_init__(self) -> None:
        if len(self.widths) != 4:
            raise ValueError(f"widths {self.widths} has {len(self.widths)} entries, but a ResNet-18 has four stages")

    @classmethod
    def of(cls, config: Mapping[str, Any], path: Path) -> Self:
        """Build from the content of a ``config.json``; raises ValueError if it is not of this model."""
        if set(config) != {"widths", "hidden", "dim"}:
            raise ValueError(
                f"{path} is not of Wav2CLIP: expected widths, hidden and dim, found {', '.join(config) or 'nothing'}"
            )
        return cls(tuple(config["widths"]), config["hidden"], config["dim"])

    @classmethod
    def of_weights(cls, state: Mapping[str, Tensor], path: Path) -> Self:
        """Read the sizes off a state dict; raises ValueError if the tensors that tell them are missing."""
        try:
            widths = tuple(len(state[f"audio_encoder.layer{stage}.0.conv1.weight"]) for stage in (1, 2, 3, 4))
            return cls(widths, *(len(state[f"audio_transform.sequential.{index}.weight"]) for index in (0, 3)))
        except KeyError as error:
            raise ValueError(f"{path} is not a Wav2CLIP file: it lacks {error}; give Wav2CLIP.pt from {ORIGIN}") from error


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.downsample = shortcut if stride > 1 or before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / stride, W / stride), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    """ResNet-18 without its classifier, on pictures of one channel."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        befores = (widths[0], *widths)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(Block(before, after, stride), Block(after, after, 1))
            for before, after, stride in zip(befores, widths, (1, 2, 2, 2), strict=False)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 257, F) -> (B, c, 9, L), L = F / 32 rounded up."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Perceptron(nn.Module):
    """Linear, ReLU, dropout, linear."""

    def __init__(self, before: int, hidden: int, after: int) -> None:
        super().__init__()
        self.sequential = nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, after))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before) -> (B, after)."""
        return self.sequential(x)


class Wav2CLIPModel(nn.Module):
    """The trainable architecture, of any width. State dict keys are the official ones."""

    def __init__(self, config: Wav2CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_encoder = ResNet(config.widths)
        self.audio_transform = Perceptron(config.widths[-1], config.hidden, config.dim)

    def maps(self, spectrogram: Tensor) -> Tensor:
        """Standardised spectrograms (B, 257, F) -> feature maps (B, c, 9, L)."""
        return self.audio_encoder(spectrogram[:, None].to(self.audio_encoder.conv1.weight.dtype))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Standardised spectrograms (B, 257, F) -> embeddings (B, d), not normalized."""
        return self.audio_transform(self.maps(spectrogram).mean((2, 3)))


def log_spectrogram(waveform: Tensor) -> Tensor:
    """Waveforms (B, T) -> logarithm of the power spectrogram (B, 257, F), F = T // 353 + 1; always float32.

    Periodic Hann window, frames centred, both ends mirrored.
    """
    kind = waveform.device.type
    with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
        window = torch.hann_window(FFT, device=waveform.device)
        spectrum = torch.stft(waveform.float(), FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
        return (torch.view_as_real(spectrum).square().sum(-1) + FLOOR).log()


def standardise(items: Tensor) -> Tensor:
    """Give each item of (B, ...) mean 0 and standard deviation 1."""
    flat = items.flatten(1)
    flat = flat - flat[:, :1]  # silence becomes exactly 0, not rounding noise divided by a deviation near 0
    return ((flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-9)).view_as(items)


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn the published ``Wav2CLIP.pt`` into a folder that ``card`` takes, at full precision; returns the folder.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    model = load(file)
    return write_folder(folder, asdict(model.config), model.state_dict(), dtype=None)


def save(model: Wav2CLIPModel, folder: Path) -> None:
    """Write a folder that ``card`` takes, as float16."""
    write_folder(folder, asdict(model.config), model.state_dict())


def load(path: Path) -> Wav2CLIPModel:
    """Read the published file, or a folder of `import_checkpoint`, into a float32 model in eval mode.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    if path.is_dir():
        content, state = read_folder(path, ORIGIN)
        config = Wav2CLIPConfig.of(content, path)
    else:
        state = _read_official(path)
        config = Wav2CLIPConfig.of_weights(state, path)
    with unfilled():
        model = Wav2CLIPModel(config)
    assign(model, state, path, "Wav2CLIP")
    return model.eval()


def _read_official(path: Path) -> dict[str, Tensor]:
    content = read_pickle(path, ORIGIN)
    nested = "state_dict" if isinstance(content, Mapping) and "state_dict" in content else None  # as its trainer wrote it
    state = {key.removeprefix("module."): value for key, value in only_tensors(content, path, nested).items()}
    # Not of this model's output: the picture's half of the training, a classifier that was never used, the window.
    unused = ("image_transform.", "audio_encoder.fc.", "audio_encoder.spectrogram.")
    return {key: value for key, value in state.items() if not key.startswith(unused)}


class Wav2CLIP(AudioEncoder):
    """Frozen Wav2CLIP: embeddings to compare with those of CLIP ViT-B/32 by their cosine.

    ``card`` is a name in `CARDS`, the published ``.pt`` file or a folder of `import_checkpoint`. ``seconds`` cuts each
    sound from its start, or pads it with silence, to that length; None hears all of it. ``normalization`` standardises
    the spectrogram of each clip by itself; "batch" does it over the whole batch as the original does, so that an
    embedding depends on its neighbours: for comparison only. ``window`` (seconds) makes `tokens` the embeddings of
    windows, ``hop`` (seconds, default ``window``) apart; None makes them the ResNet's features. Raises ValueError for
    impossible options, and as `load` does.
    """

    sample_rate = SAMPLE_RATE
    picture_space = ""

    def __init__(
        self,
        card: str = "wav2clip",
        seconds: float | None = None,
        normalization: Normalization = "clip",
        window: float | None = None,
        hop: float | None = None,
    ) -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "Wav2CLIP")
        chosen.verify()
        self._assemble(load(chosen.folder()), seconds, normalization, window, hop)
        self.picture_space = SPACES.get(card, "")

    @classmethod
    def from_model(
        cls,
        model: Wav2CLIPModel,
        seconds: float | None = None,
        normalization: Normalization = "clip",
        window: float | None = None,
        hop: float | None = None,
    ) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model, seconds, normalization, window, hop)

    def _assemble(
        self, model: Wav2CLIPModel, seconds: float | None, normalization: Normalization, window: float | None, hop: float | None
    ) -> None:
        if normalization not in get_args(Normalization):
            raise ValueError(f"normalization {normalization!r} is not one of {', '.join(get_args(Normalization))}")
        if hop is not None and window is None:
            raise ValueError(f"hop {hop} is the distance of windows, but window is None: give its length in seconds too")
        for name, value, least in (("seconds", seconds, MIN_SAMPLES), ("window", window, MIN_SAMPLES), ("hop", hop, 1)):
            if value is not None and round(value * SAMPLE_RATE) < least:
                raise ValueError(f"{name} {value} is too short: Wav2CLIP needs at least {least / SAMPLE_RATE:g} s")
        self.model, self.normalization = model, normalization
        self.seconds, self.window, self.hop = seconds, window, hop if hop is not None else window
        self.dim = model.config.dim
        self.width = model.config.widths[-1] if window is None else self.dim

    def _hear(self, waveform: Tensor, least: int = MIN_SAMPLES) -> Tensor:
        if waveform.ndim != 2:
            raise ValueError(f"Wav2CLIP takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
        if self.seconds is not None:
            length = round(self.seconds * SAMPLE_RATE)
            waveform = F.pad(waveform[:, :length], (0, max(length - waveform.shape[1], 0)))
        if waveform.shape[1] < least:
            raise ValueError(
                f"Wav2CLIP needs at least {least} samples at {SAMPLE_RATE} Hz, got {waveform.shape[1]}: "
                "give a longer sound, or seconds to pad with silence"
            )
        return waveform

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) or windows (B, N, T) -> standardised log spectrograms (B, 257, F) or (B, N, 257, F)."""
        logarithm = log_spectrogram(waveform.flatten(0, -2)).unflatten(0, waveform.shape[:-1])
        return standardise(logarithm) if self.normalization == "clip" else standardise(logarithm[None])[0]

    def embed(self, inputs: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> embeddings (B, d), not L2-normalized; ValueError for another shape or under 257 samples."""
        return self.model(self.spectrogram(self._hear(inputs))).float()

    def tokens(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> features in time order (B, L, width).

        Without ``window`` the ResNet's last features, averaged over frequency, every 0.7 s (32 hops), width c. With
        ``window`` the embeddings of the windows that fit, width d; a clip's windows are standardised together.
        """
        if self.window is None or self.hop is None:
            return self.model.maps(self.spectrogram(self._hear(waveform))).mean(2).transpose(1, 2).float()
        length, hop = round(self.window * SAMPLE_RATE), round(self.hop * SAMPLE_RATE)
        windows = self._hear(waveform, length).unfold(-1, length, hop)
        return self.model(self.spectrogram(windows).flatten(0, 1)).unflatten(0, windows.shape[:2]).float()


def build(card: str) -> Wav2CLIPModel:
    """Return the architecture of a card with random weights."""
    find_card(CARDS, card, "Wav2CLIP")
    return Wav2CLIPModel(MINI if card == "mini" else Wav2CLIPConfig())


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""
    return {"Wav2CLIP": lambda: Wav2CLIP.from_model(Wav2CLIPModel(Wav2CLIPConfig((4, 4, 8, 8), 8, 6)))}


MINI = Wav2CLIPConfig((12, 24, 48, 96), 128, 128)
SPACES = {"mini": "clip:mini", "wav2clip": "clip:vit-b-32"}  # the CLIP that each card was trained to

CARDS: dict[str, Card] = {
    "mini": Card(
        source="package:wav2clip",
        files=dict.fromkeys(("config.json", "model.safetensors")),
        licence="Apache-2.0",
        commercial=True,
        origin="recipes/miniature/wav2clip.yaml",
        parameters=423_572,
        dim=128,
        sample_rate=SAMPLE_RATE,
        normalized=False,
    ),
    "wav2clip": Card(
        source="Wav2CLIP.pt",
        files={"Wav2CLIP.pt": None},
        licence="MIT",
        commercial=True,
        origin=ORIGIN,
        parameters=11_695_552,
        dim=512,
        sample_rate=SAMPLE_RATE,
        normalized=False,
    ),
}
