"""The `xmodal` command. The first word chooses a function; nothing heavy is imported before that."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

import xmodal

LIGHTNING = {
    "fit": "train an adapter from a recipe: xmodal fit --config audiotoken-mini",
    "validate": "losses on the validation data of a recipe",
    "test": "losses on the test data of a recipe, and its suite of metrics",
    "predict": "a recipe's predictions",
}

# Command -> the function that runs it, and what `xmodal --help` says of it.
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("generate:main", "sounds into pictures; pictures, videos and texts into sounds"),
    **{name: ("fit:main", text) for name, text in LIGHTNING.items()},
    "cache": ("cache:main", "compute frozen features once: xmodal cache --config RECIPE; ls, verify, rm"),
    "data": ("data:main", "manifests: prepare them from folders and data sets, audit their clips"),
    "evaluate": ("evaluate:evaluate", "metrics of made against real, from two folders, with a report"),
    "compare": ("evaluate:compare", "paired differences of two evaluations"),
    "ablate": ("ablate:ablate", "a grid of recipes, overlays, options and seeds in one table"),
    "study": ("study:study", "ask people: make a page over folders of results, analyse the answers"),
    "export": ("adapters:export", "publish a checkpoint's adapter as a folder"),
    "push": ("adapters:push", "send an adapter to the Hugging Face hub"),
    "models": ("models:models", "the foundation models: cards, licences, sizes, where the weights are"),
    "pull": ("models:pull", "fetch published weights; nothing else downloads any"),
    "import": ("models:import_", "turn a published model or adapter into a folder to use"),
    "doctor": ("doctor:main", "what works here, which weights are here, what mends the rest"),
    "adapters": ("adapters:adapters", "the built-in adapters"),
    "recipes": ("recipes:main", "the recipes by name, and which overlay fits which; show, copy"),
    "completion": ("completion:main", "the script by which bash, zsh or fish completes all this"),
    "demo": ("demo:main", "a page in the browser that plays; an HTTP API and an MCP server, too"),
    "world": ("world:world", "render clips of the miniature world"),
}


def usage() -> str:
    """Return the text of `xmodal --help`."""
    rows = "\n".join(f"  {name:<10}  {text}" for name, (_, text) in COMMANDS.items())
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
    if arguments[:1] not in (["pull"], ["push"]):
        # Before a library reads it: a bar for every model that is loaded is noise; only what goes over the network takes time.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
    elif arguments[0] in ("-V", "--version"):
        print(f"xmodal {xmodal.__version__}")
    elif arguments[0] in COMMANDS:
        module, _, function = COMMANDS[arguments[0]][0].partition(":")
        command = getattr(import_module(f"xmodal.commands.{module}"), function)
        command(arguments if arguments[0] in LIGHTNING else arguments[1:])
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
        said = str(error)
        if isinstance(error, OSError) and error.strerror and error.filename is not None:  # or it would begin with "[Errno 2]"
            said = f"{error.filename}: {error.strerror}"
        text = " ".join(said.split()) or type(error).__name__
        named = isinstance(error, (ValueError, OSError, ImportError, RuntimeError))
        from xmodal.commands.terminal import printable

        print(printable(f"xmodal: error: {text if named else f'{type(error).__name__}: {text}'}"), file=sys.stderr)
        raise SystemExit(getattr(error, "status", 1)) from None
    finally:
        gc.freeze()  # or the interpreter goes through all objects once more before it ends, for a second


if __name__ == "__main__":
    main()
