"""`xmodal adapters | recipes | export`: what is trained, and how it is published."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

from xmodal.commands.terminal import consent, print_table, trust


def adapters(arguments: Sequence[str]) -> None:
    """List the built-in adapters."""
    ArgumentParser("xmodal adapters", description="Built-in adapters: names for xmodal.pipeline().").parse_args(arguments)
    from xmodal.registry.adapters import built_in as find

    print_table([(name, str(folder)) for name, folder in find().items()])


def recipes(arguments: Sequence[str]) -> None:
    """List the recipes."""
    text = "Recipes, what they are, and the strictest terms of the models that they join."
    ArgumentParser("xmodal recipes", description=text).parse_args(arguments)
    from xmodal.registry.licences import strictest
    from xmodal.registry.models import recipes as find
    from xmodal.registry.recipe import parts, read

    print_table([(path, title, strictest(parts(read([path])))) for path, title in find()])


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
