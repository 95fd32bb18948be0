"""`xmodal demo`: a page to try the adapters on, which is an HTTP API and an MCP server, too."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from xmodal.commands.terminal import consent, positive, trust

# Before gradio is imported: nothing is sent to anybody.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False", "DO_NOT_TRACK": "1"}


def main(arguments: Sequence[str]) -> None:
    """Serve the page until it is stopped."""
    text = "A page in the browser: sounds to pictures; pictures, videos and texts to sounds. Programs can call it, too."
    parser = ArgumentParser("xmodal demo", description=text)
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=positive, default=7860, help="default: %(default)s")
    more = "an adapter beside the built-in ones: folder, checkpoint or hub id; may stand several times"
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME", help=more)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    trust(parser)
    options = parser.parse_args(arguments)
    consent(options.trust)
    if find_spec("gradio") is None:
        raise ImportError('the page needs gradio: pip install "xmodal[demo]"')
    if threading.current_thread() is threading.main_thread():  # before anything lies there that must be taken away again
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with TemporaryDirectory(prefix="xmodal-demo-") as folder:
        gc.disable()  # a million objects come with the imports, and all stay: see xmodal.routes
        os.environ |= {**QUIET, "GRADIO_TEMP_DIR": str(Path(folder) / "served")}
        from xmodal.demo import page
        from xmodal.demo.workshop import Workshop

        workshop = Workshop(Path(folder) / "made", options.adapter, options.device, options.trust)
        with page.serving(workshop, options.host, options.port) as address:
            gc.freeze()
            gc.enable()
            print(f"xmodal demo: {address} (Ctrl-C stops it)")
            print(f"HTTP API: {address}?view=api, or gradio_client; {_mcp(address)}", flush=True)
            _wait()


def _mcp(address: str) -> str:
    if find_spec("mcp") is None:
        return 'no MCP server, for the package mcp is not here: pip install "mcp>=1.21,<2"'
    return f"MCP server: {address}gradio_api/mcp/"


def _wait() -> None:
    """Until Ctrl-C or SIGTERM, of which either is a good end."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
