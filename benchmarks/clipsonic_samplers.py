"""How many steps, and by which sampler?  python benchmarks/clipsonic_samplers.py [--adapter clipsonic-mini] [--count 128]

Asks the same generator for sounds of the same unseen pictures, with the same first noise, by several diffusers schedulers and
numbers of steps. FAD is in the space of the tagger, tag_top1 its share of right things; seconds are of the processor, for one
sound, generator and decoding together. "of 200" is the FAD over that of DPM-Solver++ with 200 steps.

Writes benchmarks/results/clipsonic_samplers.json.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import diffusers
import torch
from clipsonic_mini import voiced
from torch.nn import functional as F
from trial import Panel, pixels, save, unseen

import xmodal
from xmodal.miniature import world

PLAN = {
    "DPMSolverMultistepScheduler": (200, 50, 25, 10, 5),
    "UniPCMultistepScheduler": (25, 10),
    "DDIMScheduler": (50, 25),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="clipsonic-mini")
    parser.add_argument("--count", type=int, default=128)
    options = parser.parse_args()
    clips = unseen(options.count)
    panel, pipe = Panel("text2audio", clips), xmodal.pipeline(options.adapter)
    with torch.no_grad():
        condition = F.normalize(pipe.encoder.embed(pixels(clips)), dim=-1)
    first = pipe.scheduler.config
    voiced(pipe, condition[:32], 2, pipe.guidance_scale)  # what the first call costs is nobody's
    rows: list[dict[str, Any]] = []
    print(f"{len(clips)} pictures, world {world.VERSION}, guidance {pipe.guidance_scale}, {torch.get_num_threads()} threads")
    for kind, numbers in PLAN.items():
        for steps in numbers:
            pipe.scheduler = getattr(diffusers, kind).from_config(first)
            start = time.process_time()
            made = voiced(pipe, condition, steps, pipe.guidance_scale)
            seconds = (time.process_time() - start) / len(clips)
            scores = panel.score(made, ("tags", "FAD"))
            fad = scores["FAD"].value
            best = rows[0]["FAD"] if rows else fad
            rows.append({"scheduler": kind, "steps": steps, "FAD": fad, "of 200": fad / best, "seconds": seconds})
            rows[-1]["tag_top1"] = scores["tag_top1"].value
            print(
                f"{kind:<28} {steps:>4} steps  FAD {fad:8.3f}  of 200 {fad / best:.3f}  tag_top1 {rows[-1]['tag_top1']:.3f}  "
                f"{seconds:.2f} s",
                flush=True,
            )
    save("clipsonic_samplers", {"adapter": options.adapter, "count": len(clips), "world": world.VERSION, "rows": rows})


if __name__ == "__main__":
    main()
