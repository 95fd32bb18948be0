"""Pictures of several sounds together, and of one long recording: `xmodal generate` with --mix, --between and --windows."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.commands.terminal import finite
from xmodal.data.inputs import Asked
from xmodal.files import write_beside

TOGETHER = ("mix", "weights", "between", "windows", "video")
SHEET, FILM = ".sheet.png", ".mp4"


@dataclass(frozen=True)
class Together:
    """How inputs belong together; exactly one of the first three.

    Args:
        mix: all inputs are one picture's sound, by ``weights`` (default: equal).
        between: so many pictures on the way from the first input to the second.
        windows: a picture for so many seconds of each input, on one sheet.
        video: a video with the sound, in place of the sheet.
    """

    mix: bool = False
    between: int | None = None
    windows: float | None = None
    weights: tuple[float, ...] | None = None
    video: bool = False

    def problem(self) -> str:
        """Why the options do not go together; "" where they do."""
        if sum((self.mix, self.between is not None, self.windows is not None)) != 1:
            return "--mix, --between and --windows exclude each other" if self.asked else "give --mix, --between or --windows"
        if self.weights is not None and not self.mix:
            return "--weights are those of --mix"
        if self.between is not None and self.between < 2:
            return f"--between must be at least 2, the two ends, not {self.between}"
        return "--video is one of --windows" if self.video and self.windows is None else ""

    @property
    def asked(self) -> bool:
        """Whether any of it was asked for."""
        return self.mix or any(each is not None for each in (self.between, self.windows, self.weights)) or self.video


def together(parser: ArgumentParser, options: dict[str, Any]) -> Together | None:
    """Take the options of inputs that belong together from the others; None where none was given."""
    how = Together(**{name: options.pop(name) for name in TOGETHER})
    if how.asked and how.problem():
        parser.error(how.problem())
    if how.asked and (options["resume"] or (options["num"] > 1 and not how.mix)):
        parser.error("--resume, and -n but for --mix, are of no use where sounds are put together")
    if how.asked and options["position"]:
        parser.error("--position is of one sound's own picture: leave it out where sounds are put together, or cut to windows")
    if how.asked and (options["candidates"] or 1) > 1:
        parser.error("--candidates are one sound's own pictures: leave it out where sounds are put together, or cut to windows")
    if options["strength"] is not None and options["image"] is None:
        parser.error("--strength is that of --image")
    return how if how.asked else None


def weights(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(finite(each) for each in text.split(","))


def check(how: Together, asked: Sequence[Asked], kind: Any) -> None:
    """Raise ValueError where the inputs are too few or too many, or the adapter cannot."""
    if not hasattr(kind, "mix") or getattr(kind, "places", None) is None or "tokens" not in _options(kind):
        raise ValueError("the adapter makes no pictures of sounds that can be put together: take one such as audiotoken-mini")
    if other := [each for each in asked if each.modality != "audio"]:
        raise ValueError(f"{other[0].content} is no sound: only sounds are put together")
    count = len(asked)
    if how.mix and how.weights is not None and len(how.weights) != count:
        raise ValueError(f"--weights has {len(how.weights)} numbers for {count} inputs: give one for each")
    if (how.mix and count < 2) or (how.between is not None and count != 2):
        raise ValueError(f"{'--mix needs several inputs' if how.mix else '--between needs two inputs'}, not {count}")


def targets(how: Together, asked: Sequence[Asked], num: int) -> list[Path]:
    """The names of what will be written, in its order."""
    if how.windows is not None:
        return [Path(each.stem + (FILM if how.video else SHEET)) for each in asked]
    stem = ("+" if how.mix else "-to-").join(each.stem for each in asked)
    count = num if how.mix else int(how.between or 0)
    digits = len(str(count))
    return [Path(f"{stem}.png" if count == 1 else f"{stem}-{number + 1:0{digits}}.png") for number in range(count)]


def combine(
    pipe: Any, how: Together, asked: Sequence[Asked], folder: Path, num: int, seed: int, call: dict[str, Any]
) -> Iterator[Path]:
    """Write what is asked for and yield the paths; errors as of the pipeline."""
    paths = [folder / name for name in targets(how, asked, num)]
    sounds = [each.content for each in asked]
    if "candidates" in _options(type(pipe)):
        call = {**call, "candidates": 1}  # of windows, too: all under the same noise
    if how.windows is not None:
        for sound, path in zip(sounds, paths, strict=True):
            yield _of_windows(pipe, sound, how.windows, how.video, path, seed, call)
        return
    tokens = pipe.mix(sounds, how.weights) if how.mix else pipe.between(*sounds, how.between)
    noise = [_noise(seed + (number if how.mix else 0)) for number in range(len(paths))]
    made = pipe(tokens=tokens, num_images_per_prompt=len(paths) // len(tokens), generator=noise, **call)
    for picture, path in zip(made.images, paths, strict=True):
        yield write_beside(path, picture.save)


def _of_windows(pipe: Any, sound: Any, seconds: float, video: bool, path: Path, seed: int, call: dict[str, Any]) -> Path:
    from xmodal.data.slides import sheet, write_slides

    rate = pipe.encoder.sample_rate
    parts = pipe.windows(sound, seconds)
    heard = [number for number, part in enumerate(parts) if part.abs().max() > 0]
    made = pipe([parts[number] for number in heard], sampling_rate=rate, generator=[_noise(seed) for _ in heard], **call).images
    # A silent stretch keeps the picture before it, or waits for the first.
    pictures = [made[max(0, sum(other <= number for other in heard) - 1)] for number in range(len(parts))]
    if video:
        return write_slides(pictures, seconds, pipe.mono(sound), rate, path)
    return write_beside(path, sheet(pictures).save)


def _noise(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def _options(kind: Any) -> Any:
    from inspect import signature

    return signature(kind.__call__).parameters
