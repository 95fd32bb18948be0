"""Write clips of the miniature world to a folder, for people to look at and listen to."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from xmodal.files import write_beside
from xmodal.miniature import world


def render(folder: Path, split: str = "test", count: int = 16, seed: int = 0) -> Path:
    """Write ``0000_bell.wav`` (stereo, 16 kHz), ``0000_bell.png`` and so on, and last ``manifest.jsonl``; returns its path.

    Each line of the manifest holds id, audio, image, text, label, split and the factors. Raises ValueError for an
    unknown split.
    """
    import soundfile
    from PIL import Image

    clips = [world.sample(split, index, seed) for index in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, clip in enumerate(clips):
        name = f"{index:04d}_{clip.thing}"
        sound, picture = world.sound(clip).T, Image.fromarray(world.picture(clip))
        write_beside(folder / f"{name}.wav", partial(soundfile.write, data=sound, samplerate=world.sounds.SAMPLE_RATE))
        write_beside(folder / f"{name}.png", picture.save)
        row = {"id": name, "audio": f"{name}.wav", "image": f"{name}.png", "text": world.caption(clip), "label": clip.thing}
        lines.append(json.dumps({**row, "split": split, "factors": asdict(clip)}))
    text = "\n".join(lines) + "\n"
    return write_beside(folder / "manifest.jsonl", lambda path: path.write_text(text, encoding="utf-8"))
