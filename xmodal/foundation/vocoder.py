"""Vocoders: log-mel spectrograms become sound.

`HifiGan` (Kong et al., arXiv 2010.05646; transformers' SpeechT5HifiGan, as AudioLDM uses it), `BigVGAN` version 2 (Lee et al.,
arXiv 2206.04658; diffusers' MMAudioVocoder is that generator) and `GriffinLim`, which needs no weights.
Letters: B batch, M mel bands, L frames, T samples: always L * hop_length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Card, Vocoder, find_card
from xmodal.foundation.mel import AUDIOLDM, PRESETS, MelSpec, from_log_mel, preset, stft, window
from xmodal.frozen import Frozen
from xmodal.registry.cards import locate
from xmodal.registry.checkpoint import (
    CONFIG,
    WEIGHTS,
    assign,
    only_tensors,
    read_json,
    read_module,
    read_pickle,
    read_tensors,
    unfilled,
    write_folder,
)  # fmt: skip

if TYPE_CHECKING:
    from diffusers import MMAudioVocoder
    from transformers import SpeechT5HifiGan

NVIDIA = "https://huggingface.co/nvidia"
GENERATOR = "bigvgan_generator.pt"


class HifiGan(Vocoder):
    """Frozen HiFi-GAN. The few samples that its first transposed convolution adds at the end are cut off.

    Args:
        card: a name in `HIFIGAN`, or a folder with transformers' ``config.json`` and weights (or with it below ``vocoder``).
            The config may hold a ``mel`` section (see ``MelSpec.to_dict``); without it the kind of mel is AudioLDM's.
        local_files_only: a card is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card or weights that do not fit, FileNotFoundError where they are missing.
    """

    def __init__(self, card: str = "mini", local_files_only: bool = True) -> None:
        super().__init__()
        self._assemble(_read_hifigan(locate(find_card(HIFIGAN, card, "vocoder"), local_files_only)), None)

    @classmethod
    def from_model(cls, model: SpeechT5HifiGan, mel: MelSpec | None = None) -> Self:
        """Build from a model in memory, which is frozen in place; ``mel`` goes before what its config says."""
        return cls.assembled(model, mel)

    def _assemble(self, model: Any, mel: MelSpec | None) -> None:
        self.model, self.mel = model, _mel_of(model.config) if mel is None else mel
        _check_sizes(self.mel, model.config.model_in_dim, model.config.upsample_rates, model.config.sampling_rate)
        self.sample_rate = self.mel.sample_rate

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, M, L) -> waveforms (B, L * hop_length) in [-1, 1]; ValueError for another number of bands."""
        _check_mel(log_mel, self.mel)
        waveform = self.model(log_mel.transpose(1, 2).to(self.model.dtype))
        return waveform.float()[:, : log_mel.shape[-1] * self.mel.hop_length]


def save(model: SpeechT5HifiGan, mel: MelSpec, folder: Path, dtype: torch.dtype | None = torch.float16) -> Path:
    """Write transformers' ``config.json`` with a ``mel`` section, and the weights, for `HifiGan`; returns the folder.

    Weight norm must have been removed. Raises ValueError where the sizes disagree with ``mel``.
    """
    _check_sizes(mel, model.config.model_in_dim, model.config.upsample_rates, model.config.sampling_rate)
    config = {**model.config.to_dict(), "architectures": ["SpeechT5HifiGan"], "mel": mel.to_dict()}
    return write_folder(folder, config, model.state_dict(), dtype)


class BigVGAN(Vocoder):
    """Frozen BigVGAN, version 2.

    Args:
        card: a name in `BIGVGAN`, a folder with its ``config.json`` and ``bigvgan_generator.pt``, or one of
            `import_checkpoint`.
        local_files_only: a card is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card, version 1 or weights that do not fit, FileNotFoundError where they are missing.
    """

    def __init__(self, card: str = "bigvgan-22k-80", local_files_only: bool = True) -> None:
        super().__init__()
        folder = locate(find_card(BIGVGAN, card, "vocoder"), local_files_only)
        config = _read_config(folder)
        with unfilled():
            model = _bigvgan(config, folder)
        assign(model, _bigvgan_state(folder), folder, "BigVGAN")
        self._assemble(model, _bigvgan_mel(config, folder))

    @classmethod
    def from_model(cls, model: MMAudioVocoder, mel: MelSpec) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model, mel)

    def _assemble(self, model: Any, mel: MelSpec) -> None:
        _check_sizes(mel, model.config.num_mels, model.config.upsample_rates)
        self.model, self.mel, self.sample_rate = model, mel, mel.sample_rate

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, M, L) -> waveforms (B, L * hop_length) in [-1, 1]; ValueError for another number of bands."""
        _check_mel(log_mel, self.mel)
        return self.model(log_mel.to(self.model.conv_pre.weight.dtype)).sample.float().squeeze(1)


class GriffinLim(Vocoder):
    """Finds the phase by iteration (Griffin & Lim 1984; momentum of Perraudin et al. 2013) instead of having learnt it.

    For tests, previews and machines without weights: real sounds become like a tin, and no metric should be reported with
    it. The miniature world's simple sounds it renders better than the miniature HiFi-GAN does (docs/miniature.md). The same
    mel gives the same sound whatever the batch, since the first phase is always the same. Differentiable.

    Args:
        card: "gl", or the card of another vocoder, whose kind of mel is then read.
        mel: the kind of mel by its name in ``xmodal.foundation.mel.PRESETS``; default the card's.
        iterations: passes between spectrum and waveform.
        momentum: share of the last step that is added; 0 is the original algorithm.

    Raises ValueError for unknown names or options out of range.
    """

    def __init__(self, card: str = "gl", mel: str | None = None, iterations: int = 32, momentum: float = 0.99) -> None:
        super().__init__()
        if card not in CARDS:
            raise ValueError(f"GriffinLim has no weights, so card {card!r} must be one of {', '.join(CARDS)}; mel names the kind")
        self._assemble(preset(CARDS[card].options["mel"] if mel is None else mel), iterations, momentum)

    @classmethod
    def from_spec(cls, mel: MelSpec, iterations: int = 32, momentum: float = 0.99) -> Self:
        """Build for any kind of mel."""
        return cls.assembled(mel, iterations, momentum)

    def _assemble(self, mel: MelSpec, iterations: int, momentum: float) -> None:
        if iterations < 1 or not 0 <= momentum < 1:
            raise ValueError(f"iterations {iterations} must be at least 1 and momentum {momentum} from 0 to below 1")
        if mel.hop_length > mel.n_fft // 2:
            raise ValueError(f"the frames of {mel} overlap by less than half: no phase can be found")
        self.mel, self.sample_rate, self.iterations, self.momentum = mel, mel.sample_rate, iterations, momentum

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, M, L) -> waveforms (B, L * hop_length), cut to [-1, 1]; ValueError for another number of bands."""
        _check_mel(log_mel, self.mel)
        magnitude = from_log_mel(log_mel, self.mel)
        generator = torch.Generator().manual_seed(0)
        phase = torch.rand(magnitude.shape[1:], generator=generator, device="cpu").to(magnitude.device) * 2 * torch.pi
        angles, before = torch.polar(torch.ones_like(phase), phase), torch.zeros((), device=magnitude.device)
        for _ in range(self.iterations):
            rebuilt = stft(self._overlap(magnitude * angles), self.mel)
            angles = rebuilt - self.momentum / (1 + self.momentum) * before
            angles = angles / angles.abs().clamp(min=1e-16)
            before = rebuilt
        waveform = self._overlap(magnitude * angles)[:, self.mel.pad :]
        length = log_mel.shape[-1] * self.mel.hop_length
        return F.pad(waveform, (0, max(length - waveform.shape[1], 0)))[:, :length].clamp(-1, 1)

    def _overlap(self, spectrum: Tensor) -> Tensor:
        """Spectra (B, F, L) -> the padded waveforms (B, (L - 1) * hop_length + n_fft) nearest to them."""
        n_fft, hop, curve = self.mel.n_fft, self.mel.hop_length, window(self.mel).to(spectrum.device)
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=n_fft) * curve
        weights = curve.square().expand(1, frames.shape[1], -1)
        size, kernel, stride = (1, (frames.shape[1] - 1) * hop + n_fft), (1, n_fft), (1, hop)
        summed, shares = (F.fold(each.transpose(1, 2), size, kernel, stride=stride)[:, 0, 0] for each in (frames, weights))
        return summed / shares.clamp(min=1e-3)  # at the very ends the window has next to no weight


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn BigVGAN's ``bigvgan_generator.pt``, with its ``config.json`` beside it, into a folder that ``card`` takes.

    Weight norm is fused. Returns the folder. Raises FileNotFoundError or ValueError with what was expected and the mend.
    """
    config = _read_config(file.parent)
    with unfilled():
        model = _bigvgan(config, file.parent)
    assign(model, _published(file), file, "BigVGAN")
    return write_folder(folder, config, model.state_dict(), dtype=None)


def fuse_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of direction and length, in either of PyTorch's namings, by the weight that it stands for."""
    pairs = {".weight_g": ".weight_v", ".parametrizations.weight.original0": ".parametrizations.weight.original1"}
    fused = dict(state)
    for key in state:
        for length, direction in pairs.items():
            name = key.removesuffix(length)
            if name != key and name + direction in state:
                g, v = fused.pop(key).double(), fused.pop(name + direction).double()
                fused[f"{name}.weight"] = (g * v / v.flatten(1).norm(dim=1).view(-1, *[1] * (v.ndim - 1))).float()
    return fused


def _check_mel(log_mel: Tensor, mel: MelSpec) -> None:
    if log_mel.ndim != 3 or log_mel.shape[1] != mel.n_mels:
        raise ValueError(
            f"the vocoder takes log-mels of shape (batch, {mel.n_mels}, frames), got {tuple(log_mel.shape)}, for {mel}"
        )


def _check_sizes(mel: MelSpec, n_mels: int, rates: Any, sample_rate: int | None = None) -> None:
    """Raise ValueError where a network is made for another kind of mel."""
    own = replace(
        mel, n_mels=n_mels, hop_length=int(torch.tensor(list(rates)).prod()), sample_rate=sample_rate or mel.sample_rate
    )
    own.require(mel, "the vocoder's network", "its mel")


# Reading HiFi-GAN


def _mel_of(config: Any) -> MelSpec:
    """The ``mel`` section of a transformers config, or AudioLDM's kind with the network's number of bands."""
    section = getattr(config, "mel", None)
    return replace(AUDIOLDM, n_mels=config.model_in_dim) if section is None else MelSpec.of(section, "the vocoder's config")


def of_card(card: str) -> Vocoder:
    """Build what another model's card names as its vocoder: Griffin-Lim as "gl", or a HiFi-GAN's card or folder."""
    return GriffinLim(card) if card in GRIFFIN_LIM else HifiGan(card)


def mel_of(card: str) -> MelSpec:
    """Return the kind of mel of what `of_card` takes, without building it."""
    if card in HIFIGAN | GRIFFIN_LIM:
        return preset((HIFIGAN | GRIFFIN_LIM)[card].options["mel"])
    from transformers import SpeechT5HifiGanConfig

    return _mel_of(SpeechT5HifiGanConfig.from_dict(read_json(Path(card) / CONFIG, "its publisher")))


def _read_hifigan(folder: Path) -> nn.Module:
    from transformers import SpeechT5HifiGan

    folder = folder / "vocoder" if (folder / "vocoder").is_dir() else folder
    # Published files lack the two buffers or hold them; the network fills in zeros and ones, as `normalize_before` needs.
    return read_module(SpeechT5HifiGan, folder, ("mean", "scale"), known=True, dtype=torch.float32)


# Reading BigVGAN


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        files = f"BigVGAN's folder holds {CONFIG} and {GENERATOR}"
        raise FileNotFoundError(f"{folder / CONFIG} does not exist: {files}, copy both from {NVIDIA}")
    return read_json(folder / CONFIG, NVIDIA)


def _bigvgan(config: Mapping[str, Any], folder: Path) -> Any:
    """The network of a BigVGAN config; ValueError for version 1, whose last layers differ."""
    from diffusers import MMAudioVocoder

    # Version 1 does not name the last two; their defaults there are its own way.
    expected = {"activation": "snakebeta", "snake_logscale": True, "resblock": "1"} | dict.fromkeys(
        ["use_bias_at_final", "use_tanh_at_final"], False
    )
    wrong = {name: config.get(name) for name, value in expected.items() if config.get(name) != value}
    if wrong:
        raise ValueError(f"{folder / CONFIG} is not of BigVGAN version 2: expected {expected}, found {wrong}; take a v2 model")
    names = ("num_mels", "upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes", "resblock_kernel_sizes",
             "resblock_dilation_sizes")  # fmt: skip
    try:
        return MMAudioVocoder(**{name: config[name] for name in names})
    except KeyError as error:
        raise ValueError(f"{folder / CONFIG} lacks {error}: get it again from {NVIDIA}") from error


def _bigvgan_mel(config: Mapping[str, Any], folder: Path) -> MelSpec:
    try:
        rate, f_max = config["sampling_rate"], config["fmax"]
        sizes = (config["n_fft"], config["win_size"], config["hop_size"], config["num_mels"], float(config["fmin"]))
    except KeyError as error:
        raise ValueError(f"{folder / CONFIG} lacks {error}: get it again from {NVIDIA}") from error
    return MelSpec(rate, *sizes, rate / 2 if f_max is None else float(f_max), offset=1e-9, padding="hop")


def _bigvgan_state(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / WEIGHTS, NVIDIA) if (folder / WEIGHTS).is_file() else _published(folder / GENERATOR)


def _published(file: Path) -> dict[str, Tensor]:
    return fuse_weight_norm(only_tensors(read_pickle(file, NVIDIA), file, "generator"))


def build(card: str) -> Any:
    """Return the full-size network of a card with random weights; None where there is no network, or no published size."""
    options = find_card(CARDS, card, "vocoder").options
    if "hifigan" in options:
        return hifigan(**options["hifigan"])
    if "bigvgan" in options:
        from diffusers import MMAudioVocoder

        return MMAudioVocoder(num_mels=PRESETS[options["mel"]].n_mels, **options["bigvgan"])
    return None


def hifigan(**changed: Any) -> SpeechT5HifiGan:
    """Return AudioLDM's HiFi-GAN with random weights, or one with other options of SpeechT5HifiGanConfig."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**AUDIOLDM_HIFIGAN | changed))


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""
    return {"HifiGan": _tiny_hifigan, "BigVGAN": _tiny_bigvgan, "GriffinLim": lambda: GriffinLim(iterations=2)}


def _tiny_hifigan() -> HifiGan:
    blocks = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]]}
    model = hifigan(model_in_dim=16, upsample_initial_channel=32, **blocks)
    for module in model.modules():  # transformers begins so small that nothing is to be heard
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return HifiGan.from_model(model)


def _tiny_bigvgan() -> BigVGAN:
    from diffusers import MMAudioVocoder

    model = MMAudioVocoder(80, 16, (16, 16), (32, 32), (3,), ((1, 3),))
    return BigVGAN.from_model(model, preset("bigvgan-22k-80"))


AUDIOLDM_HIFIGAN: dict[str, Any] = {
    "normalize_before": False,
    "model_in_dim": 64, "sampling_rate": 16_000, "upsample_initial_channel": 1024, "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4], "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3,
}  # fmt: skip
_X256 = {"upsample_rates": (4, 4, 2, 2, 2, 2), "upsample_kernel_sizes": (8, 8, 4, 4, 4, 4)}
_X512 = {"upsample_rates": (8, 4, 2, 2, 2, 2), "upsample_kernel_sizes": (16, 8, 4, 4, 4, 4)}


# Revision, bytes and sha256 of the generator, where two places or more agree on them.
GENERATORS: dict[str, tuple[str, int, str]] = {
    "bigvgan_v2_22khz_80band_256x": (
        "633ff708ed5b74903e86ff1298cf4a98e921c513", 449_228_171,
        "e95ba25972d3de0628d99cd156e9315a9c018899bf739988959ebe3544080ced",
    ),
    "bigvgan_v2_24khz_100band_256x": (
        "c329ede9e9bbc100ddf5c91e2330a61921262370", 450_088_331,
        "6f9c5715550c9d0f11159ceb8935638da5aeb19e27d1e63677632df095e376f5",
    ),
    "bigvgan_v2_44khz_128band_512x": (
        "95a9d1dcb12906c03edd938d77b9333d6ded7dfb", 489_041_291,
        "d9fe7ec6bd0b44ed9d66973d5012d8181c1570b01e5c72df51973e241dccd357",
    ),
}  # fmt: skip


def _nvidia(source: str, mel: str, rate: int, parameters: int, network: Mapping[str, Any]) -> Card:
    revision, size, generator = GENERATORS.get(source, ("", 0, None))
    return Card(
        source=f"nvidia/{source}", files={"config.json": None, "bigvgan_generator.pt": generator}, licence="MIT", commercial=True,
        origin=f"https://huggingface.co/nvidia/{source}", parameters=parameters, sample_rate=rate,
        options={"mel": mel, "bigvgan": network}, revision=revision, size=size,
    )  # fmt: skip


HIFIGAN: dict[str, Card] = {
    "mini": Card(
        source="package:vocoder",
        files={"config.json": None, "model.safetensors": None},
        licence="Apache-2.0",
        commercial=True,
        origin="recipes/miniature/vocoder.yaml",
        parameters=441_569,
        sample_rate=16_000,
        options={"mel": "miniature"},
    ),
    "audioldm": Card(
        source="cvssp/audioldm-s-full-v2",
        files={
            "vocoder/config.json": None,
            "vocoder/model.safetensors": "d9dc6513c30a5b86c2497712690c04fe74b4aa79fdab6d490b34fcb4e24c590c",
        },
        revision="feeb3d14203495a4b6ac0893cbdedb2159b4819c",
        licence="CC-BY-NC-SA-4.0",
        commercial=False,
        origin="https://huggingface.co/cvssp/audioldm-s-full-v2",
        parameters=55_264_897,
        sample_rate=16_000,
        options={"mel": "audioldm", "hifigan": AUDIOLDM_HIFIGAN},
    ),
}
BIGVGAN: dict[str, Card] = {
    "bigvgan-22k-80": _nvidia("bigvgan_v2_22khz_80band_256x", "bigvgan-22k-80", 22_050, 112_199_472, _X256),
    "bigvgan-22k-80-fmax8k": _nvidia("bigvgan_v2_22khz_80band_fmax8k_256x", "bigvgan-22k-80-fmax8k", 22_050, 112_199_472, _X256),
    "bigvgan-24k-100": _nvidia("bigvgan_v2_24khz_100band_256x", "bigvgan-24k-100", 24_000, 112_414_512, _X256),
    "bigvgan-44k-128": _nvidia("bigvgan_v2_44khz_128band_512x", "bigvgan-44k-128", 44_100, 122_152_752, _X512),
    "bigvgan-44k-128-256x": _nvidia("bigvgan_v2_44khz_128band_256x", "bigvgan-44k-128-256x", 44_100, 112_715_568, _X256),
}
# Nothing to download: no files, no parameters, and the package itself as the place where it lies.
GRIFFIN_LIM: dict[str, Card] = {
    "gl": Card(
        source="package:", files={}, licence="Apache-2.0", commercial=True, origin="computed, no weights", parameters=0,
        sample_rate=16_000, options={"mel": "miniature"},
    )
}  # fmt: skip
CARDS: dict[str, Card] = HIFIGAN | BIGVGAN | GRIFFIN_LIM
