"""Contracts of the frozen parts. A recipe can name any class below these; the CLI checks against them.

Letters: B batch, T samples, L tokens in time, H and W pixels, d embedding size, w token width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.frozen import Frozen, Recorded
from xmodal.registry.cards import Card, find_card

__all__ = [
    "Adapter", "AudioEncoder", "AudioGenerator", "Card", "Classifier", "EmbeddingPainter", "Encoder", "ImageEncoder",
    "ImageGenerator", "MelAutoencoder", "Prior", "Synchronizer", "TextEncoder", "Vocoder", "check_vocabulary", "find_card",
]  # fmt: skip


LOUDEST, BRIGHTEST = 32.0, 2.0  # numbers beyond are integers that nobody scaled
GUARDED = ("embed", "tokens", "class_logits", "embed_and_classify")


def _guarded(kind: type, check: Callable[[str, Any], None]) -> None:
    """Let the methods that a class defines refuse what is not of the contract's kind, before they compute."""
    for name in GUARDED:
        method = vars(kind).get(name)
        if not callable(method) or getattr(method, "__isabstractmethod__", False):
            continue

        def guarded(self: Any, inputs: Any, *rest: Any, method: Callable[..., Any] = method, **named: Any) -> Any:
            if not torch.compiler.is_compiling():
                check(type(self).__name__, inputs)
            return method(self, inputs, *rest, **named)

        setattr(kind, name, wraps(method)(guarded))


def _check(name: str, inputs: Any, what: str, low: float, high: float) -> None:
    if not isinstance(inputs, Tensor):
        return  # the encoder's own check names the shape that it wants
    if not inputs.is_floating_point():
        raise ValueError(f"{name} takes float {what}, not {inputs.dtype}: scale integers by their range first")
    if inputs.device.type != "cpu" or not inputs.numel():
        return  # looking at numbers of a GPU would make every step wait for them
    least, most = torch.aminmax(inputs.detach())
    if not torch.isfinite(least + most):
        raise ValueError(f"{name} was given {what} with NaN or infinity")
    if least < low or most > high:
        raise ValueError(
            f"{name} takes {what}, but the numbers lie from {float(least):.4g} to {float(most):.4g}: scale them first"
        )


def _check_waveform(name: str, inputs: Any) -> None:
    _check(name, inputs, "waveforms in [-1, 1]", -LOUDEST, LOUDEST)


def _check_pixels(name: str, inputs: Any) -> None:
    _check(name, inputs, "pixels in [0, 1]", 1 - BRIGHTEST, BRIGHTEST)


class Encoder(Frozen):
    """Something that turns inputs into one vector each."""

    dim: int

    @property
    def preprocessing(self) -> str:
        """What happens to an input before the network, in words; "" says that the contract's own words are enough."""
        return ""

    @abstractmethod
    def embed(self, inputs: Any) -> Tensor:
        """Return one vector per input, (B, d) float32; the card states whether it is L2-normalized."""


class AudioEncoder(Encoder):
    """Hears. Takes float32 waveforms in [-1, 1], mono, at its own ``sample_rate`` (Hz).

    ``picture_space`` names the CLIP whose picture embeddings its own lie with; "" is one that nobody has named, None none.
    """

    sample_rate: int
    width: int
    picture_space: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _guarded(cls, _check_waveform)

    @property
    def token_options(self) -> Mapping[str, Any]:
        """The settings that change what `tokens` gives, for the key under which they are stored."""
        return {}

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """(B, T) waveform -> (B, d)."""

    @abstractmethod
    def tokens(self, waveform: Tensor) -> Tensor:
        """(B, T) waveform -> (B, L, w) features in time order; w is ``width``."""


class ImageEncoder(Encoder):
    """Sees. Takes float32 pixels in [0, 1] of any size; resizes and normalizes by itself.

    ``reads_any_size``: pictures are best given as they are, since its own resizing is part of its published numbers.
    """

    image_size: int
    reads_any_size: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _guarded(cls, _check_pixels)

    @abstractmethod
    def embed(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) pixels -> (B, d)."""


class TextEncoder(Encoder):
    """Reads."""

    @abstractmethod
    def embed(self, inputs: list[str]) -> Tensor:
        """B sentences -> (B, d)."""

    def states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """B sentences -> token states (B, L, w) and their mask (B, L); raises ValueError where the tower has none to give."""
        raise ValueError(f"{type(self).__name__} gives no token states: choose the text tower of a CLIP")


class Classifier(Encoder):
    """Names. Beside its embedding it gives a logit for each of ``labels``, which are empty where the weights name none."""

    labels: list[str]

    @abstractmethod
    def class_logits(self, inputs: Any) -> Tensor:
        """B inputs -> logits (B, N) of ``labels``."""

    def embed_and_classify(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """`embed` and `class_logits`, (B, d) and (B, N); in one pass where the network allows it."""
        return self.embed(inputs), self.class_logits(inputs)


class ImageGenerator(Frozen):
    """Paints from prompt embeddings, and can be trained *through*.

    ``token_dim`` is the width of one word embedding of its text encoder; ``image_size`` the side of its square pictures;
    ``scaling_factor`` what the VAE's latents are multiplied by before the loss.
    """

    token_dim: int
    image_size: int
    scaling_factor: float

    @abstractmethod
    def default_scheduler(self) -> Any:
        """A new scheduler of diffusers for `generate`, of the noise that it was trained with."""

    @abstractmethod
    def prompt_embeds(self, prompts: list[str], tokens: Tensor | None = None) -> Tensor:
        """Encode B prompts to (B, S, c); ``{}`` in a prompt is the place where row b of ``tokens`` is spliced.

        ``tokens`` are (B, token_dim), or (B, k, token_dim) for k pseudo-words in a row.
        """

    def projections(self) -> Mapping[str, nn.Module]:
        """The linear maps of its attention that low-rank weights may change, by name; by default none."""
        return {}

    def empty_embeds(self) -> Tensor:
        """What guidance moves away from where no negative prompt is given, (1, S, c): the empty prompt."""
        return self.prompt_embeds([""])

    @abstractmethod
    def label_embeds(self, labels: list[str]) -> Tensor:
        """Mean word embedding of each label's tokens, without start and end marks: (B, token_dim)."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) in [0, 1] -> mean and log-variance of the VAE posterior, each (B, C, h, w), unscaled."""

    @abstractmethod
    def loss(self, latents: Tensor, prompt_embeds: Tensor, generator: Any = None) -> Tensor:
        """Denoising loss (scalar, float32) of scaled latents (B, C, h, w) under prompt embeddings (B, S, c)."""

    @abstractmethod
    def generate(
        self,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        *,
        num_inference_steps: int = 25,
        guidance_scale: float = 7.5,
        generator: Any = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: Any = None,
        latents: Tensor | None = None,
        callback: Callable[[int, int], None] | None = None,
        image: Tensor | None = None,
        strength: float = 0.8,
    ) -> Tensor:
        """Prompt embeddings (B, S, c) -> pixels (B, 3, H, W) in [0, 1].

        ``image`` (B or 1, 3, h, w) in [0, 1] is changed, by the share ``strength`` of the steps, in place of noise.

        ``generator`` is one for the batch, or one for each picture; ``latents`` the noise to begin with; ``callback`` is
        called with (steps done, steps in all). None is the model's own choice.
        """


class EmbeddingPainter(ImageGenerator):
    """Paints from an embedding of CLIP's picture tower, beside the prompt, and can be trained through that, too.

    ``embedding_dim`` is its width, e; ``embedding_mean`` and ``embedding_std`` (1, e) are those of the pictures that it was
    trained on; ``picture_space`` names the CLIP, "" one that nobody has named.
    """

    embedding_dim: int
    embedding_mean: Tensor
    embedding_std: Tensor
    picture_space: str = ""

    @abstractmethod
    def loss(
        self,
        latents: Tensor,
        prompt_embeds: Tensor,
        generator: Any = None,
        *,
        image_embedding: Tensor | None = None,
        noise_level: int = 0,
    ) -> Tensor:
        """As `ImageGenerator.loss`, given image embeddings (B, e) under noise of that level; gradients flow to them."""

    @abstractmethod
    def generate(
        self,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        *,
        image_embedding: Tensor | None = None,
        noise_level: int = 0,
        **options: Any,
    ) -> Tensor:
        """As `ImageGenerator.generate`, given image embeddings (B, e) under noise of that level."""


class AudioGenerator(Frozen):
    """Sounds from one embedding vector each.

    ``cond_dim`` is the width of that vector, ``sample_rate`` (Hz) that of the waveforms, which are mono; ``seconds`` the length
    that it has learnt.
    """

    cond_dim: int
    sample_rate: int
    seconds: float

    @abstractmethod
    def default_scheduler(self) -> Any:
        """A new scheduler of diffusers for `generate`, of the noise that it was trained with."""

    @abstractmethod
    def generate(
        self,
        embedding: Tensor,
        negative: Tensor | None = None,
        *,
        seconds: float | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 2.5,
        generator: Any = None,
        scheduler: Any = None,
        num_waveforms_per_embedding: int = 1,
        ranker: Callable[[Tensor, Tensor], Tensor] | None = None,
        latents: Tensor | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Embeddings (B, cond_dim) -> mono waveforms (B * k, T) float32 in [-1, 1], k for each embedding in a row.

        ``ranker`` scores waveforms (N, T) against embeddings (N, cond_dim), and the best of each k is kept: (B, T). All else as
        in `ImageGenerator.generate`.
        """


class Prior(Frozen):
    """Guesses the image embedding that belongs to a text embedding of the same space, of width ``dim``.

    ``reads_tokens``: it must be given the token states of the sentences, too (`TextEncoder.states`).
    """

    dim: int
    reads_tokens: bool = False

    @abstractmethod
    def sample(
        self,
        text_embedding: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        generator: Any = None,
        **options: Any,
    ) -> Tensor:
        """(B, d) text embeddings, token states (B, L, w) and their mask (B, L) -> (B, d) image embeddings.

        ``generator`` is one for the batch, or one for each row; named ``options`` are the prior's own (candidates,
        guidance_scale, num_inference_steps).
        """


class Synchronizer(Frozen):
    """Tells by how much the sound of a video is early or late.

    Takes square pictures of ``image_size`` at ``frame_rate`` (a second), and mono waveforms at ``sample_rate`` (Hz), both of the
    same ``seconds``. ``reach`` (s) is the offset of its last class; the first is its negative.
    """

    sample_rate: int
    frame_rate: float
    image_size: int
    seconds: float
    reach: float = 2.0

    @abstractmethod
    def offsets(self, frames: Tensor, waveform: Tensor) -> Tensor:
        """Pixels (B, F, 3, H, W) in [0, 1], waveforms (B, T) in [-1, 1] -> logits (B, K, C) of C offsets in K windows."""


class Vocoder(Frozen):
    """Waveforms from log-mel spectrograms; ``mel`` says of which kind (rate, bands, hop, window, range, scale)."""

    exact = ("",)  # small, and its errors are heard
    mel: Any
    sample_rate: int

    @abstractmethod
    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, n_mels, L) -> mono waveforms (B, T) float32 in [-1, 1]."""


class MelAutoencoder(Frozen):
    """Latents of log-mel spectrograms, and the way back; ``mel`` says of which kind.

    A latent stands for ``factor`` bands and frames, m = n_mels / factor and l = L / factor, and has ``latent_channels``, C.
    """

    exact = ("",)
    mel: Any
    factor: int
    latent_channels: int

    @property
    def size(self) -> int:
        """C * m, the numbers of a latent frame."""
        return self.latent_channels * self.mel.n_mels // self.factor

    @abstractmethod
    def encode(self, log_mel: Tensor) -> Tensor:
        """(B, n_mels, L), L a multiple of ``factor`` -> latents (B, C * m, l) float32 of about unit variance."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C * m, l) -> log-mels (B, n_mels, L) float32."""


class Adapter(Recorded, nn.Module):
    """The only thing that is trained and saved. Built by a factory ``(in_dim, out_dim) -> Adapter``."""

    from_its_place = 2


def check_vocabulary(found: int, expected: int, reader: str, at_least: int | None = None) -> None:
    """Raise ValueError for a tokenizer of other than ``expected`` tokens (or ``at_least`` so many, where rows are padded).

    transformers 5 answers missing or broken files with an empty tokenizer, without a word.
    """
    if not (expected if at_least is None else at_least) <= found <= expected:
        mend = "its files are missing or another model's, copy the whole folder"
        raise ValueError(f"the tokenizer knows {found} tokens, but the {reader} {expected}: {mend}")
