"""`xmodal recipes [show | copy]`: the recipes by name."""

from __future__ import annotations

import textwrap
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from xmodal.commands.terminal import WIDTH, print_table, shortened
from xmodal.registry.recipes import MINIATURE, bases, dump, files, fitting, load, name_of, overlays, title

TEXT = "Recipes by name, for --config: a base, with overlays behind it where they fit, as in audiotoken+clap+mini."
LEADS = "  with +"


def main(arguments: Sequence[str]) -> None:
    """Parse and run; raises SystemExit with status 2 for bad usage, and what the recipes' readers raise."""
    parser = ArgumentParser("xmodal recipes", description=TEXT)
    commands = parser.add_subparsers(metavar="COMMAND")
    show = commands.add_parser("show", help="print a recipe")
    copy = commands.add_parser("copy", help="write a recipe to a file of your own, to change it there")
    for each in (show, copy):
        each.add_argument("name", metavar="NAME", help="a base, an overlay, or NAME+OVERLAY...")
    show.set_defaults(run=lambda options: print(text_of(options.name), end=""))
    copy.add_argument("file", type=Path, metavar="FILE", help="must not be there yet")
    copy.set_defaults(run=lambda options: _copy(options.name, options.file))
    parser.set_defaults(run=lambda options: _list())
    options = parser.parse_args(arguments)
    options.run(options)


def text_of(name: str) -> str:
    """Return a recipe as its file has it; of several joined ones, what they make together. Raises NoSuchRecipe."""
    if name in (known := overlays()):
        return known[name].read_text(encoding="utf-8")
    found = files([name])
    if len(found) == 1:
        return found[0].read_text(encoding="utf-8")
    from xmodal.registry.recipe import read

    return f"# {title(found[0])}\n# This is {name_of([name])}, in one file.\n{dump(read(found))}"


def _copy(name: str, file: Path) -> None:
    if file.exists():
        raise FileExistsError(f"{file} is there already: give another name")
    from xmodal.files import write_whole

    print(write_whole(file, [text_of(name).encode()]))
    print(f"next: xmodal fit --config {file}")


def _list() -> None:
    from xmodal.registry.licences import strictest
    from xmodal.registry.recipe import parts

    known = bases()
    for heading, chosen in (("full size", False), ("embedded models", True)):
        rows = []
        for name, path in known.items():
            if (path.parent.name == MINIATURE) is chosen:
                rows.append((name, title(path), strictest(parts(load(path))).partition(" (")[0]))
        first, last = (max(len(row[at]) for row in rows) for at in (0, 2))
        print(f"{heading}:")
        for name, text, terms in rows:
            print(f"{name:<{first}}  {shortened(text, WIDTH - first - last - 4):<{WIDTH - first - last - 4}}  {terms}".rstrip())
            if found := fitting(known[name]):
                hanging = {"initial_indent": LEADS, "subsequent_indent": " " * len(LEADS)}
                print(textwrap.fill(", ".join(found), WIDTH, break_on_hyphens=False, **hanging))  # type: ignore[arg-type]
        print()
    print("overlays:")
    names = overlays()
    width = max(map(len, names))
    print_table([(name, shortened(title(path), WIDTH - width - 2)) for name, path in names.items()])
    print("\n`xmodal recipes show NAME` prints one, `xmodal recipes copy NAME FILE` makes it yours; a path is a recipe, too.")
