"""Text in, sound out through CLAP's text tower and a generator of its space: a baseline of CLIPSonic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import AudioEncoder, AudioGenerator, TextEncoder
from xmodal.pipelines import Options
from xmodal.vision2audio.pipeline import V2AMapperPipeline


class NoMapper(nn.Module):
    """Stands in a mapper's place where the embedding is the generator's own; its one number says nothing."""

    source_norm = "none"
    nothing: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_dim = self.out_dim = dim
        self.register_buffer("nothing", torch.zeros(1))

    def sample(self, source: Tensor, generator: Any = None) -> Tensor:
        """Embeddings (B, d) at length one."""
        return F.normalize(source, dim=-1)


class TextPipeline(V2AMapperPipeline):
    """Call it with a text or a list of them; all else as `V2AMapperPipeline`.

    Args:
        encoder: reads, in the space that the generator knows.
        generator, target, seconds, guidance_scale, num_inference_steps: as of `V2AMapperPipeline`.
    """

    takes: ClassVar[tuple[str, ...]] = ("text",)
    baseline: ClassVar[bool] = True

    def __init__(
        self, encoder: TextEncoder, generator: AudioGenerator, target: AudioEncoder | Any = None, seconds: float = 10.0,
        guidance_scale: float = 2.5, num_inference_steps: int = 25,
    ) -> None:  # fmt: skip
        mapper: Any = NoMapper(encoder.dim)
        super().__init__(
            encoder, mapper, generator, target, seconds=seconds, guidance_scale=guidance_scale,  # type: ignore[arg-type]
            num_inference_steps=num_inference_steps,
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        """Where the generator is, or with offloading goes for its work."""
        return self._offload or next(self.generator.parameters()).device

    @classmethod
    def from_recipe(cls, options: Options) -> TextPipeline:
        """See :meth:`xmodal.pipelines.Pipeline.from_recipe`."""
        plain = ("seconds", "guidance_scale", "num_inference_steps")
        options.check("encoder", "target", "generator", *plain)
        target = options.factory("target", AudioEncoder) if "target" in options else None
        encoder, generator = options.part("encoder", TextEncoder), options.part("generator", AudioGenerator)
        return cls(encoder, generator, target, **options.values(*plain))

    def see(self, texts: str | Sequence[str], frames: int | None = None) -> list[Tensor]:
        """Embeddings (1, d) of each text; raises ValueError for an empty one."""
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several or not all(isinstance(each, str) and each.strip() for each in several):
            raise ValueError("there is nothing to make sounds of: give texts that are not empty")
        with self.evaluating(), self.using(self.encoder):
            return list(self.encoder.embed(several)[:, None])  # type: ignore[arg-type]
