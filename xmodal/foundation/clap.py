"""CLAP with HTSAT (Wu et al., arXiv 2211.06687): sounds and sentences in one space, each tower by itself.

The networks are transformers' ClapModel; its folders, LAION's own ``.pt`` files and AudioLDM's text encoder load. The front
end is our own: differentiable, and without the random crops of the original.

Letters: B batch, T samples, N clips, F frames, L tokens in time, d embedding size, w width of the last feature map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, Card, TextEncoder, check_vocabulary
from xmodal.foundation.laion_names import SIZES_OF, TABLES, convert, read, renamed, tables
from xmodal.foundation.mel import triangles
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, instead, locate
from xmodal.registry.checkpoint import assign, only_tensors, read_json, read_pickle, read_tensors, unfilled, write_folder

Crop = Literal["centre", "start", "windows"]
Waveforms = Tensor | Sequence[Tensor]
CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
ROBERTA = "laion/clap-htsat-unfused"  # has the tokenizer that LAION's own files lack
KEYS = {"audio": ("audio_model.", "audio_projection."), "text": ("text_model.", "text_projection.")}
FLOOR = 1e-10  # of the power in a band: -100 dB


@dataclass(frozen=True)
class FrontEnd:
    """Waveforms to log-mel clips (dB). The defaults are those of every published CLAP of LAION.

    ``sample_rate`` and the band limits ``low`` and ``high`` are in Hz; ``n_fft`` and ``hop`` in samples; a clip has
    ``samples``. ``fused`` models take HTK's triangles of equal height and see a long sound as a whole, shrunk, beside three
    clips of it; the others take Slaney's triangles of equal area. Raises ValueError for values that cannot work.
    """

    sample_rate: int = 48_000
    n_fft: int = 1024
    hop: int = 480
    bands: int = 64
    low: float = 50.0
    high: float = 14_000.0
    samples: int = 480_000
    fused: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.low < self.high <= self.sample_rate / 2 and 0 < self.hop <= self.n_fft <= self.samples and self.bands):
            raise ValueError(f"low < high <= sample_rate / 2 and hop <= n_fft <= samples must hold, but this is {self}")

    @classmethod
    def read(cls, path: Path, fused: bool) -> Self:
        """Read a ``preprocessor_config.json``; raises FileNotFoundError, or ValueError where a value is absent or unknown."""
        content = read_json(path, "its publisher")
        names = ("sampling_rate", "fft_window_size", "hop_length", "feature_size", "frequency_min", "frequency_max")
        lacking = [name for name in (*names, "max_length_s") if not isinstance(content.get(name), int | float)]
        if lacking or content.get("padding", "repeatpad") != "repeatpad" or content.get("top_db") is not None:
            found = f"lacks {', '.join(lacking)}" if lacking else "asks for another padding than repeatpad, or for top_db"
            raise ValueError(f"{path} {found}: give the file that belongs to the weights, a guess would lower scores in silence")
        rate, window, hop, bands, low, high = (content[name] for name in names)
        return cls(int(rate), int(window), int(hop), int(bands), low, high, round(content["max_length_s"] * rate), fused)

    def settings(self) -> dict[str, Any]:
        """Return the content of a ``preprocessor_config.json``; transformers reads it too if clips last whole seconds."""
        seconds = self.samples / self.sample_rate
        return {
            "feature_extractor_type": "ClapFeatureExtractor", "sampling_rate": self.sample_rate, "fft_window_size": self.n_fft,
            "hop_length": self.hop, "feature_size": self.bands, "frequency_min": self.low, "frequency_max": self.high,
            "max_length_s": int(seconds) if seconds.is_integer() else seconds, "nb_max_samples": self.samples, "top_db": None,
            "padding": "repeatpad", "truncation": "fusion" if self.fused else "rand_trunc",
        }  # fmt: skip

    @property
    def frames(self) -> int:
        """Frames of one clip."""
        return self.samples // self.hop + 1

    def __call__(self, sounds: Sequence[Tensor], crop: Crop, int16: bool = False) -> tuple[Tensor, Tensor, list[int]]:
        """B waveforms (T,) -> log-mel clips (N, 1 or 4, F, bands), whether each is part of a longer whole (N, 1), N per sound."""
        clips = [self.clips(to_int16(sound) if int16 else sound, crop) for sound in sounds]
        if not self.fused:
            made = torch.cat([self.log_mel(each) for each in clips])[:, None]
            return made, torch.zeros(len(made), 1, dtype=torch.bool, device=made.device), [len(each) for each in clips]
        pairs = [self._fuse(self.log_mel(each), crop) for each in clips]
        longer = torch.tensor([[longer] for each, longer in pairs for _ in each], device=pairs[0][0].device)
        return torch.cat([each for each, _ in pairs]), longer, [len(each) for each, _ in pairs]

    def clips(self, sound: Tensor, crop: Crop) -> Tensor:
        """Waveform (T,) -> clips (N, samples); the whole (1, T) of a long sound that is to be fused.

        Short sounds are repeated as often as they fit whole, then padded with silence.
        """
        length, size = len(sound), self.samples
        if length <= size:
            return F.pad(sound.repeat(size // length), (0, size % length))[None]
        if crop == "windows":
            several = math.ceil(length / size)
            starts = [round(index * (length - size) / (several - 1)) for index in range(several)]
            return torch.stack([sound[start : start + size] for start in starts])
        if self.fused:
            return sound[None]
        start = (length - size) // 2 if crop == "centre" else 0
        return sound[None, start : start + size]

    def log_mel(self, waveform: Tensor) -> Tensor:
        """(N, T) -> power in mel bands (N, F, bands), dB, float32; F = T // hop + 1, the ends are mirrored."""
        kind = waveform.device.type
        with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
            # In single precision quiet bands beside loud ones would be off by thousandths of a dB.
            exact = torch.float32 if kind == "mps" else torch.float64
            window, filters = (torch.from_numpy(each).to(waveform.device, exact) for each in _filters(self))
            mirrored = F.pad(waveform.to(exact)[:, None], (self.n_fft // 2,) * 2, mode="reflect")[:, 0]
            spectrum = torch.view_as_real(torch.fft.rfft(mirrored.unfold(-1, self.n_fft, self.hop) * window))
            return (10 * (spectrum.square().sum(-1) @ filters).clamp_min(FLOOR).log10()).float()

    def _fuse(self, mel: Tensor, crop: Crop) -> tuple[Tensor, bool]:
        """(N, F, bands) -> (N, 4, frames, bands): whole and three parts, or four times the same; and which of the two."""
        spare = mel.shape[1] - self.frames
        if spare <= 0:
            return mel[:, None].expand(-1, 4, -1, -1), False
        # One part starts in each third of the places where one can; the original draws it there.
        thirds = [third if len(third) else np.zeros(1, int) for third in np.array_split(np.arange(spare + 1), 3)]
        starts = [int(third[(len(third) - 1) // 2 if crop == "centre" else 0]) for third in thirds]
        whole = F.interpolate(mel[:, None], (self.frames, self.bands), mode="bilinear")[:, 0]
        return torch.stack([whole, *(mel[:, start : start + self.frames] for start in starts)], 1), True


def to_int16(sound: Tensor) -> Tensor:
    """Cut a waveform to 16 bits, towards zero; gradients pass as if nothing had happened."""
    steps = (sound.clamp(-1, 1) * 32767).trunc() / 32767
    return steps.detach() + (sound - sound.detach())


@lru_cache(maxsize=8)
def _filters(front: FrontEnd) -> tuple[np.ndarray, np.ndarray]:
    """Periodic Hann window (n_fft,) and triangles (n_fft / 2 + 1, bands); numpy, so no torch mode can taint them."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(front.n_fft) / front.n_fft)
    if front.fused:
        low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (front.low, front.high))
        edges = 700 * (10 ** (np.linspace(low, high, front.bands + 2) / 2595) - 1)
    else:
        step = math.log(6.4) / 27  # from 1 kHz, mel 15, on; below, a mel is 200 / 3 Hz
        low, high = (hertz * 3 / 200 if hertz < 1000 else 15 + math.log(hertz / 1000) / step for hertz in (front.low, front.high))
        mels = np.linspace(low, high, front.bands + 2)
        edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.linspace(0, front.sample_rate / 2, front.n_fft // 2 + 1)
    return window.astype(np.float32), triangles(edges, bins, not front.fused).astype(np.float32)


class AudioTower(AudioEncoder):
    """Frozen audio tower of a CLAP.

    Args:
        card: a name in `CARDS`, the path of a transformers folder or of one of LAION's ``.pt`` files, or a hub id.
        crop: what is heard of a sound that is longer than a clip (10 s in the published models): "centre", "start", or
            "windows", the mean over evenly spread clips that cover it. Fused models hear the whole and three parts,
            from the middle or the start of its thirds; with "windows" they do as the others.
        normalize: scale embeddings to length 1, as CLAP does.
        int16: cut waveforms to 16 bits first, as LAION's code does for files but not for tensors.
        sample_rate: of the waveforms that come in, Hz; what differs from the model's own rate is resampled. Default: the
            card's, else the model's own. AudioLDM's CLAP heard 16 kHz sounds resampled to 48 kHz, so its card says 16000.
        local_files_only: hub ids are looked up in the local hub cache only; False permits the download.

    ``dim`` is d, ``width`` w. Raises ValueError for an unknown card or weights that do not fit, FileNotFoundError without them.
    """

    def __init__(
        self, card: str = "mini", crop: Crop = "centre", normalize: bool = True, int16: bool = False,
        sample_rate: int | None = None, local_files_only: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        chosen = card_of(card)
        place = locate(chosen, local_files_only)
        model: Any = _tower(place, "audio", chosen.origin)
        fused, settings = model.config.enable_fusion, place / PREPROCESSOR
        # Of published weights the settings are known; of others they are never guessed.
        known = place.is_file() or (chosen.name and not chosen.shipped and not settings.is_file())
        front = FrontEnd(fused=fused) if known else FrontEnd.read(settings, fused)
        self._assemble(model, front, crop, normalize, int16, sample_rate or (None if chosen.shipped else chosen.sample_rate))

    @classmethod
    def from_model(
        cls, model: nn.Module, front: FrontEnd | None = None, crop: Crop = "centre", normalize: bool = True,
        int16: bool = False, sample_rate: int | None = None,
    ) -> Self:  # fmt: skip
        """Build from a ClapAudioModelWithProjection, which is frozen in place; by default with the published front end."""
        front = front or FrontEnd(fused=model.config.enable_fusion)  # type: ignore[arg-type, union-attr]
        return cls.assembled(model, front, crop, normalize, int16, sample_rate)

    def _assemble(self, model: Any, front: FrontEnd, crop: Crop, normalize: bool, int16: bool, sample_rate: int | None) -> None:
        config = model.config
        if crop not in get_args(Crop):
            raise ValueError(f"crop {crop!r} is unknown: choose from {', '.join(get_args(Crop))}")
        most = config.spec_size * (config.spec_size // config.num_mel_bins)
        if (front.bands, front.fused) != (config.num_mel_bins, config.enable_fusion) or front.frames > most:
            wanted = f"{config.num_mel_bins} bands, fused {config.enable_fusion}, at most {most} frames"
            raise ValueError(f"the model hears {wanted}, but {PREPROCESSOR} makes {front}: take both from one model")
        self.model, self.front, self.crop, self.normalize, self.int16 = model, front, crop, normalize, int16
        self.sample_rate = sample_rate or front.sample_rate
        self.dim, self.width = config.projection_dim, config.hidden_size

    def _rows(self, sounds: Waveforms) -> list[Tensor]:
        """The waveforms one by one, at the model's rate."""
        rows = list(sounds)
        if not rows or any(row.ndim != 1 or not len(row) or not row.is_floating_point() for row in rows):
            shape = tuple(sounds.shape) if isinstance(sounds, Tensor) else [tuple(row.shape) for row in rows]
            raise ValueError(f"CLAP takes float waveforms (batch, samples) or a list of waveforms (samples,), got {shape}")
        if self.sample_rate != self.front.sample_rate:
            from torchaudio.functional import resample

            rows = [resample(row.float(), self.sample_rate, self.front.sample_rate) for row in rows]
        return rows

    def _run(self, sounds: Waveforms) -> tuple[Any, list[int]]:
        """Embeddings and last map of all clips, and how many of them belong to each sound."""
        features, longer, counts = self.front(self._rows(sounds), self.crop, self.int16)
        return self.model(input_features=features.to(next(self.model.parameters()).dtype), is_longer=longer), counts

    def embed(self, inputs: Waveforms) -> Tensor:
        """(B, T) waveforms, or B of any lengths in a list -> (B, d) float32; ValueError for another shape, or no samples."""
        made, counts = self._run(inputs)
        scale = partial(F.normalize, dim=-1) if self.normalize else nn.Identity()
        return scale(torch.stack([part.mean(0) for part in scale(made.audio_embeds.float()).split(counts)]))

    def tokens(self, waveform: Waveforms) -> Tensor:
        """(B, T) waveforms -> HTSAT's last feature map (B, L, w) float32, the bands of one time step side by side.

        Ten seconds are 32 steps of 2 bands; windows follow one another, and ValueError is raised if their numbers differ.
        """
        made, counts = self._run(waveform)
        if len(set(counts)) > 1:
            raise ValueError(f"the sounds have {counts} windows, so their tokens make no tensor: give one at a time")
        maps = made.last_hidden_state.float().permute(0, 3, 2, 1).flatten(1, 2)
        return maps.unflatten(0, (len(counts), counts[0])).flatten(1, 2)


class TextTower(TextEncoder):
    """Frozen text tower of a CLAP: RoBERTa.

    Args:
        card: as for `AudioTower`; also the folder of an AudioLDM, whose text encoder it is.
        normalize: as for `AudioTower`.
        truncate: cut sentences that are too long, keeping the end mark; otherwise they raise ValueError.
        tokenizer: folder or hub id. Default: what lies beside the weights, else RoBERTa's as LAION's hub models carry it.
        local_files_only: as for `AudioTower`.

    ``dim`` is d, ``max_length`` counts the marks too. Raises as `AudioTower`, and for another model's tokenizer.
    """

    def __init__(
        self, card: str = "mini", normalize: bool = True, truncate: bool = False, tokenizer: str | None = None,
        local_files_only: bool = True,
    ) -> None:  # fmt: skip
        from transformers import AutoTokenizer

        super().__init__()
        chosen = card_of(card)
        place = locate(chosen, local_files_only)
        model = _tower(place, "text", chosen.origin)
        beside = next((each for each in (place / "tokenizer", place) if (each / "tokenizer_config.json").is_file()), None)
        words = beside if beside and not tokenizer else locate(card_of(tokenizer or ROBERTA, ("*.json",)), local_files_only)
        try:
            made = AutoTokenizer.from_pretrained(words, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{words} holds no tokenizer that transformers can read: copy the whole folder again") from error
        self._assemble(model, made, normalize, truncate)

    @classmethod
    def from_parts(cls, model: nn.Module, tokenizer: Any, normalize: bool = True, truncate: bool = False) -> Self:
        """Build from a ClapTextModelWithProjection, which is frozen in place, and its tokenizer."""
        return cls.assembled(model, tokenizer, normalize, truncate)

    def _assemble(self, model: Any, tokenizer: Any, normalize: bool, truncate: bool) -> None:
        config = model.config
        check_vocabulary(len(tokenizer), config.vocab_size, "text tower")
        self.model, self.tokenizer, self.normalize, self.truncate = model, tokenizer, normalize, truncate
        self.dim, self.width = config.projection_dim, config.hidden_size
        # RoBERTa counts positions from the one behind the padding's
        self.max_length = min(tokenizer.model_max_length, config.max_position_embeddings - config.pad_token_id - 1)

    def embed(self, inputs: list[str]) -> Tensor:
        """B sentences -> (B, d) float32, of length 1 if ``normalize``; ValueError for a sentence that is too long."""
        if isinstance(inputs, str) or not inputs:
            raise ValueError(f"the text tower takes a list of at least one sentence, got {inputs!r}")
        rows = [self._ids(text) for text in inputs]
        longest, device = max(map(len, rows)), next(self.model.parameters()).device
        ids = torch.tensor([row + [self.model.config.pad_token_id] * (longest - len(row)) for row in rows], device=device)
        mask = torch.arange(longest, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
        made = self.model(input_ids=ids, attention_mask=mask.long()).text_embeds.float()
        return F.normalize(made, dim=-1) if self.normalize else made

    def _ids(self, text: str) -> list[int]:
        row = self.tokenizer(text).input_ids
        if len(row) > self.max_length and not self.truncate:
            limit = f"but the text tower reads {self.max_length}: shorten it, or set truncate"
            raise ValueError(f"{text!r} has {len(row)} tokens with its start and end, {limit}")
        return row if len(row) <= self.max_length else [*row[: self.max_length - 1], row[-1]]


def card_of(name: str, files: tuple[str, ...] = ("*.json", "*.txt", WEIGHTS)) -> Card:
    """Return the card of a name, a hub id (with its files) or a path."""
    return any_card(CARDS, name, "clap", files)


def _tower(place: Path, part: str, origin: str) -> nn.Module:
    """Build one tower ("audio" or "text") of a transformers folder, or of one of LAION's files, and fill it, strictly."""
    import transformers

    if place.is_file():
        state = {key: value for key, value in renamed(read(place)).items() if key.startswith(KEYS[part])}
        config = getattr(transformers, f"Clap{part.title()}Config")(**SIZES_OF[part](state, place))
    else:
        place = place / "text_encoder" if (place / "text_encoder").is_dir() else place  # AudioLDM's
        content, state = read_json(place / CONFIG, origin), _read(place, KEYS[part], origin)
        if content.get("model_type") == "clap":
            config = getattr(transformers.ClapConfig.from_dict(content), f"{part}_config")
        elif content.get("model_type") == f"clap_{part}_model":
            config = getattr(transformers, f"Clap{part.title()}Config").from_dict(content)
        else:
            kind = f"of the type {content.get('model_type')!r}, not 'clap' or 'clap_{part}_model'"
            raise ValueError(f"{place / CONFIG} is {kind}: it has no {part} tower, choose another card or folder")
    with unfilled():
        model = getattr(transformers, f"Clap{part.title()}ModelWithProjection")(config)
    assign(model, state | tables(model), place, f"the {part} tower of CLAP")
    return model.eval()


def _read(folder: Path, wanted: tuple[str, ...], origin: str) -> dict[str, Tensor]:
    """Read the tensors whose names start with ``wanted``, without the tables."""
    new, old = folder / WEIGHTS, folder / instead(WEIGHTS)
    pickled = old.is_file() and not new.is_file()
    state = only_tensors(read_pickle(old, origin), old) if pickled else read_tensors(new, origin)
    return {key: value for key, value in state.items() if key.startswith(wanted) and not key.endswith(TABLES)}


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn one of LAION's ``.pt`` files, which hold no tokenizer, into a folder that both towers load; returns the folder.

    Raises FileNotFoundError, or ValueError where a tensor lacks or is unknown. Keeps full precision.
    """
    model: Any = convert(file)
    return save(model, None, FrontEnd(fused=model.config.audio_config.enable_fusion), folder, None)


def save(model: Any, tokenizer: Any, front: FrontEnd, folder: Path, dtype: torch.dtype | None = torch.float16) -> Path:
    """Write a ClapModel, its tokenizer (or None) and its front end to a folder that both towers load; returns the folder."""
    write_folder(folder, json.loads(model.config.to_json_string(use_diff=False)), model.state_dict(), dtype)
    (folder / PREPROCESSOR).write_text(json.dumps(front.settings(), indent=1) + "\n", encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


# What differs from HTSAT-tiny in the audio tower and from RoBERTa in the text tower; d; the parameters of the whole.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "small": ({}, {}, 512, 153_492_890),
    "small-fused": ({"enable_fusion": True, "fusion_type": "aff_2d"}, {}, 512, 153_507_530),
    "base": ({"patch_embeds_hidden_size": 128, "depths": [2, 2, 12, 2], "hidden_size": 1024}, {}, 512, 193_913_882),
    "mini": (
        {"patch_embeds_hidden_size": 32, "depths": [2, 2, 2], "num_attention_heads": [2, 4, 8], "spec_size": 128,
         "hidden_size": 128},
        {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 755,
         "max_position_embeddings": 25, "pad_token_id": 0}, 128, 1_348_542,
    ),
    "tiny": (
        {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "spec_size": 64, "num_mel_bins": 32,
         "hidden_size": 16},
        {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 514,
         "max_position_embeddings": 40, "pad_token_id": 0}, 12, 20_230,
    ),
}  # fmt: skip
MINI = FrontEnd(16_000, 512, 160, 64, 50.0, 8000.0, 40_000)  # the clips of the procedural world


def build(card: str = "mini") -> nn.Module:
    """A whole ClapModel of a card's sizes with random weights: to train, or to count."""
    import transformers as hf

    if card == "audioldm-text-encoder":
        return hf.ClapTextModelWithProjection(hf.ClapTextConfig(layer_norm_eps=1e-5))
    audio, text, dim, _ = SIZES[_RELEASES[card][1] if card in _RELEASES else card]
    return hf.ClapModel(hf.ClapConfig(audio_config=audio, text_config={"layer_norm_eps": 1e-5} | text, projection_dim=dim))


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Random towers of some 20 thousand weights, for tests."""

    def tower(part: str) -> Frozen:
        import transformers
        from tokenizers import pre_tokenizers

        config: Any = build("tiny").config
        model = getattr(transformers, f"Clap{part}ModelWithProjection")(getattr(config, f"{part.lower()}_config"))
        if part == "Audio":
            return AudioTower.from_model(model, FrontEnd(16_000, 256, 160, 32, 50.0, 8000.0, 16_000))
        letters = [letter + end for end in ("", "</w>") for letter in sorted(pre_tokenizers.ByteLevel.alphabet())]
        ids = {token: index for index, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
        return TextTower.from_parts(model, transformers.CLIPTokenizer(vocab=ids, merges=[]))

    return {"AudioTower": lambda: tower("Audio"), "TextTower": lambda: tower("Text")}


# Revision, bytes of the weights and their sha256, where two places or more agree on them.
_LAION = "b3708341862f581175dba5c356a4ebf74a9b6651"
PUBLISHED: dict[str, tuple[str, int, dict[str, str]]] = {
    "laion/clap-htsat-unfused": (
        "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a", 614_525_833,
        {"pytorch_model.bin": "1cd3c601bc4afe0fa87be3de4c13dd2cfadd249fac1e29acf74a9b296c3219bb"},
    ),
    "laion/clap-htsat-fused": (
        "365dea6ef167def6676140ed93bbc43f84dabb28", 0,
        {WEIGHTS: "3f648de6d030e17494be455d323b8d191233fbae0c7ce0ba745fd21a926a63a6"},
    ),
    "laion/larger_clap_general": ("ada0c23a36c4e8582805bb38fec3905903f18b41", 776_444_665, {}),
    "630k-audioset-best.pt": (
        _LAION, 1_863_587_645,
        {"630k-audioset-best.pt": "8053c9775516af2f4902e1e8281e356cc1bf7a85e8b761908170767b77c3f037"},
    ),
    "music_audioset_epoch_15_esc_90.14.pt": (
        _LAION, 2_352_471_003,
        {"music_audioset_epoch_15_esc_90.14.pt": "fae3e9c087f2909c28a09dc31c8dfcdacbc42ba44c70e972b58c1bd1caf6dedd"},
    ),
    "music_speech_audioset_epoch_15_esc_89.98.pt": (
        _LAION, 2_352_471_003,
        {"music_speech_audioset_epoch_15_esc_89.98.pt": "51c68f12f9d7ea25fdaaccf741ec7f81e93ee594455410f3bca4f47f88d8e006"},
    ),
}  # fmt: skip
# Repository (or LAION's file), sizes, licence, commercial use, rate of the sounds it knows.
_RELEASES: dict[str, Any] = {
    "htsat-unfused": ("laion/clap-htsat-unfused", "small", "Apache-2.0", True, 48_000),
    "htsat-fused": ("laion/clap-htsat-fused", "small-fused", "Apache-2.0", True, 48_000),
    "larger-general": ("laion/larger_clap_general", "base", "unknown", False, 48_000),
    "audioldm": ("sanchit-gandhi/clap-htsat-unfused-s-full-v2", "small", "CC-BY-NC-SA-4.0", False, 16_000),
    "630k-best": ("630k-best.pt", "small", "CC0-1.0", True, 48_000),
    "630k-audioset-best": ("630k-audioset-best.pt", "small", "CC0-1.0", True, 48_000),
    "630k-fusion-best": ("630k-fusion-best.pt", "small-fused", "CC0-1.0", True, 48_000),
    "630k-audioset-fusion-best": ("630k-audioset-fusion-best.pt", "small-fused", "CC0-1.0", True, 48_000),
    "music-audioset": ("music_audioset_epoch_15_esc_90.14.pt", "base", "CC0-1.0", True, 48_000),
    "music-speech": ("music_speech_epoch_15_esc_89.25.pt", "base", "CC0-1.0", True, 48_000),
    "music-speech-audioset": ("music_speech_audioset_epoch_15_esc_89.98.pt", "base", "CC0-1.0", True, 48_000),
}


def _published(source: str, sizes: str, licence: str, commercial: bool, rate: int) -> Card:
    repository = "lukewys/laion_clap" if source.endswith(".pt") else source
    whole = (CONFIG, WEIGHTS, PREPROCESSOR, "tokenizer_config.json", "vocab.json", "merges.txt")
    files, origin = (source,) if source.endswith(".pt") else whole, f"https://huggingface.co/{repository}"
    revision, size, known = PUBLISHED.get(source, (_LAION if repository != source else "", 0, {}))
    hashes = {file: known.get(file) for file in files}
    forms = {file: digest for file, digest in known.items() if file not in files}
    return Card(
        repository, hashes, licence, commercial, origin, SIZES[sizes][3], 512, rate, normalized=True, revision=revision,
        size=size, forms=forms,
    )  # fmt: skip


CARDS: dict[str, Card] = {
    "mini": Card(
        "package:clap", dict.fromkeys((CONFIG, WEIGHTS, PREPROCESSOR, "tokenizer.json", "tokenizer_config.json")), "Apache-2.0",
        True, "recipes/miniature/clap.yaml", SIZES["mini"][3], 128, 16_000, normalized=True,
    ),
    **{name: _published(*facts) for name, facts in _RELEASES.items()},
    "audioldm-text-encoder": Card(
        "cvssp/audioldm-s-full-v2", {
            f"text_encoder/{CONFIG}": None, "tokenizer/*": None,
            f"text_encoder/{WEIGHTS}": "c92b5a2bee69ff5dd05820d9e0a5cddbc9c9b9dd19a6cb3214f0cf4f29a4d1b0",
        },
        "CC-BY-NC-SA-4.0", False, "https://huggingface.co/cvssp/audioldm-s-full-v2", 125_302_016, 512, normalized=True,
        revision="feeb3d14203495a4b6ac0893cbdedb2159b4819c",
    ),
}  # fmt: skip
