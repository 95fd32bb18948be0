"""VGGish: one embedding for every 0.96 s of sound (Hershey et al., arXiv 1609.09430), the space of FAD.

Waveform 16 kHz -> magnitude spectrogram (25 ms windows, 10 ms apart) -> 64 mel bands from 125 to 7500 Hz -> logarithm
-> patches of 96 frames -> VGG with six convolutions -> three linear layers. Module names equal those of the PyTorch
port torchvggish, so its state dict loads as it is.

Letters: B batch, T samples, F frames, L patches, d embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, find_card
from xmodal.foundation.mel import triangles
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_pickle, unfilled, write_folder

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two
MEL_BINS, LOW, HIGH = 64, 125.0, 7500.0  # bands, Hz
PATCH = 96  # frames
MIN_SAMPLES = WINDOW + (PATCH - 1) * HOP  # of one patch
FLOOR = 0.01  # added to the mel magnitude before the logarithm
LIMIT = 2.0  # of a whitened value, before it becomes a byte
ORIGIN = "https://github.com/harritaylor/torchvggish/releases/tag/v0.1"
PCA_ORIGIN = f"https://storage.googleapis.com/audioset/vggish_pca_params.npz or {ORIGIN}"
PCA_MATRIX, PCA_MEANS = "pca_eigen_vectors", "pca_means"


@dataclass(frozen=True)
class VGGishConfig:
    """Channels before each of the four poolings, hidden and output size of the linear layers."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden: int = 4096
    dim: int = 128

    def __post_init__(self) -> None:
        if len(self.widths) != 4:
            raise ValueError(f"widths {self.widths} has {len(self.widths)} entries, but VGGish has four poolings")

    @classmethod
    def of(cls, config: Mapping[str, Any], path: Path) -> Self:
        """Build from the content of a ``config.json``; raises ValueError if it is not of this model."""
        if set(config) != {"widths", "hidden", "dim"}:
            raise ValueError(f"{path} is not of VGGish: expected widths, hidden and dim, found {sorted(config)}")
        return cls(tuple(config["widths"]), config["hidden"], config["dim"])

    @classmethod
    def of_weights(cls, state: Mapping[str, Tensor], path: Path) -> Self:
        """Read the sizes off a state dict; raises ValueError if the tensors that tell them are missing."""
        try:
            widths = tuple(len(state[f"features.{index}.weight"]) for index in (0, 3, 6, 11))
            return cls(widths, *(len(state[f"embeddings.{index}.weight"]) for index in (0, 4)))
        except KeyError as error:
            raise ValueError(f"{path} is not a VGGish file: it lacks {error}; give vggish-10086976.pth from {ORIGIN}") from error


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


@lru_cache(maxsize=1)
def _filters() -> tuple[np.ndarray, np.ndarray]:
    """Periodic Hann window (400,) and triangles (257, 64), even in mel; numpy, so no torch mode can taint them."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    low, high = _mel(np.array([LOW, HIGH]))
    edges = np.linspace(low, high, MEL_BINS + 2)
    filters = triangles(edges, _mel(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)))
    filters[0] = 0  # the original leaves the constant part out
    return window.astype(np.float32), filters.astype(np.float32)


def log_mel(waveform: Tensor) -> Tensor:
    """Waveforms (B, T) -> log mel magnitudes (B, F, 64), F = (T - 400) // 160 + 1, no padding; always float32."""
    kind = waveform.device.type
    with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
        window, filters = (torch.from_numpy(array).to(waveform.device) for array in _filters())
        magnitude = torch.fft.rfft(waveform.float().unfold(-1, WINDOW, HOP) * window, FFT).abs()
        return (magnitude @ filters + FLOOR).log()


class VGGishModel(nn.Module):
    """The trainable architecture, of any width. State dict keys are those of torchvggish.

    The last of ``embeddings`` is a ReLU, which `forward` can leave out.
    """

    def __init__(self, config: VGGishConfig) -> None:
        super().__init__()
        self.config = config
        one, two, three, four = config.widths
        stages = ((1, one), (one, two), (two, three, three), (three, four, four))
        self.features = nn.Sequential(*chain.from_iterable(self._stage(*channels) for channels in stages))
        flat = four * (PATCH // 16) * (MEL_BINS // 16)
        sizes = ((flat, config.hidden), (config.hidden, config.hidden), (config.hidden, config.dim))
        self.embeddings = nn.Sequential(*chain.from_iterable((nn.Linear(*size), nn.ReLU()) for size in sizes))

    @staticmethod
    def _stage(*channels: int) -> list[nn.Module]:
        pairs = zip(channels, channels[1:], strict=False)
        layers = chain.from_iterable((nn.Conv2d(before, after, 3, padding=1), nn.ReLU()) for before, after in pairs)
        return [*layers, nn.MaxPool2d(2)]

    def forward(self, patches: Tensor, activation: bool = True) -> Tensor:
        """Log mel patches (B, 96, 64) -> (B, d), not negative if ``activation`` applies the last ReLU."""
        maps = self.features(patches[:, None].to(next(self.parameters()).dtype))
        layers = self.embeddings if activation else self.embeddings[:-1]
        return layers(maps.permute(0, 2, 3, 1).flatten(1))  # time, frequency, channel: the original's order


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn torchvggish's ``.pth`` into a folder that ``card`` takes, at full precision; returns the folder.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    model = load(file)
    return write_folder(folder, asdict(model.config), model.state_dict(), dtype=None)


def load(path: Path) -> VGGishModel:
    """Read torchvggish's file, or a folder of `import_checkpoint`, into a float32 model in eval mode.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    if path.is_dir():
        content, state = read_folder(path, ORIGIN)
        config = VGGishConfig.of(content, path)
    else:
        found = only_tensors(read_pickle(path, ORIGIN), path)
        # `pproc`: PCA parameters, which a saved torchvggish model carries along; here they are a file of their own.
        state = {key.removeprefix("module."): value for key, value in found.items()}
        state = {key: value for key, value in state.items() if not key.startswith("pproc.")}
        config = VGGishConfig.of_weights(state, path)
    with unfilled():
        model = VGGishModel(config)
    assign(model, state, path, "VGGish")
    return model.eval()


def read_pca(path: Path, dim: int) -> tuple[Tensor, Tensor]:
    """Return matrix (d, d) and means (d,) of the published PCA, from Google's ``.npz`` or torchvggish's ``.pth``.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    if path.suffix == ".npz" and path.is_file():
        try:
            with np.load(path, allow_pickle=False) as file:
                content: Any = {key: file[key] for key in file.files}
        except Exception as error:  # archives of others break in many ways
            raise ValueError(f"{path} cannot be read as a numpy file ({error}): fetch it again from {PCA_ORIGIN}") from error
    else:
        content = read_pickle(path, PCA_ORIGIN, arrays=True)
    if not isinstance(content, Mapping) or not {PCA_MATRIX, PCA_MEANS} <= set(content):
        raise ValueError(f"{path} lacks {PCA_MATRIX} or {PCA_MEANS}: give the PCA parameters from {PCA_ORIGIN}")
    matrix, means = (torch.as_tensor(content[key], dtype=torch.float32) for key in (PCA_MATRIX, PCA_MEANS))
    if matrix.shape != (dim, dim) or means.numel() != dim:
        shapes = f"{tuple(matrix.shape)} and {tuple(means.shape)}"
        raise ValueError(f"{path} holds a PCA of shapes {shapes}, but VGGish's embeddings have {dim} values: give its own file")
    return matrix, means.flatten()


class VGGish(AudioEncoder):
    """Frozen VGGish. Its tokens are the patch embeddings, whose mean is the clip's embedding.

    ``card`` is a name in `CARDS`, torchvggish's ``.pth`` file or a folder of `import_checkpoint`. ``seconds`` cuts each
    sound from its start, or pads it with silence, to that length; None hears all of it. ``hop`` (seconds) is the
    distance of patches; what is left at the end is not heard. ``activation`` false leaves the last ReLU out, as FAD
    implementations do. ``pca`` is the file of the published PCA, which whitens the embeddings; ``quantize`` then turns
    them into whole numbers from 0 to 255 (no gradient passes that). Raises ValueError for impossible options, and as
    `load` and `read_pca` do.
    """

    sample_rate = SAMPLE_RATE
    pca_matrix: Tensor | None
    pca_means: Tensor | None

    def __init__(
        self,
        card: str = "vggish",
        seconds: float | None = None,
        hop: float = 0.96,
        activation: bool = True,
        pca: str | None = None,
        quantize: bool = False,
    ) -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "VGGish")
        chosen.verify()
        self._assemble(load(chosen.folder()), seconds, hop, activation, pca, quantize)

    @classmethod
    def from_model(
        cls,
        model: VGGishModel,
        seconds: float | None = None,
        hop: float = 0.96,
        activation: bool = True,
        pca: str | None = None,
        quantize: bool = False,
    ) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model, seconds, hop, activation, pca, quantize)

    def _assemble(
        self, model: VGGishModel, seconds: float | None, hop: float, activation: bool, pca: str | None, quantize: bool
    ) -> None:
        if quantize and pca is None:
            raise ValueError(f"quantize turns whitened values into bytes, but pca is None: give the file from {PCA_ORIGIN}")
        if seconds is not None and round(seconds * SAMPLE_RATE) < MIN_SAMPLES:
            raise ValueError(f"seconds {seconds} is too short: VGGish needs at least {MIN_SAMPLES / SAMPLE_RATE:g} s")
        if round(hop * SAMPLE_RATE / HOP) < 1:
            raise ValueError(f"hop {hop} is too short: patches are at least {HOP / SAMPLE_RATE:g} s apart")
        self.model, self.activation, self.quantize = model, activation, quantize
        self.seconds, self.hop = seconds, round(hop * SAMPLE_RATE / HOP)  # frames
        self.dim = self.width = model.config.dim
        matrix, means = (None, None) if pca is None else read_pca(Path(pca), self.dim)
        self.register_buffer("pca_matrix", matrix)
        self.register_buffer("pca_means", means)

    def patches(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> log mel patches (B, L, 96, 64); ValueError for another shape or under 15600 samples."""
        if waveform.ndim != 2:
            raise ValueError(f"VGGish takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
        if self.seconds is not None:
            length = round(self.seconds * SAMPLE_RATE)
            waveform = F.pad(waveform[:, :length], (0, max(length - waveform.shape[1], 0)))
        if waveform.shape[1] < MIN_SAMPLES:
            raise ValueError(
                f"VGGish needs at least {MIN_SAMPLES} samples at {SAMPLE_RATE} Hz (one patch), got {waveform.shape[1]}: "
                "give a longer sound, or seconds to pad with silence"
            )
        return log_mel(waveform).unfold(1, PATCH, self.hop).transpose(2, 3)

    def tokens(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> one embedding for each patch, in time order (B, L, d)."""
        patches = self.patches(waveform)
        rows = self.model(patches.flatten(0, 1), self.activation).unflatten(0, patches.shape[:2])
        if self.pca_matrix is not None and self.pca_means is not None:
            rows = (rows - self.pca_means) @ self.pca_matrix.T
        if self.quantize:
            rows = ((rows.clamp(-LIMIT, LIMIT) + LIMIT) * (255 / (2 * LIMIT))).round()
        return rows.float()

    def embed(self, inputs: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> the mean of the patches' embeddings (B, d), not L2-normalized."""
        return self.tokens(inputs).mean(1)


def build(card: str) -> VGGishModel:
    """Return the full-size architecture of a card with random weights."""
    find_card(CARDS, card, "VGGish")
    return VGGishModel(VGGishConfig())


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""
    return {"VGGish": lambda: VGGish.from_model(VGGishModel(VGGishConfig((4, 4, 4, 4), 8, 6)))}


CARDS: dict[str, Card] = {
    "vggish": Card(
        source="vggish-10086976.pth",
        files={"vggish-10086976.pth": "10086976"},  # the beginning, by the rule of PyTorch's hub
        size=288_567_937,
        licence="Apache-2.0",
        commercial=True,
        origin=ORIGIN,
        parameters=72_141_184,
        dim=128,
        sample_rate=SAMPLE_RATE,
        normalized=False,
    )
}
