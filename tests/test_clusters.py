"""docs/clusters.md: its table and script hold, and processes that another program starts find each other."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import RECIPE

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "clusters.md"
FIT = ["-m", "xmodal", "fit", "--config", "tiny.yaml", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
ROOT_DIR = ["--trainer.default_root_dir", "run"]


def test_the_table_is_what_the_script_prints() -> None:
    printed = subprocess.run([sys.executable, ROOT / "benchmarks" / "clusters.py"], capture_output=True, text=True, check=True)
    assert printed.stdout in PAGE.read_text()


def test_the_script_is_one(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)
    # srun and scontrol stand for those of a cluster: the job is told to stop, and queues itself again.
    for name, text in {"srun": "exit 143", "scontrol": 'echo "$@" > asked'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    given = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=given, check=False)
    assert done.returncode == 143
    assert (tmp_path / "asked").read_text() == "requeue 77\n"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_processes_that_another_program_starts(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher == "torchrun":
        words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, *FIT, *ROOT_DIR]
        started = [subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=common, stderr=subprocess.PIPE, text=True)]
    else:  # the variables that srun sets
        fixed = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_JOB_ID": "77"}
        fixed |= {"SLURM_JOB_NAME": "v2a", "SLURM_NODELIST": "localhost", "SLURM_JOB_NODELIST": "localhost"}
        started = [
            subprocess.Popen(
                [sys.executable, *FIT, *ROOT_DIR], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                env={**common, **fixed, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            )
            for rank in "01"
        ]  # fmt: skip
    for each in started:
        assert each.wait(timeout=300) == 0, each.stderr.read() if each.stderr else ""
    (checkpoint,) = (tmp_path / "run").rglob("last.ckpt")
    found = torch.load(checkpoint, weights_only=True)
    assert (found["global_step"], found["epoch"]) == (3, 1)  # of 16 clips each step takes 4 for each of two: two steps an epoch
