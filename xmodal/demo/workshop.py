"""What `xmodal demo` makes, for strangers: adapters that stay in memory, one maker at a time, everything within limits."""

from __future__ import annotations

import re
import shutil
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from xmodal.commands.generate import device_named, pictures, waveforms
from xmodal.data.inputs import Asked
from xmodal.files import write_beside
from xmodal.registry.adapters import CARD, find, parts_of
from xmodal.registry.build import kind_of
from xmodal.registry.licences import strictest
from xmodal.routes import pipeline, ways

if TYPE_CHECKING:
    from torch import Tensor

Step = Callable[[int, int], None]
MOST_PIXELS = 40_000_000
LONGEST = 60.0  # seconds of a sound or a film that is handed in
LETTERS = 300
KEPT = 200  # folders of what was handed in and made
KEPT_PIPELINES = 2  # a chain needs two
RATE = 16_000  # Hz of a mixture
ROUTES = {
    ("audio", "image"): "The sound is heard by a frozen ear; the adapter turns what it heard into words of its own, which a "
    "frozen Stable Diffusion paints.",
    ("image", "audio"): "The picture is seen by a frozen eye; the adapter turns what it saw into what an ear would have heard, "
    "and a frozen generator makes that a sound.",
    ("text", "audio"): "The text is read by CLIP's text tower, whose embedding asks a generator of sounds that has learnt from "
    "pictures alone.",
}


class Stopped(Exception):
    """Somebody pressed Stop, or left."""


@dataclass(frozen=True)
class Settings:
    """Of one call; 0 steps or a guidance of 0 stands for the adapter's own. Raises ValueError beyond the limits.

    The limits stand here, and not in the page's widgets alone: a program that calls the page passes those by.
    """

    seed: int = 0
    count: int = 1
    steps: int = 0
    guidance: float = 0.0
    prompt: str = ""

    LIMITS = {"seed": (0, 2**31 - 1), "count": (1, 4), "steps": (0, 50), "guidance": (0, 20)}

    def __post_init__(self) -> None:
        for name, (low, high) in self.LIMITS.items():
            value = getattr(self, name)
            whole = name != "guidance"
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
            if not number or (whole and value != int(value)):
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{name} must be {kind} from {low} to {high}, not {str(value)[:40]!r}")
            object.__setattr__(self, name, int(value) if whole else float(value))
        text("prompt", self.prompt or "-")

    def call(self, kind: str) -> dict[str, Any]:
        """The options of a pipeline's call."""
        given = {"num_inference_steps": self.steps or None, "guidance_scale": self.guidance or None}
        return given | ({"prompt": self.prompt} if self.prompt.strip() and kind == "image" else {})


class Workshop:
    """Makes results in a folder of its own.

    Args:
        folder: for what is made; what was made long ago is removed from it.
        given: adapters beside the built-in ones: paths or hub ids, of the person who starts it.
        device: as of `xmodal generate`.
        trust: as of `xmodal.pipeline`.

    Raises ValueError or OSError for an adapter that cannot be found, or that leads nowhere here.
    """

    def __init__(self, folder: Path, given: Sequence[str] = (), device: str = "auto", trust: bool = False) -> None:
        self.folder, self.device, self.trust = folder, device, trust
        self.lock = threading.Lock()
        self._pipelines: OrderedDict[str, Any] = OrderedDict()
        self._places: deque[Path] = deque()
        self._results: dict[str, list[Path]] = {}
        self._ways = {way: list(names) for way, names in ways().items()}
        self._full: dict[str, str] = {}  # strangers are told the last part of a path alone
        for full in given:
            kind: Any = kind_of(find(full).class_path, full, trust)
            name = Path(full).name if Path(full).exists() else full
            self._full[name] = str(Path(full).resolve()) if Path(full).exists() else full
            places = [(source, kind.makes) for source in kind.takes if (source, kind.makes) in self._ways]
            if not places:
                raise ValueError(f"the adapter {name} makes {kind.makes} of {', '.join(kind.takes)}: the page has no such way")
            for way in places:
                self._ways[way].insert(0, name)

    def adapters(self, source: str, to: str) -> list[str]:
        """Names of the adapters of a way, the best first."""
        return self._ways[source, to]

    def pipe(self, name: str) -> Any:
        """The pipeline of an adapter; of several the ones that were used last stay in memory. Call it with the lock held."""
        if name not in self._pipelines:
            while len(self._pipelines) >= KEPT_PIPELINES:
                self._pipelines.popitem(last=False)
            self._pipelines[name] = pipeline(self._full.get(name, name), device=device_named(self.device), trust=self.trust)
            self._pipelines[name].set_progress_bar_config(disable=True)
        self._pipelines.move_to_end(name)
        return self._pipelines[name]

    def make(self, name: str, asked: Asked, to: str, settings: Settings, step: Step | None = None) -> list[Path]:
        """Make ``settings.count`` results and return their files; the same as before where the same was asked before.

        Raises ValueError for an adapter that is not of this way, and whatever its pipeline raises.
        """
        if name not in self._ways.get((asked.modality, to), ()):
            known = f"choose from {', '.join(self._ways.get((asked.modality, to), ()))}"
            raise ValueError(f"there is no adapter {str(name)[:80]!r} here that makes {to} of {asked.modality}: {known}")
        key = _key(name, asked, to, settings)
        with self.lock:
            if key in self._results:
                return self._results[key]
            pipe = self.pipe(name)
            call: dict[str, Any] = {**settings.call(to), "callback_on_step_end": step}
            if "batch_size" in signature(type(pipe).__call__).parameters:
                call["batch_size"] = Settings.LIMITS["count"][1]  # candidates are no reason for more memory
            if asked.modality == "text" and hasattr(pipe, "query"):  # said outright: a text that names a file is a text
                call["query"] = "text" if getattr(pipe, "prior", None) is None else "prior"
            made = next(iter((pictures if to == "image" else waveforms)(pipe, settings.count, settings.seed, [asked], call)))
            place = self.place()
            self._results[key] = [_written(place / f"{asked.stem[:40]}-{number + 1}", each) for number, each in enumerate(made)]
            return self._results[key]

    def place(self) -> Path:
        """A new folder; the oldest of many goes, with the results that lie in it."""
        self._places.append(self.folder / uuid4().hex)
        self._places[-1].mkdir(parents=True)
        while len(self._places) > KEPT:
            shutil.rmtree(old := self._places.popleft(), ignore_errors=True)
            self._results = {key: made for key, made in self._results.items() if made[0].parent != old}
        return self._places[-1]

    def heard(self, sound: Path, second: Path | None = None, share: float = 0.5) -> Path:
        """A wav of what was handed in: as it is, or mixed with a second sound, which gets ``share`` of it.

        Both are mono then, equally loud (their mean power), and the shorter one is repeated. Raises as `load_audio` does.
        """
        from xmodal.data.audio import load_audio, load_channels
        from xmodal.data.soundfiles import write_sound

        target = self.place() / f"{sound.stem[:40]}.wav"
        if second is None:
            channels, rate = load_channels(sound, longest=LONGEST)
            return write_sound(target, channels.mT, rate)
        if not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(f"the share of the second sound must be a number from 0 to 1, not {str(share)[:40]!r}")
        first, other = (load_audio(each, RATE, longest=LONGEST) for each in (sound, second))
        return write_sound(target, mixed(first, other, share), RATE)

    def seen(self, picture: Path) -> Path:
        """A png of what was handed in, upright and of at most 1024 pixels a side; raises as `load_image` does."""
        from PIL import Image

        from xmodal.data.image import FORMATS, read_picture

        try:
            with Image.open(picture, formats=FORMATS) as header:
                size = header.size
        except Exception:  # reading it says what is wrong
            size = (1, 1)
        if size[0] * size[1] > MOST_PIXELS:
            most = f"at most {MOST_PIXELS // 1_000_000} million are taken"
            raise ValueError(f"{picture} has {size[0]} by {size[1]} pixels: {most}")
        shown = read_picture(picture)
        shown.thumbnail((1024, 1024))
        return write_beside(self.place() / f"{picture.stem[:40]}.png", shown.save)

    def spectrograms(self, sounds: Sequence[Path]) -> list[Path]:
        """A picture of each sound, beside it where it was made."""
        from xmodal.data.audio import load_audio
        from xmodal.evaluation.spectrogram import spectrogram

        made = []
        for sound in sounds:
            target = sound.with_suffix(".spectrogram.png")
            if not target.exists():
                drawn = spectrogram(load_audio(sound, RATE).numpy(), RATE, height=160, width=480)
                write_beside(target, drawn.save)
            made.append(target)
        return made

    def facts(self, name: str, source: str, to: str) -> str:
        """What a page says of an adapter, as markdown: its way, its parts, what was measured, the licences."""
        full = self._full.get(name, name)
        parts = parts_of(full)
        names = ", ".join(dict.fromkeys(part.name for part in parts))
        lines = [ROUTES.get((source, to), ""), "", f"**{name}** joins {names}."]
        lines += ["", *(f"- measured: {line}" for line in measured(find(full).place))]
        licences = ", ".join(dict.fromkeys(f"{part.name} {part.card.licence}" for part in parts))
        terms = re.sub(r" \([^)]*\)", "", strictest(parts))
        return "\n".join([*lines, "", f"Licences: {licences}. The strictest, which binds what is made, too: {terms}."])


def film(video: Path) -> Path:
    """The film itself, where it is not too long or too large; raises ValueError."""
    import av

    from xmodal.data.container import opened
    from xmodal.data.container import pictures as stream_of
    from xmodal.data.inputs import modality
    from xmodal.data.video import video_duration

    if (kind := modality(video)) != "video":
        raise ValueError(f"{video} is no video, but {kind}")
    try:
        with opened(video) as container:
            stream = stream_of(container)
            size = (stream.codec_context.width, stream.codec_context.height) if stream is not None else (0, 0)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise ValueError(f"{video} is not a readable video") from error
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"{video} has {size[0]} by {size[1]} pixels: at most {MOST_PIXELS // 1_000_000} million are taken")
    if (seconds := video_duration(video)) > LONGEST:
        raise ValueError(f"{video} is {seconds:.0f} s long: at most {LONGEST:.0f} s are taken")
    return video


def text(what: str, given: Any) -> str:
    """The text within its limits; raises ValueError."""
    if not isinstance(given, str) or not given.strip():
        raise ValueError(f"the {what} is empty: say what is asked for")
    if len(given) > LETTERS:
        raise ValueError(f"the {what} has {len(given)} letters: at most {LETTERS} are taken")
    return given.strip()


def mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Two sounds (T,) of one rate at equal mean power, the shorter one repeated: (1 - share) and share of them.

    Where the sum passes full scale, it is made quieter as a whole.
    """
    from xmodal.data.window import window

    length = max(len(first), len(second))
    even = [each / each.square().mean().sqrt() for each in (window(one, length, "loop") for one in (first, second))]
    power = max(float(each.square().mean().sqrt()) for each in (first, second))
    sound = power * ((1 - share) * even[0] + share * even[1])
    return sound / max(1.0, float(sound.abs().max()))


def measured(place: Path) -> list[str]:
    """The scores that the card of an adapter states, in its own words."""
    card = place / CARD
    if not card.is_file():
        return []
    section = card.read_text(encoding="utf-8", errors="replace").partition("## Measured")[2].partition("\n## ")[0]
    return [line[2:300].strip() for line in section.partition("On its validation data")[0].splitlines() if line.startswith("- ")]


def _key(name: str, asked: Asked, to: str, settings: Settings) -> str:
    content = asked.content.read_bytes() if isinstance(asked.content, Path) else asked.content.encode()
    values = [getattr(settings, each.name) for each in fields(settings)]
    return sha256(content + repr((name, asked.modality, to, values)).encode()).hexdigest()


def _written(target: Path, made: Any) -> Path:
    """A picture as png, or a sound and its rate as wav."""
    if not isinstance(made, tuple):
        return write_beside(target.with_suffix(".png"), made.save)
    import torch

    from xmodal.data.soundfiles import write_sound

    waveform = torch.as_tensor(made[0]).float().cpu()
    return write_sound(target.with_suffix(".wav"), waveform.mT if waveform.ndim == 2 else waveform, made[1])
