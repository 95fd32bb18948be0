"""BEATs: sound to a time-ordered sequence of patch features (Chen et al., "BEATs", arXiv 2212.09058).

Waveform 16 kHz -> Kaldi filter bank (128 bins, 10 ms) -> 16x16 patches, 8 per 160 ms -> post-norm transformer with
deep-norm residuals (arXiv 2203.00555) and a gated relative position bias (arXiv 2110.13900) shared by all layers.
Module names equal those of the official checkpoints, so their state dicts load as they are.

Letters: B batch, T samples, F frames, L tokens, N classes, H heads, d ``encoder_embed_dim``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, Classifier, find_card
from xmodal.foundation.kaldi import HOP, MEL_BINS, SAMPLE_RATE, WINDOW, fbank
from xmodal.foundation.published import BEATS, BEATS_MIRROR
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import assign, read_folder, read_pickle, unfilled, write_folder

FBANK_MEAN, FBANK_STD = 15.41663, 6.55582  # of AudioSet, as published; the standard deviation is used twice over
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
POSITION_KEY = "self_attn.relative_attention_bias.weight"
OFFICIAL = "https://github.com/microsoft/unilm/tree/master/beats (or a mirror; its links have been dead at times)"


@dataclass(frozen=True)
class BEATsConfig:
    """Sizes and switches under the names of the official ``cfg``, with its defaults (but patches of 16, not -1).

    The published iter3+ files set ``deep_norm``, ``relative_position_embedding`` and ``gru_rel_pos`` to true and
    ``max_distance`` to 800. ``layer_wise_gradient_decay_ratio`` scales gradients in training mode only.
    """

    input_patch_size: int = 16
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_wise_gradient_decay_ratio: float = 1.0
    layer_norm_first: bool = False
    deep_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    dropout_input: float = 0.0
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    gru_rel_pos: bool = False
    finetuned_model: bool = False
    predictor_dropout: float = 0.1
    predictor_class: int = 527

    def __post_init__(self) -> None:
        for whole, part in (("encoder_embed_dim", "encoder_attention_heads"), ("encoder_embed_dim", "conv_pos_groups")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{part} {getattr(self, part)} does not divide {whole} {getattr(self, whole)}")
        if self.input_patch_size < 1 or MEL_BINS % self.input_patch_size:
            raise ValueError(f"input_patch_size {self.input_patch_size} does not divide the {MEL_BINS} mel bins")
        if self.activation_fn not in ACTIVATIONS:
            raise ValueError(f"activation_fn {self.activation_fn!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.deep_norm and self.layer_norm_first:
            raise ValueError("deep_norm is a post-norm scheme: set it or layer_norm_first, not both")

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> Self:
        """Build from a checkpoint's ``cfg``: unknown keys are ignored, missing ones take their default."""
        return cls(**{item.name: cfg[item.name] for item in fields(cls) if item.name in cfg})

    @property
    def min_samples(self) -> int:
        """Samples of the shortest sound that fills one patch: 2800 for patches of 16 frames."""
        return WINDOW + (self.input_patch_size - 1) * HOP


@lru_cache(maxsize=16)
def position_buckets(tokens: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every distance key - query from 1 - tokens to tokens - 1: exact when near, logarithmic when far."""
    half = num_buckets // 2
    exact = half // 2
    distance = np.arange(1 - tokens, tokens)
    size = np.abs(distance)
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(size < exact, size, far) + half * (distance > 0)


class PositionConv(nn.Module):
    """Grouped convolution over time with weight norm per tap; parameters ``weight_g``, ``weight_v``, ``bias`` as published."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, kernel))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (kernel * width)))
        drawn = self.weight_v.detach()  # without memory there is nothing to sum, and torch would import its compiler for it
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel) if drawn.is_meta else drawn.norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, d, L) -> (B, d, L)."""
        kernel = self.weight_v.shape[-1]
        weight = self.weight_v * (self.weight_g / self.weight_v.square().sum((0, 1), keepdim=True).sqrt())
        return F.conv1d(x, weight, self.bias, padding=kernel // 2, groups=self.groups)[..., : x.shape[-1]]


class Attention(nn.Module):
    """Self-attention whose relative position bias is scaled per query by two gates read from the projected query."""

    def __init__(self, config: BEATsConfig, relative_attention_bias: nn.Embedding | None) -> None:
        super().__init__()
        width, self.heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.dropout = config.attention_dropout
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.gated = config.gru_rel_pos
        if relative_attention_bias is not None:
            self.relative_attention_bias = relative_attention_bias
        if self.gated:
            self.grep_linear = nn.Linear(width // self.heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        """Input (B, L, d), position bias (H, L, L), padding mask (B, L) true where padded -> (B, L, d)."""
        query, key, value = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if bias is not None and self.gated:
            gates = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid()
            bias = (gates[..., :1] * (gates[..., 1:] * self.grep_a - 1) + 2) * bias
        if bias is not None:
            bias = bias.to(query.dtype).expand(len(x), -1, -1, -1)
        if mask is not None:
            bias = query.new_zeros(()) if bias is None else bias
            bias = bias.masked_fill(mask[:, None, None], torch.finfo(query.dtype).min)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One transformer layer; post-norm unless ``layer_norm_first``, residual scaled by (2 * layers)^(1/4) with deep norm."""

    def __init__(self, config: BEATsConfig, relative_attention_bias: nn.Embedding | None) -> None:
        super().__init__()
        width = config.encoder_embed_dim
        self.self_attn = Attention(config, relative_attention_bias)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_embed_dim, width)
        self.activation = ACTIVATIONS[config.activation_fn]
        self.dropout, self.activation_dropout = nn.Dropout(config.dropout), nn.Dropout(config.activation_dropout)
        self.alpha = (2 * config.encoder_layers) ** 0.25 if config.deep_norm else 1.0
        self.norm_first = config.layer_norm_first

    def _feed(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_dropout(self.activation(self.fc1(x))))

    def forward(self, x: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
        """(B, L, d) -> (B, L, d); bias and mask as in `Attention`."""
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), bias, mask))
            return x + self.dropout(self._feed(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(self.alpha * x + self.dropout(self.self_attn(x, bias, mask)))
        return self.final_layer_norm(self.alpha * x + self.dropout(self._feed(x)))


class Transformer(nn.Module):
    """Convolutional position embedding and the layers."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        self.config = config
        conv = PositionConv(config.encoder_embed_dim, config.conv_pos, config.conv_pos_groups)
        self.pos_conv = nn.Sequential(conv, nn.GELU())
        relative = config.relative_position_embedding
        shared = nn.Embedding(config.num_buckets, config.encoder_attention_heads) if relative else None
        self.layers = nn.ModuleList(Layer(config, shared) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.dropout = nn.Dropout(config.dropout)
        self._reset()

    def _reset(self) -> None:
        """Normal(0, 0.02), zero biases; with deep norm Xavier projections, the value path scaled by (8 * layers)^(-1/4)."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        beta = (8 * self.config.encoder_layers) ** -0.25
        for layer in cast(list[Layer], self.layers) if self.config.deep_norm else []:
            attention = layer.self_attn
            for linear in (attention.q_proj, attention.k_proj):
                nn.init.xavier_normal_(linear.weight)
            for linear in (attention.v_proj, attention.out_proj, layer.fc1, layer.fc2):
                nn.init.xavier_normal_(linear.weight, gain=beta)

    def position_bias(self, tokens: int) -> Tensor | None:
        """(H, L, L) bias of query i on key j, a function of j - i; None without relative positions."""
        if not self.config.relative_position_embedding:
            return None
        table = cast(Layer, self.layers[0]).self_attn.relative_attention_bias
        buckets = torch.from_numpy(position_buckets(tokens, self.config.num_buckets, self.config.max_distance))
        return table(buckets.to(table.weight.device)).t().unfold(-1, tokens, 1).flip(1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """(B, L, d) and padding mask (B, L) -> input of the first layer and output of every layer, each (B, L, d)."""
        config = self.config
        if mask is not None:
            x = x.masked_fill(mask[..., None], 0)
        x = x + self.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        x = self.dropout(x if config.layer_norm_first else self.layer_norm(x))
        bias, hidden = self.position_bias(x.shape[1]), [x]
        decay = config.layer_wise_gradient_decay_ratio if self.training else 1.0
        for layer in self.layers:
            if decay != 1.0:
                x = decay * x + (1 - decay) * x.detach()
            drop = self.training and config.encoder_layerdrop > 0
            if not (drop and torch.rand((), device="cpu").item() < config.encoder_layerdrop):
                x = layer(x, bias, mask)
            hidden.append(x)
        if config.layer_norm_first:
            hidden[-1] = self.layer_norm(x)
        return hidden


def _shrink_mask(mask: Tensor, length: int) -> Tensor:
    """(B, n) -> (B, length): true where all entries of one of ``length`` equal pieces are true; the remainder is cut off."""
    return mask[:, : mask.shape[1] // length * length].unflatten(1, (length, -1)).all(-1)


class BEATsModel(nn.Module):
    """The trainable architecture, of any size. State dict keys are the official ones."""

    def __init__(self, config: BEATsConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, patch, stride=patch, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        same = config.embed_dim == config.encoder_embed_dim
        self.post_extract_proj = None if same else nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.dropout_input = nn.Dropout(config.dropout_input)
        self.encoder = Transformer(config)
        self.predictor_dropout = nn.Dropout(config.predictor_dropout)
        self.predictor = nn.Linear(config.encoder_embed_dim, config.predictor_class) if config.finetuned_model else None

    def fbank(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) in [-1, 1] -> normalized filter bank (B, F, 128), float32 even under autocast.

        Raises ValueError for another shape, and for a sound too short to fill one patch.
        """
        if waveform.ndim != 2:
            raise ValueError(f"BEATs takes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
        if waveform.shape[1] < self.config.min_samples:
            raise ValueError(
                f"BEATs needs at least {self.config.min_samples} samples at {SAMPLE_RATE} Hz (one patch of "
                f"{self.config.input_patch_size} frames), got {waveform.shape[1]}: give a longer sound"
            )
        return (fbank(waveform.float() * 2**15) - FBANK_MEAN) / (2 * FBANK_STD)

    def patches(self, fbank: Tensor) -> Tensor:
        """(B, F, 128) -> layer-normalized patches (B, L, embed_dim) in time order, 8 frequency patches per time step."""
        images = fbank[:, None].to(self.patch_embedding.weight.dtype)
        return self.layer_norm(self.patch_embedding(images).flatten(2).transpose(1, 2))

    def token_mask(self, padding_mask: Tensor) -> Tensor:
        """Padding mask (B, T) over samples, true where padded -> (B, L) over tokens, rounded as the original rounds it."""
        frames, patch = (padding_mask.shape[1] - WINDOW) // HOP + 1, self.config.input_patch_size
        return _shrink_mask(_shrink_mask(padding_mask.bool(), frames), frames // patch * (MEL_BINS // patch))

    def encode(self, fbank: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Normalized filter bank (B, F, 128) and padding mask over tokens (B, L) -> hidden states as in `forward`."""
        x = self.patches(fbank)
        x = x if self.post_extract_proj is None else self.post_extract_proj(x)
        return self.encoder(self.dropout_input(x), mask)

    def forward(self, waveform: Tensor, padding_mask: Tensor | None = None) -> list[Tensor]:
        """Waveforms (B, T) -> every hidden state (B, L, d): the input of layer 1, then the output of layers 1, 2, ...

        ``padding_mask`` (B, T) is true where a clip was padded. Raises ValueError as `fbank` does.
        """
        return self.encode(self.fbank(waveform), None if padding_mask is None else self.token_mask(padding_mask))

    hidden_states = forward

    def features(self, waveform: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Waveforms (B, T) -> the last layer's output (B, L, d)."""
        return self(waveform, padding_mask)[-1]

    def logits(self, waveform: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Waveforms (B, T) -> class logits (B, N), the mean over the tokens that are not padding; sigmoid gives probabilities.

        Raises ValueError if the model was built without ``finetuned_model``.
        """
        return self.classify(self.features(waveform, padding_mask), padding_mask)

    def classify(self, features: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """As :meth:`logits`, from what :meth:`features` gave (B, L, d)."""
        if self.predictor is None:
            raise ValueError("this BEATs has no classifier: give a fine-tuned checkpoint, or a config with finetuned_model true")
        scores = self.predictor(self.predictor_dropout(features))
        if padding_mask is None:
            return scores.mean(1)
        padded = self.token_mask(padding_mask)[..., None]
        return scores.masked_fill(padded, 0).sum(1) / (~padded).sum(1).clamp(min=1)


def save(model: BEATsModel, labels: list[str], folder: Path, dtype: torch.dtype | None = torch.float16) -> None:
    """Write ``config.json`` (cfg and labels) and ``model.safetensors`` (float16), each under a temporary name first.

    ``dtype`` None keeps the precision. Raises ValueError if the labels do not match the classifier, or a weight does not
    fit into ``dtype``.
    """
    classes = 0 if model.predictor is None else model.config.predictor_class
    if labels and len(labels) != classes:
        raise ValueError(f"{len(labels)} labels were given, but the classifier has {classes} classes")
    first = f"encoder.layers.0.{POSITION_KEY}"
    kept = {key: value for key, value in model.state_dict().items() if key == first or not key.endswith(POSITION_KEY)}
    write_folder(folder, {"cfg": asdict(model.config), "labels": labels}, kept, dtype)


def load(path: Path) -> tuple[BEATsModel, list[str]]:
    """Read an official ``.pt`` file, or a folder written by `save`, into a float32 model in eval mode and its labels.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    content = _read_folder(path) if path.is_dir() else _read_official(path)
    state = {key: value.float() for key, value in content["model"].items()}
    config = replace(BEATsConfig.of(content["cfg"]), finetuned_model="predictor.weight" in state)
    shared = state.get(f"encoder.layers.0.{POSITION_KEY}")
    if shared is not None:
        state |= {f"encoder.layers.{index}.{POSITION_KEY}": shared for index in range(config.encoder_layers)}
    with unfilled():
        model = BEATsModel(config)
    assign(model, state, path, "its cfg")
    labels = content.get("label_dict") or {}
    return model.eval(), [str(labels[index]) for index in sorted(labels)]


def _read_official(path: Path) -> dict[str, Any]:
    content = read_pickle(path, OFFICIAL)
    if not (isinstance(content, dict) and all(isinstance(content.get(key), Mapping) for key in ("cfg", "model"))):
        found = ", ".join(sorted(map(str, content))[:6]) if isinstance(content, dict) else f"a {type(content).__name__}"
        expected = f"expected a dict with cfg and model, found {found or 'an empty dict'}"
        raise ValueError(f"{path} is not a BEATs checkpoint: {expected}; give a .pt file from {OFFICIAL}")
    return content


def _read_folder(folder: Path) -> dict[str, Any]:
    content, state = read_folder(folder, OFFICIAL)
    if not isinstance(content.get("cfg"), Mapping) or not isinstance(content.get("labels"), list):
        raise ValueError(f"{folder / 'config.json'} is not of BEATs: it lacks cfg or labels; copy or train it again")
    return {"cfg": content["cfg"], "label_dict": dict(enumerate(content["labels"])), "model": state}


class BEATs(AudioEncoder, Classifier):
    """Frozen BEATs.

    ``card`` is a name in `CARDS`, an official ``.pt`` file or a folder written by `save`. ``layers`` (from 1) are those
    that `tokens` concatenates; default the card's, else the last of each third (AudioToken's choice, arXiv 2305.13050).
    ``labels`` names a fine-tuned checkpoint's classes. Raises ValueError for layers that do not exist, and as `load` does.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, card: str = "mini", layers: list[int] | None = None) -> None:
        super().__init__()
        chosen = find_card(CARDS, card, "BEATs")
        chosen.verify()
        self._assemble(*load(chosen.folder()), chosen.options.get("layers") if layers is None else layers, card)

    @classmethod
    def from_model(cls, model: BEATsModel, labels: list[str] | None = None, layers: list[int] | None = None) -> Self:
        """Build from a model in memory, which is frozen in place."""
        return cls.assembled(model, labels or [], layers, "in memory")

    def _assemble(self, model: BEATsModel, labels: list[str], layers: list[int] | None, name: str) -> None:
        self.model, self.labels = model, labels
        depth = self.model.config.encoder_layers
        self.layers = sorted({math.ceil(depth * part / 3) for part in (1, 2, 3)}) if layers is None else layers
        beyond = [layer for layer in self.layers if not 1 <= layer <= depth]
        if beyond or not self.layers:
            raise ValueError(f"layers {beyond or self.layers} do not exist in BEATs {name!r}: choose from 1 to {depth}")
        self.dim = self.model.config.encoder_embed_dim
        self.width = len(self.layers) * self.dim

    def tokens(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> the chosen layers side by side (B, L, width), time-major, 8 tokens per 160 ms."""
        hidden = self.model.hidden_states(waveform)
        return torch.cat([hidden[layer] for layer in self.layers], -1).float()

    def embed(self, inputs: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> the mean of the last layer's tokens (B, dim), not normalized."""
        return self.model.features(inputs).mean(1).float()

    @property
    def token_options(self) -> Mapping[str, Any]:
        """The layers that `tokens` puts side by side."""
        return {"layers": self.layers}

    def embed_and_classify(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Both :meth:`embed` and :meth:`class_logits` for the price of one."""
        features = self.model.features(waveform)
        return features.mean(1).float(), self.model.classify(features).float()

    def class_logits(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> logits of ``labels`` (B, N), any number of which may be right."""
        return self.model.logits(waveform).float()

    def tag(self, waveform: Tensor) -> Tensor:
        """16 kHz waveforms (B, T) -> independent probability of each class (B, N); ValueError without a classifier."""
        return self.model.logits(waveform).float().sigmoid()


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn an official ``.pt`` file into a folder that ``card`` takes, at full precision; raises as `load` does."""
    model, labels = load(file)
    save(model, labels, folder, dtype=None)
    return folder


def build(card: str) -> BEATsModel:
    """The architecture at the size of a published card, with random weights."""
    tagger = "finetuned" in find_card(CARDS, card, "BEATs").source
    switches: dict[str, Any] = {"deep_norm": True, "relative_position_embedding": True, "gru_rel_pos": True}
    return BEATsModel(BEATsConfig(max_distance=800, finetuned_model=tagger, **switches))


def tiny() -> dict[str, Callable[[], Frozen]]:
    """A small random instance, for tests."""
    sizes: dict[str, Any] = {
        "embed_dim": 8,
        "encoder_layers": 3,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "conv_pos": 8,
    }
    config = BEATsConfig(
        **sizes, encoder_attention_heads=2, conv_pos_groups=4, relative_position_embedding=True, gru_rel_pos=True
    )
    return {"BEATs": lambda: BEATs.from_model(BEATsModel(config).eval())}


def _official(iteration: str, tuned: str = "") -> Card:
    """A release: its iteration, and which of the two fine-tuned forms, if any; all are of one size each."""
    name = f"BEATs_{iteration}_finetuned_on_AS2M_{tuned}" if tuned else f"BEATs_{iteration}"
    parameters, size = (90_717_055, 363_145_291) if tuned else (90_311_792, 361_499_833)
    return Card(
        f"{name}.pt", {f"{name}.pt": BEATS[name]}, "MIT", True, OFFICIAL, parameters, 768, SAMPLE_RATE, normalized=False,
        options={"layers": [4, 8, 12]}, size=size, mirrors=(f"{BEATS_MIRROR}/{name}.pt",),
    )  # fmt: skip


def _miniature(folder: str, origin: str) -> Card:
    """An ear of the miniature world: of its own sounds, or of strangers', too. The first judges what others make."""
    files = dict.fromkeys(("config.json", "model.safetensors"))
    return Card(
        f"package:{folder}", files, "Apache-2.0", True, origin, 690_664, 128, SAMPLE_RATE, normalized=False,
        options={"layers": [2, 3, 4]},
    )  # fmt: skip


CARDS: dict[str, Card] = {
    "mini": _miniature("beats", "recipes/miniature"),
    "wild": _miniature(
        "beats_wild",
        "recipes/miniature, with recordings under MIT, CC0, CC BY 3.0 or in the public domain (benchmarks/real_sounds.csv)",
    ),
    **{
        "-".join(part for part in (iteration.lower().replace("_", "-"), tuned) if part): _official(iteration, tuned)
        for iteration in ("iter3_plus_AS2M", "iter3_plus_AS20K", "iter3", "iter2", "iter1")
        for tuned in ("", "cpt1", "cpt2")
    },
}
