"""What FFmpeg opens, and the one clock that a file's sound and pictures share.

The clock begins where the earliest of the two does. Headers are asked only where they cannot be wrong: of mp4 and mov, whose
table of samples is the header. Everywhere else the packets themselves say how long a stream is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import unpack
from typing import Any

from xmodal.data.opening import handed

ATTACHED = 0x0400  # AV_DISPOSITION_ATTACHED_PIC: the cover of an album
PRIMING = 0.1  # s; sound that begins so little before 0 is what an encoder puts in front, and is not heard
TAIL = 5.0  # s before the announced end where the search for the last packet begins
TABLED = ("mov",)
# One stream of sound without a table: what a header says of its length is a guess, and a seek is one, too.
PACKED = ("mp3", "aac", "ogg", "flac", "ac3", "eac3", "dts", "amr", "wav", "aiff", "au", "caf", "w64", "wv", "tta", "ape")


@contextmanager
def opened(path: Path, ignore_length: bool = False) -> Iterator[Any]:
    """The file as a PyAV container; ``ignore_length`` reads a wav to its end, whatever its header says.

    Raises av.FFmpegError, UnicodeDecodeError or ValueError where FFmpeg knows no such file.
    """
    import av

    # The whitelist keeps a playlist in disguise from reaching for the network.
    options = {"protocol_whitelist": "file"} | ({"ignore_length": "1"} if ignore_length else {})
    with handed(path) as file, av.open(file, options=options) as container:
        yield container


def pictures(container: Any) -> Any:
    """The first stream of moving pictures that some decoder knows, or None; the cover of an album is none."""
    known = (stream for stream in container.streams.video if stream.codec_context is not None)
    return next((stream for stream in known if not stream.disposition & ATTACHED), None)


def sound(container: Any) -> Any:
    """The first stream of sound that some decoder knows, or None."""
    known = (stream for stream in container.streams.audio if stream.codec_context is not None)
    return next((stream for stream in known if stream.codec_context.sample_rate), None)


def zero(container: Any) -> float:
    """Where the container's clock begins, in seconds of its own time stamps."""
    starts = []
    for stream in (pictures(container), sound(container)):
        if stream is not None and stream.start_time is not None:
            start = float(stream.start_time * stream.time_base)
            primed = stream.type == "audio" and -PRIMING <= start < 0
            starts.append(0.0 if primed else start)
    return min(starts, default=0.0)


def is_packed(container: Any) -> bool:
    """Whether the file is one stream of sound that nothing but its packets describes."""
    return pictures(container) is None and container.format.name.split(",")[0] in PACKED


def span(path: Path, container: Any, stream: Any) -> tuple[float, float]:
    """When a stream begins and ends, in seconds of the file's clock. Moves nothing in ``container``."""
    begin = float((stream.start_time or 0) * stream.time_base) - zero(container)
    begin = max(begin, 0.0) if stream.type == "audio" else begin
    if container.format.name.split(",")[0] in TABLED and stream.duration:
        return begin, begin + float(stream.duration * stream.time_base)
    if is_packed(container):
        return begin, begin + _packed_seconds(path, stream.index)
    last = _last(path, stream.index, container.duration)
    return begin, begin + 1 / float(_rate(stream)) if last is None else max(last - zero(container), begin)


def skipped(packet: Any) -> tuple[int, int]:
    """Samples that a packet's decoder drops at its start and end."""
    if not packet.has_sidedata("skip_samples"):
        return 0, 0
    first, last = unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
    return int(first), int(last)


def _rate(stream: Any) -> Any:
    return getattr(stream, "average_rate", None) or 25


def _packed_seconds(path: Path, index: int) -> float:
    """Seconds of all packets, less what decoders drop."""
    total = 0.0
    with opened(path) as container:
        stream = container.streams[index]
        for packet in container.demux(stream):
            # Of ogg the last packet's duration is that of what is heard already, and the first may lie before the start.
            first, last = skipped(packet)
            if not total and packet.pts is not None and stream.start_time is not None:
                first = max(first, round((stream.start_time - packet.pts) * stream.time_base * stream.rate))
            dropped = first + (last if container.format.name == "mp3" else 0)
            total += float((packet.duration or 0) * stream.time_base) - dropped / stream.rate
    return total


def _last(path: Path, index: int, announced: int | None) -> float | None:
    """When the last packet of a stream ends by its own time stamps; None where no packet has any."""
    import av

    for from_end in (True, False):
        with opened(path) as container:
            stream = container.streams[index]
            try:
                if from_end and announced:
                    start = (container.start_time or 0) + announced - int(TAIL * 1e6)
                    container.seek(int(start / 1e6 / stream.time_base), stream=stream, backward=True)
                ends = (_end(packet, stream) for packet in container.demux(stream) if packet.size and not packet.is_discard)
                last = max((end for end in ends if end is not None), default=None)
            except av.FFmpegError:
                if from_end:
                    continue
                raise
        if last is not None:
            return last
    return None


def _end(packet: Any, stream: Any) -> float | None:
    at = packet.pts if packet.pts is not None else packet.dts
    if at is None:
        return None
    length = float(packet.duration * stream.time_base) if packet.duration else 1 / float(_rate(stream))
    return float(at * stream.time_base) + length
