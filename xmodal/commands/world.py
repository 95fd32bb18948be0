"""`xmodal world`: clips of the miniature world, as files."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from xmodal.commands.terminal import positive


def world(arguments: Sequence[str]) -> None:
    """Render clips of the miniature world."""
    parser = ArgumentParser("xmodal world", description="Render clips of the miniature world: picture, sound and caption.")
    parser.add_argument(
        "-o", "--out", "--output", dest="output", default="outputs/world", metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--split", default="test", help="train, validation, test or heldout (default: test)")
    parser.add_argument("-n", "--count", type=positive, default=16, metavar="N", help="clips (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--videos", action="store_true", help="mp4 files in a folder for each thing, and no manifest")
    options = parser.parse_args(arguments)
    from xmodal.miniature.render import render, render_videos

    chosen = (Path(options.output), options.split, options.count, options.seed)
    if options.videos:
        print(f"{options.output}: {len(render_videos(*chosen))} videos")
    else:
        print(render(*chosen))
