"""PANNs CNN14: tags of AudioSet and the embedding before them (Kong et al., "PANNs", arXiv 1912.10211).

Waveform 32 or 16 kHz -> power spectrogram (10 ms hop) -> 64 Slaney mel bands in decibel -> normalization per band ->
six blocks of two convolutions -> mean over frequency -> maximum plus mean over time -> linear layer (embedding) ->
classifier. Module names equal those of the published files; the spectrogram and mel matrices that these carry as
tensors are computed here, and compared with the file's when one is read.

Letters: B batch, T samples, F frames, L tokens, N classes, M mel bands, c channels of the last block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, Classifier, find_card
from xmodal.foundation.mel import triangles
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_pickle, unfilled, write_folder

FLOOR = 1e-10  # of the mel power, before the logarithm
BLOCKS = 6
SHRINK = 2 ** (BLOCKS - 1)  # frames per token: every block but the last halves time and frequency
ORIGIN = "https://zenodo.org/record/3987831"
STFT_KEY, MEL_KEY = "spectrogram_extractor.stft.conv_{}.weight", "logmel_extractor.melW"


@dataclass(frozen=True)
class Cnn14Config:
    """Front end (samples, Hz), channels of the six blocks, and number of classes."""

    sample_rate: int = 32_000
    window: int = 1024
    hop: int = 320
    low: int = 50
    high: int = 14_000
    mel_bins: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)
    classes: int = 527

    def __post_init__(self) -> None:
        if len(self.widths) != BLOCKS:
            raise ValueError(f"widths {self.widths} has {len(self.widths)} entries, but CNN14 has {BLOCKS} blocks")
        if self.mel_bins < SHRINK:
            raise ValueError(
                f"mel_bins {self.mel_bins} is too few: the blocks halve them {BLOCKS - 1} times, give at least {SHRINK}"
            )
        if not 0 <= self.low < self.high <= self.sample_rate // 2:
            raise ValueError(f"the mel bands from {self.low} to {self.high} Hz do not fit a sample rate of {self.sample_rate} Hz")

    @classmethod
    def of(cls, config: Mapping[str, Any], path: Path) -> Self:
        """Build from the ``config`` of a folder; raises ValueError if it is not of this model."""
        names = {field.name for field in fields(cls)}
        if set(config) != names:
            raise ValueError(f"{path} is not of CNN14: its config differs in {', '.join(sorted(names ^ set(config)))}")
        return cls(**{**config, "widths": tuple(config["widths"])})

    @property
    def min_samples(self) -> int:
        """Samples of the shortest sound that fills one token, 0.31 s."""
        return (SHRINK - 1) * self.hop


RATE_16K: dict[str, int] = {"sample_rate": 16_000, "window": 512, "hop": 160, "low": 50, "high": 8_000}
RATES: dict[int, dict[str, int]] = {1024: {}, 512: RATE_16K}  # front end by the window in a file


def _slaney(hertz: np.ndarray) -> np.ndarray:
    """Mel of Slaney's Auditory Toolbox: linear up to 1 kHz, then logarithmic."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.maximum(mel - 15, 0) * np.log(6.4) / 27))


@lru_cache(maxsize=4)
def _filters(config: Cnn14Config) -> tuple[np.ndarray, np.ndarray]:
    """Periodic Hann window and triangles (window // 2 + 1, M) of equal area; numpy, so no torch mode can taint them."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    low, high = _slaney(np.array([config.low, config.high], dtype=float))
    edges = _hertz(np.linspace(low, high, config.mel_bins + 2))
    bins = np.linspace(0, config.sample_rate / 2, config.window // 2 + 1)
    return window.astype(np.float32), triangles(edges, bins, equal_area=True).astype(np.float32)


def _fourier(config: Cnn14Config) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part of the windowed transform (window // 2 + 1, 1, window), as published files store it."""
    samples = np.arange(config.window)
    turn = np.exp(-2j * np.pi * (np.arange(config.window // 2 + 1)[:, None] * samples % config.window) / config.window)
    kernel = (turn * _filters(config)[0])[:, None]
    return kernel.real, kernel.imag


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each normalized and rectified, then a mean over ``pool`` x ``pool``."""

    def __init__(self, before: int, after: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H // pool, W // pool)."""
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.avg_pool2d(x, self.pool) if self.pool > 1 else x


class Cnn14Model(nn.Module):
    """The trainable architecture, of any width and rate. State dict keys are the official ones, without the front end's."""

    def __init__(self, config: Cnn14Config) -> None:
        super().__init__()
        self.config = config
        self.bn0 = nn.BatchNorm2d(config.mel_bins)
        one, two, three, four, five, six = config.widths
        self.conv_block1, self.conv_block2 = ConvBlock(1, one, 2), ConvBlock(one, two, 2)
        self.conv_block3, self.conv_block4 = ConvBlock(two, three, 2), ConvBlock(three, four, 2)
        self.conv_block5, self.conv_block6 = ConvBlock(four, five, 2), ConvBlock(five, six, 1)
        self.fc1, self.fc_audioset = nn.Linear(six, six), nn.Linear(six, config.classes)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Waveforms (B, T) -> mel power in decibel (B, F, M), F = T // hop + 1; float32 even under autocast.

        Periodic Hann window, frames centred, both ends mirrored. Raises ValueError for another shape, and for a sound
        too short to fill one token.
        """
        config = self.config
        if waveform.ndim != 2:
            raise ValueError(f"CNN14 takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
        if waveform.shape[1] < config.min_samples:
            raise ValueError(
                f"CNN14 needs at least {config.min_samples} samples at {config.sample_rate} Hz ({SHRINK} frames), "
                f"got {waveform.shape[1]}: give a longer sound, or seconds to pad with silence"
            )
        kind = waveform.device.type
        with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
            window, filters = (torch.from_numpy(array).to(waveform.device) for array in _filters(config))
            spectrum = torch.stft(
                waveform.float(), config.window, config.hop, window=window, pad_mode="reflect", return_complex=True
            )
            power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
            return 10 * (power @ filters).clamp(min=FLOOR).log10()

    def tokens(self, log_mel: Tensor) -> Tensor:
        """Decibels (B, F, M) -> the last block's features, averaged over frequency (B, F // 32, c)."""
        bands = log_mel.to(self.bn0.weight.dtype).transpose(1, 2)[..., None]
        x = self.bn0(bands).permute(0, 3, 2, 1)
        for block in (self.conv_block1, self.conv_block2, self.conv_block3, self.conv_block4, self.conv_block5, self.conv_block6):
            x = block(x)
        return x.mean(3).transpose(1, 2)

    def embedding(self, log_mel: Tensor) -> Tensor:
        """Decibels (B, F, M) -> (B, c), not negative."""
        tokens = self.tokens(log_mel)
        return F.relu(self.fc1(tokens.amax(1) + tokens.mean(1)))

    def forward(self, waveform: Tensor) -> Tensor:
        """Waveforms (B, T) -> class logits (B, N); sigmoid gives probabilities."""
        return self.fc_audioset(self.embedding(self.log_mel(waveform)))


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn a published CNN14 ``.pth`` into a folder that ``card`` takes, at full precision; returns the folder.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    model, labels = load(file)
    return write_folder(folder, {"config": asdict(model.config), "labels": labels}, model.state_dict(), dtype=None)


def load(path: Path) -> tuple[Cnn14Model, list[str]]:
    """Read a published file, or a folder of `import_checkpoint`, into a float32 model in eval mode and its labels.

    The published files name no labels: theirs are AudioSet's, in the order of its class_labels_indices.csv. Raises
    FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    labels: list[str] = []
    if path.is_dir():
        content, state = read_folder(path, ORIGIN)
        if not isinstance(content.get("config"), Mapping) or not isinstance(content.get("labels"), list):
            raise ValueError(f"{path / 'config.json'} is not of CNN14: it lacks config or labels; import the weights again")
        config, labels = Cnn14Config.of(content["config"], path), content["labels"]
    else:
        content = read_pickle(path, ORIGIN, arrays=True)  # of its training's sampler, which is not used
        state = {key.removeprefix("module."): value for key, value in only_tensors(content, path, "model").items()}
        config = _config_of(state, path)
        _check_front_end(state, config, path)
    with unfilled():
        model = Cnn14Model(config)
    assign(model, state, path, f"CNN14 at {config.sample_rate} Hz")
    return model.eval(), labels


def _config_of(state: Mapping[str, Tensor], path: Path) -> Cnn14Config:
    try:
        window = state[STFT_KEY.format("real")].shape[-1]
        widths = tuple(len(state[f"conv_block{block}.conv1.weight"]) for block in range(1, BLOCKS + 1))
        classes, bins = len(state["fc_audioset.weight"]), len(state["bn0.weight"])
    except KeyError as error:
        raise ValueError(f"{path} is not a CNN14 file: it lacks {error}; give an unmodified file from {ORIGIN}") from error
    if window not in RATES:
        known = ", ".join(map(str, RATES))
        raise ValueError(f"{path} has a window of {window} samples, but the published CNN14 have {known}: give one of {ORIGIN}")
    return Cnn14Config(**RATES[window], mel_bins=bins, widths=widths, classes=classes)


def _check_front_end(state: dict[str, Tensor], config: Cnn14Config, path: Path) -> None:
    """Take the front end's tensors out of ``state``; raises ValueError where they are not those computed here."""
    real, imaginary = _fourier(config)
    mel = _filters(config)[1]
    for key, ours in ((STFT_KEY.format("real"), real), (STFT_KEY.format("imag"), imaginary), (MEL_KEY, mel)):
        theirs = state.pop(key, None)
        if theirs is None or theirs.shape == ours.shape and np.abs(theirs.float().abs().numpy() - np.abs(ours)).max() < 1e-4:
            continue  # magnitudes, because the sign of a sine does not reach the power
        raise ValueError(
            f"{path} was trained on another spectrogram than {config.sample_rate} Hz, {config.low} to {config.high} Hz: "
            f"{key} differs; give an unmodified file from {ORIGIN}"
        )


class PANNs(AudioEncoder, Classifier):
    """Frozen CNN14.

    ``card`` is a name in `CARDS`, a published ``.pth`` file or a folder of `import_checkpoint`; it decides
    ``sample_rate``. ``seconds`` cuts each sound from its start, or pads it with silence, to that length; None hears all
    of it. ``labels`` names the classes where the folder does. Raises ValueError for impossible options, and as `load`
    does.
    """

    def __init__(self, card: str = "cnn14", seconds: float | None = None) -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "PANNs")
        chosen.verify()
        model, labels = load(chosen.folder())
        if chosen.sample_rate not in (None, model.config.sample_rate):
            raise ValueError(
                f"{chosen.folder()} is a CNN14 for {model.config.sample_rate} Hz, but the card {card!r} is for "
                f"{chosen.sample_rate} Hz: give {', '.join(chosen.files)} from {chosen.origin}"
            )
        self._assemble(model, labels, seconds)

    @classmethod
    def from_model(cls, model: Cnn14Model, labels: list[str] | None = None, seconds: float | None = None) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model, labels or [], seconds)

    def _assemble(self, model: Cnn14Model, labels: list[str], seconds: float | None) -> None:
        config = model.config
        if labels and len(labels) != config.classes:
            raise ValueError(f"{len(labels)} labels were given, but the classifier has {config.classes} classes")
        if seconds is not None and round(seconds * config.sample_rate) < config.min_samples:
            raise ValueError(f"seconds {seconds} is too short: CNN14 needs {config.min_samples / config.sample_rate:g} s")
        self.model, self.labels, self.seconds = model, labels, seconds
        self.sample_rate = config.sample_rate
        self.dim = self.width = config.widths[-1]

    def _log_mel(self, waveform: Tensor) -> Tensor:
        if self.seconds is not None and waveform.ndim == 2:
            length = round(self.seconds * self.sample_rate)
            waveform = F.pad(waveform[:, :length], (0, max(length - waveform.shape[1], 0)))
        return self.model.log_mel(waveform)

    def embed(self, inputs: Tensor) -> Tensor:
        """Waveforms (B, T) at ``sample_rate`` -> the layer before the classifier (B, dim), not negative, not normalized."""
        return self.model.embedding(self._log_mel(inputs)).float()

    def tokens(self, waveform: Tensor) -> Tensor:
        """Waveforms (B, T) -> the last block's features, averaged over frequency (B, L, width), one for every 0.32 s."""
        return self.model.tokens(self._log_mel(waveform)).float()

    def class_logits(self, waveform: Tensor) -> Tensor:
        """Waveforms (B, T) -> class logits (B, N)."""
        return self.embed_and_classify(waveform)[1]

    def embed_and_classify(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Both `embed` and `class_logits` for the price of one."""
        embedding = self.model.embedding(self._log_mel(waveform))
        return embedding.float(), self.model.fc_audioset(embedding).float()

    def tag(self, waveform: Tensor) -> Tensor:
        """Waveforms (B, T) -> independent probability of each class (B, N)."""
        return self.class_logits(waveform).sigmoid()


def build(card: str) -> Cnn14Model:
    """Return the full-size architecture of a card with random weights."""
    return Cnn14Model(Cnn14Config(**find_card(CARDS, card, "PANNs").options))


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""
    small = Cnn14Config(**RATE_16K, widths=(4, 4, 4, 4, 8, 8), classes=5)
    return {"PANNs": lambda: PANNs.from_model(Cnn14Model(small))}


def _zenodo(file: str, rate: int, options: dict[str, int]) -> Card:
    size, digest = PUBLISHED[file]
    return Card(
        file, {file: digest}, "CC-BY-4.0", True, ORIGIN, 80_753_615, 2048, rate, normalized=False, options=options, size=size
    )


PUBLISHED = {
    "Cnn14_mAP=0.431.pth": (327_428_481, "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31"),
    "Cnn14_16k_mAP=0.438.pth": (358_668_570, "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6"),
}


CARDS: dict[str, Card] = {
    "cnn14": _zenodo("Cnn14_mAP=0.431.pth", 32_000, {}),
    "cnn14-16k": _zenodo("Cnn14_16k_mAP=0.438.pth", 16_000, RATE_16K),
}
