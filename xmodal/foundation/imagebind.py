"""ImageBind: pictures, sounds and sentences in one space of 1024 numbers (Girdhar et al., arXiv 2305.05665).

Three of its six towers: a ViT-H over 14x14 patches, a ViT-B over 16x16 patches (step 10) of two seconds of log-mel
spectrogram, and CLIP's causal text transformer. Depth, thermal and motion are left out. Module names equal those of the
official checkpoint, so reading it is a filter.

Letters: B batch, T samples, S clips, F frames, L tokens, d ``out_embed_dim``, w width of a tower.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, Encoder, ImageEncoder, TextEncoder, find_card
from xmodal.foundation.kaldi import MEL_BINS, SAMPLE_RATE, WINDOW, fbank
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_pickle, unfilled, write_folder

ORIGIN = "https://github.com/facebookresearch/ImageBind"
CLIP = 32_000  # samples: two seconds
FRAMES, MEL_MEAN, MEL_STD = 204, -4.268, 9.138
MEL_PATCH, MEL_STEP = 16, 10
MEL_GRID = ((MEL_BINS - MEL_PATCH) // MEL_STEP + 1, (FRAMES - MEL_PATCH) // MEL_STEP + 1)  # 12 bands, 19 steps in time
IMAGE_SIZE = 224
PATCH = 14
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CONTEXT, VOCABULARY = 77, 49_408
MAX_SCALE = 100.0
MODALITIES = ("vision", "audio", "text")
DROPPED = ("depth", "thermal", "imu")
MASK = "modality_preprocessors.text.mask"  # the causal mask, which needs no file
KEY = re.compile(r"modality_(?:preprocessors|trunks|heads|postprocessors)\.(\w+)\.")


@dataclass(frozen=True)
class ImageBindConfig:
    """Sizes under the names of the official constructor; the defaults are those of the only published model."""

    out_embed_dim: int = 1024
    vision_embed_dim: int = 1280
    vision_num_blocks: int = 32
    vision_num_heads: int = 16
    audio_embed_dim: int = 768
    audio_num_blocks: int = 12
    audio_num_heads: int = 12
    text_embed_dim: int = 1024
    text_num_blocks: int = 24
    text_num_heads: int = 16

    def __post_init__(self) -> None:
        for modality in MODALITIES:
            width, _, heads = self.tower(modality)
            if width % heads:
                raise ValueError(f"{modality}_num_heads {heads} does not divide {modality}_embed_dim {width}")

    def tower(self, modality: str) -> tuple[int, int, int]:
        """Width, blocks and heads of one tower."""
        width, blocks, heads = (getattr(self, f"{modality}_{name}") for name in ("embed_dim", "num_blocks", "num_heads"))
        return width, blocks, heads


def spectrogram(clips: Tensor) -> Tensor:
    """Normalized log-mel picture (B, 1, 128, 204) of 16 kHz clips (B, T), 400 <= T <= 32000; float32 even under autocast.

    Kaldi's filter bank without scaling to 16 bits. Missing frames are filled with a logarithm of 0, as in the original.
    The original also subtracts each clip's mean first, which changes nothing: every frame's own mean is subtracted here.
    """
    energies = fbank(clips, "hanning").transpose(1, 2)
    return (F.pad(energies, (0, FRAMES - energies.shape[2]))[:, None] - MEL_MEAN) / MEL_STD


class Block(nn.Module):
    """Pre-norm transformer layer; ``bias_kv`` gives every attention one learnt key and value more."""

    def __init__(self, width: int, heads: int, bias_kv: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=bias_kv, batch_first=True)
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, w) and a mask (L, L), true where a query must not look -> (B, L, w)."""
        y = self.norm_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm_2(x))))


class Trunk(nn.Module):
    """The transformer of one tower."""

    def __init__(self, width: int, blocks: int, heads: int, pre_norm: bool, bias_kv: bool) -> None:
        super().__init__()
        self.pre_transformer_layer = nn.Sequential(nn.LayerNorm(width, eps=1e-6) if pre_norm else nn.Identity())
        self.blocks = nn.ModuleList(Block(width, heads, bias_kv) for _ in range(blocks))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, w) -> (B, L, w)."""
        x = self.pre_transformer_layer(x)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Patches(nn.Module):
    """A picture or spectrogram as a class token and patches with learnt places."""

    def __init__(self, proj: nn.Module, width: int, patches: int, norm: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.rgbt_stem = nn.ModuleDict({"proj": proj} | ({"norm_layer": nn.LayerNorm(width)} if norm else {}))
        places = nn.Parameter(torch.randn(1, 1 + patches, width) * width**-0.5)
        self.pos_embedding_helper = nn.ParameterDict({"pos_embed": places})

    def forward(self, x: Tensor) -> Tensor:
        """Input of the convolution -> (B, 1 + L, w)."""
        x = self.rgbt_stem["proj"](x).flatten(2).transpose(1, 2)
        x = self.rgbt_stem["norm_layer"](x) if "norm_layer" in self.rgbt_stem else x
        return torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embedding_helper["pos_embed"]


class Words(nn.Module):
    """Numbers of word pieces as vectors with learnt places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, CONTEXT, width) * 0.01)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, 77) -> (B, 77, w)."""
        return self.token_embedding(ids) + self.pos_embed


class Still(nn.Module):
    """A picture as a video of two equal frames, for a convolution over both."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, 2, H, W)."""
        return pixels[:, :, None].expand(-1, -1, 2, -1, -1)


class LogitScale(nn.Module):
    """Multiplies by a stored temperature, 100 at most: the reason why the towers' vectors have unlike lengths."""

    def __init__(self, scale: float, learnable: bool) -> None:
        super().__init__()
        value = torch.tensor(math.log(scale))
        if learnable:
            self.log_logit_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_logit_scale", value)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the vectors (B, d)."""
        return x * self.log_logit_scale.exp().clamp(max=MAX_SCALE)


def _stem(config: ImageBindConfig, modality: str) -> nn.Module:
    width = config.tower(modality)[0]
    if modality == "text":
        return Words(width)
    if modality == "audio":
        conv = nn.Conv2d(1, width, MEL_PATCH, stride=MEL_STEP, bias=False)
        return Patches(conv, width, math.prod(MEL_GRID), norm=True)
    size = (2, PATCH, PATCH)
    proj = nn.Sequential(Still(), nn.Conv3d(3, width, size, stride=size, bias=False))
    return Patches(proj, width, (IMAGE_SIZE // PATCH) ** 2, norm=False)


def _head(config: ImageBindConfig, modality: str) -> nn.Module:
    width = config.tower(modality)[0]
    norm, linear = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, config.out_embed_dim, bias=False)
    if modality == "text":
        return nn.ModuleDict({"proj": nn.Sequential(norm, linear)})
    return nn.Sequential(norm, nn.Identity(), linear)


class ImageBindModel(nn.Module):
    """The architecture, of any width and depth, with the towers named. State dict keys are the official ones."""

    def __init__(self, config: ImageBindConfig, modalities: Iterable[str] = MODALITIES) -> None:
        super().__init__()
        self.config, names = config, tuple(modalities)
        self.modality_preprocessors = nn.ModuleDict({name: _stem(config, name) for name in names})
        self.modality_trunks = nn.ModuleDict(
            {name: Trunk(*config.tower(name), pre_norm=name == "vision", bias_kv=name == "audio") for name in names}
        )
        self.modality_heads = nn.ModuleDict({name: _head(config, name) for name in names})
        scales = {"audio": LogitScale(20.0, learnable=False), "text": LogitScale(1 / 0.07, learnable=True)}
        self.modality_postprocessors = nn.ModuleDict(
            {name: nn.Sequential(nn.Identity(), scales[name]) for name in names if name in scales}
        )

    def tokens(self, modality: str, inputs: Tensor) -> Tensor:
        """Preprocessed inputs -> the last block's output after the head's norm, (B, L, w), class token first (not for text)."""
        mask = None
        if modality == "text":
            mask = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool, device=inputs.device).triu(1)
        x = self.modality_trunks[modality](self.modality_preprocessors[modality](inputs), mask)
        head = self.modality_heads[modality]
        return (head["proj"] if modality == "text" else head)[0](x)  # type: ignore[index]

    def forward(self, modality: str, inputs: Tensor) -> Tensor:
        """Pixels (B, 3, 224, 224), spectrograms (B, 1, 128, 204) or word pieces (B, 77) -> (B, d).

        Of length 1 for pictures; of the length of the logit scale (20 for sounds, a trained number for text) otherwise.
        """
        x, head = self.tokens(modality, inputs), self.modality_heads[modality]
        if modality == "text":
            # The end mark has the highest number of the vocabulary.
            x, project = x[torch.arange(len(x), device=x.device), inputs.argmax(-1)], head["proj"][1]  # type: ignore[index]
        else:
            x, project = x[:, 0], head[2]  # type: ignore[index]
        x = F.normalize(project(x), dim=-1)
        return self.modality_postprocessors[modality](x) if modality in self.modality_postprocessors else x


def select(state: Mapping[str, Tensor], path: Path, modalities: Iterable[str] = MODALITIES) -> dict[str, Tensor]:
    """Return the tensors of the named towers of an official state dict.

    Depth, thermal, motion and the causal mask are known and left out. Raises ValueError for any other key.
    """
    wanted, kept, unknown = set(modalities), {}, []
    for name, value in state.items():
        key = name.removeprefix("module.")
        match = KEY.match(key)
        tower = match[1] if match else ""
        if tower in wanted and key != MASK:
            kept[key] = value
        elif tower not in (*MODALITIES, *DROPPED):
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{path} is not an ImageBind checkpoint: {len(unknown)} keys are unknown, first {unknown[0]}; "
            f"give imagebind_huge.pth of {ORIGIN}"
        )
    return kept


def save(model: ImageBindModel, folder: Path) -> None:
    """Write a folder that ``card`` takes, with the towers that the model has, as float16."""
    write_folder(folder, asdict(model.config), model.state_dict())


def load(path: Path, modalities: Iterable[str] = MODALITIES) -> ImageBindModel:
    """Read the named towers of the official ``.pth`` file, or of a folder of `import_checkpoint`, as float32 in eval mode.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    names = tuple(modalities)
    if path.is_dir():
        sizes, state = read_folder(path, f"an import of the file of {ORIGIN}")
        if set(sizes) != {item.name for item in fields(ImageBindConfig)}:
            raise ValueError(f"{path / 'config.json'} does not hold the sizes of an ImageBind: import the checkpoint again")
        config = ImageBindConfig(**sizes)
    else:
        config, state = ImageBindConfig(), only_tensors(read_pickle(path, ORIGIN), path)
    with unfilled():
        model = ImageBindModel(config, names)
    assign(model, select(state, path, names), path, "ImageBind")
    return model.eval()


def import_checkpoint(file: Path, folder: Path, config: ImageBindConfig | None = None) -> Path:
    """Write the picture, sound and text towers of the official ``imagebind_huge.pth`` as a folder to give as ``card``.

    Tensors keep their precision. ``config`` is only needed for other sizes than the published ones. Raises
    FileNotFoundError or ValueError for a file that is not whole or holds anything unknown.
    """
    sizes = config or ImageBindConfig()
    state = select(only_tensors(read_pickle(file, ORIGIN), file), file)
    with unfilled():
        model = ImageBindModel(sizes)
    assign(model, state, file, "ImageBind")
    return write_folder(folder, asdict(sizes), state, dtype=None)


class _Tower(Encoder):
    """One tower of an ImageBind, with unit-length vectors unless ``normalize`` is false."""

    modality: str

    def __init__(self, card: str = "huge", normalize: bool = True) -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "imagebind")
        chosen.verify()
        self._assemble(load(chosen.folder(), [self.modality]), normalize)

    @classmethod
    def from_model(cls, model: ImageBindModel, normalize: bool = True) -> Self:
        """Build from a model in memory, which is frozen in place; ValueError if it lacks this tower."""
        return cls.assembled(model, normalize)

    def _assemble(self, model: ImageBindModel, normalize: bool) -> None:
        if self.modality not in model.modality_trunks:
            has = ", ".join(model.modality_trunks)
            raise ValueError(f"{type(self).__name__} needs a model with {self.modality!r}, but this one has {has} alone")
        self.model, self.normalize, self.dim = model, normalize, model.config.out_embed_dim

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _run(self, inputs: Tensor) -> Tensor:
        """What is prepared in float32 (numbers of word pieces stay whole) -> (B, d) float32."""
        return self.model(self.modality, inputs.to(self._dtype) if inputs.is_floating_point() else inputs).float()

    def _finish(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.normalize else x


class ImageTower(_Tower, ImageEncoder):
    """Frozen picture tower. Shortest side to 224 pixels (bicubic with antialiasing), centre crop, two equal frames.

    Args:
        card: a name in `CARDS`, the official ``imagebind_huge.pth`` or a folder written by `import_checkpoint`.
        normalize: make vectors of length 1, which these are already in the original.

    Raises ValueError or FileNotFoundError as `load` does.
    """

    modality, image_size = "vision", IMAGE_SIZE

    def preprocess(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> normalized (B, 3, 224, 224); ValueError for another shape."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"ImageBind takes pixels of shape (batch, 3, height, width), got {tuple(pixels.shape)}")
        short = min(pixels.shape[-2:])
        height, width = (IMAGE_SIZE * side // short for side in pixels.shape[-2:])
        pixels = pixels.float()
        if short != IMAGE_SIZE:
            pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (round((side - IMAGE_SIZE) / 2) for side in (height, width))
        pixels = pixels[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pixels - mean) / std

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, d)."""
        return self._finish(self._run(self.preprocess(inputs)))


class AudioTower(_Tower, AudioEncoder):
    """Frozen sound tower. Hears ``clips`` pieces of two seconds, evenly spaced from the first sample to the last.

    A sound of at most two seconds is one clip, its spectrogram filled up as in the original.

    Args:
        card: a name in `CARDS`, the official ``imagebind_huge.pth`` or a folder written by `import_checkpoint`.
        clips: how many pieces; their vectors are averaged. Three is the original's choice; one is the first two seconds.
        normalize: make the average a vector of length 1; otherwise it is that of the original, at most 20 long.

    Raises ValueError or FileNotFoundError as `load` does, and ValueError for ``clips`` below 1.
    """

    modality, sample_rate, picture_space = "audio", SAMPLE_RATE, ""

    def __init__(self, card: str = "huge", clips: int = 3, normalize: bool = True) -> None:
        super().__init__(card, normalize)
        self._hear(clips)
        self.picture_space = SPACES.get(card, "")

    @classmethod
    def from_model(cls, model: ImageBindModel, normalize: bool = True, clips: int = 3) -> Self:
        """Build from a model in memory, which is frozen in place; ValueError if it lacks this tower."""
        tower = super().from_model(model, normalize)
        tower._hear(clips)
        return tower

    def _hear(self, clips: int) -> None:
        if clips < 1:
            raise ValueError(f"clips {clips} is not possible: give 1 or more")
        self.clips, self.width = clips, self.model.config.audio_embed_dim

    def preprocess(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> spectrograms (B, S, 1, 128, 204); ValueError for another shape or less than 25 ms."""
        if waveform.ndim != 2:
            raise ValueError(f"ImageBind takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
        if waveform.shape[1] < WINDOW:
            raise ValueError(f"ImageBind needs at least {WINDOW} samples at {SAMPLE_RATE} Hz, got {waveform.shape[1]}")
        spare = waveform.shape[1] - CLIP
        starts = [spare * index // max(self.clips - 1, 1) for index in range(self.clips)] if spare > 0 else [0]
        clips = torch.stack([waveform[:, start : start + CLIP] for start in starts], 1)
        return spectrogram(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def embed(self, inputs: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> (B, d)."""
        clips = self.preprocess(inputs)
        vectors = self._run(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return self._finish(vectors.mean(1))

    def tokens(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> patches of all clips in turn (B, S * 228, w), 12 bands per 0.1 s, low to high.

        Clips of sounds below six seconds overlap, so do their tokens.
        """
        clips = self.preprocess(waveform)
        x = self.model.tokens("audio", clips.flatten(0, 1).to(self._dtype))[:, 1:].float()
        x = x.unflatten(1, MEL_GRID).transpose(1, 2).flatten(1, 2)
        return x.unflatten(0, clips.shape[:2]).flatten(1, 2)


class TextTower(_Tower, TextEncoder):
    """Frozen text tower over CLIP's byte pairs; more than 77 of them are cut and keep their end mark.

    Args:
        card: a name in `CARDS`, the official ``imagebind_huge.pth`` or a folder written by `import_checkpoint`.
        normalize: make vectors of length 1; otherwise they have the length of the trained logit scale.

    Raises ValueError or FileNotFoundError as `load` does.
    """

    modality = "text"

    def embed(self, inputs: list[str]) -> Tensor:
        """B sentences -> (B, d)."""
        if isinstance(inputs, str):
            raise ValueError("ImageBind takes a list of sentences, got one string: give [sentence]")
        ids = _tokenizer()(list(inputs), context_length=CONTEXT)
        return self._finish(self._run(ids.to(next(self.model.parameters()).device)))


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """CLIP's tokenizer, whose vocabulary lies in the package open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def build(card: str = "huge") -> nn.Module:
    """The towers of a card at their size, with random weights."""
    find_card(CARDS, card, "imagebind")
    return ImageBindModel(MINI, ["audio"]) if card == "mini" else ImageBindModel(ImageBindConfig())


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Factories of towers with small random weights, by class name."""
    sizes = {f"{name}_{what}": value for name in MODALITIES for what, value in (("embed_dim", 16), ("num_heads", 2))}
    config = ImageBindConfig(out_embed_dim=8, **sizes, **{f"{name}_num_blocks": 1 for name in MODALITIES})

    def factory(tower: Any) -> Callable[[], Frozen]:
        return lambda: tower.from_model(ImageBindModel(config, [tower.modality]))

    return {tower.__name__: factory(tower) for tower in (ImageTower, AudioTower, TextTower)}


MINI = ImageBindConfig(out_embed_dim=128, audio_embed_dim=64, audio_num_blocks=3, audio_num_heads=4)
SPACES = {"mini": "clip:mini", "huge": "clip:vit-h-14"}  # the CLIP whose frozen picture tower each card was trained around

CARDS: dict[str, Card] = {
    "mini": Card(  # a sound tower alone, in the space of the miniature CLIP
        source="package:imagebind",
        files=dict.fromkeys(("config.json", "model.safetensors")),
        licence="Apache-2.0",
        commercial=True,
        origin="recipes/miniature/imagebind.yaml",
        parameters=189_888,
        dim=128,
        sample_rate=SAMPLE_RATE,
        normalized=True,
    ),
    "huge": Card(
        source="imagebind_huge.pth",
        files={"imagebind_huge.pth": None},
        url="https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
        size=4_803_584_173,
        licence="CC-BY-NC-SA-4.0",
        commercial=False,
        origin=ORIGIN,
        parameters=1_073_097_729,  # without depth, thermal and motion; the file holds 1,200.8 M
        dim=1024,
        sample_rate=SAMPLE_RATE,
        image_size=IMAGE_SIZE,
        mean=MEAN,
        std=STD,
        normalized=True,
    ),
}
