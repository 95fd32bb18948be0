"""CLIP (Radford et al., arXiv 2103.00020): pictures and sentences in one space, each tower by itself.

Two back-ends: transformers (folders and hub ids) and open_clip (``open_clip:ARCHITECTURE/TAG``, ``local-dir:PATH`` and
``hf-hub:owner/name``). A tower reads its own tensors only and never builds the other one.

Letters: B batch, H and W pixels, N patches, L text positions, d embedding size, w tower width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Card, ImageEncoder, TextEncoder, check_vocabulary
from xmodal.foundation.published import CLIP
from xmodal.frozen import Frozen
from xmodal.registry.cards import HUB, any_card, locate
from xmodal.registry.checkpoint import assign, only_tensors, read_json, read_pickle, unfilled, write_folder

Floats = tuple[float, ...]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CONFIG, PREPROCESSOR, OPEN_CLIP_CONFIG = "config.json", "preprocessor_config.json", "open_clip_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SCHEMES = ("open_clip:", "local-dir:", "hf-hub:")
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, as preprocessor_config.json writes them
KEYS = {"vision": ("vision_model.", "visual_projection."), "text": ("text_model.", "text_projection.")}
# open_clip lists the text tower's tensors below "text." or, in plain CLIPs, at the top.
OPEN_CLIP_TEXT_KEYS = ("text.", "positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


class Preprocess(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] of any size -> normalized pixels (B, 3, size, size) of the buffers' dtype.

    ``resize`` "shortest" scales the shorter side to ``size`` and crops the centre, "squash" ignores the aspect ratio. Both
    filter before they shrink, like open_clip's transform but without rounding to 8 bits. ValueError for unknown settings.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, size: int, mean: Floats = MEAN, std: Floats = STD, interpolation: str = "bicubic", resize: str = "shortest"
    ) -> None:
        super().__init__()
        if resize not in ("shortest", "squash") or interpolation not in INTERPOLATIONS.values():
            known = "only shortest or squash, bicubic or bilinear are known"
            raise ValueError(f"pictures cannot be resized by {resize!r} and {interpolation!r}, {known}: choose another model")
        self.size, self.interpolation, self.resize = size, interpolation, resize
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
            shape = tuple(pixels.shape)
            raise ValueError(f"CLIP takes float pixels (batch, 3, height, width) in [0, 1], got {pixels.dtype} of shape {shape}")
        pixels, size, shape = pixels.float(), self.size, pixels.shape[-2:]
        target = [size if side == min(shape) or self.resize == "squash" else int(size * side / min(shape)) for side in shape]
        if target != list(shape):
            pixels = F.interpolate(pixels, target, mode=self.interpolation, antialias=True).clamp(0, 1)
        top, left = (round((side - size) / 2) for side in target)  # halves go to the even number, as in torchvision
        pixels = pixels[..., top : top + size, left : left + size]
        return ((pixels - self.mean.float()) / self.std.float()).to(self.mean.dtype)


class ImageTower(ImageEncoder):
    """Frozen image tower of a CLIP.

    Args:
        card: a name in `CARDS`, the path of a transformers folder, a hub id ``owner/name``, or an open_clip model named
            ``open_clip:ARCHITECTURE/TAG``, ``local-dir:PATH`` or ``hf-hub:owner/name``.
        normalize: scale embeddings to length 1; published CLIPs leave that to the caller.
        local_files_only: hub ids are looked up in the local hub cache only; False permits the download.

    ``dim`` is d, ``width`` w (0 for an open_clip tower that is no plain ViT), ``image_size`` the side of what the model sees.
    Raises ValueError for an unknown card or weights that do not fit, FileNotFoundError where weights are missing.
    """

    def __init__(self, card: str = "mini", normalize: bool = False, local_files_only: bool = True) -> None:
        super().__init__()
        chosen = card_of(card)
        if chosen.source.startswith(SCHEMES):
            release = _release(chosen, local_files_only)
            self._assemble(_open_clip_tower(release, vision=True), _preprocess(chosen, release.preprocessing), normalize)
        else:
            folder = _folder(chosen, local_files_only)
            model = _transformers_tower(folder, "vision", chosen.origin)
            self._assemble(model, _preprocess(chosen, None if chosen.mean else _settings(folder, chosen.origin)), normalize)

    @classmethod
    def from_model(cls, model: nn.Module, preprocess: Preprocess | None = None, normalize: bool = False) -> Self:
        """Build from CLIPVisionModelWithProjection or open_clip's ``model.visual``; by default with CLIP's own preprocessing."""
        return cls.assembled(model, preprocess or Preprocess(_image_size(model)), normalize)

    def _assemble(self, model: Any, preprocess: Preprocess, normalize: bool) -> None:
        self.image_size = _image_size(model)
        if self.image_size != preprocess.size:
            found = f"pictures are resized to {preprocess.size} pixels, but the model sees {self.image_size}"
            raise ValueError(f"{found}: take the card and the folder of one model")
        self.model, self.preprocess, self.normalize = model, preprocess, normalize
        self._transformers = hasattr(model, "visual_projection")
        if self._transformers:
            self.dim, self.width = model.config.projection_dim, model.config.hidden_size
        else:
            self.width = model.class_embedding.shape[0] if hasattr(model, "class_embedding") else 0
            model.output_tokens = False
            self.dim = model.output_dim if hasattr(model, "output_dim") else self.embed(torch.zeros(1, 3, 8, 8)).shape[-1]

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) pixels in [0, 1] -> (B, d) float32, of length 1 if ``normalize``; ValueError for another shape."""
        pixels = self.preprocess(inputs)
        made = self.model(pixel_values=pixels).image_embeds if self._transformers else self.model(pixels)
        return F.normalize(made.float(), dim=-1) if self.normalize else made.float()

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels in [0, 1] -> (B, 1 + N, w) float32: the last block's output, class token first, then row by row.

        Not passed through the last LayerNorm, never normalized. Raises ValueError for an open_clip tower that is no plain ViT.
        """
        if not self.width:
            raise ValueError("this open_clip tower is no plain ViT, so it has no patches(): choose a card of a ViT")
        pixels = self.preprocess(pixels)
        if self._transformers:
            return self.model.vision_model(pixel_values=pixels).last_hidden_state.float()
        options = {"indices": 1, "output_fmt": "NLC", "output_extra_tokens": True, "intermediates_only": True}
        made = self.model.forward_intermediates(pixels, **options)
        return torch.cat([made["image_intermediates_prefix"][-1], made["image_intermediates"][-1]], 1).float()


class TextTower(TextEncoder):
    """Frozen text tower of a CLIP.

    Args:
        card: as for `ImageTower`.
        normalize: as for `ImageTower`.
        truncate: cut sentences that are too long, keeping the end mark; otherwise they raise ValueError.
        local_files_only: as for `ImageTower`.

    ``dim`` is d, ``width`` w, ``max_length`` L (with start and end). Raises as `ImageTower`, and for another model's tokenizer.
    """

    def __init__(
        self, card: str = "mini", normalize: bool = False, truncate: bool = False, local_files_only: bool = True
    ) -> None:
        super().__init__()
        chosen = card_of(card)
        if chosen.source.startswith(SCHEMES):
            self._assemble(*_open_clip_text(_release(chosen, local_files_only)), normalize, truncate)
            return
        from transformers import CLIPTokenizer

        folder = _folder(chosen, local_files_only)
        model = _transformers_tower(folder, "text", chosen.origin)
        self._assemble(model, CLIPTokenizer.from_pretrained(folder, local_files_only=True), normalize, truncate)

    @classmethod
    def from_parts(cls, model: nn.Module, tokenizer: Any, normalize: bool = False, truncate: bool = False) -> Self:
        """Build from a CLIPTextModelWithProjection and CLIPTokenizer, or open_clip's TextTransformer and SimpleTokenizer."""
        return cls.assembled(model, tokenizer, normalize, truncate)

    def _assemble(self, model: Any, tokenizer: Any, normalize: bool, truncate: bool) -> None:
        self._transformers = hasattr(model, "text_model")
        if self._transformers:
            config = model.config
            self.dim, self.width, expected = config.projection_dim, config.hidden_size, config.vocab_size
            found, start, end = len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
            self.max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
        else:
            model.output_tokens = True
            self.dim, self.width, expected = model.output_dim, model.width, model.vocab_size
            found, start, end = tokenizer.vocab_size, tokenizer.sot_token_id, tokenizer.eot_token_id
            self.max_length = model.context_length
        check_vocabulary(found, expected, "text tower")
        if self._transformers and config.eos_token_id not in (2, end):  # 2 in old files, where it means "the highest"
            looks_for = f"but the text tower looks for {config.eos_token_id}: correct eos_token_id in {CONFIG}"
            raise ValueError(f"the tokenizer ends with id {end}, {looks_for}")
        self.model, self.tokenizer, self.normalize, self.truncate = model, tokenizer, normalize, truncate
        self._marks = start, end

    def _ids(self, text: str) -> list[int]:
        """Start, words, end."""
        words = self.tokenizer(text, add_special_tokens=False).input_ids if self._transformers else self.tokenizer.encode(text)
        if len(words) > self.max_length - 2 and not self.truncate:
            limit = f"but the text tower reads {self.max_length}: shorten it, or set truncate"
            raise ValueError(f"{text!r} has {len(words) + 2} tokens with its start and end, {limit}")
        return [self._marks[0], *words[: self.max_length - 2], self._marks[1]]

    def _run(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, d), token states (B, L, w), mask (B, L)."""
        if isinstance(texts, str) or not texts:
            raise ValueError(f"the text tower takes a list of at least one sentence, got {texts!r}")
        rows, device = [self._ids(text) for text in texts], next(self.model.parameters()).device
        ids = torch.tensor([row + [0] * (self.max_length - len(row)) for row in rows], device=device)
        mask = torch.arange(self.max_length, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
        if self._transformers:
            made = self.model(input_ids=ids)
            return made.text_embeds, made.last_hidden_state, mask
        return *self.model(ids), mask

    def embed(self, inputs: list[str]) -> Tensor:
        """B sentences -> (B, d) float32, of length 1 if ``normalize``; ValueError for a sentence that is too long."""
        made = self._run(inputs)[0]
        return F.normalize(made.float(), dim=-1) if self.normalize else made.float()

    def states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """B sentences -> token states (B, L, w) float32 after the last LayerNorm, and their mask (B, L), true up to the end mark.

        States beyond the mask are zero; none is normalized. Raises ValueError as `embed` does, and for open_clip towers that
        are not causal, where what stands behind the end mark shows in every state.
        """
        if not self._transformers and (self.model.attn_mask is None or self.model.cls_emb is not None):
            raise ValueError("this open_clip text tower is not causal, so it has no states(): choose a card of a plain CLIP")
        _, states, mask = self._run(texts)
        return states.float() * mask[..., None], mask


def _image_size(model: Any) -> int:
    size = model.config.image_size if hasattr(model, "visual_projection") else model.image_size
    return size if isinstance(size, int) else max(size)


def card_of(name: str) -> Card:
    """Return the card of a name, a path, a hub id, or of what open_clip publishes or reads; ValueError for another."""
    if name in CARDS or not name.startswith(SCHEMES):
        return any_card(CARDS, name, "clip", ("*.json", "*.txt", WEIGHTS[0]))
    scheme, _, rest = name.partition(":")
    files, origin = [OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS[0]], f"{HUB}{rest}" if scheme == "hf-hub" else rest
    if scheme == "open_clip":
        repository, _, file = _published_by_open_clip(name)[1]["hf_hub"].rpartition("/")
        files, origin = [file or OPEN_CLIP_WEIGHTS[0]], f"{HUB}{repository}"
    return Card(name, dict.fromkeys(files), "unknown", False, origin, 0, name=f"clip:{name}")


def _folder(card: Card, local_files_only: bool) -> Path:
    """Find the transformers folder of a card; that a tokenizer lacks is for its reader to say."""
    bare = replace(card, files={name: card.files[name] for name in card.files if name in (CONFIG, *WEIGHTS)})
    folder = locate(bare if bare.find() else card, local_files_only)
    if not (folder / CONFIG).is_file():
        mend = f"a folder with {OPEN_CLIP_CONFIG} and {OPEN_CLIP_WEIGHTS[0]} or {OPEN_CLIP_WEIGHTS[1]} is given as local-dir:PATH"
        raise FileNotFoundError(f"{folder} is no transformers folder, it lacks {CONFIG}: copy the whole folder; {mend}")
    return folder


def _read(folder: Path, names: tuple[str, ...], wanted: tuple[str, ...], origin: str) -> tuple[Path, dict[str, Tensor]]:
    """Read the tensors whose names start with ``wanted``, no others, from the first of the files ``names`` that is there."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} has no weights: expected {' or '.join(names)}, copy it from {origin}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys() if key.startswith(wanted)}  # noqa: SIM118
        except (SafetensorError, ValueError, OSError) as error:
            raise ValueError(f"{path} is damaged or not a safetensors file ({error}): get it again from {origin}") from error
    else:
        content = read_pickle(path, origin)
        below = "state_dict" if isinstance(content, Mapping) and "state_dict" in content else None
        named = {key.removeprefix("module."): value for key, value in only_tensors(content, path, below).items()}
        state = {key: value for key, value in named.items() if key.startswith(wanted)}
    # old versions stored their index tables and masks among the weights
    return path, {key: value for key, value in state.items() if not key.endswith(("position_ids", "attn_mask"))}


def _preprocess(card: Card, found: Mapping[str, Any] | None) -> Preprocess:
    """The card's preprocessing, else what stands beside the weights; a guess would only lower the scores, in silence."""
    if card.image_size and card.mean and card.std:
        return Preprocess(card.image_size, card.mean, card.std)
    if not (found and found.get("mean") and found.get("std") and isinstance(found.get("size"), int)):
        files = f"mean, std and one square size in {PREPROCESSOR} or in preprocess_cfg of {OPEN_CLIP_CONFIG}"
        raise ValueError(f"{card.source} does not say how its pictures are prepared: give {files}")
    mean, std = (tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3 for value in (found["mean"], found["std"]))
    return Preprocess(found["size"], mean, std, found.get("interpolation", "bicubic"), found.get("resize_mode", "shortest"))


def _settings(folder: Path, origin: str) -> dict[str, Any]:
    """What ``preprocessor_config.json`` says, in open_clip's terms."""
    content = read_json(folder / PREPROCESSOR, origin)
    sides = [side if isinstance(side, dict) else {"height": side} for side in map(content.get, ("size", "crop_size"))]
    cropped = content.get("do_center_crop", True)
    found = {value for side in sides[: 1 + cropped] for value in side.values()}
    size = found.pop() if len(found) == 1 else None
    kind, mode = INTERPOLATIONS.get(content.get("resample", 3), "an unknown filter"), "shortest" if cropped else "squash"
    colours = {"mean": content.get("image_mean"), "std": content.get("image_std")}
    return colours | {"size": size, "interpolation": kind, "resize_mode": mode}


def _transformers_tower(folder: Path, part: str, origin: str) -> nn.Module:
    """Build one tower ("vision" or "text") of a transformers folder and fill it, strictly."""
    import transformers

    content = read_json(folder / CONFIG, origin)
    if content.get("model_type") == "clip":
        whole = transformers.CLIPConfig.from_dict(content)
        config = getattr(whole, f"{part}_config")
        config.projection_dim = whole.projection_dim
    elif content.get("model_type") == f"clip_{part}_model":
        config = getattr(transformers, f"CLIP{part.title()}Config").from_dict(content)
    else:
        kind = f"of the type {content.get('model_type')!r}, not 'clip' or 'clip_{part}_model'"
        raise ValueError(f"{folder / CONFIG} is {kind}: give the folder of a CLIP")
    path, state = _read(folder, WEIGHTS, KEYS[part], origin)
    with unfilled():
        model = getattr(transformers, f"CLIP{part.title()}ModelWithProjection")(config)
    assign(model, state, path, f"the {part} tower of its {CONFIG}")
    for module in model.modules():  # these tables are no weights, so nothing has filled them yet
        if "position_ids" in module._buffers:
            module.position_ids = torch.arange(module.position_embedding.num_embeddings)[None]
    return model.eval()


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write a CLIPModel, its CLIPTokenizer and the original CLIP's mean and std to a folder that both towers load (float16)."""
    write_folder(folder, json.loads(model.config.to_json_string(use_diff=False)), model.state_dict())
    size = model.config.vision_config.image_size
    content = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, "resample": 3}
    settings = content | {"image_mean": MEAN, "image_std": STD, "image_processor_type": "CLIPImageProcessor"}
    (folder / PREPROCESSOR).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


class _Release(NamedTuple):
    """A published open_clip model: its sizes, its preprocessing, and how to find its weights."""

    config: dict[str, Any]
    preprocessing: dict[str, Any]
    find: Callable[[], Path]
    names: tuple[str, ...]
    origin: str


def _release(card: Card, local_files_only: bool) -> _Release:
    """Read what open_clip or a folder says about ``open_clip:ARCHITECTURE/TAG``, ``local-dir:PATH`` or ``hf-hub:owner/name``."""
    source, (scheme, _, name) = card.source, card.source.partition(":")
    if scheme != "open_clip":
        folder = Path(name) if scheme == "local-dir" else locate(card, local_files_only)
        content = read_json(folder / OPEN_CLIP_CONFIG, source)
        config = content.get("model_cfg", {})
        if not all(key in config for key in ("embed_dim", "vision_cfg", "text_cfg")):
            raise ValueError(f"{folder / OPEN_CLIP_CONFIG} has no complete model_cfg: get it again from the weights' publisher")
        settings = {"size": config["vision_cfg"].get("image_size", 224)} | content.get("preprocess_cfg", {})
        return _Release(config, settings, lambda: folder, OPEN_CLIP_WEIGHTS, source)
    config, published = _published_by_open_clip(source)
    settings, (file,) = published | {"size": config["vision_cfg"].get("image_size", 224)}, card.files

    def find() -> Path:
        place = locate(card, local_files_only)
        return place.parent if place.is_file() else place

    return _Release(config, settings, find, OPEN_CLIP_WEIGHTS if file in OPEN_CLIP_WEIGHTS else (file,), source)


def _published_by_open_clip(source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sizes and settings of ``open_clip:ARCHITECTURE/TAG``; ValueError for a tag that open_clip does not publish on the hub."""
    import open_clip

    architecture, _, tag = source.removeprefix("open_clip:").rpartition("/")
    config, published = open_clip.get_model_config(architecture), open_clip.get_pretrained_cfg(architecture, tag)
    if not config or not published or not published.get("hf_hub"):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        mend = f"its tags are {tags}" if tags else "give ARCHITECTURE/TAG as listed by open_clip.list_pretrained()"
        raise ValueError(f"open_clip publishes no weights {tag!r} of {architecture!r}: {mend}")
    # The wrong activation loads without an error; what the weights were trained with is the tag's to say.
    return config | {"quick_gelu": bool(published.get("quick_gelu", False))}, published


def _open_clip_tower(release: _Release, vision: bool) -> nn.Module:
    """Build one tower and fill it, strictly; a minute stand-in takes the place of the other."""
    from open_clip import CustomTextCLIP

    config, names = release.config, ("visual.",) if vision else OPEN_CLIP_TEXT_KEYS
    path, state = _read(release.find(), release.names, names, release.origin)
    minute: dict[str, Any] = {"width": 64, "layers": 1}
    image = config["vision_cfg"] | {"timm_model_pretrained": False} if vision else minute | {"image_size": 8, "patch_size": 8}
    text = minute | {"heads": 1, "vocab_size": 2, "context_length": 2} if vision else config["text_cfg"]
    # timm computes tables that are in no weight file
    with torch.device("cpu" if "timm_model_name" in image else "meta"):
        whole = CustomTextCLIP(config["embed_dim"], image, text, quick_gelu=config.get("quick_gelu", False))
    model = whole.visual if vision else whole.text
    own = {key.removeprefix("visual.").removeprefix("text."): value for key, value in state.items()}
    assign(model, own, path, f"the {'image' if vision else 'text'} tower of {release.origin}")
    if getattr(model, "attn_mask", None) is not None:
        model.attn_mask = model.build_causal_mask()
    return model.eval()


def _open_clip_text(release: _Release) -> tuple[nn.Module, Any]:
    """The text tower and its tokenizer."""
    from open_clip.tokenizer import SimpleTokenizer

    config = release.config["text_cfg"]
    if other := config.get("hf_model_name") or config.get("hf_tokenizer_name"):
        raise ValueError(f"the text tower of {release.origin} needs {other}, not CLIP's own words: choose a plain CLIP")
    return _open_clip_tower(release, vision=False), SimpleTokenizer(**config.get("tokenizer_kwargs") or {})


# Image tower: width, width of the MLP, layers, heads, patch and picture (pixels); text tower: the same, vocabulary, positions; d.
SIZES = {
    "mini": ((128, 512, 4, 4, 8, 64), (128, 512, 3, 4, 755, 24), 128),
    "vit-b-32": ((768, 3072, 12, 12, 32, 224), (512, 2048, 12, 8, 49408, 77), 512),
    "vit-b-16": ((768, 3072, 12, 12, 16, 224), (512, 2048, 12, 8, 49408, 77), 512),
    "vit-l-14": ((1024, 4096, 24, 16, 14, 224), (768, 3072, 12, 12, 49408, 77), 768),
}
TINY = ((32, 64, 2, 4, 8, 32), (32, 64, 2, 4, 514, 77), 24)


def build(card: str = "mini", vocabulary: int = 0) -> nn.Module:
    """A whole CLIP of a card's sizes (or another vocabulary), both towers and the temperature, random: to train, or to count."""
    if card.startswith("open_clip:"):
        import open_clip

        return open_clip.CLIP(**_published_by_open_clip(card)[0])
    image, text, dim = SIZES[card]
    return _build(image, (*text[:4], vocabulary or text[4], *text[5:]), dim)


def _build(image: tuple[int, ...], text: tuple[int, ...], dim: int) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = dict(zip((*sizes, "patch_size", "image_size"), image)) | {"projection_dim": dim}
    words = dict(zip((*sizes, "vocab_size", "max_position_embeddings"), text)) | {"projection_dim": dim}
    words |= {"bos_token_id": words["vocab_size"] - 2, "eos_token_id": words["vocab_size"] - 1}
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=words, projection_dim=dim))


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Random towers of some 30 thousand weights, for tests."""

    def tower(part: str) -> Frozen:
        import transformers
        from tokenizers import pre_tokenizers

        config: Any = _build(*TINY).config
        model = getattr(transformers, f"CLIP{part}ModelWithProjection")(getattr(config, f"{part.lower()}_config"))
        tokens = [letter + end for end in ("", "</w>") for letter in sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokens += ["<|startoftext|>", "<|endoftext|>"]
        tokenizer = transformers.CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
        return ImageTower.from_model(model) if part == "Vision" else TextTower.from_parts(model, tokenizer)

    return {"ImageTower": lambda: tower("Vision"), "TextTower": lambda: tower("Text")}


def _published(name: str, repository: str, parameters: int, dim: int, mean: Floats = MEAN, std: Floats = STD) -> Card:
    by_open_clip, origin = name.startswith(SCHEMES), f"https://huggingface.co/{repository}"
    files = dict.fromkeys(OPEN_CLIP_WEIGHTS[:1] if by_open_clip else (CONFIG, WEIGHTS[0], "vocab.json", "merges.txt"))
    source = name if by_open_clip else repository
    revision, size, known = CLIP.get(name, ("", 0, {}))
    files |= {file: known.get(file) for file in files}
    forms = {file: digest for file, digest in known.items() if file not in files}
    return Card(
        source, files, "MIT", True, origin, parameters, dim, None, 224, mean, std, normalized=False, revision=revision, size=size,
        forms=forms,
    )  # fmt: skip


_HALF = (0.5, 0.5, 0.5)
_RELEASES: dict[str, Any] = {
    "vit-b-32": ("openai/clip-vit-base-patch32", 151_277_313, 512),
    "vit-b-16": ("openai/clip-vit-base-patch16", 149_620_737, 512),
    "vit-l-14": ("openai/clip-vit-large-patch14", 427_616_513, 768),
    "open_clip:ViT-B-32/laion2b_s34b_b79k": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 151_277_313, 512),
    "open_clip:ViT-B-16/laion2b_s34b_b88k": ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", 149_620_737, 512),
    "open_clip:ViT-L-14/laion2b_s32b_b82k": ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", 427_616_513, 768, _HALF, _HALF),
    "open_clip:ViT-H-14/laion2b_s32b_b79k": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 986_109_441, 1024),
    "open_clip:ViT-bigG-14/laion2b_s39b_b160k": ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", 2_539_567_105, 1280),
}
CARDS: dict[str, Card] = {
    "mini": Card(
        source="package:clip", licence="Apache-2.0", commercial=True, origin="recipes/miniature/clip.yaml", parameters=1_554_177,
        files=dict.fromkeys((CONFIG, WEIGHTS[0], PREPROCESSOR, "tokenizer.json", "tokenizer_config.json")),
        dim=128, image_size=64, mean=MEAN, std=STD, normalized=False,
    ),
    **{name: _published(name, *facts) for name, facts in _RELEASES.items()},
}  # fmt: skip
