"""What the buttons of the page call, and programs by the methods' names; errors become sentences here."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from xmodal.commands.terminal import printable
from xmodal.data.inputs import Asked, slug
from xmodal.demo.workshop import Settings, Step, Stopped, Workshop, film, text
from xmodal.routes import handed_on

PLAYERS = Settings.LIMITS["count"][1]

_OURS = re.compile(r"[^\s'\"(]*/xmodal-demo-[^/]+/\w+/\w+/")  # the folders of what was handed in and made


class Jobs:
    """What runs for whom, so that it can be stopped."""

    def __init__(self) -> None:
        self._running: dict[str, threading.Event] = {}

    @contextmanager
    def step(self, request: gr.Request | None, progress: gr.Progress, times: int = 1) -> Iterator[Callable[[int], Step]]:
        """Gives the callback of the part number i of ``times``: it moves the page's bar, and raises `Stopped` when asked to."""
        name, stop = str(getattr(request, "session_hash", None)), threading.Event()
        self._running[name] = stop

        def part(number: int) -> Step:
            def step(done: int, total: int) -> None:
                if stop.is_set():
                    raise Stopped
                progress((number * total + done, times * total), desc="making", unit="steps")

            return step

        try:
            yield part
        finally:
            if self._running.get(name) is stop:
                del self._running[name]

    def stop(self, request: gr.Request) -> None:
        """Stop what runs for who asks, or has left."""
        if (running := self._running.get(str(request.session_hash))) is not None:
            running.set()


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of what was handed in become one sentence in the page; all others are the server's, and told there."""

    @wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Stopped:
            raise gr.Error("Stopped.", title="", duration=3, print_exception=False) from None
        except (ValueError, OSError) as error:
            sentence = _OURS.sub("", " ".join(str(error).split()))
            raise gr.Error(printable(_local(sentence))[:500], title="That did not work", print_exception=False) from None

    return wrapped


def _local(sentence: str) -> str:
    """The sentence without the folders of this server."""
    return " ".join(Path(word).name if word.startswith("/") and word.count("/") > 1 else word for word in sentence.split())


def _path(given: Any) -> Path | None:
    """The file that was handed in: gradio has checked that it was uploaded here."""
    place = given.get("path") if isinstance(given, dict) else None
    return Path(place) if isinstance(place, str) and place else None


def _file(given: Any, what: str) -> Path:
    if (path := _path(given)) is None:
        raise ValueError(f"there is no {what} yet: hand one in")
    if not path.is_file():
        raise ValueError(f"the {what} is no longer here: hand it in again")
    return path


class Endpoints:
    """What the buttons call, and programs by the methods' names. Files come as gradio hands them on, unread."""

    def __init__(self, workshop: Workshop, jobs: Jobs) -> None:
        self.workshop, self.jobs = workshop, jobs

    @told
    def sound_to_picture(
        self, sound: Any, adapter: str, prompt: str, seed: int, count: int, steps: int, guidance: float, second: Any = None,
        share: float = 0.5, request: gr.Request | None = None, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[list[str], str]:  # fmt: skip
        """Paint pictures of a sound, or of two sounds mixed at equal loudness.

        Args:
            sound: a sound of at most a minute.
            adapter: name of an installed adapter from sound to picture.
            prompt: template with one {}, the place of the sound; empty for the adapter's own.
            seed: the same one gives the same pictures.
            count: pictures, from 1 to 4.
            steps: of denoising, at most 50; 0 for the adapter's own.
            guidance: classifier-free guidance, at most 20; 0 for the adapter's own.
            second: a second sound, to mix, or nothing.
            share: of the second, from 0 to 1.

        Returns: the pictures, and a spectrogram of what was heard.
        """
        settings = Settings(seed, count, steps, guidance, prompt or "")
        heard = self.workshop.heard(_file(sound, "sound"), _path(second), share)
        with self.jobs.step(request, progress) as part:
            made = self.workshop.make(adapter, Asked("audio", heard, heard.stem), "image", settings, part(0))
        return [str(each) for each in made], str(self.workshop.spectrograms([heard])[0])

    @told
    def picture_to_sound(
        self, picture: Any, adapter: str, seed: int, count: int, steps: int, guidance: float,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        """Make the sound of a picture; arguments as of sound_to_picture.

        Returns: four sounds, of which those beyond ``count`` are empty, and their spectrograms.
        """
        settings = Settings(seed, count, steps, guidance)
        seen = self.workshop.seen(_file(picture, "picture"))
        return self._sounds(adapter, Asked("image", seen, seen.stem), settings, request, progress)

    @told
    def video_to_sound(
        self, video: Any, adapter: str, seed: int, count: int, steps: int, guidance: float,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        """Make the sound of a video of at most a minute; arguments and results as of picture_to_sound."""
        settings = Settings(seed, count, steps, guidance)
        seen = film(_file(video, "video"))
        return self._sounds(adapter, Asked("video", seen, seen.stem), settings, request, progress)

    @told
    def text_to_sound(
        self, words: str, adapter: str, seed: int, count: int, steps: int, guidance: float,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        """Make the sound of a text; arguments and results as of picture_to_sound."""
        settings, asked = Settings(seed, count, steps, guidance), text("text", words)
        return self._sounds(adapter, Asked("text", asked, slug(asked)), settings, request, progress)

    @told
    def sound_to_picture_to_sound(
        self, sound: Any, first: str, second: str, seed: int, steps: int,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str, str, str]:  # fmt: skip
        """Paint a sound, and make the sound of that picture. Returns heard spectrogram, picture, sound, its spectrogram."""
        settings, heard = Settings(seed, 1, steps), self.workshop.heard(_file(sound, "sound"))
        with self.jobs.step(request, progress, 2) as part:
            picture, made = self._chain(Asked("audio", heard, heard.stem), (first, second), ("image", "audio"), settings, part)
        before, after = self.workshop.spectrograms([heard, made])
        return str(before), str(picture), str(made), str(after)

    @told
    def picture_to_sound_to_picture(
        self, picture: Any, first: str, second: str, seed: int, steps: int,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str, str]:  # fmt: skip
        """Make the sound of a picture, and paint that sound. Returns sound, its spectrogram, picture."""
        settings, seen = Settings(seed, 1, steps), self.workshop.seen(_file(picture, "picture"))
        with self.jobs.step(request, progress, 2) as part:
            made, painted = self._chain(Asked("image", seen, seen.stem), (first, second), ("audio", "image"), settings, part)
        return str(made), str(self.workshop.spectrograms([made])[0]), str(painted)

    def _chain(
        self, asked: Asked, adapters: tuple[str, str], to: tuple[str, str], settings: Settings, part: Any
    ) -> tuple[Path, ...]:
        """What each step makes of what the one before it made; the names stay those of what was handed in."""

        def make(number: int, kind: str, given: list[Any]) -> Iterator[Path]:
            source = asked if number == 0 else Asked(to[number - 1], given[0], asked.stem)
            yield from self.workshop.make(adapters[number], source, kind, settings, part(number))

        return tuple(handed_on(make, [asked], to))

    def _sounds(
        self, adapter: str, asked: Asked, settings: Settings, request: gr.Request, progress: gr.Progress
    ) -> tuple[Any, ...]:
        with self.jobs.step(request, progress) as part:
            made = self.workshop.make(adapter, asked, "audio", settings, part(0))
        sounds = [str(each) for each in made] + [None] * (PLAYERS - len(made))
        return (*sounds, [str(each) for each in self.workshop.spectrograms(made)])
