"""Sound files to waveforms at the rate a model asks for, or one sentence that says why not.

Waveforms are float32 with full scale 1. Nothing is repaired in silence: no clipping, no loudness change, no trimming.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.codec import check_backend

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

LIBSNDFILE = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus"}
CONTAINERS = {".mp4", ".m4a", ".mkv", ".webm", ".mov", ".avi", ".aac"}
SHORTEST = 0.2  # seconds
LONGEST = 600.0  # seconds
SILENCE = 1e-4  # peak, 80 dB below full scale
LOUDEST = 8.0  # peak; float files may pass full scale a little, integers stored as floats pass it by far


def load_audio(
    path: str | Path,
    sample_rate: int,
    mono: bool = True,
    start: float = 0.0,
    duration: float | None = None,
    longest: float = LONGEST,
    backend: str = "default",
) -> Tensor:
    """Read a sound, or the sound of a video.

    Args:
        path: wav, flac, ogg, opus, mp3, aiff, or a container with an audio stream (mp4, m4a, mkv, webm, mov, avi, aac).
        sample_rate: of the result, in Hz.
        mono: average the channels.
        start, duration: the part to read, in seconds; without ``duration``, until the end.
        longest: refuse more seconds than that without decoding them.
        backend: ``default``, or ``torchcodec`` (see :mod:`xmodal.data.codec`).

    Returns float32 (T,), or (C, T) without ``mono``.

    Raises FileNotFoundError, IsADirectoryError, or ValueError: unreadable, empty, truncated, not finite, silent, too
    short (under 0.2 s) or too long.
    """
    channels, rate = load_channels(path, start, duration, longest, backend)
    return resample(mixed_down(channels, path) if mono else channels, rate, sample_rate)


def load_channels(
    path: str | Path, start: float = 0.0, duration: float | None = None, longest: float = LONGEST, backend: str = "default"
) -> tuple[Tensor, int]:
    """Read a sound with its own channels and rate: float32 (C, T) and Hz; arguments and errors as in `load_audio`."""
    path = Path(path)
    if start < 0 or (duration is not None and duration < SHORTEST):
        raise ValueError(f"start must be at least 0 and duration at least {SHORTEST} s, not {start} and {duration}")
    samples, rate = read_samples(path, start, duration, longest, backend)
    _check_samples(path, samples, rate)
    return torch.from_numpy(np.ascontiguousarray(samples.T, dtype=np.float32)), rate


def mixed_down(channels: Tensor, path: str | Path) -> Tensor:
    """Mean (T,) of the channels (C, T) of ``path``; ValueError for channels that cancel each other."""
    waveform = channels.mean(0)
    if float(waveform.abs().max()) < SILENCE:
        raise ValueError(f"the channels of {path} cancel each other: their mean is silent")
    return waveform


def read_samples(
    path: Path, start: float = 0.0, duration: float | None = None, longest: float = LONGEST, backend: str = "default"
) -> tuple[np.ndarray, int]:
    """Decode a sound as it is: samples (T, C) float32 and their rate, silent or not; errors as in `load_audio`."""
    check_backend(backend)
    _check_file(path)
    if backend == "torchcodec":
        return _read_by_codec(path, start, duration, longest)
    read = _read_container if path.suffix.lower() in CONTAINERS else _read_sound
    return read(path, start, duration, longest)


def sound_seconds(path: str | Path) -> float:
    """Length of a sound as its file's header gives it, without decoding; errors as in `load_audio`."""
    import soundfile

    path = Path(path)
    _check_file(path)
    if path.suffix.lower() not in CONTAINERS:
        try:
            about = soundfile.info(path)
            return about.frames / about.samplerate
        except soundfile.LibsndfileError:
            pass  # perhaps a container in disguise
    return _container_seconds(path)


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Change the rate (Hz) of a float32 waveform (..., T)."""
    if min(source_rate, target_rate) < 1:
        raise ValueError(f"sample rates must be positive, not {source_rate} and {target_rate} Hz")
    if source_rate == target_rate:
        return waveform
    # A filter for coprime rates (44,101 to 16,000 Hz) would take gigabytes; this ratio differs by less than 1e-6.
    ratio = Fraction(source_rate, target_rate).limit_denominator(1000)
    return _resampler(ratio.numerator, ratio.denominator, str(waveform.device))(waveform)


def list_audio(paths: Iterable[str | Path]) -> list[Path]:
    """Return the sound and video files among ``paths`` and directly inside the folders among them, sorted by folder.

    Raises FileNotFoundError for a path that does not exist, and ValueError where nothing is found.
    """
    found: list[Path] = []
    asked = [Path(path) for path in paths]
    for path in asked:
        if path.is_dir():
            found += sorted(each for each in path.iterdir() if each.suffix.lower() in LIBSNDFILE | CONTAINERS)
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no file {path}")
    if not found:
        raise ValueError(f"there are no sound files in {', '.join(map(str, asked)) or 'an empty list'}")
    return found


@cache
def _resampler(source: int, target: int, device: str) -> Resample:
    """One filter per pair of rates: building it costs more than using it."""
    from torchaudio.transforms import Resample

    return Resample(source, target).to(device)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a sound file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")


def _check_samples(path: Path, samples: np.ndarray, rate: int) -> None:
    if len(samples) < SHORTEST * rate:
        raise ValueError(f"{path} gives only {len(samples) / rate:.2f} s of sound; at least {SHORTEST} s are needed")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds samples that are not finite numbers")
    if (peak := float(np.abs(samples).max())) < SILENCE:
        raise ValueError(f"{path} is silent (its loudest sample is {peak:.1e} of full scale)")
    if peak > LOUDEST:
        raise ValueError(f"{path} has samples up to {peak:.4g} where full scale is 1: are they integers stored as floats?")


def _check_length(path: Path, seconds: float, longest: float) -> None:
    if seconds > longest:
        raise ValueError(
            f"{path} would give {seconds:.0f} s of sound, more than the limit of {longest:.0f} s: "
            "read a part with start and duration"
        )


def _check_start(path: Path, start: float, total: float) -> None:
    if start >= total:
        raise ValueError(f"{path} ends after {total:.2f} s, so nothing starts at {start:.2f} s")


def _read_sound(path: Path, start: float, duration: float | None, longest: float) -> tuple[np.ndarray, int]:
    """Samples (T, C) float32 and their rate."""
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        # Many a .wav is really an mp4; only if no demuxer knows it either is the file refused.
        return _read_container(path, start, duration, longest, reason=error)
    with file:
        rate, total = file.samplerate, file.frames
        if total == 0:
            raise ValueError(f"{path} is empty (its header announces 0 samples)")
        _check_start(path, start, total / rate)
        first = round(start * rate)
        wanted = min(total - first, round(duration * rate)) if duration is not None else total - first
        _check_length(path, wanted / rate, longest)
        _check_size(path)
        try:
            file.seek(first)
            samples = file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is damaged: it cannot be decoded after {start:.2f} s ({error.error_string})") from error
    # Lossy formats may announce a few frames of padding that the decoder then drops.
    if len(samples) < wanted - max(0.01 * wanted, 5000):
        raise ValueError(f"{path} is truncated: it announces {wanted / rate:.2f} s and gives {len(samples) / rate:.2f} s")
    return samples, rate


def _check_size(path: Path) -> None:
    """Compare an uncompressed file's size with its own header: libsndfile quietly reads what is left of a cut file."""
    with path.open("rb") as raw:
        head = raw.read(12)
        if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        while len(chunk := raw.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                left = path.stat().st_size - raw.tell()
                # Writers to a pipe leave 0 or the largest number there: then the size is not known, and not wrong.
                if left < size < 0xFFFFFF00 and size < 0x7FFFFF00:
                    raise ValueError(f"{path} is truncated: its header announces {size} bytes of sound and {left} are there")
                return
            raw.seek(size + size % 2, 1)


def _read_by_codec(path: Path, start: float, duration: float | None, longest: float) -> tuple[np.ndarray, int]:
    """Samples (T, C) float32 and their rate, by torchcodec."""
    from xmodal.data import codec

    decoder, total = codec.open_sound(path)
    if total:
        _check_start(path, start, total)
    _check_length(path, min(duration, total) if duration is not None and total else duration or total - start, longest)
    _check_size(path)
    wanted = duration if duration is not None or total else longest + 1
    samples, rate = codec.read_samples(decoder, path, start, wanted)
    _check_length(path, len(samples) / rate, longest)
    if not len(samples):
        raise ValueError(f"{path} is empty: its audio stream holds no samples")
    return samples, rate


def _container_seconds(path: Path) -> float:
    import av

    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            stream = _sound_stream(container, path)
            if stream.duration is not None:
                return float(stream.duration * stream.time_base)
            return float(container.duration or 0) / 1_000_000
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable sound file ({error})") from error


def _read_container(
    path: Path, start: float, duration: float | None, longest: float, reason: Exception | None = None
) -> tuple[np.ndarray, int]:
    """Samples (T, C) float32 and their rate, by FFmpeg."""
    import av

    try:
        # The whitelist keeps a playlist in disguise from reaching for the network.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            stream = _sound_stream(container, path)
            length = float(container.duration or 0) / 1_000_000
            if length:
                _check_start(path, start, length)
            _check_length(path, duration if duration is not None else length - start, longest)
            return _decode(container, stream, start, duration, longest, path)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable sound file ({reason or error})") from error


def _sound_stream(container: Any, path: Path) -> Any:
    """The first stream of sound that some decoder knows."""
    streams = container.streams.audio
    if not streams:
        kind = "a picture or a silent film" if container.streams.video else "no sound"
        raise ValueError(f"{path} has no audio stream: it is {kind}")
    known = [stream for stream in streams if stream.codec_context is not None and stream.codec_context.sample_rate]
    if not known:
        raise ValueError(f"{path} holds sound in a form that no decoder here knows, or is damaged")
    return known[0]


def _decode(
    container: Any, stream: Any, start: float, duration: float | None, longest: float, path: Path
) -> tuple[np.ndarray, int]:
    import av

    rate = stream.rate
    resampler = av.AudioResampler(format="fltp", rate=rate)
    origin = float((stream.start_time or 0) * stream.time_base)
    if start:
        container.seek(int(max(0.0, start + origin - 0.1) / stream.time_base), stream=stream)
    limit = duration if duration is not None else longest
    pieces: list[np.ndarray] = []
    first: float | None = None
    count = 0
    for frame in container.decode(stream):
        if first is None:
            first = float(frame.pts * frame.time_base) - origin if frame.pts is not None else start
        # What most codecs give needs no conversion, which would cost as much as decoding.
        plain = frame.format.name == "fltp" and frame.sample_rate == rate
        parts = [frame.to_ndarray()] if plain else [part.to_ndarray() for part in resampler.resample(frame)]
        if any(len(part) != len((pieces or parts)[0]) for part in parts):
            raise ValueError(f"{path} changes its number of channels in the middle: cut it there first")
        pieces += parts
        count += sum(part.shape[1] for part in parts)
        if count > (start - first + limit + 1) * rate:
            break
    if not pieces:
        raise ValueError(f"{path} is empty: its audio stream holds no samples")
    samples = np.concatenate(pieces, axis=1).T
    skip = max(0, round((start - (first or 0.0)) * rate))
    stop = None if duration is None else skip + round(duration * rate)
    if duration is None:
        _check_length(path, (len(samples) - skip) / rate, longest)
    return samples[skip:stop], rate
