"""Stretches of sound decoded by FFmpeg: all that is there, at its place on the file's clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.data.container import is_packed, opened, sound, span, zero

PREROLL = 2.0  # s decoded and dropped before a start: what decoders remember of earlier packets is then right
ENTRIES = (PREROLL, 10.0, 60.0)  # s before a start where decoding is tried to begin; then the file's beginning
NEAR = 60.0  # s; up to here a clock that is coarser than the samples is not trusted with a seek
PADDING = 4096  # samples at most that encoders add to fill their last frame, which an exact header does not count
GAP = 0.1  # s; time stamps that jump by more are silence in between
SCALES = {"int16": np.float32(2.0**-15), "int32": np.float32(2.0**-31)}  # integers to full scale 1
DIRECT = ("flt", "fltp", "s16", "s16p", "s32", "s32p")  # formats of samples that need no converter
QUEUE = 32768  # samples; longer queues are copied out of the processor's cache
TOLERATED = 0.02  # share of an mp3's packets that may be no sound: tags and headers where files were joined


def read_sound(
    path: Path, start: float, duration: float | None, longest: float, ignore_length: bool = False
) -> tuple[np.ndarray, int]:
    """Samples (T, C) float32 of a stretch of a file's sound, and their rate; silence where the sound has not begun.

    Raises ValueError for a file without sound, a start beyond its end, damage, or more than ``longest`` seconds, and what
    `container.opened` raises.
    """
    if duration is not None and duration > longest:
        raise _too_long(path, duration, longest)
    stop = start + (longest if duration is None else duration)
    with opened(path, ignore_length) as container:
        entries = _entries(path, container, start, stop if duration is None else None, longest)
        stretch = _Stretch(path, container, start, stop)
        if stretch.read(entries[0]):
            return stretch.cut(duration, longest)
    for entry in entries[1:]:
        with opened(path, ignore_length) as container:
            stretch = _Stretch(path, container, start, stop)
            if stretch.read(entry):
                break
    return stretch.cut(duration, longest)


def sound_seconds(path: Path) -> float:
    """When a file's sound ends, in seconds of its clock, by its packets; nothing is decoded."""
    with opened(path) as container:
        return span(path, container, stream_of(container, path))[1]


def origin(path: Path) -> float:
    """Where the file's clock begins, in seconds of its own time stamps."""
    with opened(path) as container:
        return zero(container)


def stream_of(container: Any, path: Path) -> Any:
    """The sound of a container; ValueError where it has none."""
    if not container.streams.audio:
        kind = "a picture or a silent film" if container.streams.video else "no sound"
        raise ValueError(f"{path} has no audio stream: it is {kind}")
    stream = sound(container)
    if stream is None:
        raise ValueError(f"{path} holds sound in a form that no decoder here knows, or is damaged")
    return stream


def _entries(path: Path, container: Any, start: float, stop: float | None, longest: float) -> list[float | None]:
    """Where to begin decoding, best first; None is the file's beginning. ValueError for a file that is too long for sure."""
    stream = stream_of(container, path)
    packed = is_packed(container)
    if stop is not None and (container.duration or 0) / 1e6 > stop and (end := span(path, container, stream)[1]) > stop:
        raise _too_long(path, end - start, longest)
    coarse = (1 / stream.time_base) % stream.rate != 0
    if start <= PREROLL or (coarse and not packed and start <= NEAR):
        return [None]
    return [start - PREROLL, None] if packed else [*(start - entry for entry in ENTRIES if entry < start), None]


class _Samples:
    """Frames put together by FFmpeg, as they are; what became of them is converted once, at the end."""

    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []
        self.fifo: Any = None
        self.format = ""
        self.layout, self.channels = "", 0

    def __bool__(self) -> bool:
        return self.fifo is not None or bool(self.pieces)

    def fits(self, frame: Any) -> bool:
        """Whether a frame has the number of channels of the others."""
        layout = frame.layout
        if layout.name == self.layout:  # counting them takes longer
            return True
        channels = layout.nb_channels
        if self.channels and channels != self.channels:
            return False
        self.layout, self.channels = layout.name, channels
        return True

    def add(self, frame: Any) -> None:
        """Append a frame that fits, of any format."""
        import av

        if frame.format.name != self.format:
            self.flush()
            self.format = frame.format.name
        if self.fifo is None:
            self.fifo = av.AudioFifo()
        frame.pts = None  # gaps are filled by who adds; the queue would refuse them
        self.fifo.write(frame)
        if self.fifo.samples >= QUEUE:
            self.flush()

    def silence(self, length: int) -> None:
        """Append samples of zero."""
        self.flush()
        self.pieces.append(np.zeros((self.channels, length), np.float32))

    def flush(self) -> None:
        """Convert what the queue holds."""
        frame = self.fifo.read() if self.fifo is not None else None
        self.fifo = None
        if frame is None:
            return
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, self.channels).T
        # By a power of two, as FFmpeg's own converter does.
        self.pieces.append(samples if samples.dtype == np.float32 else samples.astype(np.float32) * SCALES[samples.dtype.name])

    def whole(self) -> np.ndarray:
        """All samples (C, T), float32."""
        self.flush()
        return self.pieces[0] if len(self.pieces) == 1 else np.concatenate(self.pieces, axis=1)


@dataclass
class _Stretch:
    """What has been decoded of the sound between two times (s)."""

    path: Path
    container: Any
    start: float
    stop: float
    samples: _Samples = field(default_factory=_Samples)
    rate: int = 0
    first: int = 0  # place of the first kept sample, in samples of the file's clock
    count: int = 0  # of kept samples
    whole: bool = False  # decoded to the end of the file
    announced: float = 0.0  # the end as a header that can be trusted gives it

    def read(self, entry: float | None) -> bool:
        """Decode from ``entry`` (s) on; False where that is no place to begin, so that an earlier one must be tried."""
        import av

        stream = stream_of(self.container, self.path)
        origin, packed = zero(self.container), is_packed(self.container)
        if self.container.format.name.split(",")[0] in ("mov", "flac") and stream.duration:
            self.announced = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin
        if packed and entry is not None:  # such a clock begins with the first sample, whatever its stamp says
            origin = _first_time(self.path, origin)
        packets = self.container.demux(stream)
        try:
            if entry is not None and packed:
                packets = _from(packets, entry + origin)
            elif entry is not None:
                self.container.seek(int((entry + origin) / stream.time_base), stream=stream, backward=True)
            for time, frame, rate in _decoded(packets, packed, self.path):
                if not self.rate:
                    if packed and entry is None and time is not None:
                        origin = time
                    begin = time - origin if time is not None else (entry or 0.0)
                    if entry is not None and begin > self.start - GAP:
                        return False
                    self.rate = rate
                    self.first = round((max(begin, 0.0) if abs(begin) < GAP else begin) * rate)
                if self._add(frame, None if packed or time is None else time - origin):
                    return True
        except (av.FFmpegError, _Jump) as error:
            if entry is not None:
                return False
            if not self.rate:
                raise
            end = (self.first + self.count) / self.rate
            raise ValueError(f"{self.path} is damaged: its sound cannot be decoded after {end:.2f} s ({error})") from error
        self.whole = True
        # Behind the end a seek may find nothing at all; only the beginning tells what there is.
        return bool(self.rate) or entry is None

    def cut(self, duration: float | None, longest: float) -> tuple[np.ndarray, int]:
        """The stretch itself: samples (T, C) and their rate."""
        end = (self.first + self.count) / self.rate if self.rate else 0.0
        if not self.rate:
            raise ValueError(f"{self.path} is empty: its audio stream holds no samples")
        if self.whole and end <= self.start:
            raise ValueError(f"{self.path} ends after {end:.2f} s, so nothing starts at {self.start:.2f} s")
        if self.whole and end < self.announced - max(0.5, 0.02 * self.announced):
            raise ValueError(f"{self.path} is truncated: it announces {self.announced:.2f} s and gives {end:.2f} s")
        samples = self.samples.whole().T
        if self.whole and 0 < self.announced < end <= self.announced + PADDING / self.rate:
            samples = samples[: len(samples) - round((end - self.announced) * self.rate)]
        skip = round(self.start * self.rate) - self.first
        wanted = len(samples) - skip if duration is None else round(duration * self.rate)
        if duration is None and wanted > longest * self.rate:
            raise _too_long(self.path, wanted / self.rate, longest)
        if skip < 0:
            samples = np.concatenate([np.zeros((min(-skip, wanted), samples.shape[1]), np.float32), samples])
        return samples[max(skip, 0) :][:wanted], self.rate

    def _add(self, frame: Any, time: float | None) -> bool:
        """Keep what may be heard; True where the stop is passed."""
        if not self.samples.fits(frame):
            raise ValueError(f"{self.path} changes its number of channels in the middle: cut it there first")
        length = frame.samples
        missing = round(time * self.rate) - self.first - self.count if time is not None else 0
        if missing > GAP * self.rate:
            missing = min(missing, round((self.stop + 1) * self.rate) - self.first)
            if self.samples:
                self.samples.silence(missing)
                self.count += missing
            else:
                self.first += missing
        if self.samples or self.first + length > (self.start - GAP) * self.rate:
            self.samples.add(frame)
            self.count += length
        else:  # what ends before the start is only counted, so that a late start costs no memory
            self.first += length
        return self.first + self.count > (self.stop + 1) * self.rate


def _first_time(path: Path, origin: float) -> float:
    """The stamp (s) of the first sample that a file's decoder gives."""
    with opened(path) as container:
        frame = next(container.decode(stream_of(container, path)), None)
        return origin if frame is None or frame.pts is None else float(frame.pts * frame.time_base)


class _Jump(Exception):
    """Time stamps that begin anew: files that were joined, whose packets do not tell how many samples they give."""


def _from(packets: Iterator[Any], entry: float) -> Iterator[Any]:
    """The packets from a time (s) on, without decoding those before."""
    latest = -float("inf")
    for packet in packets:
        if packet.size and packet.pts is not None:
            now = float(packet.pts * packet.time_base)
            if now < latest - GAP:
                raise _Jump
            latest = max(latest, now)
            if latest < entry:
                continue
        if packet.size and latest < entry:
            continue
        yield packet


def _decoded(packets: Iterator[Any], packed: bool, path: Path) -> Iterator[tuple[float | None, Any, int]]:
    """Time (s), frame and rate of all that is decoded; the rate is that of the first throughout."""
    import av

    resamplers: dict[tuple[str, int, str], Any] = {}
    unit: tuple[int, int] | None = None
    rate, good, bad = 0, 0, 0
    for packet in packets:
        try:
            frames = packet.decode()
            good += 1
        except av.error.InvalidDataError:
            # Joined mp3 have tags in their middle; any other format has none.
            if not packed or packet.stream.codec_context.name not in ("mp3", "mp3float"):
                raise
            bad += 1
            continue
        for frame in frames:
            rate = rate or frame.sample_rate
            unit = unit or (frame.time_base.numerator, frame.time_base.denominator)
            time = frame.pts * unit[0] / unit[1] if frame.pts is not None else None
            # What most codecs give needs no conversion here, which would cost as much as decoding.
            if frame.format.name in DIRECT and frame.sample_rate == rate:
                yield time, frame, rate
                continue
            kind = (frame.format.name, frame.sample_rate, frame.layout.name)
            if kind not in resamplers:
                resamplers[kind] = av.AudioResampler(format="fltp", rate=rate)
            for part in resamplers[kind].resample(frame):
                part.time_base = frame.time_base  # or it would not go into one queue with the others
                yield time, part, rate
    if bad > max(3, TOLERATED * good):
        raise ValueError(f"{path} is damaged: {bad} of {good + bad} packets of its sound cannot be decoded")


def _too_long(path: Path, seconds: float, longest: float) -> ValueError:
    return ValueError(
        f"{path} would give {seconds:.0f} s of sound, more than the limit of {longest:.0f} s: read a part with start and duration"
    )
