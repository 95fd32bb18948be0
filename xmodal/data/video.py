"""Frames of videos, and videos with a new soundtrack, by PyAV (its wheel carries FFmpeg).

Different decoders may choose different frames for the same time: `DECODER` belongs into the key of cached features.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from heapq import merge
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.audio import resample
from xmodal.data.codec import check_backend, read_frames
from xmodal.data.container import opened, pictures, span, zero
from xmodal.data.image import over_paper
from xmodal.data.opening import located
from xmodal.data.values import check_waveform
from xmodal.files import write_beside

POLICIES = ("at", "key")
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
FORWARD = 2.0  # s; so far ahead decoding on is cheaper than seeking
INDEXED = ("mov", "matroska")
GUESSED = ("avi", "mpeg")  # behind a seek these tell the times of B-frames by guessing
NEAR = 60.0  # s; up to here films of those formats are decoded from their beginning
STEPS_BACK = (0.0, 1.0, 5.0, 20.0, 60.0)  # s before a time where its key frame is looked for; then the file's beginning


def decoder() -> str:
    """Name and version of what decodes, for the keys of caches."""
    import av

    return f"av {av.__version__}"


def even_times(duration: float, count: int) -> list[float]:
    """``count`` times (s), evenly spaced, each in the middle of its share of ``duration``; one gives the middle."""
    if count < 1 or duration <= 0:
        raise ValueError(f"expected a positive duration and at least one frame, not {duration} s and {count}")
    return [duration * (index + 0.5) / count for index in range(count)]


def video_duration(path: str | Path) -> float:
    """Length of the picture track in seconds; ValueError for a file without one."""
    begin, end = video_span(path)
    return end - begin


def video_span(path: str | Path) -> tuple[float, float]:
    """When the pictures begin and end, in seconds of the file's clock, which its sound shares; errors as `video_duration`."""
    with Film(located(path)) as film:
        return film.span


def load_frames(path: str | Path, times: Sequence[float] | int = 1, policy: str = "at", backend: str = "default") -> Tensor:
    """Read frames of a video.

    Args:
        path: any container that FFmpeg reads; also an animated gif.
        times: seconds of the file's clock, or a number of frames, evenly spaced from the first picture to the last (1 is
            the middle one). Before its pictures begin a file shows the first.
        policy: ``at`` gives the frame that is shown at each time; ``key`` the last key frame at or before it, which
            needs no decoding of the frames between (many times faster for large pictures with rare key frames).
        backend: ``default``, or ``torchcodec`` (see :mod:`xmodal.data.codec`), which knows only the policy ``at``.

    Returns float32 (N, 3, H, W) in [0, 1], in the order of ``times``.

    Raises FileNotFoundError, or ValueError: unreadable, no pictures, a time beyond the end, an unknown policy.
    """
    path = located(path)
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(POLICIES)}")
    check_backend(backend)
    if backend == "torchcodec" and policy != "at":
        raise ValueError(f"the back-end torchcodec has no policy {policy!r}: use the back-end default")
    with Film(path) as film:
        begin, end = film.span
        wanted = [begin + time for time in even_times(end - begin, times)] if isinstance(times, int) else list(times)
        if not wanted or not all(0 <= time < end + 1e-6 for time in wanted):
            raise ValueError(f"{path} lasts {end:.2f} s, but frames were asked for at {wanted or 'no time'}")
        # In containers without an index torchcodec may land behind a time, and does not look back.
        if backend == "torchcodec" and film.container.format.name.split(",")[0] in INDEXED:
            return read_frames(path, wanted, film.origin, begin).float() / 255
        frames = film.frames(wanted, policy)
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"{path} changes its size in the middle ({sizes}): cut it there first")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def write_soundtrack(video: str | Path, waveform: Tensor, sample_rate: int, target: str | Path) -> Path:
    """Copy a video's pictures, untouched, and give it ``waveform`` (T,) or (C, T) as its only sound, encoded as AAC.

    The sound begins with the pictures, whenever that is; a longer one is cut at their end. The result appears under
    ``target`` (mp4, mkv or mov) when it is complete. Raises ValueError as `load_frames` does, for a waveform that is not
    finite, or if the container cannot hold the pictures' codec.
    """
    video, target = located(video), Path(target)
    waveform = waveform.detach().cpu().float()
    check_waveform(waveform)
    if sample_rate not in AAC_RATES:
        waveform, sample_rate = resample(waveform, sample_rate, 48_000), 48_000
    samples = np.atleast_2d(waveform.clamp(-1, 1).numpy())
    with Film(video) as film:
        begin, end = film.span
        samples = samples[:, : round((end - begin) * sample_rate)]
        times = _decode_times(video, film.stream.index)
        return write_beside(target, lambda partial: _mux(film, times, samples, sample_rate, partial))


class Film:
    """An opened file's moving pictures, upright; every failure of FFmpeg becomes one sentence.

    Raises FileNotFoundError, or ValueError for a file without pictures.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._stack = path, ExitStack()

    def __enter__(self) -> Film:
        import av

        if not self.path.is_file():
            raise FileNotFoundError(f"there is no video {self.path}")
        try:
            self.open()
            self.origin = zero(self.container)
            self.span = span(self.path, self.container, self.stream)
        except (av.FFmpegError, UnicodeDecodeError) as error:
            self._stack.close()
            raise ValueError(f"{self.path} is not a readable video ({error})") from error
        except ValueError:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import av

        self._stack.close()
        # A frame whose side data were read is part of a circle, and holds the decoder's threads: a process that is forked then
        # would wait for them for ever once it collects that circle. It is young, so this costs next to nothing.
        gc.collect(1)
        if isinstance(error, av.FFmpegError):
            raise ValueError(f"{self.path} is damaged: its pictures cannot be decoded ({error})") from error

    def open(self) -> None:
        """Open the file, or open it again: the only way to its beginning that every container knows."""
        self._stack.close()
        self.container = self._stack.enter_context(opened(self.path))
        self.stream = pictures(self.container)
        if self.stream is None:
            what = "a sound with a cover" if self.container.streams.video else "a sound"
            raise ValueError(f"{self.path} has no pictures: it is {what}, not a video")
        self.stream.thread_type = "AUTO"

    def frames(self, times: list[float], policy: str) -> list[np.ndarray]:
        """uint8 (H, W, 3) for each time (s of the file's clock)."""
        chosen: dict[float, np.ndarray] = {}
        cursor: _Cursor | None = None
        for time in sorted(set(times)):
            # Decode on while the next time is near; jump to the key frame before it otherwise.
            if cursor is None or policy == "key" or time - cursor.shown() > FORWARD:
                cursor = self._cursor(time, policy)
            frame = cursor.forward(time)
            if frame is None:
                raise ValueError(f"{self.path} gives no picture for {time:.2f} s: it is truncated or damaged there")
            chosen[time] = upright(frame)
        return [chosen[time] for time in times]

    def _cursor(self, time: float, policy: str) -> _Cursor:
        """A walk that begins at or before a time. Where a container has no index, a seek may land behind it."""
        import av

        for back in (*STEPS_BACK, None):
            guessed = self.container.format.name in GUESSED and self.stream.codec_context.has_b_frames
            if back is None or time - back <= self.span[0] or (guessed and time <= NEAR):
                break
            try:
                self._skip("NONKEY" if policy == "key" else "DEFAULT")
                target = int((time - back + self.origin) / self.stream.time_base)
                self.container.seek(target, stream=self.stream, backward=True)
                cursor = _Cursor(self.container.decode(self.stream), self, sought=True)
            except av.FFmpegError:  # this container cannot seek there
                continue
            if cursor.frame is not None and cursor.shown() <= time + cursor.slack:
                return cursor
        self.open()
        self._skip("NONKEY" if policy == "key" else "DEFAULT")
        return _Cursor(self.container.decode(self.stream), self, sought=False)

    def _skip(self, frames: str) -> None:
        self.stream.codec_context.skip_frame = frames


class _Cursor:
    """Walks through decoded frames, one ahead, since only the next frame tells until when this one is shown."""

    def __init__(self, frames: Iterator[Any], film: Film, sought: bool) -> None:
        # Behind a seek the first pictures may lack what they are made of; their decoder says so.
        self.frames = (frame for frame in frames if not (sought and frame.is_corrupt))
        self.film, self.tick = film, float(film.stream.time_base)
        # Containers round times to their own ticks: half a tick, or a thousandth of a frame, early is still that frame.
        shown = 1 / float(film.stream.average_rate or 25)
        self.slack = max(1e-3 * shown, min(0.5 * self.tick, 0.05 * shown))
        self.time = self.next_time = film.span[0]
        self.frame = self._next()
        self.time = self.next_time
        self.following = self._next()

    def forward(self, time: float) -> Any:
        """The last frame that starts at or before ``time``; the first of all where none does; None where there is none."""
        while self.following is not None and self.next_time <= time + self.slack:
            self.frame, self.time, self.following = self.following, self.next_time, self._next()
        return self.frame

    def shown(self) -> float:
        """Since when the current frame is shown, in seconds."""
        return self.time

    def _next(self) -> Any:
        frame = next(self.frames, None)
        if frame is not None:
            at = frame.pts if frame.pts is not None else frame.dts
            step = 1 / float(self.film.stream.average_rate or 25)
            self.next_time = self.next_time + step if at is None else at * self.tick - self.film.origin
        return frame


def upright(frame: Any) -> np.ndarray:
    """A decoded frame as uint8 (H, W, 3), as a player shows it: turned and mirrored by its display matrix, over white."""
    if any(component.is_alpha for component in frame.format.components):
        shown = over_paper(frame.to_ndarray(format="rgba"))
    else:
        shown = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return shown
    # x' = a x + c y, y' = b x + d y; of angles that are no right ones the nearest.
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(np.int64).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        shown, a, d = shown.transpose(1, 0, 2), c, b
    shown = shown[:, ::-1] if a < 0 else shown
    return np.ascontiguousarray(shown[::-1] if d < 0 else shown)


def _decode_times(video: Path, index: int) -> list[int]:
    """When each packet of the pictures is decoded, in ticks: as the file says it, filled in where it does not.

    Matroska has no such times, and FFmpeg's guess leaves the first ones open where pictures are shown in another order than
    they are decoded in. A packet is decoded after those before it, and not after it is shown.
    """
    with opened(video) as container:
        stream = container.streams[index]
        stamps = [(packet.dts, packet.pts) for packet in container.demux(stream) if packet.size]
        step = max(1, round(float(1 / (stream.average_rate or 25) / stream.time_base)))
    shown = sorted(pts for _, pts in stamps if pts is not None)
    times = [dts for dts, _ in stamps]
    if len(shown) == len(stamps) and any(time is None for time in times):
        # In the order of their showing the packets' times are an order of decoding, once early enough for all.
        late = max(first - pts for first, (_, pts) in zip(shown, stamps, strict=True))
        known = next((index for index, time in enumerate(times) if time is not None), None)
        if known is not None:
            late = max(late, shown[known] - times[known])
        times = [first - late if time is None else time for first, time in zip(shown, times, strict=True)]
    filled: list[int] = []
    for time in times:
        following = filled[-1] + step if filled else shown[0] if shown else 0
        filled.append(following if time is None else max(time, filled[-1] + 1) if filled else time)
    return filled


def _mux(film: Film, times: list[int], samples: np.ndarray, sample_rate: int, partial: Path) -> None:
    import av

    with opened(film.path) as source, av.open(str(partial), "w") as container:
        template = pictures(source)
        try:
            copied = container.add_stream_from_template(template)
        except ValueError as error:
            mend = "choose a name that ends in .mkv, which holds everything"
            raise ValueError(f"{partial.suffix} cannot hold these pictures ({error}): {mend}") from error
        layout = "mono" if len(samples) == 1 else "stereo"
        sound = container.add_stream("aac", rate=sample_rate, layout=layout)
        begin = float((template.start_time or 0) * template.time_base)
        heard = _encoded(sound, samples, sample_rate, layout, round(begin * sample_rate))
        seen = _copied(source, template, copied, times)
        # In the order of their times, or the container must hold back one of the two.
        for packet in merge(seen, heard, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)


def _copied(source: Any, template: Any, copied: Any, times: list[int]) -> Iterator[Any]:
    for packet, time in zip((each for each in source.demux(template) if each.size), times, strict=True):
        packet.dts, packet.stream = time, copied
        yield packet


def _encoded(stream: Any, samples: np.ndarray, sample_rate: int, layout: str, first: int) -> Iterator[Any]:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate = sample_rate
    frame.pts = first
    yield from stream.encode(frame)
    yield from stream.encode()
