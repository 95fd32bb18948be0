"""The published form of an adapter: a folder with weights, recipe and model card that `find` finds.

The recipe is data (`registry.recipe`). Beside its section ``model`` stands ``record``: what the weights were made from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from xmodal.files import write_beside
from xmodal.registry.adapters import ADAPTER, CARD, DIFFUSERS_LORA, LORA, LOW_RANK, RECIPE, Found
from xmodal.registry.checkpoint import check_finite, only_tensors, read_file
from xmodal.registry.modelcard import model_card


def publish(
    folder: Path,
    section: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    record: Mapping[str, Any] | None = None,
    name: str | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write adapter.safetensors, recipe.yaml and a model card; returns the folder.

    Each file replaces its predecessor in one move and the weights come last, so a folder with weights is complete. A file of
    low-rank weights that the recipe names (``lora``) is copied beside them; the adapter's own also lie in a file for
    diffusers' ``load_lora_weights``.

    Args:
        section: a recipe's section ``model``.
        record: what the model card tells of the weights, see `xmodal.registry.modelcard`; plain values.
        name: what `xmodal.pipeline` will be called with; default: the folder's own name.
        dtype: of the floating-point weights; default: as they are.

    Raises ValueError for weights that are not finite, FileNotFoundError for a file that the recipe names and that is not here.
    """
    import yaml

    kept = {key: _cast(value, dtype) for key, value in weights.items()}
    wrong = [key for key, value in kept.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        raise ValueError(f"{wrong[0]} of the adapter is not finite{f' in {dtype}' if dtype else ''}: it is not published")
    section, carried = _carried(section)
    document = {"model": section, **({"record": dict(record)} if record else {})}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    card = model_card(name or folder.resolve().name, section, kept, record or {})
    folder.mkdir(parents=True, exist_ok=True)
    if carried is not None:
        tensors, header = carried
        write_beside(folder / LORA, lambda path: save_file(tensors, path, metadata=header))
    if low_rank := {key.removeprefix(LOW_RANK): value for key, value in kept.items() if key.startswith(LOW_RANK)}:
        write_beside(folder / DIFFUSERS_LORA, lambda path: save_file(low_rank, path, metadata={"format": "pt"}))
    write_beside(folder / CARD, lambda path: path.write_text(card, "utf-8"))
    write_beside(folder / RECIPE, lambda path: path.write_text(text, "utf-8"))
    write_beside(folder / ADAPTER, lambda path: save_file(kept, path))
    return folder


def publish_found(
    found: Found,
    folder: Path,
    name: str | None = None,
    measured: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write the published form of an adapter, such as that of a run, of what lies there: nothing is built or imported.

    ``measured``: what its card tells beside what is recorded already. Raises as `publish`, and ValueError without a recipe.
    """
    if found.recipe is None:
        raise ValueError(
            f"{found.place} holds no recipe, since it was trained without one: publish it by its task's save_pretrained"
        )
    record = {**found.record, **({"measured": dict(measured)} if measured else {})}
    return publish(folder, found.recipe, found.weights(), record, name, dtype)


def results(folder: Path) -> dict[str, Any]:
    """Return the scores that `xmodal evaluate` or `xmodal test` wrote into a folder, with their protocols in words, by name.

    Raises FileNotFoundError where there are none, ValueError for a file that is none.
    """
    files = sorted((folder / "results").glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no results: give the folder that `xmodal evaluate` or `xmodal test` wrote")
    found: dict[str, Any] = {}
    for file in files:
        try:
            content = json.loads(file.read_text("utf-8"))
            protocol = content["protocol"]
            counts = ", ".join(f"{number} {name}" for name, number in protocol["counts"].items())
            told = (
                f"{protocol['metric']} version {protocol['version']}, {protocol['extractor']}, {counts}, seed {protocol['seed']}"
            )
            told += ", from few items: not for tables" if protocol["small_sample"] else ""
            for name, score in content["scores"].items():
                found[name] = {key: None if score[key] is None else float(score[key]) for key in ("value", "low", "high")}
                found[name]["protocol"] = told
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no result of this version ({error}): evaluate again") from error
    return {name: score for name, score in found.items() if score["value"] is not None}


def _carried(section: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[dict[str, Tensor], dict[str, str]] | None]:
    """The section with the bare name of its LoRA's file in place of the path, and that file's tensors and header."""
    copied = deepcopy(dict(section))
    named = [options for options in _options(copied) if options.get("lora") is not None]
    paths = list(dict.fromkeys(str(options["lora"]) for options in named))
    if not paths:
        return copied, None
    if len(paths) > 1:
        raise ValueError(f"the recipe names several files of low-rank weights ({', '.join(paths)}): a folder holds one")
    content, header = read_file(Path(paths[0]), "where the recipe has it from")
    tensors = only_tensors(content, Path(paths[0]))
    check_finite(tensors, Path(paths[0]))
    for options in named:
        options["lora"] = LORA
    return copied, ({key: value.contiguous().clone() for key, value in tensors.items()}, {"format": "pt", **header})


def _options(node: Any) -> Iterator[MutableMapping[str, Any]]:
    if isinstance(node, MutableMapping):
        if isinstance(node.get("init_args"), MutableMapping):
            yield node["init_args"]
        for inner in node.values():
            yield from _options(inner)


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu()
    return (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().clone()
