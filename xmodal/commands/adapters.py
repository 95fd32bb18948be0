"""`xmodal adapters | export | push`: what is trained, and how it is published."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

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
    _results(parser)
    options = parser.parse_args(arguments)
    consent(options.trust)
    import torch

    from xmodal.adapter_task import AdapterTask
    from xmodal.registry.publishing import results

    measured = {"measured": results(options.results)} if options.results else {}
    task = AdapterTask.from_folder(options.checkpoint, trust=options.trust)
    task.record = {**(task.record or {}), **measured}
    print(task.save_adapter(options.output, dtype=getattr(torch, options.dtype)))


def push(arguments: Sequence[str]) -> None:
    """Send an adapter to the hub."""
    text = "Send an adapter to the Hugging Face hub, where xmodal.pipeline(OWNER/NAME) loads it from; nothing else is sent."
    parser = ArgumentParser("xmodal push", description=text)
    parser.add_argument("adapter", help="a folder that `xmodal export` wrote, the folder of a run, or a .ckpt of `xmodal fit`")
    parser.add_argument("repository", metavar="OWNER/NAME", help="made where there is none")
    parser.add_argument("--private", action="store_true", help="a repository that is made now is seen by its owner alone")
    parser.add_argument("--revision", metavar="BRANCH", help="made where there is none (default: the main branch)")
    parser.add_argument("--message", default="Upload adapter with xmodal", metavar="TEXT", help="of the commit")
    _results(parser)
    options = parser.parse_args(arguments)
    from tempfile import TemporaryDirectory

    from xmodal.registry import hub
    from xmodal.registry.adapters import find
    from xmodal.registry.publishing import publish_found, results

    hub.check_name(options.repository)
    found = find(options.adapter)
    measured = results(options.results) if options.results else None
    with TemporaryDirectory() as place:
        folder = found.place
        if folder.is_file() or measured:  # a folder goes as it is, its card with what its owner has written into it
            folder = publish_found(found, Path(place) / options.repository.partition("/")[2], options.repository, measured)
        private = options.private or None
        print(hub.push(folder, options.repository, private=private, revision=options.revision, commit_message=options.message))


def _results(parser: ArgumentParser) -> None:
    text = "what `xmodal evaluate` or `xmodal test` wrote of this adapter: its scores and protocols go into the card"
    parser.add_argument("--results", type=Path, metavar="FOLDER", help=text)
