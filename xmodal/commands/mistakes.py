"""What the command line's parser found wrong, in one sentence, with the option that was probably meant."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib import import_module
from inspect import signature

from lightning.pytorch import Trainer
from omegaconf.errors import OmegaConfBaseException

from xmodal.registry.build import parameters

SECTIONS = ("seed_everything", "vars", "model", "data", "trainer", "ckpt_path", "config")
NOISE = ("Does not validate against any", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
UNKNOWN = re.compile(r"(?:unrecognized arguments: -+|does not accept option ')([\w.]+)")


def sentence(error: Exception) -> str:
    """Return one line that says what is wrong with which key.

    The model is optional for jsonargparse, so its message lists, beside the real reason, that the section is not None,
    and then repeats the whole section: that part is dropped.
    """
    lines = [line.strip(" -") for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(NOISE)]
    if isinstance(error, OmegaConfBaseException):
        kept.insert(0, "recipe:")
    text = " ".join(kept)
    return text + suggestion(text)


def suggestion(text: str) -> str:
    """Return ``: did you mean X?`` for an unknown option of a class, of the trainer or of the command; else nothing."""
    option = re.search(r"given class_path '([\w.]+)': Option '([\w.]+)' is not accepted", text)
    if option:
        module, _, name = option[1].rpartition(".")
        asked, known = option[2], list(parameters(getattr(import_module(module), name)))
    elif found := UNKNOWN.search(text):
        asked = found[1]
        known = [*SECTIONS, *(f"trainer.{name}" for name in signature(Trainer).parameters)]
    else:
        return ""
    near = get_close_matches(asked, known, n=1)
    return f": did you mean {near[0]!r}?" if near else ""
