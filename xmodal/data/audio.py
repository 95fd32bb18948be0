"""Sound files to waveforms at the rate a model asks for, or one sentence that says why not.

Waveforms are float32 with full scale 1. Nothing is repaired in silence: no clipping, no loudness change, no trimming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from xmodal.data import decoding
from xmodal.data.codec import check_backend
from xmodal.data.decoding import read_sound
from xmodal.data.opening import Source, located
from xmodal.files import media_in

if TYPE_CHECKING:
    from soundfile import SoundFile
    from torchaudio.transforms import Resample

R = TypeVar("R")
# What libsndfile reads here: files without compression, whose length is the size of their data. Of all others it guesses.
LIBSNDFILE = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"riff", b"caff", b".snd")
PLAIN = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
HEADER = 64  # bytes; some writers count their own header as data
UNKNOWN_SIZE = 0x7FFFFF00  # writers to a pipe leave such numbers, or 0, for a size
SHORTEST = 0.2  # seconds
LONGEST = 600.0  # seconds
SILENCE = 1e-4  # peak, 80 dB below full scale
LOUDEST = 4.0  # peak; float files may pass full scale a little, integers stored as floats pass it by far
MOST_BYTES = 1 << 31  # of samples in memory; a header may announce thousands of channels


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
        path: any file with sound that FFmpeg or libsndfile reads; the content decides, not the suffix.
        sample_rate: of the result, in Hz.
        mono: average the channels.
        start, duration: the part to read, in seconds of the file's clock, which its pictures share; without ``duration``,
            until the end. Before its sound begins a file is silent.
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
    path = located(path)
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
    if backend == "torchcodec" and start <= decoding.NEAR:
        return _read_by_codec(path, start, duration, longest)
    if (file := _plain(path)) is not None:
        with file:
            return _read_plain(file, path, start, duration, longest)
    return _by_ffmpeg(path, lambda: read_sound(path, start, duration, longest, ignore_length=_is_wav(path)))


def sound_seconds(path: str | Path) -> float:
    """When a file's sound ends, in seconds of its clock, without decoding it; errors as in `load_audio`."""
    path = located(path)
    _check_file(path)
    if (file := _plain(path)) is not None:
        with file:
            return file.frames / file.samplerate
    if _is_wav(path):  # its header says nothing: only reading it tells
        samples, rate = read_samples(path, longest=float("inf"))
        return len(samples) / rate
    return _by_ffmpeg(path, lambda: decoding.sound_seconds(path))


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

    Hidden files of a folder are passed over.

    Raises FileNotFoundError for a path that does not exist, and ValueError where nothing is found.
    """
    found: list[Path] = []
    asked = [located(path) for path in paths]
    for path in asked:
        if path.is_dir():
            found += media_in(path, ("audio", "video", "container"))[0]
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no file {path}")
    if not found:
        raise ValueError(f"there are no sound files in {', '.join(map(str, asked)) or 'an empty list'}")
    return found


@lru_cache(maxsize=16)  # odd rates have filters of megabytes
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
    peak = max(float(samples.max()), -float(samples.min()))  # both are NaN where a sample is
    if not np.isfinite(peak):
        raise ValueError(f"{path} holds samples that are not finite numbers")
    if peak < SILENCE:
        raise ValueError(f"{path} is silent (its loudest sample is {peak:.1e} of full scale)")
    if peak > LOUDEST:
        raise ValueError(f"{path} has samples up to {peak:.4g} where full scale is 1: are they integers stored as floats?")


def _check_length(path: Path, seconds: float, longest: float, bytes_per_second: int = 0) -> None:
    if seconds > longest:
        raise ValueError(
            f"{path} would give {seconds:.0f} s of sound, more than the limit of {longest:.0f} s: "
            "read a part with start and duration"
        )
    if seconds * bytes_per_second > MOST_BYTES:
        size = f"{seconds * bytes_per_second / 1e9:.1f} GB"
        raise ValueError(f"{path} would take {size} of memory, more than {MOST_BYTES / 1e9:.1f} GB: read a part of it")


def _check_start(path: Path, start: float, total: float) -> None:
    if start >= total:
        raise ValueError(f"{path} ends after {total:.2f} s, so nothing starts at {start:.2f} s")


def _plain(path: Path) -> SoundFile | None:
    """The file as libsndfile opens it, where that cannot be wrong about its length; None for FFmpeg to read.

    Raises ValueError for a wav that was cut off.
    """
    with path.open("rb") as raw:
        if raw.read(4) not in LIBSNDFILE:
            return None
    import soundfile

    if not _size_is_right(path):
        return None
    try:
        file = soundfile.SoundFile(path.open("rb") if isinstance(path, Source) else path)
    except soundfile.LibsndfileError:  # perhaps FFmpeg knows it
        return None
    if file.subtype.startswith(PLAIN):
        return file
    file.close()
    return None


def _is_wav(path: Path) -> bool:
    with path.open("rb") as raw:
        head = raw.read(12)
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _size_is_right(path: Path) -> bool:
    """Compare an uncompressed file's size with its own header: libsndfile quietly reads what is left of a cut file.

    False where the header cannot be right: a size of 0, or something else than a chunk behind the data. Raises ValueError
    for a file that was cut off.
    """
    if not _is_wav(path):
        return True
    with path.open("rb") as raw:
        raw.seek(12)
        while len(chunk := raw.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] != b"data":
                raw.seek(size + size % 2, 1)
                continue
            left = path.stat().st_size - raw.tell()
            if size >= UNKNOWN_SIZE and size > left:
                return True  # not known, and not wrong: libsndfile goes by the file's size then
            if left < size - HEADER:
                raise ValueError(f"{path} is truncated: its header announces {size} bytes of sound and {left} are there")
            raw.seek(size + size % 2, 1)
            return left <= max(size + size % 2, HEADER * (size == 0)) + 8 or _is_chunk(raw.read(8), left - size)
    return True


def _is_chunk(head: bytes, left: int) -> bool:
    """Whether what stands behind the data may be another chunk, and not more of the sound."""
    named = head[:4].isascii() and head[:4].decode("ascii").isprintable()
    return named and int.from_bytes(head[4:8], "little") <= left


def _read_plain(file: SoundFile, path: Path, start: float, duration: float | None, longest: float) -> tuple[np.ndarray, int]:
    """Samples (T, C) float32 and their rate, by libsndfile."""
    import soundfile

    rate, total = file.samplerate, file.frames
    if total == 0:
        raise ValueError(f"{path} is empty (its header announces 0 samples)")
    _check_start(path, start, total / rate)
    first = round(start * rate)
    wanted = min(total - first, round(duration * rate)) if duration is not None else total - first
    _check_length(path, wanted / rate, longest, 4 * rate * file.channels)
    try:
        file.seek(first)
        samples = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} is damaged: it cannot be decoded after {start:.2f} s ({error.error_string})") from error
    if len(samples) < wanted - max(0.01 * wanted, 5000):
        raise ValueError(f"{path} is truncated: it announces {wanted / rate:.2f} s and gives {len(samples) / rate:.2f} s")
    return samples, rate


def _by_ffmpeg(path: Path, read: Callable[[], R]) -> R:
    """What ``read`` gives; every failure of FFmpeg becomes one sentence."""
    import av

    try:
        return read()
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable sound file ({error})") from error


def _read_by_codec(path: Path, start: float, duration: float | None, longest: float) -> tuple[np.ndarray, int]:
    """Samples (T, C) float32 and their rate, by torchcodec."""
    from xmodal.data import codec

    decoder = codec.open_sound(path)
    total = sound_seconds(path)
    _check_start(path, start, total)
    _check_length(path, total - start if duration is None else min(duration, total - start), longest)
    origin = _by_ffmpeg(path, lambda: decoding.origin(path))
    stop = None if duration is None else origin + start + duration + decoding.GAP
    # From the beginning: behind a seek of its own its samples are not those of the whole.
    samples, rate, first = codec.read_samples(decoder, path, origin, stop)
    skip = round(start * rate) - max(0, round((first - origin) * rate))
    if not len(samples) and skip >= 0:
        raise ValueError(f"{path} is empty: its audio stream holds no samples")
    if skip < 0:
        samples = np.concatenate([np.zeros((-skip, samples.shape[1]), np.float32), samples])
    return samples[max(skip, 0) :][: None if duration is None else round(duration * rate)], rate
