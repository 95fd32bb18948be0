"""How long does `xmodal evaluate` take on two folders of 1,000 rendered sounds, and of 1,000 pictures?

python benchmarks/evaluate_1000.py                 # on two threads; takes the miniature CLIP and CLAP if they are there
python benchmarks/evaluate_1000.py --count 50 --out -   # a trial

The real side is 1,000 clips of the test split. What was made are 1,000 other clips of the same things, so that every metric
has something to measure. Rendering is not timed; reading, judging, 1,000 draws of the bootstrap and writing the report are.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xmodal.miniature import world
from xmodal.miniature.render import render

RESULTS = Path(__file__).parent / "results"
SUITES = {"audio2image": ".png", "vision2audio": ".wav", "text2audio": ".wav"}
THREADS = "2"


def folders(root: Path, count: int) -> tuple[Path, Path]:
    """The real clips' manifest, and a folder of other clips of the same things under the real clips' names."""
    real, made = root / "real" / "manifest.jsonl", root / "made"
    if not real.is_file():
        render(root / "real", "test", count)
    if not (made / "done").is_file():
        others: dict[str, list[Path]] = {}
        for path in sorted(render(root / "others", "validation", 2 * count).parent.glob("*.png")):
            others.setdefault(path.stem.split("_")[1], []).append(path)
        made.mkdir(exist_ok=True)
        for index in range(count):
            thing = world.sample("test", index).thing
            chosen = others[thing][index % len(others[thing])]
            for suffix in (".png", ".wav"):
                target = made / f"{index:04d}_{thing}{suffix}"
                target.unlink(missing_ok=True)
                os.link(chosen.with_suffix(suffix), target)
        (made / "done").touch()
    return real, made


def timed(suite: str, real: Path, made: Path, out: Path) -> tuple[float, float, str]:
    """Seconds of the whole command with start-up, on the clock and of the processors, and what it printed."""
    words = ["evaluate", "--suite", suite, "--real", str(real), "--fake", str(made), "--seconds", "2.5", "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "HF_HUB_OFFLINE": "1"}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "xmodal", *words], env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"xmodal {' '.join(words)} failed: {done.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--suites", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--folder", type=Path, help="where the clips are rendered, once (default: a temporary folder)")
    parser.add_argument("--out", default=str(RESULTS / "evaluate_1000.json"), help="JSON file, or - for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.folder or Path(scratch)
        real, made = folders(root, options.count)
        table = []
        for suite in options.suites:
            load = os.getloadavg()[0]
            seconds, busy, printed = timed(suite, real, made, root / "out" / suite)
            summary = json.loads((root / "out" / suite / "summary.json").read_text())
            size = (root / "out" / suite / "report.html").stat().st_size
            row = {
                "suite": suite,
                "seconds": round(seconds, 1),
                "cpu_seconds": round(busy, 1),
                "load_before": round(load, 1),
                "report_bytes": size,
            }
            table.append({**row, "scores": summary["scores"]["made"], "absent": summary["absent"]})
            print(
                f"{suite}: {seconds:.1f} s for {options.count} made and {options.count} real (load before: {load:.1f})\n{printed}"
            )
    if options.out != "-":
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"count": options.count, "threads": int(THREADS), "cores": os.cpu_count(), "world": world.VERSION}
        path.write_text(json.dumps({**about, "table": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
