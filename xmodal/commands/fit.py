"""`xmodal fit | validate | test | predict`: what is checked before Lightning, which takes seconds to import, takes over."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from xmodal.commands.terminal import check
from xmodal.registry.recipe import of_command


def main(arguments: Sequence[str]) -> None:
    """Refuse what cannot run, then hand over to Lightning's command line, which reads sys.argv."""
    words = [word for word in arguments if word != "--commercial"]
    if not {"-h", "--help", "--print_config"} & set(words):
        check(of_command(words), len(words) < len(arguments))
    sys.argv = ["xmodal", *words]
    sys.path.append(os.getcwd())  # last, so that a recipe finds the user's own modules and nothing is shadowed
    from xmodal.commands.lightning import run

    run()
