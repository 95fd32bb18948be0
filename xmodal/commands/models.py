"""`xmodal models | pull | import`: the frozen models and their weights."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from xmodal.commands.terminal import print_table
from xmodal.registry import models as registry


def models(arguments: Sequence[str]) -> None:
    """List the foundation models."""
    parser = ArgumentParser("xmodal models", description="Foundation models and their weights; nothing is imported for it.")
    parser.add_argument("names_of", nargs="*", metavar="MODEL", help="only these (default: all)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="the models' names only")
    form.add_argument("--json", action="store_true", help="all that the cards say, for programs")
    options = parser.parse_args(arguments)
    for name in options.names_of:
        registry.listing(name)
    wanted = options.names_of or registry.available()
    if options.names:
        print("\n".join(wanted))
        return
    records = registry.records(wanted)
    if options.json:
        import json

        print(json.dumps(records, indent=1))
    else:
        print_table([registry.COLUMNS, *map(registry.row, records)])
        print("\n* not for commerce, or unknown. --json says all that the cards do, parameters and towers, too.")
        print("`xmodal pull MODEL:CARD` fetches weights that are not here; a path is a card, too.")


def pull(arguments: Sequence[str]) -> None:
    """Fetch weights."""
    parser = ArgumentParser("xmodal pull", description="Fetch published weights; no other command downloads any.")
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="MODEL[:CARD] | RECIPE | ADAPTER",
        help="a card of `xmodal models`, a recipe's name or path, or an adapter's folder",
    )
    parser.add_argument("--variant", default="", metavar="fp16", help="the narrower files, where the publisher has them")
    parser.add_argument("--verify", action="store_true", help="then compute known answers with them, as `xmodal doctor --verify`")
    options = parser.parse_args(arguments)
    from xmodal.registry.pull import pull as fetch
    from xmodal.registry.pull import targets

    cards = [card for word in options.targets for card in targets(word)]
    for card in cards:
        fetch(card, variant=options.variant)
    if options.verify:
        from xmodal.commands.doctor import verify

        verify(cards)


def import_(arguments: Sequence[str]) -> None:
    """Convert a published checkpoint."""
    from xmodal.registry.importer import adapters, import_weights, kinds

    text = "Turn a published checkpoint into a folder: of a model one to give as card, of an adapter one for xmodal.pipeline()."
    parser = ArgumentParser("xmodal import", description=text)
    parser.add_argument("kind", metavar="KIND", help=f"models: {', '.join(kinds())}; adapters: {', '.join(adapters())}")
    parser.add_argument("file", type=Path, metavar="FILE", help="as its publisher offers it; nothing in it is executed")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="receives weights, sizes and a note")
    group = parser.add_argument_group("adapters", "defaults are the models that they were trained with")
    group.add_argument("--generator", metavar="CARD", help="of the model that makes pictures or sounds: name, path or hub id")
    group.add_argument("--encoder", metavar="CARD", help="of the model that hears or sees")
    group.add_argument("--target", metavar="CARD", help="v2a-mapper: of the model whose embeddings of sounds it learnt")
    group.add_argument("--lora", type=Path, metavar="FILE", help="audiotoken: low-rank weights that were trained beside it")
    group.add_argument("--token", metavar="WORD", help="textual-inversion: what stands for it in prompts, such as '<cat>'")
    options = vars(parser.parse_args(arguments))
    kind, file, folder = (options.pop(name) for name in ("kind", "file", "output"))
    print(import_weights(kind, file, folder, **{name: value for name, value in options.items() if value is not None}))
