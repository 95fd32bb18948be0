"""The `xmodal` command. The first word chooses a function; nothing heavy is imported before that."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import xmodal

LIGHTNING = {
    "fit": "train an adapter from a recipe: xmodal fit --config recipes/miniature/audiotoken.yaml",
    "validate": "losses on the validation data of a recipe",
    "test": "losses on the test data of a recipe",
    "predict": "a recipe's predictions",
}


def generate(arguments: Sequence[str]) -> None:
    """Make pictures from sounds."""
    parser = ArgumentParser("xmodal generate", description="Turn each input into another modality, one file per result.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="sound or video files, or folders of them")
    parser.add_argument("--to", required=True, choices=["image"], help="what to make")
    parser.add_argument("-o", "--output", default="outputs/generate", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--adapter", metavar="NAME", help="built-in name, folder, hub id or checkpoint (default: by modality)")
    parser.add_argument("-n", "--num", type=_positive, default=1, metavar="N", help="results per input (default: 1)")
    parser.add_argument("--steps", type=_positive, metavar="N", help="denoising steps (default: the adapter's own)")
    parser.add_argument("--guidance", type=float, metavar="G", help="classifier-free guidance (default: the adapter's own)")
    parser.add_argument("--prompt", metavar="TEXT", help="template with one {}, the place of the sound")
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what should not be there")
    parser.add_argument("--seed", type=int, default=0, help="default: 0; each result has its own stream of random numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    options = parser.parse_args(arguments)
    from xmodal.routes import generate as run

    for path in run(**vars(options)):
        print(path)


def models(arguments: Sequence[str]) -> None:
    """List the foundation models."""
    parser = ArgumentParser("xmodal models", description="Foundation models and their weights.")
    parser.add_argument("--names", action="store_true", help="names only, at once")
    options = parser.parse_args(arguments)
    from xmodal import registry

    rows = [(name,) for name in registry.available()] if options.names else registry.table()
    _print_table(rows if options.names else [registry.COLUMNS, *rows])


def adapters(arguments: Sequence[str]) -> None:
    """List the built-in adapters."""
    ArgumentParser("xmodal adapters", description="Built-in adapters: names for xmodal.pipeline().").parse_args(arguments)
    from xmodal.registry import adapters as find

    _print_table([(name, str(folder)) for name, folder in find().items()])


def recipes(arguments: Sequence[str]) -> None:
    """List the recipes."""
    ArgumentParser("xmodal recipes", description="Recipes and what they are.").parse_args(arguments)
    from xmodal.registry import recipes as find

    _print_table(list(find()))


def export(arguments: Sequence[str]) -> None:
    """Publish a checkpoint's adapter as a folder."""
    parser = ArgumentParser("xmodal export", description="Write a checkpoint's adapter as a folder that xmodal.pipeline() loads.")
    parser.add_argument("checkpoint", help="a .ckpt of `xmodal fit`")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="receives weights, recipe and model card")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="default: float32")
    options = parser.parse_args(arguments)
    import torch

    from xmodal.task import Task

    print(Task.from_checkpoint(options.checkpoint).save_adapter(options.output, dtype=getattr(torch, options.dtype)))


def world(arguments: Sequence[str]) -> None:
    """Render clips of the miniature world."""
    parser = ArgumentParser("xmodal world", description="Render clips of the miniature world: picture, sound and caption.")
    parser.add_argument(
        "-o", "--out", "--output", dest="output", default="outputs/world", metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--split", default="test", help="train, validation, test or heldout (default: test)")
    parser.add_argument("-n", "--count", type=_positive, default=16, metavar="N", help="clips (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    options = parser.parse_args(arguments)
    from xmodal.miniature.render import render

    print(render(Path(options.output), options.split, options.count, options.seed))


def _lightning(arguments: Sequence[str]) -> None:
    """Hand over to Lightning's command line, which reads sys.argv."""
    sys.argv = ["xmodal", *arguments]
    sys.path.append(os.getcwd())  # last, so that a recipe finds the user's own modules and nothing is shadowed
    from xmodal.cli import main as run

    run()


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "generate": (generate, "turn sounds into pictures with a trained adapter"),
    **{name: (_lightning, text) for name, text in LIGHTNING.items()},
    "export": (export, "publish a checkpoint's adapter as a folder"),
    "models": (models, "the foundation models: cards, licences, sizes, where the weights are"),
    "adapters": (adapters, "the built-in adapters"),
    "recipes": (recipes, "the recipes"),
    "world": (world, "render clips of the miniature world"),
}


def usage() -> str:
    """Return the text of `xmodal --help`."""
    rows = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: xmodal COMMAND ...\n\nFrozen foundation models joined by small adapters.\n\n"
        f"commands:\n{rows}\n\noptions:\n  --help, --version\n\n`xmodal COMMAND --help` explains each. "
        "XMODAL_DEBUG=1 shows where an error came from."
    )


def run(arguments: Sequence[str]) -> None:
    """Run one command line; raises SystemExit with status 2 for a command that does not exist."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
    elif arguments[0] in ("-V", "--version"):
        print(f"xmodal {xmodal.__version__}")
    elif arguments[0] in COMMANDS:
        rest = arguments if arguments[0] in LIGHTNING else arguments[1:]
        COMMANDS[arguments[0]][0](rest)
    else:
        close = get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
        print(f"xmodal: error: there is no command {arguments[0]!r}: {hint}", file=sys.stderr)
        raise SystemExit(2)


def main() -> None:
    """Entry point: every error is one line on stderr and status 1, unless XMODAL_DEBUG=1 asks for the traceback."""
    try:
        run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("xmodal: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader (head, less) has left; point stdout elsewhere so that the interpreter's own flush stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if os.environ.get("XMODAL_DEBUG") == "1":
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        named = isinstance(error, (ValueError, OSError, ImportError, RuntimeError))
        print(f"xmodal: error: {text if named else f'{type(error).__name__}: {text}'}", file=sys.stderr)
        raise SystemExit(1) from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
