"""What fits into a small GPU: bytes of weights and of what lives at once, counted on the meta device; no weights, no GPU.

    python benchmarks/memory.py

Stable Diffusion 1.4 and BEATs iter3+ at full size, BEATs in float32. "train" is one AudioToken step, batch 1, 512 x 320
pixels: the pseudo-word's gradient goes back through UNet and text encoder; sounds and latents come before, without a graph.
"generate" is one picture, 512 x 512, with guidance. int8 and nf4 are the frozen weights' (`xmodal.registry.quantized`), computed
with in bfloat16, the VAE left whole. Bytes of tensors alone: an allocator and CUDA itself take more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.foundation import beats, stable_diffusion
from xmodal.foundation.memory import peak, weights
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.frozen import Frozen
from xmodal.registry.checkpoint import unfilled
from xmodal.registry.offloading import resident
from xmodal.registry.quantized import quantize

GB = 10**9
BUDGETS = {"train": 12 * GB, "generate": 8 * GB}


def train(parts: Any, latents: Tensor, dtype: torch.dtype) -> None:
    """The part of a step that has a graph: a pseudo-word through text encoder and UNet, and back."""
    text: Any = parts.text_encoder
    table = text.get_input_embeddings()
    word = torch.zeros(1, 1, table.weight.shape[1], dtype=dtype, requires_grad=True)
    handle = table.register_forward_hook(lambda module, args, output: output + word)
    states = text(torch.zeros(1, 77, dtype=torch.long)).last_hidden_state
    handle.remove()
    parts.unet(latents, 1, states).sample.float().square().mean().backward()


def paint(parts: Any, dtype: torch.dtype) -> int:
    """Bytes of one picture's making, 512 x 512: a pass with guidance, or the VAE's."""
    pair, text = (torch.zeros(2, *shape, dtype=dtype, device="meta") for shape in ((4, 64, 64), (77, 768)))
    with torch.no_grad():
        return max(peak(lambda: parts.unet(pair, 1, text)), peak(lambda: parts.vae.decode(pair[:1])))


class Painter(Frozen):
    """Stable Diffusion's networks by its own names, without weights."""

    exact, streamed = StableDiffusion.exact, StableDiffusion.streamed

    def __init__(self) -> None:
        super().__init__()
        with unfilled():
            parts: Any = stable_diffusion.build("sd-1.4")
            self.unet, self.text_encoder, self.vae = parts["unet"], parts["text_encoder"], parts["vae"]


class Ear(Frozen):
    """BEATs, without weights."""

    def __init__(self) -> None:
        super().__init__()
        with unfilled():
            self.model = beats.build("iter3-plus-as2m")


def rows() -> Iterator[tuple[str, str, int, int]]:
    """What, how, bytes of weights, bytes besides."""
    for kind, dtype in ((None, torch.float32), (None, torch.bfloat16), ("int8", torch.bfloat16), ("nf4", torch.bfloat16)):
        parts, ear = Painter(), Ear()
        for part in (parts, ear):
            quantize(part, kind) if kind else None
        parts.to(dtype)
        name, painted, heard = kind or str(dtype).removeprefix("torch."), weights(parts), weights(ear)
        latents = torch.zeros(1, 4, 40, 64, dtype=dtype, device="meta")
        yield "train", name, painted + heard, peak(partial(train, parts, latents, dtype))
        parts.unet.train()  # checkpointing acts in training mode alone
        parts.unet.enable_gradient_checkpointing()
        yield "train", f"{name}, gradient checkpointing", painted + heard, peak(partial(train, parts, latents, dtype))
        parts.unet.disable_gradient_checkpointing()
        work = paint(parts.eval(), dtype)
        yield "generate", name, painted + heard, work
        yield "generate", f"{name}, model offload", max(painted, heard), work
        yield "generate", f"{name}, sequential offload", max(resident(parts, dtype, by_layers=True), heard), work


def main() -> None:
    """Print the table, and whether each row fits."""
    lines = ["| what | setting | weights, GB | besides, GB | together, GB | budget, GB | fits |", "|---|---|---|---|---|---|---|"]
    for what, how, held, work in rows():
        total, budget = held + work, BUDGETS[what]
        cells = (f"{size / GB:.2f}" for size in (held, work, total))
        lines.append(f"| {what} | {how} | {' | '.join(cells)} | {budget / GB:.0f} | {'yes' if total <= budget else 'no'} |")
    text = "\n".join(lines)
    print(text)
    if "--write" in sys.argv:
        (Path(__file__).parent / "results" / "memory.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
