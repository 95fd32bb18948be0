"""How well the miniature BEATs names what it hears, and what it takes for what.

python benchmarks/hearing_mini.py [--count 512]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from xmodal.foundation.beats import BEATs
from xmodal.miniature import world

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=512)
    options = parser.parse_args()
    beats = BEATs()
    report = {}
    for split in ("test", "heldout"):
        clips = [world.sample(split, index, seed=1) for index in range(options.count)]
        named = []
        for start in range(0, len(clips), 64):
            waveforms = torch.stack([torch.from_numpy(world.sound(clip).mean(0)) for clip in clips[start : start + 64]])
            with torch.no_grad():
                likely = beats.tag(waveforms)[:, : len(world.THINGS)].argmax(-1)
            named += [world.THINGS[index] for index in likely]
        wrong = Counter((clip.thing, name) for clip, name in zip(clips, named, strict=True) if clip.thing != name)
        percent = 100 * (1 - sum(wrong.values()) / len(clips))
        confusions = [f"{heard} taken for {name}: {times}" for (heard, name), times in wrong.most_common(5)]
        print(f"{split}: {percent:.1f} % of {len(clips)} sounds named; {'; '.join(confusions) or 'no confusion'}")
        report[split] = {"count": len(clips), "percent": round(percent, 1), "confusions": confusions}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "hearing_mini.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
