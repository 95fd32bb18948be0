"""`xmodal fit | validate | test | predict`: what is checked before Lightning, which takes seconds to import, takes over."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from xmodal.commands.stopping import stopping
from xmodal.commands.terminal import check
from xmodal.registry.recipe import in_training, of_command


def main(arguments: Sequence[str]) -> None:
    """Refuse what cannot run, then hand over to Lightning's command line, which reads sys.argv."""
    words = [word for word in arguments if word != "--commercial"]
    hand_over(words)
    if not {"-h", "--help", "--print_config"} & set(words):
        built = in_training(words) if words[0] in ("fit", "validate") else None
        check(of_command(words), len(words) < len(arguments), built)
    with stopping(words) as asked:
        from xmodal.commands.lightning import run

        run(asked)


def hand_over(words: Sequence[str]) -> None:
    """Make these words what Lightning reads, and what it starts further processes with: ``python -m xmodal WORDS``.

    Lightning would run ``sys.argv[0]`` in the working folder, where a file of that name is somebody else's, unless the main
    module has a name. Neither may the working folder come before the installed packages, unless it does so here already.
    """
    main_module = sys.modules["__main__"]
    if getattr(main_module, "__spec__", None) is None:
        main_module.__spec__ = find_spec("xmodal.__main__")
        os.environ["PYTHONSAFEPATH"] = "1"
    sys.argv = ["xmodal", *words]
    sys.path.append(os.getcwd())  # last, so that a recipe finds the user's own modules and nothing is shadowed
