"""Real recordings of the world's things, and how many of them are understood.

python benchmarks/real_sounds.py fetch [--split test] [--out outputs/real_sounds]    (Debian or Ubuntu: apt-get, dpkg-deb)
python benchmarks/real_sounds.py measure [--ear FOLDER] [--way] [--folder outputs/real_sounds]
python benchmarks/real_sounds.py compare [--folder outputs/real_sounds]        (wants both splits)

real_sounds.csv names each recording: split, thing, Debian package and version, the file within, for a container (soundfont,
OpenTTD's sound set, OpenClonk's groups) the entry within that, author, licence and SHA-256. ``train`` holds permissive
licences alone; no package is in both splits. ``fetch`` writes OUT/SPLIT/THING/NAME.wav, mono, 16 kHz; nothing of it is committed.
``measure`` gives each sound to BEATs' own classifier, cut as the pipelines cut it; ``--way`` paints it, too, and asks the
picture tagger: the best of the pipeline's own number of candidates, and one picture. ``compare`` looks for one recording in both
splits under other names, by cross-correlation (exit code 1: there is one). Chance is 1 in 18. Intervals: Wilson, 95 %. Writes
benchmarks/results/real_sounds[_NAME].json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.data.audio import load_audio
from xmodal.data.window import window
from xmodal.foundation.beats import BEATs
from xmodal.miniature import world

LIST = Path(__file__).parent / "real_sounds.csv"
RESULTS = Path(__file__).parent / "results"
SAMPLES = 40_000
SHORTEST = 4_000  # samples: what is shorter than the 0.2 s that can be read gets silence behind it


def rows(split: str) -> list[dict[str, str]]:
    """Lines of the list, of ``train``, ``test`` or ``all``."""
    with LIST.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if split in (row["split"], "all")]


def name_of(row: dict[str, str]) -> str:
    """A file name without directory: package, then what tells its recordings apart."""
    stem = f"{row['package']}_{row['entry'] or Path(row['file']).stem}".lower()
    digest = row["sha256"][:6]  # two folders of a package may hold files of one name
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in stem) + f"_{digest}.wav"


def soundfont_entry(content: bytes, name: str) -> tuple[np.ndarray, int]:
    """A sample of a SoundFont 2 file by its name: int16 (T,) and its rate in Hz; the layout is that of the SF2.04 standard."""
    chunks, place = {}, 12
    while place < len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        inside = place + 12 if kind == b"LIST" else len(content)
        while inside < place + 8 + size:
            part, length = struct.unpack_from("<4sI", content, inside)
            chunks[part] = (inside + 8, length)
            inside += 8 + length + length % 2
        place += 8 + size + size % 2
    first, length = chunks[b"shdr"]
    for header in range(first, first + length, 46):
        label, start, end, _, _, rate = struct.unpack_from("<20sIIIII", content, header)
        if label.split(b"\0")[0].decode("latin-1") == name:
            return np.frombuffer(content, "<i2", end - start, chunks[b"smpl"][0] + 2 * start), rate
    raise ValueError(f"the soundfont has no sample named {name!r}")


def cat_entry(content: bytes, number: int) -> bytes:
    """The WAV file at ``number`` of OpenTTD's sound set: a table of offsets and sizes, then a name before each file."""
    offset, size = struct.unpack_from("<II", content, 8 * number)
    start = content.index(b"RIFF", offset & 0x7FFFFFFF)
    return content[start : start + size]


def group_entry(content: bytes, name: str) -> bytes:
    """The file at ``name``, "Animals.ocg/MosquitoBuzz.ogg", of OpenClonk's packed group: gzip with another magic number,
    a scrambled header that holds the count at byte 36, entries of 316 bytes (name, size at 268, offset at 276), contents.
    """
    if content[:2] == b"\x1e\x8c":
        content = gzip.decompress(b"\x1f\x8b" + content[2:])
    first, _, rest = name.partition("/")
    count = int.from_bytes(bytes(content[k] ^ 237 for k in (38, 37, 36, 41)), "little")  # bytes 0 and 2 of each three are swapped
    for entry in range(204, 204 + 316 * count, 316):
        size, offset = struct.unpack_from("<i4xi", content, entry + 268)
        if content[entry : entry + 257].split(b"\0")[0].decode("latin-1") == first:
            start = 204 + 316 * count + offset
            return group_entry(content[start : start + size], rest) if rest else content[start : start + size]
    raise ValueError(f"the group has no entry named {first!r}")


def read(root: Path, row: dict[str, str], scratch: Path) -> tuple[np.ndarray | None, int, Path, str]:
    """Samples and rate of a soundfont's entry, or a file to decode; and the SHA-256 of what the list speaks of."""
    path = root / row["file"]
    if not row["entry"]:
        return None, 0, path, hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix in (".cat", ".ocg", ".ocd"):
        content, entry = path.read_bytes(), row["entry"]
        inner = cat_entry(content, int(entry)) if path.suffix == ".cat" else group_entry(content, entry)
        target = scratch / f"entry{Path(entry).suffix or '.wav'}"
        target.write_bytes(inner)
        return None, 0, target, hashlib.sha256(inner).hexdigest()
    samples, rate = soundfont_entry(path.read_bytes(), row["entry"])
    return samples, rate, path, hashlib.sha256(samples.tobytes()).hexdigest()


def fetch(split: str, out: Path, keep: Path | None) -> None:
    """Download the packages one by one, and write the recordings; an entry whose bytes have changed is left out, and said."""
    import soundfile

    wanted = sorted(rows(split), key=lambda row: row["package"])
    with tempfile.TemporaryDirectory() as place:
        for package, listed in groupby(wanted, key=lambda row: row["package"]):
            root = unpack(package, Path(place), keep)
            for row in listed:
                samples, rate, path, digest = read(root, row, Path(place))
                if digest != row["sha256"]:
                    print(f"left out: {row['file']} of {package} is not the one that {LIST.name} lists", file=sys.stderr)
                    continue
                target = out / row["split"] / row["thing"] / name_of(row)
                target.parent.mkdir(parents=True, exist_ok=True)
                wave = mono(samples, rate) if samples is not None else decoded(path)
                wave = torch.nn.functional.pad(wave, (0, max(0, SHORTEST - len(wave))))
                soundfile.write(target, wave.numpy(), world.sounds.SAMPLE_RATE, subtype="FLOAT")
            print(f"{package}: done", flush=True)


def unpack(package: str, place: Path, keep: Path | None) -> Path:
    """The unpacked package; from ``keep`` if its .deb lies there."""
    found = sorted(keep.glob(f"{package}_*.deb")) if keep else []
    if not found:
        subprocess.run(["apt-get", "download", "-q", package], cwd=place, check=True, stdout=subprocess.DEVNULL)
        found = sorted(place.glob(f"{package}_*.deb"))
    root = place / package
    subprocess.run(["dpkg-deb", "-x", found[0], root], check=True)
    return root


def mono(samples: np.ndarray, rate: int) -> Tensor:
    from xmodal.data.audio import resample

    return resample(torch.from_numpy(samples.astype(np.float32) / 2**15), rate, world.sounds.SAMPLE_RATE)


def decoded(path: Path) -> Tensor:
    """Any file at 16 kHz; the decoder of old formats is libsndfile alone, and very short files are taken as they are."""
    import soundfile

    from xmodal.data.audio import resample

    try:
        return load_audio(path, world.sounds.SAMPLE_RATE)
    except ValueError:
        wave, rate = soundfile.read(path, always_2d=True, dtype="float32")
        return resample(torch.from_numpy(wave.mean(1)), rate, world.sounds.SAMPLE_RATE)


def wilson(right: int, total: int) -> list[float]:
    """95 % interval of a proportion, in percent."""
    z, p = 1.959964, right / total
    centre, spread = p + z * z / (2 * total), z * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5
    return [round(100 * x / (1 + z * z / total), 1) for x in (centre - spread, centre + spread)]


def real(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Thing and waveform (T,) of every recording of the test."""
    for row in rows("test"):
        path = folder / "test" / row["thing"] / name_of(row)
        if path.is_file():
            yield row["thing"], load_audio(path, world.sounds.SAMPLE_RATE)


class Print:
    """What tells a recording (T,) from others: itself at 8 kHz, at most ten seconds, and its loudest second."""

    LENGTH = 10 * 8_000 + 8_000

    def __init__(self, waveform: Tensor) -> None:
        sound = F.avg_pool1d(waveform[None, : 20 * 8_000], 2)[0]
        self.samples, self.size = len(sound), min(8_000, len(sound))
        pieces = sound.unfold(0, self.size, max(1, self.size // 4))
        piece = pieces[pieces.square().sum(1).argmax()]
        self.whole = torch.fft.rfft(sound, self.LENGTH)
        self.loudest = torch.fft.rfft(piece / piece.norm().clamp_min(1e-9), self.LENGTH).conj()
        self.energy = F.pad(sound.double().square().cumsum(0), (1, 0))

    def found_in(self, other: Print) -> float:
        """Greatest normalised cross-correlation of the loudest second with any place of another recording."""
        if self.size > other.samples:
            return 0.0
        energy = other.energy[self.size :] - other.energy[: -self.size]
        products = torch.fft.irfft(other.whole * self.loudest, self.LENGTH)[: len(energy)].abs()
        loud = energy > 1e-3 * energy.max()  # of silence any two pieces are alike
        return (products[loud] / energy[loud].clamp_min(1e-12).sqrt()).max().item() if loud.any() else 0.0


def compare(folder: Path, shown: float = 0.6, same: float = 0.9) -> bool:
    """Print the pairs of a training and a test recording that are alike; whether none is the same.

    Two decaying tones of drums come to 0.86 without being the same, two prints of one recording to 0.95 and more.
    """
    parts: dict[str, list[tuple[Path, Print]]] = {}
    for split in ("train", "test"):
        paths = {folder / split / row["thing"] / name_of(row) for row in rows(split)}
        there = sorted(path for path in paths if path.is_file())
        parts[split] = [(path, Print(load_audio(path, world.sounds.SAMPLE_RATE))) for path in there]
    if not all(parts.values()):
        raise SystemExit(
            f"{folder} does not hold recordings of both splits: run python benchmarks/real_sounds.py fetch --split all"
        )
    alike = [
        (max(one.found_in(other), other.found_in(one)), path, twin)
        for path, one in parts["test"]
        for twin, other in parts["train"]
    ]
    most = max(pair[0] for pair in alike)
    print(f"{len(parts['test'])} test recordings beside {len(parts['train'])} of the training: at most {most:.2f} alike")
    for much, path, twin in sorted(alike, reverse=True):
        if much >= shown:
            print(f"  {much:.2f} {path.relative_to(folder)} {twin.relative_to(folder)}")
    return most < same


def score(things: list[str], named: list[str]) -> dict[str, Any]:
    """Percent right, its interval, the mean over things, and the confusion matrix (rows: what it is)."""
    right = sum(thing == name for thing, name in zip(things, named, strict=True))
    table = Counter(zip(things, named, strict=True))
    present = [thing for thing in world.THINGS if thing in things]
    each = [table[thing, thing] / things.count(thing) for thing in present]
    confusion = {thing: {name: table[thing, name] for name in world.THINGS if table[thing, name]} for thing in present}
    return {
        "count": len(things), "right": right,
        "percent": round(100 * right / len(things), 1), "interval": wilson(right, len(things)),
        "mean_over_things": round(100 * sum(each) / len(each), 1), "confusion": confusion,
    }  # fmt: skip


@torch.no_grad()
def heard(ear: BEATs, waveforms: Tensor) -> list[str]:
    logits = torch.cat([ear.class_logits(some) for some in waveforms.split(32)])[:, : len(world.THINGS)]
    return [world.THINGS[index] for index in logits.argmax(-1)]


def painted(waveforms: list[Tensor], candidates: int | None = None) -> list[str]:
    """What the picture tagger sees in the pictures that the shipped AudioToken paints of the sounds, by default its best."""
    import xmodal
    from xmodal.foundation.picture_tagger import PictureTagger

    pipe, tagger, names = xmodal.pipeline("audiotoken-mini"), PictureTagger(), []
    for start in range(0, len(waveforms), 16):
        some = waveforms[start : start + 16]
        streams = [torch.Generator().manual_seed(start + n) for n in range(len(some))]
        pictures = pipe(
            some, sampling_rate=world.sounds.SAMPLE_RATE, generator=streams, candidates=candidates, output_type="pt"
        ).images
        names += tagger.tag(pictures)["thing"]
    return names


def measure(card: str, folder: Path, way: bool, count: int, name: str) -> None:
    found = list(real(folder))
    if not found:
        raise SystemExit(f"{folder / 'test'} holds none of the recordings: run python benchmarks/real_sounds.py fetch first")
    things, sounds = [thing for thing, _ in found], [sound for _, sound in found]
    ear = BEATs(card)
    cut = torch.stack([window(sound, SAMPLES) for sound in sounds])
    report: dict[str, dict[str, dict[str, Any]]] = {"ear": {"real": score(things, heard(ear, cut))}}
    clips = [world.sample("test", index, seed=1) for index in range(count)]
    rendered = torch.stack([torch.from_numpy(world.sound(clip).mean(0)) for clip in clips])
    report["ear"]["rendered"] = score([clip.thing for clip in clips], heard(ear, rendered))
    if way:
        report["way"] = {"real": score(things, painted(sounds)), "real, one candidate": score(things, painted(sounds, 1))}
    for place, parts in report.items():
        for kind, cells in parts.items():
            over = f"mean over things {cells['mean_over_things']:.1f} %"
            print(f"{place:<4} {kind:<19} {cells['percent']:.1f} % of {cells['count']} {cells['interval']}, {over}")
    for place, parts in report.items():
        print(f"{place}, real: thing, and what it is taken for")
        for thing, row in parts["real"]["confusion"].items():
            cells = sorted(row.items(), key=lambda cell: -cell[1])
            print(f"  {thing:<10}" + ", ".join(f"{other} {times}" for other, times in cells))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"real_sounds{'_' + name if name else ''}.json").write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    getting = commands.add_parser("fetch")
    getting.add_argument("--split", choices=("train", "test", "all"), default="test")
    getting.add_argument("--out", type=Path, default=Path("outputs/real_sounds"))
    getting.add_argument("--packages", type=Path, help="folder with .deb files that were downloaded before")
    measuring = commands.add_parser("measure")
    measuring.add_argument("--folder", type=Path, default=Path("outputs/real_sounds"))
    measuring.add_argument("--ear", default="wild", help="card or folder of BEATs")
    measuring.add_argument("--way", action="store_true")
    measuring.add_argument("--count", type=int, default=512, help="rendered clips")
    measuring.add_argument("--name", default="", help="of the result")
    comparing = commands.add_parser("compare")
    comparing.add_argument("--folder", type=Path, default=Path("outputs/real_sounds"))
    options = parser.parse_args()
    if options.command == "compare":
        raise SystemExit(0 if compare(options.folder) else 1)
    if options.command == "fetch":
        fetch(options.split, options.out, options.packages)
    else:
        measure(options.ear, options.folder, options.way, options.count, options.name)


if __name__ == "__main__":
    main()
