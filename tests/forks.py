"""Many processes for the price of one import: a parent that has imported what is heavy, and a fork of it for each run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

# What the commands import before they work, of others. What is ours is imported in each fork, as in a process of its own.
LIBRARIES = (
    "torch", "torch._dynamo", "torchvision", "torchaudio", "torchmetrics", "lightning.pytorch.cli", "jsonargparse",
    "transformers.models.clip.modeling_clip", "diffusers.models.autoencoders.autoencoder_dc",
    "diffusers.models.unets.unet_2d_condition", "av", "soundfile",
)  # fmt: skip
PARENT = """
import importlib, json, os, runpy, sys
sys.path[:] = [folder for folder in sys.path if folder]  # a command finds no modules in the folder where it runs
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
asked, told = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
for line in asked:
    job, child = json.loads(line), os.fork()
    if not child:
        break
    print(child, file=told, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=told, flush=True)
else:
    sys.exit()
for number, name, mode in ((0, os.devnull, os.O_RDONLY), (1, job["stdout"], os.O_WRONLY), (2, job["stderr"], os.O_WRONLY)):
    os.dup2(os.open(name, mode), number)
for pipe in (asked, told):
    os.close(pipe.fileno())
os.chdir(job["folder"])
sys.argv[:] = job["words"]
if "torch" in sys.modules:  # its threads did not come along
    sys.modules["torch"].set_num_threads(sys.modules["torch"].get_num_threads())
if job["code"]:
    exec(compile(job["code"], "<fork>", "exec"), {"__name__": "__main__"})
else:
    runpy.run_module("xmodal", run_name="__main__", alter_sys=True)
"""


class Forks:
    """Runs `xmodal` commands, or code, one at a time, each in a fork of one parent: a context manager.

    A fork starts without open files, threads or modules of ours; it differs from a process of its own in what of others is
    imported already. What a test of imports, of environments or of the shell needs is no fork.
    """

    def __init__(self, libraries: Sequence[str] = LIBRARIES, **environment: str) -> None:
        self.command = [sys.executable, "-c", PARENT, json.dumps(libraries)]
        self.environment: Mapping[str, str] = {**os.environ, **environment}

    def __enter__(self) -> Forks:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.parent = subprocess.Popen(self.command, env=self.environment, **pipes)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.parent.communicate()

    def _told(self) -> int:
        assert self.parent.stdout is not None
        return int(self.parent.stdout.readline())

    def start(
        self, words: Sequence[str], folder: Path, code: str = "", stdout: Path | None = None, stderr: Path | None = None
    ) -> int:
        """Begin a run in a folder, and give its process id; its standard streams go into files, or nowhere."""
        job = {"words": list(words), "folder": str(folder), "code": code}
        job |= {"stdout": str(stdout or os.devnull), "stderr": str(stderr or os.devnull)}
        assert self.parent.stdin is not None
        print(json.dumps(job), file=self.parent.stdin, flush=True)
        self.child = self._told()
        return self.child

    def running(self) -> bool:
        """Whether the run that was begun last is still there."""
        try:
            os.kill(self.child, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End it with SIGKILL, if it has not ended."""
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)

    def wait(self) -> int:
        """The return code of the run that was begun last, below 0 for the signal that ended it; it is dead and buried then."""
        return self._told()

    def run(self, words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run `xmodal` with these words (the first is its name) to its end."""
        with tempfile.TemporaryDirectory() as scratch:
            said = Path(scratch) / "stdout", Path(scratch) / "stderr"
            for path in said:
                path.touch()
            self.start(words, folder, stdout=said[0], stderr=said[1])
            code = self.wait()
            return subprocess.CompletedProcess(list(words), code, *(path.read_text() for path in said))
