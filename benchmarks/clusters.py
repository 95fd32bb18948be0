"""Hours and disk for large data sets, by arithmetic from measured rates.  python benchmarks/clusters.py

Bytes of a clip follow from the recipes' own shapes in float16. Hours of decoding follow from results/decode.json (mp4), what a
manifest takes from results/manifest_open.json: both of one small machine, scaled by clips and cores alone. Pictures and frames
of videos are not in it, nor how fast a GPU computes the features, which was not measured.
"""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SETS = {"VGGSound": 200_000, "AudioSet": 2_000_000, "ACAV-100M": 100_000_000}  # clips of 10 seconds, rounded
HALF, CORES = 2, 64
# BEATs' tokens of 5 s, mean and deviation of latents; two embeddings; a log-mel of 10 s and an embedding.
CLIP = {
    "audiotoken": HALF * (248 * 3 * 768 + 2 * 4 * 40 * 64),
    "v2a": HALF * (512 + 512),
    "clipsonic": HALF * (80 * 862 + 768),
}


def rows() -> list[str]:
    """The table."""
    decoded = json.loads((RESULTS / "decode.json").read_text())
    opened = json.loads((RESULTS / "manifest_open.json").read_text())
    rate = decoded["clips_per_second"]["mp4"]["xmodal"]  # in a processor second
    stores = " | ".join(f"{name}, GB" for name in CLIP)
    said = [f"| data set | clips | {stores} | decoding sounds, hours on {CORES} cores | manifest, GB | opens in, s |"]
    said.append("|" + "---|" * (len(CLIP) + 5))
    for name, clips in SETS.items():
        disk = " | ".join(
            f"{clips * size / 1e9:,.3g}" if clips * size < 1e12 else f"{clips * size / 1e9:,.0f}" for size in CLIP.values()
        )
        part = clips / opened["rows"]
        hours = clips / rate / CORES / 3600
        manifest = f"{part * opened['megabytes'] / 1000:.2g} | {part * opened['open_seconds']:.2g}"
        said.append(f"| {name} | {clips:,} | {disk} | {hours:.2g} | {manifest} |")
    return said


if __name__ == "__main__":
    print("\n".join(rows()))
