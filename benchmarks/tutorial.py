"""How long the commands of docs/tutorial.md take, word by word: python benchmarks/tutorial.py [HOW MANY].

In an empty folder, with the embedded models, each command in a process of its own; the ones that need published weights are left
out. The load of the machine is written down beside the times.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "tutorial.json"


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if "pull" not in line and "audiotoken+few" not in line]


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    chosen = commands()[: int(sys.argv[1]) if len(sys.argv) > 1 else None]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for command in chosen:
            began, before = time.perf_counter(), processor()
            subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, check=True, capture_output=True)
            took, used = round(time.perf_counter() - began, 1), round(processor() - before, 1)
            rows.append({"command": command, "seconds": took, "processor_seconds": used})
            print(f"{took:>7} s, {used:>6} s of a processor  {command}", flush=True)
    total = round(sum(row["seconds"] for row in rows) / 60, 1)
    work = round(sum(row["processor_seconds"] for row in rows) / 60, 1)
    found = {
        "processor_minutes": work,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
        "minutes": total,
        "commands": rows,
    }
    print(f"{total} minutes ({work} of a processor), {found['cores']} cores, load {found['load']} in the last quarter of an hour")
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
