"""PaSST: a transformer over spectrogram patches that names sounds (Koutini et al., arXiv 2110.05069); judge of FD_PaSST.

Waveform 32 kHz -> pre-emphasis -> power spectrogram (10 ms hop) -> 128 Kaldi mel bands up to 15 kHz, logarithm -> patches
16 x 16 with step 10 -> learnt places in time and in frequency -> 12 transformer layers -> mean of the class and the
distillation token (embedding) -> classifier. Module names equal those of the published checkpoint, so reading it is plain.

Letters: B batch, T samples, F frames, L tokens in time, N classes, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, Classifier, find_card
from xmodal.foundation.kaldi import filters
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_pickle, unfilled, write_folder

ORIGIN = "https://github.com/kkoutini/PaSST/releases/tag/v0.0.1-audioset"
SAMPLE_RATE = 32_000
FFT, WINDOW, HOP, MEL_BINS, HIGHEST = 1024, 800, 320, 128, 15_000
PATCH, STEP = 16, 10
LONGEST = 10 * SAMPLE_RATE  # samples that the places in time have room for
WINDOW_HOP = LONGEST // 4  # of the windows over a longer sound
HEAD = 64  # width of an attention head in the published models


@dataclass(frozen=True)
class PaSSTConfig:
    """Sizes; the defaults are those of the published ``passt_s_swa_p16_128_ap476``. ``steps`` are places in time."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    classes: int = 527
    steps: int = 99

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")

    @property
    def bands(self) -> int:
        """Patches over frequency."""
        return (MEL_BINS - PATCH) // STEP + 1


MIN_SAMPLES = (PATCH - 1) * HOP + 1  # fills one column of patches


@lru_cache(maxsize=1)
def _front_end() -> tuple[np.ndarray, np.ndarray]:
    """Symmetric Hann window and triangles (513, 128); numpy arrays, so no torch mode can taint them."""
    with torch.inference_mode(False), torch.no_grad():
        curve = torch.hann_window(WINDOW, periodic=False, dtype=torch.float32, device="cpu").numpy()
        return curve, filters(MEL_BINS, FFT, SAMPLE_RATE, 0.0, HIGHEST)


def spectrogram(waveform: Tensor) -> Tensor:
    """32 kHz waveforms (B, T) -> normalized log-mels (B, 128, F), F = (T - 1) // 320 + 1; float32 even under autocast.

    Raises ValueError for another shape, and for a sound too short to fill one patch.
    """
    if waveform.ndim != 2:
        raise ValueError(f"PaSST takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
    if waveform.shape[1] < MIN_SAMPLES:
        raise ValueError(
            f"PaSST needs at least {MIN_SAMPLES} samples at {SAMPLE_RATE} Hz ({PATCH} frames), got {waveform.shape[1]}: "
            "give a longer sound, or seconds to pad with silence"
        )
    kind = waveform.device.type
    with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
        curve, bank = (torch.from_numpy(array).to(waveform.device) for array in _front_end())
        waveform = waveform.float()
        sharper = waveform[:, 1:] - 0.97 * waveform[:, :-1]
        spectrum = torch.stft(sharper, FFT, HOP, WINDOW, curve, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return ((bank.T @ power + 1e-5).log() + 4.5) / 5


class Attention(nn.Module):
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, w) -> (B, L, w)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, w) -> (B, L, w)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class PaSSTModel(nn.Module):
    """The architecture, of any width and depth, without patchout, a thing of training. State dict keys as published."""

    cls_token: nn.Parameter
    dist_token: nn.Parameter
    new_pos_embed: nn.Parameter
    freq_new_pos_embed: nn.Parameter
    time_new_pos_embed: nn.Parameter

    def __init__(self, config: PaSSTConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        for name, shape in (
            ("cls_token", (1, 1, width)),
            ("dist_token", (1, 1, width)),
            ("new_pos_embed", (1, 2, width)),
            ("freq_new_pos_embed", (1, width, config.bands, 1)),
            ("time_new_pos_embed", (1, width, 1, config.steps)),
        ):
            setattr(self, name, nn.Parameter(torch.randn(shape) * 0.02))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, PATCH, STEP)})
        self.blocks = nn.Sequential(*(Block(width, config.heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.classes))
        self.head_dist = nn.Linear(width, config.classes)  # in the published file; the original does not use it either

    def forward(self, mels: Tensor) -> Tensor:
        """Log-mels (B, 128, F) -> all tokens after the last norm (B, 2 + bands * L, w): class, distillation, then bands from low
        to high, each in time. Raises ValueError where the places in time do not suffice.
        """
        x = self.patch_embed["proj"](mels[:, None].to(self.cls_token.dtype))
        if x.shape[-1] > self.config.steps:
            raise ValueError(f"PaSST has places for {self.config.steps} steps in time, got {x.shape[-1]}: give shorter windows")
        x = x + self.time_new_pos_embed[..., : x.shape[-1]] + self.freq_new_pos_embed
        first = torch.cat((self.cls_token, self.dist_token), 1) + self.new_pos_embed
        return self.norm(self.blocks(torch.cat((first.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), 1)))


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn a published ``.pt`` into a folder that ``card`` takes, at full precision; returns the folder.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    model = load(file)
    return write_folder(folder, {"config": asdict(model.config)}, model.state_dict(), dtype=None)


def load(path: Path) -> PaSSTModel:
    """Read a published file, or a folder of `import_checkpoint`, into a float32 model in eval mode.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    if path.is_dir():
        content, state = read_folder(path, ORIGIN)
        sizes = content.get("config")
        if not isinstance(sizes, Mapping) or set(sizes) != {field.name for field in fields(PaSSTConfig)}:
            raise ValueError(f"{path / 'config.json'} does not hold the sizes of a PaSST: import the weights again")
        config = PaSSTConfig(**sizes)
    else:
        state = only_tensors(read_pickle(path, ORIGIN), path)
        state = {key.removeprefix("net."): value for key, value in state.items()}
        config = _config_of(state, path)
    with unfilled():
        model = PaSSTModel(config)
    assign(model, state, path, "PaSST")
    return model.eval()


def _config_of(state: Mapping[str, Tensor], path: Path) -> PaSSTConfig:
    try:
        width, steps = state["cls_token"].shape[-1], state["time_new_pos_embed"].shape[-1]
        classes = len(state["head.1.weight"])
    except KeyError as error:
        raise ValueError(f"{path} is not a PaSST file: it lacks {error}; give an unmodified file from {ORIGIN}") from error
    layers = sum(key.startswith("blocks.") and key.endswith("norm1.weight") for key in state)
    return PaSSTConfig(width, layers, max(width // HEAD, 1), classes, steps)


class PaSST(AudioEncoder, Classifier):
    """Frozen PaSST.

    ``card`` is a name in `CARDS`, a published ``.pt`` file or a folder of `import_checkpoint`. ``seconds`` cuts each sound from
    its start, or pads it with silence, to that length (av-benchmark: 10); None hears all of it: sounds of more than 10 s
    are mirrored by 5 s at both ends and heard in windows of 10 s every 2.5 s, whose outputs are averaged. The published files
    name no classes: theirs are AudioSet's 527. Raises ValueError for impossible options, and as `load` does.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, card: str = "passt-s", seconds: float | None = None) -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "passt")
        chosen.verify()
        self._assemble(load(chosen.folder()), seconds)

    @classmethod
    def from_model(cls, model: PaSSTModel, seconds: float | None = None) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model, seconds)

    def _assemble(self, model: PaSSTModel, seconds: float | None) -> None:
        if seconds is not None and round(seconds * SAMPLE_RATE) < MIN_SAMPLES:
            raise ValueError(f"seconds {seconds} is too short: PaSST needs {MIN_SAMPLES / SAMPLE_RATE:.2g} s")
        self.model, self.seconds, self.labels = model, seconds, []
        self.dim = self.width = model.config.width

    def _fitted(self, waveform: Tensor) -> Tensor:
        if self.seconds is None or waveform.ndim != 2:
            return waveform
        length = round(self.seconds * SAMPLE_RATE)
        return F.pad(waveform[:, :length], (0, max(length - waveform.shape[1], 0)))

    def embed(self, inputs: Tensor) -> Tensor:
        """32 kHz waveforms (B, T) -> mean of the class and the distillation token (B, dim), not normalized."""
        return self.embed_and_classify(inputs)[0]

    def tokens(self, waveform: Tensor) -> Tensor:
        """32 kHz waveforms (B, T) -> patches averaged over frequency (B, L, width), one for every 0.1 s.

        A sound of more than 10 s is heard in pieces of 10 s in turn, but for a last one too short for a patch.
        """
        pieces = self._fitted(waveform).split(LONGEST, dim=-1)
        heard = [self.model(spectrogram(piece)) for piece in pieces if piece is pieces[0] or piece.shape[-1] >= MIN_SAMPLES]
        return torch.cat([x[:, 2:].unflatten(1, (self.model.config.bands, -1)).mean(1) for x in heard], 1).float()

    def class_logits(self, waveform: Tensor) -> Tensor:
        """32 kHz waveforms (B, T) -> class logits (B, N); sigmoid gives probabilities."""
        return self.embed_and_classify(waveform)[1]

    def embed_and_classify(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Both `embed` and `class_logits` for the price of one."""
        waveform = self._fitted(waveform)
        if waveform.ndim != 2 or waveform.shape[1] <= LONGEST:
            return self._hear(waveform)
        windows = F.pad(waveform[:, None], (LONGEST // 2, LONGEST // 2), mode="reflect")[:, 0].unfold(1, LONGEST, WINDOW_HOP)
        made = [self._hear(windows[:, index]) for index in range(windows.shape[1])]
        embeddings, logits = zip(*made, strict=True)
        return torch.stack(embeddings).mean(0), torch.stack(logits).mean(0)

    def _hear(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.model(spectrogram(waveform))[:, :2].mean(1)
        return embedding.float(), self.model.head(embedding).float()


def build(card: str = "passt-s") -> PaSSTModel:
    """Return the full-size architecture of a card with random weights."""
    find_card(CARDS, card, "passt")
    return PaSSTModel(PaSSTConfig())


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""
    return {"PaSST": lambda: PaSST.from_model(PaSSTModel(PaSSTConfig(width=16, layers=1, heads=2, classes=5)))}


CARDS: dict[str, Card] = {
    "passt-s": Card(
        "passt-s-f128-p16-s10-ap.476-swa.pt",
        {"passt-s-f128-p16-s10-ap.476-swa.pt": None},
        "Apache-2.0",
        True,
        ORIGIN,
        86_153_758,
        768,
        SAMPLE_RATE,
        normalized=False,
    ),
}
