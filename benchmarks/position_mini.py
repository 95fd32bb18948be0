"""Does the thing stand where its sound is heard?  python benchmarks/position_mini.py [--count 256]

AudioToken paints unseen stereo sounds of the miniature world with ``position``, the same sounds mixed to mono, and the stereo
ones without it. The tagger of pictures says where the thing stands (left, centre, right: chance 1 in 3) and what it is.
Intervals: Wilson, 95 %. Writes benchmarks/results/position_mini.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from audiotoken_mini import generators, wilson
from torch import Tensor
from trial import save, unseen

import xmodal
from xmodal.foundation.picture_tagger import PictureTagger
from xmodal.miniature import world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--adapter", default="audiotoken-mini")
    options = parser.parse_args()

    clips, tagger, pipe = unseen(options.count), PictureTagger(), xmodal.pipeline(options.adapter)
    stereo = [torch.from_numpy(world.sound(clip)) for clip in clips]
    mono = [sound.mean(0) for sound in stereo]
    noise = generators(len(clips))

    def painted(sounds: list[Tensor], position: bool) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"place": [], "thing": []}
        for start in range(0, len(sounds), 64):
            streams = [torch.Generator().manual_seed(each.initial_seed()) for each in noise[start : start + 64]]
            some = {"sampling_rate": world.sounds.SAMPLE_RATE, "generator": streams, "output_type": "pt", "candidates": 1}
            tags = tagger.tag(pipe(sounds[start : start + 64], position=position, **some).images)
            for name in found:
                found[name] += tags[name]
        return found

    told, plain, without = painted(stereo, True), painted(mono, True), painted(stereo, False)
    rows = {
        "stereo, position: on the heard side": (told["place"], [clip.place for clip in clips]),
        "stereo, no position: on the heard side": (without["place"], [clip.place for clip in clips]),
        "mono, position: in the centre": (plain["place"], ["centre"] * len(clips)),
        "stereo, position: the thing": (told["thing"], [clip.thing for clip in clips]),
        "stereo, no position: the thing": (without["thing"], [clip.thing for clip in clips]),
    }
    report: dict[str, Any] = {"count": len(clips), "adapter": options.adapter, "world": world.VERSION, "rows": {}}
    for row, (found, truth) in rows.items():
        right = sum(one == other for one, other in zip(found, truth, strict=True))
        low, high = wilson(right, len(truth))
        report["rows"][row] = {"percent": round(100 * right / len(truth), 1), "interval": [round(low, 1), round(high, 1)]}
        print(f"{row:<42}{100 * right / len(truth):5.1f} [{low:.1f}, {high:.1f}]")
    save("position_mini", report)


if __name__ == "__main__":
    main()
