"""What becomes of the miniature's pictures in eight and four bits.  python benchmarks/quantized.py [--count 64]

The same captions, sounds and noise through the same AudioToken: as it is, with frozen weights in int8, and in nf4. The tagger of
pictures says whether the right thing is there (Wilson, 95 %). Beside it: bytes of the frozen weights, the mean difference of
pixels in [0, 1] from those of whole weights, and the direction (cosine) of the gradient that reaches the pseudo-words of each
sound, over the same clips and noise: the median sound, and all sounds' gradients as one vector, where the largest count most.
Needs bitsandbytes (pip install "xmodal[quantize]"). Writes benchmarks/results/quantized.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from audiotoken_mini import accuracy, paint
from torch import Tensor
from trial import save, score_of, spoken_score, unseen

import xmodal
from xmodal.adapter_task import AdapterTask
from xmodal.foundation.memory import weights
from xmodal.foundation.picture_tagger import PictureTagger
from xmodal.miniature import world

COLUMNS = (
    "frozen weights", "MB", "captions: the right thing, percent", "sounds: the right thing, percent", "pixels differ by",
    "gradient, cosine: median sound", "all as one",
)  # fmt: skip
NUMBERS = ("captions_difference", "gradient_cosine_median", "gradient_cosine_all")


def gradient(kind: str | None, clips: list[world.Clip]) -> Tensor:
    """What of the denoising loss reaches each clip's pseudo-words, (N, numbers of the words) float64."""
    task: Any = AdapterTask.from_pretrained("audiotoken-mini", quantize=kind, classification_weight=0.0)
    batch = {
        "waveform": torch.stack([task.pipeline().waveform(torch.from_numpy(world.sound(clip)), 16000) for clip in clips]),
        "pixels": torch.stack([torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in clips]),
    }
    words: list[Tensor] = []
    task.adapter.register_forward_hook(lambda module, given, made: words.append(made))
    torch.manual_seed(0)
    return torch.autograd.grad(task.losses(batch)["denoising"], words)[0].flatten(1).double()


def main() -> None:
    """Print the table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    clips, tagger = unseen(options.count), PictureTagger()
    sounds = [torch.from_numpy(world.sound(clip)) for clip in clips]
    prompts = ["a photo of " + world.caption(clip, ("count", "size")) for clip in clips]
    whole: dict[str, Tensor] = {}
    report: dict[str, Any] = {"count": len(clips), "world": world.VERSION, "rows": {}}
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for kind in (None, "int8", "nf4"):
        pipe, painter = (xmodal.pipeline(name, quantize=kind) for name in ("audiotoken-mini", "stable-diffusion-mini"))
        made = {
            "captions": paint(painter, prompts),
            "sounds": paint(pipe, sounds),
            "gradient": gradient(kind, clips),
        }
        whole = whole or made
        row = report["rows"][kind or "float32"] = {
            "frozen_bytes": sum(weights(pipe.components[name]) for name in ("encoder", "generator")),
            **{f"{name}_thing": accuracy(tagger, made[name], clips, "thing") for name in ("captions", "sounds")},
            "captions_difference": float((made["captions"] - whole["captions"]).abs().mean()),
            "gradient_cosine_median": float(torch.cosine_similarity(made["gradient"], whole["gradient"]).median()),
            "gradient_cosine_all": float(torch.cosine_similarity(made["gradient"].flatten(), whole["gradient"].flatten(), 0)),
        }
        right = " | ".join(spoken_score(score_of(row[f"{name}_thing"]), 1) for name in ("captions", "sounds"))
        numbers = " | ".join(f"{row[name]:.4f}" for name in NUMBERS)
        print(f"| {kind or 'float32'} | {row['frozen_bytes'] / 1e6:.1f} | {right} | {numbers} |", flush=True)
    save("quantized", report)


if __name__ == "__main__":
    main()
