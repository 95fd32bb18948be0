"""PE-AV: sounds, pictures, videos and sentences in one space (Vyas et al., arXiv 2512.19687) over transformers.

Sounds and pictures share a space and compare directly. Text has a head of its own for each partner: a sentence that is to
be compared with sounds differs from the same sentence for videos. Only the parts of the chosen tower are built.

Letters: B batch, T samples, L frames of 40 ms, V video frames, d embedding size, w width of an encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, Encoder, ImageEncoder, TextEncoder, check_vocabulary, find_card
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import assign, read_json, read_tensors

if TYPE_CHECKING:
    from transformers import PeAudioVideoConfig, PeAudioVideoModel

SAMPLE_RATE = 48_000
MEAN = STD = (0.5, 0.5, 0.5)
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as files name them
HUB = "https://huggingface.co/facebook"
PROCESSOR_FILES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
FRAME_PROJECTION = "encoder.embedder.proj.weight"
PARTNERS = ("audio", "video", "audio_video")
# Where a tower's parts stand in a file; encoders are stored once under either of two names.
PLACES = {
    "audio": {
        "encoder.": ("audio_model.audio_encoder.", "audio_video_encoder.embedder.audio_encoder."),
        "head.": ("audio_model.audio_head.",),
    },
    "video": {
        "encoder.": ("video_model.video_encoder.", "audio_video_encoder.embedder.video_encoder."),
        "head.": ("video_model.video_head.",),
    },
    "text for audio": {"encoder.": ("text_model.", "audio_model.text_model."), "head.": ("audio_model.text_audio_head.",)},
    "text for video": {"encoder.": ("text_model.", "video_model.text_model."), "head.": ("video_model.text_video_head.",)},
    "text for audio_video": {"encoder.": ("text_model.", "audio_model.text_model."), "head.": ("text_audio_video_head.",)},
}


def _parts(config: Any, what: str) -> nn.ModuleDict:
    """Encoder and head of one tower, a key of `PLACES`, with random weights."""
    from transformers import AutoModel, PeAudioEncoder, PeVideoEncoder
    from transformers.models.pe_audio_video.modeling_pe_audio_video import PeAudioVideoContrastiveHead

    out = config.text_config.hidden_size
    encoder: Any
    if what == "audio":
        encoder = PeAudioEncoder(config.audio_video_config.audio_config)
    elif what == "video":
        encoder = PeVideoEncoder(config.audio_video_config.video_config)
    else:
        encoder = AutoModel.from_config(config.text_config)
    return nn.ModuleDict({"encoder": encoder, "head": PeAudioVideoContrastiveHead(encoder.config.hidden_size, out)})


def _pick(state: Mapping[str, Tensor], what: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one tower under its own names."""
    for part, prefixes in PLACES[what].items():
        found = next((prefix for prefix in prefixes if any(key.startswith(prefix) for key in state)), None)
        if found:
            yield from ((part + key.removeprefix(found), value) for key, value in state.items() if key.startswith(found))


def _config(folder: Path) -> PeAudioVideoConfig:
    from transformers import PeAudioVideoConfig

    path = folder / "config.json"
    kind = read_json(path, HUB).get("model_type")
    if kind != "pe_audio_video":
        raise ValueError(f"{path} describes a {kind!r}, but expected 'pe_audio_video': give a folder of facebook/pe-av-*")
    return PeAudioVideoConfig.from_pretrained(folder, local_files_only=True)


def load(folder: Path, what: str) -> nn.ModuleDict:
    """Read one tower, a key of `PLACES`, of a transformers folder as float32 in eval mode.

    Raises FileNotFoundError or ValueError with the file, what was expected and the mend.
    """
    config: Any = _config(folder)
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")) or [folder / "model.safetensors"]:
        state |= read_tensors(path, HUB)
    tower = dict(_pick(state, what))
    if FRAME_PROJECTION in tower:
        # A config.json that transformers wrote loses this width on reading (it comes back as 2); the weights know it.
        config.audio_video_config.video_config.vision_config.num_labels = tower[FRAME_PROJECTION].shape[1]
    parts = _parts(config, what)
    assign(parts, tower, folder, f"the {what} tower of its config.json")
    return parts.eval()


def card_of(name: str) -> Card:
    """Return the card of a name, a hub id or a path."""
    return any_card(CARDS, name, "pe_av", FILES)


def _folder(card: str, local_files_only: bool) -> Path:
    return locate(card_of(card), local_files_only)


class _Tower(Encoder):
    """One encoder with its head; vectors keep the length that the head gives them unless ``normalize`` is set."""

    encoder: Any

    def _share(self, encoder: Any, head: Any, normalize: bool) -> None:
        self.encoder, self.head, self.normalize = encoder, head, normalize
        self.dim = head.proj.out_features

    def _finish(self, pooled: Tensor) -> Tensor:
        x = self.head(pooled).float()
        return F.normalize(x, dim=-1) if self.normalize else x


def _embed_sound(embedder: nn.Module, input_values: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The embedder's forward without its no_grad, which would keep gradients from the waveform; for unpadded sounds."""
    with torch.backends.cudnn.flags(enabled=False):  # as the original computes
        codes = embedder.bottleneck(embedder.dac_encoder(input_values))
    return embedder.data_proj(codes.transpose(1, 2)), padding_mask


class AudioTower(_Tower, AudioEncoder):
    """Frozen sound tower. Hears the whole sound, or its middle; the end is mirrored to fill the last 40 ms.

    Args:
        card: a name in `CARDS`, the path of a transformers folder, or a hub id ``owner/name``.
        seconds: hear this much from the middle of longer sounds; default all.
        normalize: make vectors of length 1; the original does not.
        local_files_only: a hub id is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card or weights that do not fit, FileNotFoundError where they are missing.
    """

    sample_rate = SAMPLE_RATE
    picture_space = "pe_av"  # its own CLIP's, which no published painter reads

    def __init__(
        self, card: str = "small", seconds: float | None = None, normalize: bool = False, local_files_only: bool = True
    ) -> None:
        super().__init__()
        parts = load(_folder(card, local_files_only), "audio")
        self._assemble(parts["encoder"], parts["head"], seconds, normalize)

    @classmethod
    def from_model(cls, model: PeAudioVideoModel, seconds: float | None = None, normalize: bool = False) -> Self:
        """Build from a model in memory, which is frozen in place and made to pass gradients to the waveform."""
        return cls.assembled(model.audio_model.audio_encoder, model.audio_model.audio_head, seconds, normalize)

    def _assemble(self, encoder: Any, head: nn.Module, seconds: float | None, normalize: bool) -> None:
        if seconds is not None and seconds <= 0:
            raise ValueError(f"seconds {seconds} is not possible: give more than 0, or None for the whole sound")
        self._share(encoder, head, normalize)
        encoder.embedder.forward = partial(_embed_sound, encoder.embedder)
        self.seconds, self.width = seconds, encoder.config.hidden_size
        self.hop = encoder.config.dac_config.hop_length

    def preprocess(self, waveform: Tensor) -> Tensor:
        """48 kHz waveforms (B, T) -> (B, 1, L * 1920); ValueError for another shape or a single sample."""
        if waveform.ndim != 2 or waveform.shape[1] < 2:
            raise ValueError(f"PE-AV takes waveforms of shape (batch, samples >= 2), got {tuple(waveform.shape)}")
        samples = waveform.shape[1] if self.seconds is None else max(2, round(self.seconds * SAMPLE_RATE))
        start = max(0, waveform.shape[1] - samples) // 2
        waveform = waveform[:, start : start + samples].float()
        last = waveform.shape[1] - 1
        place = torch.arange(-(-(last + 1) // self.hop) * self.hop, device=waveform.device) % (2 * last)
        return waveform[:, torch.where(place > last, 2 * last - place, place)][:, None]

    def embed(self, inputs: Tensor) -> Tensor:
        """48 kHz waveforms (B, T) -> (B, d)."""
        return self._finish(self.encoder(self.preprocess(inputs).to(self.encoder.dtype)).pooler_output)

    def tokens(self, waveform: Tensor) -> Tensor:
        """48 kHz waveforms (B, T) -> the last layer's output (B, L, w), one per 40 ms."""
        return self.encoder(self.preprocess(waveform).to(self.encoder.dtype)).last_hidden_state.float()


class ImageTower(_Tower, ImageEncoder):
    """Frozen video tower, for which a picture is a still video. Pictures are squashed to the model's square.

    Args:
        card: a name in `CARDS`, the path of a transformers folder, or a hub id ``owner/name``.
        frames: how often a picture is repeated; default the card's number, else 1.
        normalize: make vectors of length 1; the original does not.
        local_files_only: a hub id is looked up in the local hub cache only; False permits the download.

    Mean, deviation and resampling are those of the folder's processor file, else of PE core (0.5, 0.5, bilinear).
    Raises ValueError for an unknown card or weights that do not fit, FileNotFoundError where they are missing.
    """

    def __init__(
        self, card: str = "small", frames: int | None = None, normalize: bool = False, local_files_only: bool = True
    ) -> None:
        super().__init__()
        folder = _folder(card, local_files_only)
        parts = load(folder, "video")
        frames = CARDS[card].options.get("frames", 1) if frames is None and card in CARDS else frames
        self._assemble(parts["encoder"], parts["head"], 1 if frames is None else frames, normalize, _look(folder))

    @classmethod
    def from_model(cls, model: PeAudioVideoModel, frames: int = 1, normalize: bool = False) -> Self:
        """Build from a model in memory, which is frozen in place."""
        video = model.video_model
        return cls.assembled(video.video_encoder, video.video_head, frames, normalize, (MEAN, STD, "bilinear"))

    def _assemble(self, encoder: Any, head: nn.Module, frames: int, normalize: bool, look: tuple[Any, ...]) -> None:
        if frames < 1:
            raise ValueError(f"frames {frames} is not possible: give 1 or more")
        self._share(encoder, head, normalize)
        self.frames, (self.mean, self.std, self.mode) = frames, look
        self.image_size = int(encoder.embedder.vision_model.timm_model.patch_embed.img_size[0])

    def preprocess(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> normalized (B, 3, side, side); ValueError for another shape."""
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"PE-AV takes pixels of shape (batch, 3, height, width), got {tuple(pixels.shape)}")
        size, pixels = (self.image_size, self.image_size), pixels.float()
        if tuple(pixels.shape[-2:]) != size:
            pixels = F.interpolate(pixels, size, mode=self.mode, antialias=True).clamp(0, 1)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, d)."""
        still = self.preprocess(inputs)[:, None].expand(-1, self.frames, -1, -1, -1)
        return self._finish(self.encoder(still.contiguous()).pooler_output)

    def embed_video(self, frames: Tensor) -> Tensor:
        """(B, V, 3, H, W) in [0, 1] -> (B, d); ``frames`` of the constructor plays no part."""
        if frames.ndim != 5:
            raise ValueError(f"a video has the shape (batch, frames, 3, height, width), got {tuple(frames.shape)}")
        pixels = self.preprocess(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self._finish(self.encoder(pixels).pooler_output)


def _look(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, deviation and resampling of a folder's processor file; those of PE core where it has none."""
    for name in PROCESSOR_FILES:
        if not (folder / name).is_file():
            continue
        content = read_json(folder / name, HUB)
        content = content.get("video_processor", content)
        if "image_mean" not in content:
            continue
        if "shortest_edge" in (content.get("size") or {}) or content.get("do_center_crop"):
            raise ValueError(f"{folder / name} asks for a crop, but PE-AV's pictures are squashed: use an unmodified folder")
        mode = RESAMPLING.get(int(content.get("resample") or 2))
        if mode is None:
            raise ValueError(f"{folder / name} asks for resampling {content['resample']}, but expected 2 or 3")
        return tuple(content["image_mean"]), tuple(content["image_std"]), mode
    return MEAN, STD, "bilinear"


class TextTower(_Tower, TextEncoder):
    """Frozen text tower: one encoder, and the head that belongs to the partner.

    Args:
        card: a name in `CARDS`, the path of a transformers folder, or a hub id ``owner/name``.
        partner: what the sentences are compared with: ``audio``, ``video`` (and pictures) or ``audio_video``.
        normalize: make vectors of length 1; the original does not.
        local_files_only: a hub id is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card or partner, weights or vocabulary that do not fit, FileNotFoundError where
    weights are missing.
    """

    def __init__(
        self, card: str = "small", partner: str = "audio", normalize: bool = False, local_files_only: bool = True
    ) -> None:
        from transformers import AutoTokenizer

        super().__init__()
        _check_partner(partner)
        folder = _folder(card, local_files_only)
        parts = load(folder, f"text for {partner}")
        self._assemble(parts["encoder"], parts["head"], AutoTokenizer.from_pretrained(folder), partner, normalize)

    @classmethod
    def from_model(cls, model: PeAudioVideoModel, tokenizer: Any, partner: str = "audio", normalize: bool = False) -> Self:
        """Build from a model and a transformers tokenizer in memory; the model is frozen in place."""
        _check_partner(partner)
        owner = {"audio": model.audio_model, "video": model.video_model}.get(partner, model)
        return cls.assembled(model.text_model, getattr(owner, f"text_{partner}_head"), tokenizer, partner, normalize)

    def _assemble(self, encoder: Any, head: nn.Module, tokenizer: Any, partner: str, normalize: bool) -> None:
        rows = encoder.config.vocab_size
        check_vocabulary(len(tokenizer), rows, "model", rows // 2)
        self._share(encoder, head, normalize)
        self.tokenizer, self.partner = tokenizer, partner

    def embed(self, inputs: list[str]) -> Tensor:
        """B sentences -> (B, d)."""
        if isinstance(inputs, str):
            raise ValueError("PE-AV takes a list of sentences, got one string: give [sentence]")
        limit = self.encoder.config.max_position_embeddings
        batch = self.tokenizer(list(inputs), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        device = next(self.encoder.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        return self._finish(self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0])


def _check_partner(partner: str) -> None:
    if partner not in PARTNERS:
        raise ValueError(f"partner {partner!r} is not one of {', '.join(PARTNERS)}")


def build(card: str = "large") -> nn.Module:
    """The whole model at full size with random weights: ``large``, or what the config.json of a local folder says."""
    from transformers import PeAudioVideoConfig, PeAudioVideoModel

    if Path(card).is_dir():
        return PeAudioVideoModel(_config(Path(card)))
    if not find_card(CARDS, card, "pe_av").parameters:
        raise ValueError(f"the sizes of {card!r} stand in its config.json alone: give the path of its folder")
    config: Any = PeAudioVideoConfig()
    vision = config.audio_video_config.video_config.vision_config
    vision.num_labels = vision.num_classes  # 1024; the class leaves the width that counts at 2
    return PeAudioVideoModel(config)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Factories of towers with small random weights, by class name."""

    def sentences() -> Frozen:
        return TextTower.from_model(_tiny_model(), _tiny_tokenizer())

    return {
        "AudioTower": lambda: AudioTower.from_model(_tiny_model()),
        "ImageTower": lambda: ImageTower.from_model(_tiny_model()),
        "TextTower": sentences,
    }


def _tiny_model() -> PeAudioVideoModel:
    from transformers import PeAudioVideoConfig, PeAudioVideoModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
    codec = {"model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 8, 10, 12], "codebook_dim": 8}
    vision = {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384", "num_labels": 16, "do_pooling": True,
        "global_pool": "map", "model_args": {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64},
    }  # fmt: skip
    text = {
        "model_type": "modernbert", "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
    }  # fmt: skip
    both: dict[str, Any] = {
        "audio_config": {"model_type": "pe_audio_encoder", "dac_config": codec, **sizes},
        "video_config": {"model_type": "pe_video_encoder", "vision_config": vision, **sizes},
    }
    with torch.random.fork_rng(devices=[]):
        return PeAudioVideoModel(PeAudioVideoConfig(text_config=text, audio_video_config=both | sizes)).eval()


def _tiny_tokenizer() -> Any:
    """Letters as words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    marks = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    words = {word: index for index, word in enumerate([*marks, *map(chr, range(33, 93))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]")


FILES = ("config.json", "*.json", "*.safetensors", "*.txt")


def _hub(name: str, parameters: int = 0, dim: int | None = None, frames: int = 1) -> Card:
    return Card(
        source=f"facebook/{name}", files=dict.fromkeys(FILES), licence="Apache-2.0", commercial=True,
        origin=f"https://huggingface.co/facebook/{name}", parameters=parameters, dim=dim, sample_rate=SAMPLE_RATE,
        normalized=False, options={"frames": frames},
    )  # fmt: skip


CARDS: dict[str, Card] = {
    "small": _hub("pe-av-small"),
    "base": _hub("pe-av-base"),
    "large": _hub("pe-av-large", 1_461_626_828, 1024),
    "small-16-frame": _hub("pe-av-small-16-frame", frames=16),
    "base-16-frame": _hub("pe-av-base-16-frame", frames=16),
    "large-16-frame": _hub("pe-av-large-16-frame", dim=1024, frames=16),
}
