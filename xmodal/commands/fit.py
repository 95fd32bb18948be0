"""`xmodal fit | validate | test | predict`: what is checked before Lightning, which takes seconds to import, takes over."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from xmodal.commands.runs import expanded
from xmodal.commands.stopping import stopping
from xmodal.commands.terminal import check
from xmodal.registry.recipe import in_training, of_command

OPTIONS = {
    "--config RECIPE": "name or path, with overlays: audiotoken+clap+mini; RECIPE alone says the same",
    "RUN": "the folder of a run, in place of a recipe: its configuration, checkpoint and folder",
    "--data.manifest FILE": "your clips, of `xmodal data prepare`",
    "--data.batch_size N": "clips per step",
    "--trainer.max_steps N": "when to stop",
    "--trainer.devices N": "how many processors; --trainer.accelerator cpu, gpu, mps",
    "--trainer.precision P": "32-true, bf16-mixed, 16-mixed",
    "--ckpt_path WHERE": "last (of this very run), the folder of a run, or a file",
    "--model.PART CLASS": "another class for a part: --model.adapter my_module.MyAdapter",
    "--memory 12GB": "of the device: batch, checkpointing, precision and bits of frozen weights are chosen to fit",
    "--vars.NAME VALUE": "a value that the recipe names: --vars.lr 1e-4",
    "--seed_everything N": "of weights, order and noise",
    "--print_config": "what all this makes together, and stop",
    "--commercial": "refuse parts whose licence forbids commercial use, or is unknown",
}


def main(arguments: Sequence[str]) -> None:
    """Refuse what cannot run, then hand over to Lightning's command line, which reads sys.argv."""
    if {"-h", "--help"} & set(arguments):
        print(usage(arguments[0]))
        return
    arguments = ["--help" if word == "--help-all" else word for word in arguments]
    typed = [word for word in arguments if word != "--commercial"]
    words = expanded(typed)
    hand_over(words)
    if not {"--help", "--print_config"} & set(words):
        built = in_training(words) if words[0] in ("fit", "validate") else None
        check(of_command(words), len(typed) < len(arguments), built)
    with stopping(typed) as asked:
        from xmodal.commands.lightning import run

        run(asked)


def usage(command: str) -> str:
    """Return the options that people use; Lightning's own help has some hundred lines."""
    lines = "\n".join(f"  {name:<22} {text}" for name, text in OPTIONS.items())
    return (
        f"usage: xmodal {command} RECIPE|RUN [options]\n\n{lines}\n\nThe rest:\n"
        "  xmodal recipes                     recipes and overlays by name\n"
        f"  {f'xmodal {command} --help-all':<33}  every option of the trainer\n"
        f"  {f'xmodal {command} --data.help xmodal.data.PairedMedia':<33}  options of a class\n"
        "  docs/data.md, docs/tutorial.md     from a folder of clips to a picture and a sound"
    )


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
