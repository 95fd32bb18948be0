"""The `xmodal` command. The first word chooses a function; nothing heavy is imported before that."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import xmodal

if TYPE_CHECKING:
    from xmodal.parts import Part

LIGHTNING = {
    "fit": "train an adapter from a recipe: xmodal fit --config recipes/miniature/audiotoken.yaml",
    "validate": "losses on the validation data of a recipe",
    "test": "losses on the test data of a recipe, and its suite of metrics",
    "predict": "a recipe's predictions",
}
COMMERCIAL = "refuse parts whose licence forbids commercial use, or is unknown, before anything loads"


def generate(arguments: Sequence[str]) -> None:
    """Make pictures from sounds, and sounds from pictures, videos and texts."""
    parser = ArgumentParser("xmodal generate", description="Turn each input into another modality, one file per result.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders of them, or texts; a .txt has one per line")
    parser.add_argument("--to", required=True, choices=["image", "audio"], help="what to make")
    parser.add_argument("-o", "--output", default="outputs/generate", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--adapter", metavar="NAME", help="built-in name, folder, hub id or checkpoint (default: by modality)")
    parser.add_argument("-n", "--num", type=_positive, default=1, metavar="N", help="results per input (default: 1)")
    parser.add_argument("--steps", type=_positive, metavar="N", help="denoising steps (default: the adapter's own)")
    parser.add_argument("--guidance", type=float, metavar="G", help="classifier-free guidance (default: the adapter's own)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0; each result has its own stream of random numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--resume", action="store_true", help="pass over results that are there already")
    parser.add_argument("--commercial", action="store_true", help=COMMERCIAL)
    pictures = parser.add_argument_group("to image")
    pictures.add_argument("--prompt", metavar="TEXT", help="template with one {}, the place of the sound")
    pictures.add_argument("--negative-prompt", metavar="TEXT", help="what should not be there")
    sounds = parser.add_argument_group("to audio")
    sounds.add_argument("--seconds", type=float, metavar="S", help="length (default: the adapter's own)")
    sounds.add_argument("--query", choices=["image", "text", "prior"], help="how CLIPSonic is asked (default: by input)")
    best = "sounds made for each, of which CLAP keeps the one nearest to what it was asked for (pictures and videos; default: 1)"
    sounds.add_argument("--candidates", type=_positive, metavar="K", help=best)
    sounds.add_argument("--spectrogram", action="store_true", help="a picture of each sound beside it")
    options = vars(parser.parse_args(arguments))
    useless = {"image": ("seconds", "query", "candidates", "spectrogram"), "audio": ("prompt", "negative_prompt")}
    for name in useless[options["to"]]:
        if options[name]:
            parser.error(f"--{name.replace('_', '-')} is of no use with --to {options['to']}")
    options["audio_length_in_s"] = options.pop("seconds")
    commercial = options.pop("commercial")
    from xmodal.generation import adapters_for
    from xmodal.generation import generate as run
    from xmodal.parts import of_adapter

    for name in adapters_for(options["inputs"], options["to"], options["adapter"]):
        _check(of_adapter(name), commercial)
    for path in run(**options):
        print(path)


def models(arguments: Sequence[str]) -> None:
    """List the foundation models."""
    parser = ArgumentParser("xmodal models", description="Foundation models and their weights; nothing is imported for it.")
    parser.add_argument("names_of", nargs="*", metavar="MODEL", help="only these (default: all)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="the models' names only")
    form.add_argument("--json", action="store_true", help="all that the cards say, for programs")
    options = parser.parse_args(arguments)
    from xmodal import registry

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
        _print_table([registry.COLUMNS, *map(registry.row, records)])
        print("\n`xmodal pull MODEL:CARD` fetches weights that are not here; a path is a card, too.")


def pull(arguments: Sequence[str]) -> None:
    """Fetch weights."""
    parser = ArgumentParser("xmodal pull", description="Fetch published weights; no other command downloads any.")
    parser.add_argument(
        "targets", nargs="+", metavar="MODEL[:CARD] | RECIPE", help="a card of `xmodal models`, or a recipe's path"
    )
    words = parser.parse_args(arguments).targets
    from xmodal.pull import pull as fetch
    from xmodal.pull import targets

    for card in [card for word in words for card in targets(word)]:
        fetch(card)


def import_(arguments: Sequence[str]) -> None:
    """Convert a published checkpoint."""
    from xmodal.importer import import_weights, kinds

    parser = ArgumentParser("xmodal import", description="Turn a published checkpoint into a folder to give as card.")
    parser.add_argument("kind", metavar="KIND", help=f"the model it is of: {', '.join(kinds())}")
    parser.add_argument("file", type=Path, metavar="FILE", help="as its publisher offers it; nothing in it is executed")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="receives weights, sizes and a note")
    options = parser.parse_args(arguments)
    print(import_weights(options.kind, options.file, options.output))


def doctor(arguments: Sequence[str]) -> None:
    """Report on the installation; exits with status 1 where something that the package brings is broken."""
    parser = ArgumentParser("xmodal doctor", description="What works, which weights are here, and what mends the rest.")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--fast", action="store_true", help="compare no sha256, so read no weights")
    options = parser.parse_args(arguments)
    from xmodal.doctor import as_json, broken, examine, lines

    findings = examine(hashes=not options.fast)
    print(as_json(findings) if options.json else "\n".join(lines(findings)))
    if broken(findings):
        raise SystemExit(1)


def adapters(arguments: Sequence[str]) -> None:
    """List the built-in adapters."""
    ArgumentParser("xmodal adapters", description="Built-in adapters: names for xmodal.pipeline().").parse_args(arguments)
    from xmodal.registry import adapters as find

    _print_table([(name, str(folder)) for name, folder in find().items()])


def recipes(arguments: Sequence[str]) -> None:
    """List the recipes."""
    text = "Recipes, what they are, and the strictest terms of the models that they join."
    ArgumentParser("xmodal recipes", description=text).parse_args(arguments)
    from xmodal.licences import strictest
    from xmodal.parts import parts, read
    from xmodal.registry import recipes as find

    _print_table([(path, title, strictest(parts(read([path])))) for path, title in find()])


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


def data(arguments: Sequence[str]) -> None:
    """Make and audit manifests."""
    from xmodal.data.command import main as run

    run(arguments)


def cache(arguments: Sequence[str]) -> None:
    """Compute a recipe's frozen features once, or manage what is stored."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: xmodal cache --config RECIPE --data.manifest FILE --data.cache FOLDER [options of xmodal fit]")
        print("       xmodal cache {ls,verify,rm} [STORE] [--folder FOLDER]\n\nSee docs/data.md.")
        return
    if not arguments[0].startswith("-"):
        from xmodal.data.stores import manage

        manage(arguments)
        return
    sys.argv = ["xmodal", *arguments]
    sys.path.append(os.getcwd())  # last, as for fit
    from xmodal.extraction import command

    command()


def evaluate(arguments: Sequence[str]) -> None:
    """Compare what was made with what is real."""
    parser = ArgumentParser("xmodal evaluate", description="A suite of metrics over two folders, with intervals and a report.")
    parser.add_argument("--suite", required=True, metavar="SUITE", help="audio2image, vision2audio or text2audio")
    parser.add_argument("--fake", required=True, type=Path, metavar="FOLDER", help="what was made, or a manifest of it")
    parser.add_argument("--real", required=True, type=Path, metavar="FOLDER", help="what is real; a manifest gives labels, too")
    parser.add_argument(
        "--also", action="append", default=[], type=_named, metavar="NAME=FOLDER", help="one more row of the table"
    )
    parser.add_argument("--extractor", metavar="MODEL:CARD", help="an encoder of `xmodal models` (default: the miniature's)")
    for name, what in (("clip", "pictures"), ("clap", "sounds")):
        text = f"encoder of {what} for scores across modalities; none leaves them out (default: %(default)s)"
        parser.add_argument(f"--{name}", default=f"{name}:mini", metavar="MODEL:CARD", help=text)
    parser.add_argument("--seconds", type=_seconds, default=10.0, metavar="S", help="of each sound that is judged (default: 10)")
    parser.add_argument("--allow-bias", action="store_true", help="give the Fréchet distance of too few items, too")
    parser.add_argument("--allow-missing", action="store_true", help="judge although made items lack real partners")
    parser.add_argument("--draws", type=_count, metavar="N", help="of the bootstrap; 0: no intervals (default: 1000, sets 200)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("outputs/evaluate"), metavar="FOLDER", help="default: %(default)s"
    )
    options = vars(parser.parse_args(arguments))
    output, options["also"] = options.pop("output"), dict(options["also"])
    options |= {name: None for name in ("clip", "clap") if options[name] == "none"}
    from xmodal import evaluation

    found = evaluation.evaluate(**options, progress=_progress())
    print("\n".join(evaluation.lines(found)))
    print(evaluation.write(found, output))


def compare(arguments: Sequence[str]) -> None:
    """Compare two evaluations."""
    parser = ArgumentParser("xmodal compare", description="Paired differences (first minus second) of two evaluations.")
    parser.add_argument(
        "first", type=Path, metavar="A", help="what `xmodal evaluate -o` wrote: the folder, or one of its results/*.json"
    )
    parser.add_argument("second", type=Path, metavar="B")
    options = parser.parse_args(arguments)
    from xmodal.evaluation import differences

    found_all = differences(options.first, options.second)
    for name, found in found_all.items():
        if isinstance(found, str):
            print(f"{name:<12}not comparable: {found}")
        else:
            verdict = "apart" if found.apart else "not told apart"
            print(f"{name:<12}{found.value:>+12.4g}  [{found.low:+.4g}, {found.high:+.4g}]  {verdict}")
    if all(isinstance(found, str) for found in found_all.values()):
        raise SystemExit(1)


def _lightning(arguments: Sequence[str]) -> None:
    """Hand over to Lightning's command line, which reads sys.argv."""
    words = [word for word in arguments if word != "--commercial"]
    if not {"-h", "--help", "--print_config"} & set(words):
        from xmodal.parts import of_command

        _check(of_command(words), len(words) < len(arguments))
    sys.argv = ["xmodal", *words]
    sys.path.append(os.getcwd())  # last, so that a recipe finds the user's own modules and nothing is shadowed
    from xmodal.cli import main as run

    run()


def _check(found: Sequence[Part], commercial: bool) -> None:
    """Refuse what cannot or must not run, before anything is imported."""
    if commercial:
        from xmodal.licences import refuse_non_commercial

        refuse_non_commercial(found)
    from xmodal.parts import check_weights

    check_weights(found)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "generate": (generate, "sounds into pictures; pictures, videos and texts into sounds"),
    **{name: (_lightning, text) for name, text in LIGHTNING.items()},
    "cache": (cache, "compute frozen features once: xmodal cache --config RECIPE; ls, verify, rm"),
    "data": (data, "manifests: prepare them from folders and data sets, audit their clips"),
    "evaluate": (evaluate, "metrics of made against real, from two folders, with a report"),
    "compare": (compare, "paired differences of two evaluations"),
    "export": (export, "publish a checkpoint's adapter as a folder"),
    "models": (models, "the foundation models: cards, licences, sizes, where the weights are"),
    "pull": (pull, "fetch published weights; nothing else downloads any"),
    "import": (import_, "turn a published checkpoint into a folder to give as card"),
    "doctor": (doctor, "what works here, which weights are here, what mends the rest"),
    "adapters": (adapters, "the built-in adapters"),
    "recipes": (recipes, "the recipes, and the strictest licence terms of their parts"),
    "world": (world, "render clips of the miniature world"),
}


def usage() -> str:
    """Return the text of `xmodal --help`."""
    rows = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: xmodal COMMAND ...\n\nFrozen foundation models joined by small adapters.\n\n"
        f"commands:\n{rows}\n\noptions:\n  --help, --version\n"
        "  --offline  with any command: never touch the network, as HF_HUB_OFFLINE=1 does\n\n"
        "`xmodal COMMAND --help` explains each. XMODAL_DEBUG=1 shows where an error came from."
    )


def run(arguments: Sequence[str]) -> None:
    """Run one command line; raises SystemExit with status 2 for a command that does not exist."""
    if "--offline" in arguments:
        os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
        arguments = [word for word in arguments if word != "--offline"]
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


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder or Path(name).name != name:
        raise ValueError(text)
    return name, Path(folder)


def _progress() -> Callable[[int, int], None] | None:
    """A counter on a terminal, nothing in a file."""
    if not sys.stderr.isatty():
        return None
    return lambda done, total: print(f"\r{done} of {total} files", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
