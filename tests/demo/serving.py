"""The command `xmodal demo` in a process of its own, and calls as programs make them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = Path(__file__).parents[2]
STEPS = 2


@dataclass
class Server:
    address: str
    process: subprocess.Popen[str]
    folder: Path
    seconds: float  # until it served

    def memory(self) -> float:
        """Resident megabytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def client(self) -> Client:
        patient = {"timeout": 300}  # twenty of them on two cores
        return Client(self.address, verbose=False, download_files=str(self.folder / "fetched"), httpx_kwargs=patient)

    def upload(self, name: str, content: bytes) -> dict[str, Any]:
        """Hand a file in under any name; its value in a call."""
        answer = httpx.post(f"{self.address}gradio_api/upload", files={"files": (name, content)}, timeout=300)
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server on a free port, whose temporary files lie in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Others' folder, so that no file here is taken for an adapter; the cores of a test machine are shared.
    environment = {**os.environ, "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{ROOT}:{environment.get('PYTHONPATH', '')}"
    words = [sys.executable, "-W", "ignore", "-m", "xmodal", "demo", "--port", str(port)]
    with (folder / "log").open("w") as log:
        start = time.monotonic()
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("xmodal demo: http://127.0.0.1:"), (folder / "log").read_text()
        yield Server(line.split()[2], process, folder, time.monotonic() - start)
    finally:
        process.terminate()
        process.wait(60)
