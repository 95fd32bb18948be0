"""What others have trained for Stable Diffusion's prompts, as adapters: AudioToken's own files, and textual inversions.

Each function reads a file as its publisher offers it and returns a recipe's section ``model`` and the adapter's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.audio2image.embedder import AudioTokenEmbedder
from xmodal.foundation.lora import LoRA
from xmodal.registry.checkpoint import check_finite, check_kinds, only_tensors, read_file

ORIGIN = "its publisher"
BEATS, AUDIO_WIDTH = "iter3-plus-as2m-cpt2", 2304  # its card says which three layers, 768 wide each
PAINTERS = {768: "sd-1.4", 1024: "sd-2.1"}  # by the width of a word; AudioToken's code tells them apart in the same way


def audiotoken(
    file: Path, lora: Path | None = None, generator: str | None = None, encoder: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the embedder of AudioToken's public code (``embedder_learned_embeds.bin``, 13 tensors), and its LoRA file.

    Args:
        file: the embedder's.
        lora: the file of low-rank weights that was trained beside it; merged into the UNet when the adapter is loaded.
        generator, encoder: cards of Stable Diffusion (default by the width of a word) and BEATs (default the published one); for
            others sizes may be any, and must fit theirs when the adapter is loaded.

    Raises FileNotFoundError, or ValueError for keys, shapes or kinds of numbers that are not the published ones.
    """
    content, _ = read_file(file, ORIGIN)
    state = only_tensors(content, file)
    width = _width(file, state.get("fc2.weight"), 0, "fc2.weight", generator is not None)
    heard = AUDIO_WIDTH if encoder is None else state["fc2.weight"].shape[1]
    with torch.device("meta"):
        expected = AudioTokenEmbedder(heard, width).state_dict()
    shapes, found = ({key: tuple(value.shape) for key, value in each.items()} for each in (expected, state))
    if wrong := sorted(key for key in shapes.keys() | found.keys() if shapes.get(key) != found.get(key)):
        raise ValueError(
            f"{file} is no embedder of AudioToken: {wrong[0]} is {found.get(wrong[0], 'absent')} in it, but expected "
            f"{shapes.get(wrong[0], 'no such tensor')}; {len(wrong)} tensors disagree: give an unmodified file"
        )
    check_kinds(state, expected, file)
    check_finite(state, file)
    painter = _painter(width, generator)
    if lora is not None:
        _check_lora(LoRA.read(lora), width)
        painter["init_args"]["lora"] = str(lora)
    options: dict[str, Any] = {
        "encoder": {"class_path": "xmodal.foundation.beats.BEATs", "init_args": {"card": encoder or BEATS}},
        "generator": painter,
        "adapter": {"class_path": "xmodal.audio2image.AudioTokenEmbedder"},
        "prompt": "a photo of {}", "seconds": 10.0, "short": "loop", "guidance_scale": 7.5,
    }  # fmt: skip
    return {"class_path": "xmodal.audio2image.AudioToken", "init_args": options}, {key: state[key].float() for key in expected}


def textual_inversion(
    file: Path, token: str | None = None, generator: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the word, or words in a row, that a textual inversion has learned (Gal et al., arXiv 2208.01618).

    Read are diffusers' ``learned_embeds`` (``{token: vectors}``), files of the WebUI (``string_to_param``) and ``emb_params``.

    Args:
        file: as published.
        token: what stands for it in prompts; default the name in the file.
        generator: a card of Stable Diffusion; default by the width of a word.

    Raises FileNotFoundError, or ValueError for another file, and for one without a name where no ``token`` is given.
    """
    content, _ = read_file(file, ORIGIN)
    found = content.get("string_to_param") if isinstance(content, Mapping) else None
    name = content.get("name") if found is not None else None
    state = only_tensors(content if found is None else found, file)
    if len(state) != 1:
        many = ", ".join(sorted(state)[:4])
        raise ValueError(f"{file} holds {len(state)} tensors ({many}), but expected the one of a word: SDXL's pairs are not read")
    ((key, vectors),) = state.items()
    if name is None and key not in ("emb_params", "*"):
        name = key
    token = token if token is not None else name
    if not isinstance(token, str) or not token.strip() or "{}" in token:
        raise ValueError(f"{file} does not say what its word is called: give --token, such as --token '<cat>'")
    check_finite(state, file)
    words = vectors.detach()[None] if vectors.ndim == 1 else vectors.detach()
    width = _width(file, words, 1, f"the tensor {key!r}", generator is not None)
    options: dict[str, Any] = {"generator": _painter(width, generator), "token": token}
    options["adapter"] = {"class_path": "xmodal.audio2image.LearnedWord", "init_args": {"num_tokens": len(words)}}
    return {"class_path": "xmodal.audio2image.TextualInversionPipeline", "init_args": options}, {"words": words.float()}


def _width(file: Path, value: Tensor | None, axis: int, what: str, free: bool) -> int:
    """How wide a word is by a matrix's axis; raises ValueError for none and, unless ``free``, for another than those known."""
    found = None if value is None else tuple(value.shape)
    width = found[axis] if found is not None and len(found) == 2 and min(found) else 0
    if value is None or not width or (width not in PAINTERS and not free) or not value.is_floating_point():
        kinds = " or ".join(f"{each} ({card})" for each, card in PAINTERS.items())
        raise ValueError(
            f"{file}: {what} is {'absent' if value is None else f'{found} ({value.dtype})'}, but expected real numbers for words "
            f"of width {kinds}: give an unmodified file, or name its model by --generator"
        )
    return width


def _painter(width: int, card: str | None) -> dict[str, Any]:
    chosen = PAINTERS[width] if card is None else card
    return {"class_path": "xmodal.foundation.stable_diffusion.StableDiffusion", "init_args": {"card": chosen}}


def _check_lora(lora: LoRA, width: int) -> None:
    """Raise ValueError for low-rank weights of another base model: they read words of another width."""
    for name, (down, _) in lora.pairs.items():
        if name.endswith(("attn2.to_k", "attn2.to_v")) and down.shape[1] != width:
            raise ValueError(
                f"{lora.path}: {name} reads words of width {down.shape[1]}, but the embedder makes words of width {width}: "
                "give the two files of one training"
            )
