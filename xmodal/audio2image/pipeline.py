"""Sound in, pictures out, with diffusers' call conventions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data import values
from xmodal.data.audio import load_audio, resample
from xmodal.data.window import window
from xmodal.foundation.base import Adapter, AudioEncoder, ImageGenerator

if TYPE_CHECKING:
    from PIL import Image

Sound = str | Path | Tensor | np.ndarray
OUTPUT_TYPES = ("pil", "np", "pt")


@dataclass
class AudioTokenOutput:
    """``images``: a list of Pillow pictures, float32 (N, H, W, 3) or (N, 3, H, W) in [0, 1], by ``output_type``.

    ``tokens``: the pseudo-words (sounds, token_dim). Pictures of one sound stand together, in the order of the sounds.
    """

    images: Any
    tokens: Tensor


class AudioTokenPipeline:
    """Call it with a file, a waveform or a list of them.

    Args:
        encoder, generator, adapter: the parts; ``scheduler`` may be exchanged (any diffusers scheduler).
        prompt: default template.
        seconds, short: see :class:`xmodal.audio2image.AudioToken`.
        guidance_scale, num_inference_steps: defaults of a call.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        generator: ImageGenerator,
        adapter: Adapter,
        prompt: str = "a photo of {}",
        seconds: float = 10.0,
        short: str = "loop",
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
    ) -> None:
        self.encoder, self.generator, self.adapter = encoder, generator, adapter.eval()
        self.prompt, self.seconds, self.short = prompt, seconds, short
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps
        self.scheduler: Any = None

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return next(self.adapter.parameters()).device

    def to(self, device: str | torch.device) -> AudioTokenPipeline:
        """Move all parts."""
        for part in (self.encoder, self.generator, self.adapter):
            part.to(device)
        return self

    def check_inputs(self, prompt: str, num_inference_steps: int, num_images_per_prompt: int, output_type: str) -> None:
        """Raise ValueError for the first argument that cannot work."""
        if prompt.count("{}") != 1:
            raise ValueError(f"prompt {prompt!r} must hold exactly one {{}}, the place of the sound")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, not {num_inference_steps}")
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, not {num_images_per_prompt}")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")

    def waveform(self, sound: Sound, sampling_rate: int | None = None) -> Tensor:
        """Read one sound as the encoder wants it: mono float32 (T,) of exactly ``seconds``.

        Arrays are (T,), (channels, T) or (T, channels) and need their ``sampling_rate`` in Hz (`xmodal.data.values`).
        """
        rate = self.encoder.sample_rate
        if isinstance(sound, (str, Path)):
            mono = load_audio(sound, rate)
        else:
            mono = resample(values.waveform(sound, sampling_rate), int(sampling_rate or 0), rate)
        return window(mono, round(self.seconds * rate), self.short)

    @torch.no_grad()
    def encode(self, sounds: Sound | Sequence[Sound], sampling_rate: int | None = None) -> Tensor:
        """Sounds -> pseudo-words (B, token_dim), in the space of the text encoder's word embeddings."""
        several = sounds if isinstance(sounds, (list, tuple)) else [sounds]
        waveforms = torch.stack([self.waveform(sound, sampling_rate) for sound in several])  # type: ignore[arg-type]
        return self.adapter(self.encoder.tokens(waveforms.to(self.device)))

    @torch.no_grad()
    def __call__(
        self,
        sounds: Sound | Sequence[Sound],
        prompt: str | None = None,
        *,
        sampling_rate: int | None = None,
        negative_prompt: str = "",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[int, int], None] | None = None,
    ) -> AudioTokenOutput:
        """Paint ``num_images_per_prompt`` pictures of every sound.

        Args:
            sounds: file, waveform (T,) or (channels, T), or a list of them.
            prompt: template with one ``{}``; default as trained.
            sampling_rate: Hz, needed for waveforms, ignored for files.
            negative_prompt: what the picture should not show.
            generator: one for the whole call, or one for each picture: a picture's own generator makes it independent
                of what else is in the call.
            callback_on_step_end: called with (step, number of steps).
        """
        prompt = self.prompt if prompt is None else prompt
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = values.finite("guidance_scale", self.guidance_scale if guidance_scale is None else guidance_scale)
        self.check_inputs(prompt, steps, num_images_per_prompt, output_type)
        tokens = self.encode(sounds, sampling_rate)
        repeated = tokens.repeat_interleave(num_images_per_prompt, 0)
        pixels = self.generator.generate(
            self.generator.prompt_embeds([prompt] * len(repeated), repeated),
            self.generator.prompt_embeds([negative_prompt] * len(repeated)) if negative_prompt else None,
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=generator,
            scheduler=self.scheduler,
            callback=callback_on_step_end,
        )
        return AudioTokenOutput(_as(pixels, output_type), tokens)


def _as(pixels: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """Pixels (N, 3, H, W) in [0, 1] in the asked form."""
    if output_type == "pt":
        return pixels
    array = pixels.permute(0, 2, 3, 1).float().cpu().numpy()
    if output_type == "np":
        return array
    from PIL import Image

    return [Image.fromarray(picture) for picture in (array * 255).round().astype(np.uint8)]
