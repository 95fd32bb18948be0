"""`xmodal adapters | export`: what is trained, and how it is published."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

from xmodal.commands.terminal import consent, print_table, trust


def adapters(arguments: Sequence[str]) -> None:
    """List the built-in adapters."""
    ArgumentParser("xmodal adapters", description="Built-in adapters: names for xmodal.pipeline().").parse_args(arguments)
    from xmodal.registry.adapters import built_in as find

    print_table([(name, str(folder)) for name, folder in find().items()])


def export(arguments: Sequence[str]) -> None:
    """Publish a checkpoint's adapter as a folder."""
    parser = ArgumentParser("xmodal export", description="Write a checkpoint's adapter as a folder that xmodal.pipeline() loads.")
    parser.add_argument("checkpoint", help="a .ckpt of `xmodal fit`, or the folder of its run")
    trust(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="receives weights, recipe and model card")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="default: float32")
    options = parser.parse_args(arguments)
    consent(options.trust)
    import torch

    from xmodal.adapter_task import AdapterTask

    task = AdapterTask.from_folder(options.checkpoint, trust=options.trust)
    print(task.save_adapter(options.output, dtype=getattr(torch, options.dtype)))
