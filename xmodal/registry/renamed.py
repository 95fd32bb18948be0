"""Names of earlier versions, so that old recipes still load: each is read as today's, with a sentence."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping
from typing import Any

MODULES = {
    "xmodal.miniature.training_sound": "xmodal.miniature.training",
    "xmodal.miniature.training_embeddings": "xmodal.miniature.training",
    "xmodal.miniature.training_prior": "xmodal.miniature.training",
}
OPTIONS = {
    "normalise": "normalize",
    "normalisation": "normalization",
    "quantise": "quantize",
    "channels": "block_out_channels",
    "layers": "layers_per_block",
    "head": "attention_head_dim",
    "groups": "norm_num_groups",
    "patch": "patch_size",
    "planes": "latent_channels",
}


def class_path(name: str) -> str:
    """Return today's name of a class."""
    module, _, kind = name.rpartition(".")
    return f"{MODULES.get(module, module)}.{kind}"


def options(given: Mapping[str, Any], known: Container[str], owner: str) -> dict[str, Any]:
    """Return the options of class ``owner``, which knows ``known``, by today's names.

    Only what the class does not know, and knows by its new name, is renamed. Raises ValueError where both names are given.
    """
    made = dict(given)
    for old, new in OPTIONS.items():
        if old not in given or old in known or new not in known:
            continue
        if new in given:
            raise ValueError(f"{owner} is given both {old} and {new}, which is its name today: leave out {old}")
        made[new] = made.pop(old)
        warnings.warn(f"{owner}: the option {old} is called {new} today; the old name will go", FutureWarning, stacklevel=2)
    return made
