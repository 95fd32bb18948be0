"""How long does a manifest of a million rows take to open?  python benchmarks/manifest_open.py [--rows 1000000]

Baseline in the same run: parsing every line with the json module. Seconds are processor seconds of this process.
Writes benchmarks/results/manifest_open.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from xmodal.data.manifest import Manifest

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(options.rows):
                split = ("train", "train", "validation", "test")[number % 4]
                row = {
                    "id": f"clip-{number:07d}",
                    "audio": f"audio/{number % 1000}/{number}.wav",
                    "label": "dog barking",
                    "split": split,
                }
                file.write(json.dumps(row) + "\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        manifest = Manifest(path, "train")
        opened = time.process_time() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        middle = manifest[len(manifest) // 2].id
        start = time.process_time()
        with path.open(encoding="utf-8") as file:
            parsed = [json.loads(line) for line in file]
        baseline = time.process_time() - start
    report = {
        "rows": options.rows,
        "cores": os.cpu_count(),
        "load_before": load,
        "train_rows": len(manifest),
        "megabytes": round(sum(len(json.dumps(row)) + 1 for row in parsed[:1000]) / 1000 * options.rows / 1e6),
        "open_seconds": round(opened, 3),
        "open_peak_growth_mb": round(grown),
        "json_loads_seconds": round(baseline, 3),
        "ratio": round(baseline / opened, 1),
    }
    print(f"{middle} in the middle; " + ", ".join(f"{key} {value}" for key, value in report.items()))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "manifest_open.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
