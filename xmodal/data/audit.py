"""`xmodal data audit`: what is wrong with the clips of a manifest, before a GPU finds out.

Every clip is decoded in a process that may be lost. Results go into a journal as they come, so an audit that was
stopped goes on where it was; a clip whose file has changed is looked at again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from xmodal.data.manifest import Manifest, Row, write_manifest
from xmodal.data.opening import state_of
from xmodal.data.workers import run_isolated
from xmodal.files import cannot_write

SILENT = 1e-4  # peak, 80 dB below full scale
CLIPPED_SHARE = 0.01  # of samples at full scale
STILL = 1.5 / 255  # largest mean difference between frames of a still picture
LENGTH_BINS = (0.0, 1.0, 2.0, 5.0, 9.0, 9.9, 10.1, 30.0, 60.0, 600.0)
FAULTS = {
    "missing": "a file that the manifest names is not there",
    "broken": "a file cannot be decoded",
    "silent": "nothing is louder than 80 dB below full scale",
    "short": "the sound is shorter than asked for",
    "clipped": "more than 1 % of the samples are at full scale",
    "still": "the video shows one picture",
    "duplicate": "the same bytes as an earlier clip, at the same start",
    "leak": "the same bytes as a clip of another split",
}
UNUSABLE = ("missing", "broken", "silent", "short", "duplicate", "leak")


@dataclass
class Finding:
    """What was found out about one clip; ``faults`` maps names of ``FAULTS`` to a sentence."""

    id: str
    split: str = ""
    label: str = ""
    seconds: float | None = None
    sample_rate: int | None = None
    content: str = ""
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """A clip to look at, with what must be known in the worker."""

    row: Row
    shortest: float


def audit(
    manifest: Path,
    journal: Path,
    shortest: float = 1.0,
    processes: int = 2,
    limit: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Look at every clip; returns the findings in the manifest's order.

    Args:
        manifest: see :mod:`xmodal.data.manifest`. A row that is not valid is a broken clip, not an error.
        journal: JSON lines of what is known already; appended to.
        shortest: seconds of sound below which a clip is ``short``.
        limit: seconds after which a decoder that hangs is stopped.

    Raises FileNotFoundError or ValueError for a manifest that cannot be opened at all.
    """
    rows = Manifest(manifest)
    known = _read_journal(journal)
    findings: dict[int, Finding] = {}
    states: dict[int, str] = {}
    todo: list[tuple[int, Look]] = []
    for index in range(len(rows)):
        try:
            row = rows[index]
        except ValueError as error:
            findings[index] = Finding(f"line {index + 1}", faults={"broken": str(error)})
            continue
        states[index] = _state(row, shortest)
        if (old := known.get(row.id)) is not None and old[0] == states[index]:
            findings[index] = old[1]
        else:
            todo.append((index, Look(row, shortest)))
    with _open_journal(journal) as log:
        for done, (index, finding, reason) in enumerate(run_isolated(look, todo, processes, limit, import_decoders)):
            row = rows[index]
            found = finding or Finding(row.id, row.split, row.label, faults={"broken": f"{_files(row)}: {reason}"})
            findings[index] = found
            _note(log, journal, {"state": states[index], **asdict(found)})
            if progress is not None:
                progress(done + 1, len(todo))
    ordered = [findings[index] for index in range(len(rows))]
    _compare(ordered)
    return ordered


def import_decoders() -> None:
    """Import what `look` needs: seconds that no clip should be charged for."""
    import av  # noqa: F401
    import soundfile  # noqa: F401

    import xmodal.data.audio
    import xmodal.data.image
    import xmodal.data.video  # noqa: F401


def look(task: Look) -> Finding:
    """Decode one clip and describe it; never raises for what a file holds."""
    row = task.row
    finding = Finding(row.id, row.split, row.label)
    paths = [path for path in (row.audio, row.image, row.video) if path is not None]
    absent = [path.name for path in paths if not path.is_file()]
    if absent or not paths:
        finding.faults["missing"] = ", ".join(absent) + " is not there" if absent else "the row names no file"
        return finding
    for check in (_hear, _see, _watch, _hash):
        try:
            check(row, task.shortest, finding)
        except (ValueError, OSError) as error:
            finding.faults.setdefault("broken", " ".join(str(error).split()))
    return finding


def report(findings: list[Finding], manifest: Path) -> dict[str, Any]:
    """Counts, histograms and all faults, as plain values for JSON."""
    counts = Counter(fault for finding in findings for fault in finding.faults)
    lengths = [finding.seconds for finding in findings if finding.seconds is not None]
    histogram = np.histogram(lengths, [*LENGTH_BINS, np.inf])[0].tolist() if lengths else []
    splits: dict[str, dict[str, int]] = defaultdict(lambda: {"clips": 0, "usable": 0})
    for finding in findings:
        splits[finding.split or "(none)"]["clips"] += 1
        splits[finding.split or "(none)"]["usable"] += usable(finding)
    return {
        "manifest": str(manifest),
        "clips": len(findings),
        "usable": sum(map(usable, findings)),
        "faults": {name: {"clips": counts[name], "meaning": meaning} for name, meaning in FAULTS.items()},
        "splits": dict(splits),
        "sample_rates": {str(rate): number for rate, number in Counter(f.sample_rate for f in findings if f.sample_rate).items()},
        "seconds": {f"from {low:g}": int(number) for low, number in zip(LENGTH_BINS, histogram, strict=False)},
        "labels": dict(Counter(finding.label for finding in findings if finding.label).most_common()),
        "clips_with_faults": [{"id": f.id, "split": f.split, "faults": f.faults} for f in findings if f.faults],
    }


def usable(finding: Finding) -> bool:
    """Whether the clip belongs into the cleaned manifest; clipped and still ones do."""
    return not any(fault in finding.faults for fault in UNUSABLE)


def write_clean(manifest: Path, findings: list[Finding], target: Path) -> int:
    """Write the usable rows, with paths relative to ``target``'s folder; returns their number.

    Raises ValueError where the target lies outside the folder that holds the media, or no clip is usable.
    """
    good = {finding.id for finding in findings if usable(finding)}
    if not good:
        raise ValueError(f"no clip of {manifest} is usable: no cleaned manifest is written")
    root = target.parent.resolve()

    def rows() -> Iterator[dict[str, Any]]:
        for row in _valid(manifest):
            if row.id not in good:
                continue
            good.discard(row.id)
            paths = {name: getattr(row, name) for name in ("audio", "image", "video")}
            if any(path is not None and not path.is_relative_to(root) for path in paths.values()):
                raise ValueError(
                    f"{target} must lie in {manifest.parent} or above it: paths in a manifest never leave its folder"
                )
            kept = {name: str(path.relative_to(root)) for name, path in paths.items() if path is not None}
            times = {"start": row.start or None, "duration": row.duration}
            yield {"id": row.id, **kept, **times, "text": row.text, "label": row.label, "split": row.split}

    return write_manifest(target, rows())


def _valid(manifest: Path) -> Iterator[Row]:
    rows = Manifest(manifest)
    for index in range(len(rows)):
        try:
            yield rows[index]
        except ValueError:
            continue


def _hear(row: Row, shortest: float, finding: Finding) -> None:
    from xmodal.data.audio import read_samples

    source = row.audio or row.video
    if source is None:
        return
    samples, rate = read_samples(source, row.start, row.duration)
    finding.seconds, finding.sample_rate = round(len(samples) / rate, 3), rate
    if not np.isfinite(samples).all():
        raise ValueError(f"{source.name} holds samples that are not finite numbers")
    loudness = np.abs(samples)
    peak = float(loudness.max()) if len(samples) else 0.0
    if peak < SILENT:
        finding.faults["silent"] = f"{source.name}: its loudest sample is {peak:.1e} of full scale"
    if len(samples) < shortest * rate:
        finding.faults["short"] = f"{source.name} gives {len(samples) / rate:.2f} s"
    elif (share := float((loudness >= 0.999).mean())) > CLIPPED_SHARE:
        finding.faults["clipped"] = f"{source.name}: {share:.0%} of the samples are at full scale"


def _see(row: Row, shortest: float, finding: Finding) -> None:
    from xmodal.data.image import load_image

    if row.image is not None:
        load_image(row.image, 32, 32)


def _watch(row: Row, shortest: float, finding: Finding) -> None:
    from xmodal.data.video import load_frames, video_span

    if row.video is None:
        return
    begin, end = video_span(row.video)
    start, stop = max(begin, row.start), min(end, row.start + row.duration) if row.duration else end
    if start >= stop:
        raise ValueError(f"{row.video.name} shows pictures from {begin:.2f} to {end:.2f} s, none of them in this clip")
    frames = load_frames(row.video, [start + (stop - start) * share for share in (0.1, 0.5, 0.9)])
    if float((frames - frames[1]).abs().mean((1, 2, 3)).max()) < STILL:
        finding.faults["still"] = f"{row.video.name} shows the same picture at 10, 50 and 90 % of its length"


def _compare(findings: list[Finding]) -> None:
    """Mark clips whose bytes an earlier clip has; those of another split are leaks."""
    first: dict[str, Finding] = {}
    for finding in findings:
        for fault in ("duplicate", "leak"):
            finding.faults.pop(fault, None)
        if not finding.content:
            continue
        earlier = first.setdefault(finding.content, finding)
        if earlier is not finding:
            fault = "duplicate" if earlier.split == finding.split else "leak"
            place = f" of split {earlier.split!r}" if fault == "leak" else ""
            finding.faults[fault] = f"the same content as {earlier.id}{place}"


def _hash(row: Row, shortest: float, finding: Finding) -> None:
    digest = hashlib.sha256(f"{row.start} {row.duration}".encode())
    for path in filter(None, (row.audio, row.image, row.video)):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    finding.content = digest.hexdigest()[:32]


def _state(row: Row, shortest: float) -> str:
    parts = [row.split, row.label, str(row.start), str(row.duration), str(shortest)]
    for path in (row.audio, row.image, row.video):
        try:
            state = state_of(path) if path is not None else "-"
        except OSError:
            state = "-"
        parts.append(f"{path}|{state}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _files(row: Row) -> str:
    return ", ".join(path.name for path in (row.audio, row.image, row.video) if path is not None)


def _open_journal(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def _note(log: TextIO, path: Path, record: dict[str, Any]) -> None:
    """Append one line at once; half a line, as a full disk leaves it, is passed over by the next audit."""
    try:
        log.write(json.dumps(record, ensure_ascii=False) + "\n")
        log.flush()
    except OSError as error:
        raise cannot_write(path, error) from error


def _read_journal(path: Path) -> dict[str, tuple[str, Finding]]:
    known: dict[str, tuple[str, Finding]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                fields = json.loads(line)
                known[fields["id"]] = (fields.pop("state"), Finding(**fields))
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the last audit was stopped
    return known
