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


def render_videos(folder: Path, split: str = "train", count: int = 24, seed: int = 0) -> list[Path]:
    """Write ``bell/0000.mp4`` and so on: short films with sound in a folder for each thing, as people have them.

    Raises ValueError for an unknown split.
    """
    made = []
    for index, clip in enumerate(world.sample(split, index, seed) for index in range(count)):
        place = folder / clip.thing
        place.mkdir(parents=True, exist_ok=True)
        made.append(write_beside(place / f"{index:04d}.mp4", partial(_write_video, clip)))
    return made


def _write_video(clip: world.Clip, path: Path) -> None:
    """The clip's picture for as long as its sound."""
    import av
    import numpy as np

    sound, rate, shown = world.sound(clip).mean(0, keepdims=True), world.sounds.SAMPLE_RATE, world.picture(clip)
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=8), container.add_stream("aac", rate=rate)
        video.height, video.width = shown.shape[:2]
        video.pix_fmt, video.bit_rate = "yuv420p", 2_000_000
        for _ in range(round(8 * sound.shape[1] / rate)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux((*video.encode(), *audio.encode(frame), *audio.encode()))
