"""Textual inversion (Gal et al., arXiv 2208.01618): a pseudo-word that stands for one thing, whatever is heard; text to picture.

Letters: B batch, k words in a row, d width of a word embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xmodal.audio2image.pipeline import AudioTokenOutput, AudioTokenPipeline
from xmodal.foundation.base import Adapter, ImageGenerator
from xmodal.pipelines import Callback, Generators, Options, Pipeline, join

PLAIN = ("token", "guidance_scale", "num_inference_steps")


class LearnedWord(Adapter):
    """The same word for every input, or k in a row; as an adapter of AudioToken the floor of one that does not listen.

    Args:
        in_dim: not read.
        out_dim: d.
        num_tokens: k.

    Raises ValueError for ``num_tokens`` below 1.
    """

    def __init__(self, in_dim: int, out_dim: int, num_tokens: int = 1) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens {num_tokens} makes no word: give 1 or more")
        self.words = nn.Parameter(0.02 * torch.randn(num_tokens, out_dim))

    def forward(self, features: Sequence[Any] | Tensor) -> Tensor:
        """B inputs of any kind -> (B, d), or (B, k, d) for more than one word."""
        words = self.words[0] if len(self.words) == 1 else self.words
        return words.expand(len(features), *words.shape)


class TextualInversionPipeline(AudioTokenPipeline):
    """Call it with a prompt that holds the token (or ``{}``) once, or with a list of them.

    Args:
        generator, adapter: the parts.
        token: what stands for the learned word in prompts, such as ``<cat>``.
        guidance_scale, num_inference_steps: defaults of a call.
    """

    takes: ClassVar[tuple[str, ...]] = ("text",)
    PARTS: ClassVar[tuple[str, ...]] = ("generator", "adapter")

    def __init__(
        self,
        generator: ImageGenerator,
        adapter: Adapter,
        token: str,
        guidance_scale: float = 7.5,
        num_inference_steps: int = 25,
    ) -> None:
        Pipeline.__init__(self, generator.default_scheduler())
        self.generator, self.adapter, self.token = generator, adapter, token
        self.guidance_scale, self.num_inference_steps = guidance_scale, num_inference_steps

    @classmethod
    def from_recipe(cls, options: Options) -> TextualInversionPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`."""
        options.check("generator", "adapter", *PLAIN)
        generator = options.part("generator", ImageGenerator)
        adapter = join(options.factory("adapter", Adapter, LearnedWord), 0, generator.token_dim)
        return cls(generator, adapter, **options.values(*PLAIN))

    def encode(self, sounds: Any, sampling_rate: int | None = None) -> Tensor:
        """The learned word for each of B inputs."""
        with self.evaluating(), self.using(self.adapter):
            return self.adapter(sounds)

    def template(self, prompt: str) -> str:
        """A prompt with ``{}`` as the place of the word; raises ValueError where it does not hold the word once."""
        found = prompt.replace(self.token, "{}")
        if found.count("{}") != 1:
            raise ValueError(f"prompt {prompt!r} must hold {self.token!r} (or {{}}) exactly once, the place of the learned word")
        return found

    def __call__(  # type: ignore[override]
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] = "",
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> AudioTokenOutput:
        """Paint ``num_images_per_prompt`` pictures of every prompt; options and errors as of `AudioTokenPipeline`."""
        several = [prompts] if isinstance(prompts, str) else list(prompts)
        return super().__call__(
            several, [self.template(prompt) for prompt in several], negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            height=height, width=width, generator=generator, latents=latents, batch_size=batch_size, output_type=output_type,
            callback_on_step_end=callback_on_step_end,
        )  # fmt: skip
