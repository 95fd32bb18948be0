"""How fast are sounds decoded and resampled?  python benchmarks/decode.py [--clips 20] [--rounds 5]

Ten seconds of 44.1 kHz stereo from each format to 16 kHz mono: `load_audio` with its default decoders and with torchcodec,
against librosa.load and torchaudio.load (which calls torchcodec) with a kept Resample object; and, as what the default
decoder cannot be faster than, PyAV that decodes all frames and throws them away, without resampling. One thread. Every peer reads
the same files in turns with the others; a peer that is not installed, or cannot read a format, is said to be so. Seconds
are processor seconds of this process: others at work on the machine change them little.
Writes benchmarks/results/decode.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch

from xmodal.data.audio import load_audio

RESULTS = Path(__file__).parent / "results"
SOURCE, TARGET, SECONDS = 44100, 16000, 10.0
FORMATS = ("wav", "flac", "ogg", "mp3", "m4a", "mp4")
Peer = Callable[[Path], Any]


def write(folder: Path, suffix: str, number: int) -> Path:
    """Tones and noise, so that lossy formats have something to do."""
    random = np.random.default_rng(number)
    time_axis = np.arange(round(SECONDS * SOURCE)) / SOURCE
    tones = sum(0.1 * np.sin(2 * np.pi * hertz * time_axis) for hertz in random.uniform(80, 6000, 6))
    sound = np.stack([tones, tones]).T + 0.02 * random.standard_normal((len(time_axis), 2))
    path = folder / f"{number}.{suffix}"
    if suffix not in ("m4a", "mp4"):
        soundfile.write(path, sound, SOURCE)
        return path
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10) if suffix == "mp4" else None
        stream = container.add_stream("aac", rate=SOURCE, layout="stereo")
        if pictures is not None:
            pictures.width, pictures.height = 320, 180
            for frame in range(round(SECONDS * 10)):
                picture = np.full((180, 320, 3), 2 * frame % 256, np.uint8)
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(pictures.encode())
        part = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T, np.float32), format="fltp", layout="stereo")
        part.sample_rate, part.pts = SOURCE, 0
        container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path


def peers() -> tuple[dict[str, Peer], list[str]]:
    """What can be called here, and a sentence for each that cannot."""
    found: dict[str, Peer] = {"xmodal": lambda path: load_audio(path, TARGET), "PyAV's decoding alone": _decode}
    absent = []
    try:
        import torchcodec  # noqa: F401

        found["xmodal, torchcodec"] = lambda path: load_audio(path, TARGET, backend="torchcodec")
        found["torchaudio"] = _torchaudio()
    except (ImportError, RuntimeError) as error:
        absent.append(f"torchcodec (and torchaudio.load, which calls it): not installed ({str(error).splitlines()[0]})")
    try:
        import librosa

        found["librosa"] = lambda path: librosa.load(path, sr=TARGET, mono=True)
    except ImportError:
        absent.append("librosa: not installed")
    return found, absent


def _decode(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(frame.samples for frame in container.decode(container.streams.audio[0]))


def _torchaudio() -> Peer:
    import torchaudio

    change = torchaudio.transforms.Resample(SOURCE, TARGET)

    def load(path: Path) -> torch.Tensor:
        return change(torchaudio.load(path)[0].mean(0))

    return load


def measure(found: dict[str, Peer], paths: list[Path], rounds: int) -> dict[str, float]:
    """Clips per second of each peer; the best of some rounds, which peers take in turns."""
    speeds: dict[str, float] = defaultdict(float)
    for name, peer in list(found.items()):
        try:
            peer(paths[0])
        except Exception as error:  # a peer may fail as it likes
            print(f"    {name}: cannot read {paths[0].suffix} ({type(error).__name__})")
            found = {other: call for other, call in found.items() if other != name}
    for _ in range(rounds):
        for name, peer in found.items():
            start = time.process_time()
            for path in paths:
                peer(path)
            speeds[name] = max(speeds[name], len(paths) / (time.process_time() - start))
    return {name: round(speed, 1) for name, speed in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load, (found, absent) = round(os.getloadavg()[0], 1), peers()
    report: dict[str, Any] = {"cores": os.cpu_count(), "load_before": load, "seconds": SECONDS, "not_measured": absent}
    print(f"{SECONDS:.0f} s of {SOURCE} Hz stereo to {TARGET} Hz mono, clips per second, one thread")
    for line in absent:
        print(f"  {line}")
    report["clips_per_second"] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in FORMATS:
            paths = [write(Path(scratch), suffix, number) for number in range(options.clips)]
            speeds = measure(found, paths, options.rounds)
            report["clips_per_second"][suffix] = speeds
            rest = ", ".join(f"{name} {speed:.0f} ({speeds['xmodal'] / speed:.2f} times)" for name, speed in speeds.items())
            print(f"  {suffix:<5}{rest}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "decode.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
