"""Frames of videos, and videos with a new soundtrack, by PyAV (its wheel carries FFmpeg).

Different decoders may choose different frames for the same time: `DECODER` belongs into the key of cached features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.audio import resample
from xmodal.data.codec import check_backend, read_frames
from xmodal.files import write_beside

POLICIES = ("at", "key")
LONGEST = 3600.0  # seconds
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)


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
    with _Opened(Path(path)) as (container, stream):
        return _duration(container, stream)


def load_frames(path: str | Path, times: Sequence[float] | int = 1, policy: str = "at", backend: str = "default") -> Tensor:
    """Read frames of a video.

    Args:
        path: any container that FFmpeg reads; also an animated gif.
        times: seconds from the start, or a number of evenly spaced frames (1 is the middle frame).
        policy: ``at`` gives the frame that is shown at each time; ``key`` the last key frame at or before it, which
            needs no decoding of the frames between (many times faster for large pictures with rare key frames).
        backend: ``default``, or ``torchcodec`` (see :mod:`xmodal.data.codec`), which knows only the policy ``at``.

    Returns float32 (N, 3, H, W) in [0, 1], in the order of ``times``.

    Raises FileNotFoundError, or ValueError: unreadable, no pictures, a time beyond the end, an unknown policy.
    """
    path = Path(path)
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is not one of {', '.join(POLICIES)}")
    check_backend(backend)
    if backend == "torchcodec" and policy != "at":
        raise ValueError(f"the back-end torchcodec has no policy {policy!r}: use the back-end default")
    with _Opened(path) as (container, stream):
        duration = _duration(container, stream)
        wanted = even_times(duration, times) if isinstance(times, int) else list(times)
        if not wanted or min(wanted) < 0 or max(wanted) >= duration + 1e-6:
            raise ValueError(f"{path} lasts {duration:.2f} s, but frames were asked for at {wanted or 'no time'}")
        if backend == "torchcodec":
            return read_frames(path, wanted).float() / 255
        frames = _pick(container, stream, wanted, policy, path)
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise ValueError(f"{path} changes its size in the middle ({sizes}): cut it there first")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def write_soundtrack(video: str | Path, waveform: Tensor, sample_rate: int, target: str | Path) -> Path:
    """Copy a video's pictures, untouched, and give it ``waveform`` (T,) or (C, T) as its only sound, encoded as AAC.

    The result appears under ``target`` (mp4, mkv or mov) when it is complete. A longer waveform is cut at the pictures'
    end. Raises ValueError as `load_frames` does, or if the container cannot hold the pictures' codec.
    """
    video, target = Path(video), Path(target)
    waveform = waveform.detach().cpu().float()
    if sample_rate not in AAC_RATES:
        waveform, sample_rate = resample(waveform, sample_rate, 48_000), 48_000
    samples = np.atleast_2d(waveform.clamp(-1, 1).numpy())
    with _Opened(video) as (source, pictures):
        limit = round(_duration(source, pictures) * sample_rate)
        return write_beside(target, lambda partial: _mux(source, pictures, samples[:, :limit], sample_rate, partial))


class _Opened:
    """A container and its first picture stream, closed at the end; every failure of FFmpeg becomes one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> tuple[Any, Any]:
        import av

        if not self.path.is_file():
            raise FileNotFoundError(f"there is no video {self.path}")
        try:
            # The whitelist keeps a playlist in disguise from reaching for the network.
            self.container = av.open(str(self.path), options={"protocol_whitelist": "file"})
        except (av.FFmpegError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} is not a readable video ({error})") from error
        streams = [stream for stream in self.container.streams.video if stream.codec_context is not None]
        if not streams:
            self.container.close()
            raise ValueError(f"{self.path} has no pictures: it is a sound, not a video")
        streams[0].thread_type = "AUTO"
        return self.container, streams[0]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import av

        self.container.close()
        if isinstance(error, av.FFmpegError):
            raise ValueError(f"{self.path} is damaged: its pictures cannot be decoded ({error})") from error


def _duration(container: Any, stream: Any) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration) / 1_000_000
    ends = (
        float((packet.pts + (packet.duration or 0)) * stream.time_base)
        for packet in container.demux(stream)
        if packet.pts is not None
    )
    last = max(ends, default=0.0)
    container.seek(0)
    if last <= 0:
        raise ValueError(f"{container.name} holds no pictures, or does not say when they are shown")
    return last


def _pick(container: Any, stream: Any, times: list[float], policy: str, path: Path) -> list[np.ndarray]:
    origin = float((stream.start_time or 0) * stream.time_base)
    if policy == "key":
        stream.codec_context.skip_frame = "NONKEY"
    chosen: dict[float, np.ndarray] = {}
    cursor: _Cursor | None = None
    for time in sorted(set(times)):
        # Decode on while the next time is near; jump to the key frame before it otherwise.
        if cursor is None or policy == "key" or time - cursor.shown() > 2.0:
            container.seek(int((time + origin) / stream.time_base), stream=stream, backward=True)
            cursor = _Cursor(container.decode(stream), stream, origin)
        frame = cursor.forward(time)
        if frame is None:
            raise ValueError(f"{path} gives no picture for {time:.2f} s: it is truncated or damaged there")
        chosen[time] = frame.to_ndarray(format="rgb24")
    return [chosen[time] for time in times]


class _Cursor:
    """Walks through decoded frames, one ahead, since only the next frame tells until when this one is shown."""

    def __init__(self, frames: Iterator[Any], stream: Any, origin: float) -> None:
        self.frames, self.stream, self.origin = frames, stream, origin
        self.frame = next(frames, None)
        self.following = next(frames, None)

    def forward(self, time: float) -> Any:
        """The last frame that starts at or before ``time``; the first of all where none does; None where there is none."""
        # Containers round times to their own ticks: a thousandth of a frame early is still that frame.
        slack = 1e-3 / float(self.stream.average_rate or 25)
        while self.following is not None and _time(self.following, self.stream, self.origin) <= time + slack:
            self.frame, self.following = self.following, next(self.frames, None)
        return self.frame

    def shown(self) -> float:
        """Since when the current frame is shown, in seconds."""
        return _time(self.frame, self.stream, self.origin) if self.frame is not None else 0.0


def _time(frame: Any, stream: Any, origin: float) -> float:
    return float(frame.pts * stream.time_base) - origin if frame.pts is not None else 0.0


def _mux(source: Any, pictures: Any, samples: np.ndarray, sample_rate: int, partial: Path) -> None:
    import av

    with av.open(str(partial), "w") as container:
        try:
            copied = container.add_stream_from_template(pictures)
        except ValueError as error:
            mend = "choose a name that ends in .mkv, which holds everything"
            raise ValueError(f"{partial.suffix} cannot hold these pictures ({error}): {mend}") from error
        layout = "mono" if len(samples) == 1 else "stereo"
        sound = container.add_stream("aac", rate=sample_rate, layout=layout)
        for packet in source.demux(pictures):
            if packet.dts is not None:
                packet.stream = copied
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = sample_rate
        frame.pts = 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
