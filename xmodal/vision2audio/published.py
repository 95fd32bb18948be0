"""Mappers that others have published, as adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.registry.checkpoint import check_finite
from xmodal.vision2audio.regression import RegressionMapper

CARDS = {"encoder": "vit-b-32", "target": "audioldm", "generator": "audioldm-s-full-v2"}
WIDTH = 512  # of all their embeddings
CLASSES = {
    "encoder": "xmodal.foundation.clip.ImageTower",
    "target": "xmodal.foundation.clap.AudioTower",
    "generator": "xmodal.foundation.audioldm.AudioLDM",
}


def v2a_mapper(
    file: Path, encoder: str | None = None, target: str | None = None, generator: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the regression mapper of jh5-6/V2A-Mapper (``.pth``), or dalle2-pytorch's; it maps CLIP vectors as CLIP gives them.

    Args:
        file: as published; sizes follow from its tensors.
        encoder, target, generator: cards of CLIP's picture tower, CLAP's sound tower and AudioLDM; defaults are those of
            that repository, and of 512 numbers each.

    Returns a recipe's section ``model`` and the weights. Raises FileNotFoundError, or ValueError for another file.
    """
    mapper = RegressionMapper.from_checkpoint(file)
    state = mapper.state_dict()
    check_finite(state, file)
    for width, given, what in ((mapper.in_dim, encoder, "reads"), (mapper.out_dim, generator, "makes")):
        if width != WIDTH and given is None:
            raise ValueError(
                f"{file} {what} embeddings of {width} numbers, but {CARDS['encoder']} and {CARDS['target']} have {WIDTH}: name "
                "the models that it was trained with, by --encoder, --target and --generator"
            )
    *layers, last = mapper.net.children()
    hidden, depth = last.in_features, len(layers)
    adapter = {"hidden_dim": hidden, "depth": depth, "source_norm": "none", "scale_target": False}
    cards = {"encoder": encoder, "target": target, "generator": generator}
    parts = {name: {"class_path": CLASSES[name], "init_args": {"card": cards[name] or CARDS[name]}} for name in CLASSES}
    options: dict[str, Any] = {
        **parts,
        "adapter": {"class_path": "xmodal.vision2audio.RegressionMapper", "init_args": adapter},
        "aggregation": "mean", "seconds": 10.0, "guidance_scale": 2.5,
    }  # fmt: skip
    return {"class_path": "xmodal.vision2audio.V2AMapper", "init_args": options}, state
