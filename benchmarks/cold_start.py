"""Seconds from a cold start of each command, best of three fresh processes; the ratio is to `python -c pass`.

python benchmarks/cold_start.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What a user waits for; the interpreter's own end, which sorts a million objects, is not in it.
READY = "import os, xmodal; xmodal.pipeline('audiotoken-mini'); os._exit(0)"
ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def seconds(command: list[str], repeats: int = 3) -> float:
    """Best wall-clock time of a command that must succeed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    xmodal = [str(Path(sys.executable).parent / "xmodal")]
    with tempfile.TemporaryDirectory() as out:
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import xmodal": [sys.executable, "-c", "import xmodal"],
            'xmodal.pipeline("audiotoken-mini")': [sys.executable, "-c", READY],
            "xmodal --help": [*xmodal, "--help"],
            "xmodal recipes": [*xmodal, "recipes"],
            "xmodal models": [*xmodal, "models"],
            "xmodal generate bell.wav --to image": [*xmodal, "generate", "examples/sounds/bell.wav", "--to", "image", "-o", out],
        }
        table = {name: round(seconds(command), 3) for name, command in commands.items()}
    baseline = table["python -c pass"]
    for name, value in table.items():
        print(f"{name:<40}{value:8.3f} s   x {value / baseline:.1f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cold_start.json").write_text(json.dumps({"cores": os.cpu_count(), "seconds": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
