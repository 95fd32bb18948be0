"""Trained adapters: the one answer to "where is the adapter of this name", and the one reader of what lies there.

A name is a built-in one, a folder that `save_adapter` wrote, the folder of a run, a checkpoint, or ``owner/name`` (with
``@revision``) on the hub. What lies there came from elsewhere: its recipe is data, its weights go through the safe reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.registry.cards import HUB, HUB_ID, PICKLED, WEIGHTS, Card, offline
from xmodal.registry.modelcard import checked
from xmodal.registry.models import suggest
from xmodal.registry.recipe import Part, parse, parse_document, parts

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER, RECIPE, CARD = "adapter.safetensors", "recipe.yaml", "README.md"
FILES = (ADAPTER, RECIPE, CARD)
LOW_RANK, DIFFUSERS_LORA = "low_rank.", "pytorch_lora_weights.safetensors"  # an adapter's own low-rank weights, and their copy
LORA = "lora.safetensors"  # low-rank weights of a frozen part that belong to the adapter, where there are any
RUN = "the run of `xmodal fit` that wrote it"


@dataclass(frozen=True)
class Found:
    """One adapter: as it was asked for, its folder or checkpoint, and its recipe's section ``model`` (None: it has none).

    ``record`` says what it was made from, see `xmodal.registry.modelcard`.
    """

    name: str
    place: Path
    recipe: dict[str, Any] | None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def class_path(self) -> str:
        """Of its task; raises ValueError without a recipe."""
        if self.recipe is None:
            raise ValueError(
                f"{self.place} holds no recipe, since it was not trained through `xmodal fit`: call from_checkpoint on the "
                "task's own class and give its parts by name, such as from_checkpoint(path, source=..., adapter=...)"
            )
        return str(self.recipe["class_path"])

    def weights(self) -> dict[str, Tensor]:
        """Return what is published: the adapter's tensors, of a run with an average the averaged ones; raises ValueError."""
        from xmodal.registry.checkpoint import check_finite, read_tensors

        if self.place.is_dir():
            state = read_tensors(self.place / ADAPTER, "whoever published it")
            check_finite(state, self.place / ADAPTER)
            return state
        state = self.state()
        for prefix in ("average.", "adapter."):
            if chosen := {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}:
                return chosen
        raise ValueError(f"{self.place} holds no adapter: its task trains a part of another kind")

    def state(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint; raises ValueError where it is none."""
        from xmodal.registry.checkpoint import check_finite, only_tensors

        content = _checkpoint(self.place)
        state = only_tensors(content, self.place, "state_dict")
        check_finite(state, self.place)
        return state


def built_in() -> dict[str, Path]:
    """Return the folders of the adapters that come with the package, by name."""
    folder = WEIGHTS / "adapters"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{ADAPTER}"))}


def find(name: str | Path, revision: str | None = None, token: str | None = None, local_files_only: bool | None = None) -> Found:
    """Return the adapter of a name.

    Args:
        name: see above; a path goes before a built-in name, and that before the hub.
        revision: branch, tag or commit on the hub; ``owner/name@revision`` says the same.
        token: of the hub, for what is not public.
        local_files_only: look into the hub's cache alone; default: as the environment says (``HF_HUB_OFFLINE``).

    Raises ValueError for a name that is none of these, with the nearest ones, and for what cannot be read; OSError for an
    adapter of the hub that is not here and cannot be fetched.
    """
    text, path = str(name), Path(name)
    if _exists(path):
        return _local(text, path)
    known = built_in()
    if text in known:
        return _folder(text, known[text])
    owned, _, named = text.partition("@")
    if HUB_ID.fullmatch(owned) and not text.startswith((".", "/")) and not owned.endswith(PICKLED):
        return _folder(text, _from_hub(owned, revision or named or None, token, local_files_only))
    raise ValueError(f"{text!r} is neither a built-in adapter nor a path: {suggest(text, known)}")


def parts_of(name: str) -> list[Part]:
    """Return the frozen models of an adapter's recipe, its own and those that are built later; raises as `find`."""
    found = find(name)
    return parts({"model": found.recipe}) if found.recipe is not None else []


def checkpoints(root: Path) -> Iterator[Path]:
    """Yield the checkpoints ``last*.ckpt`` below a run's folder that are whole, the newest first."""
    from zipfile import is_zipfile

    for path in sorted(root.glob("**/last*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        if is_zipfile(path):  # a torso has no directory at its end
            yield path


def best_checkpoint(root: Path) -> Path | None:
    """Return what a run's folder offers: the newest whole ``best.ckpt``, where its recipe keeps one, else its last one."""
    from zipfile import is_zipfile

    best = sorted(root.glob("**/best.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    return next(filter(is_zipfile, best), None) or next(checkpoints(root), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for a file, or with a NUL
        return False


def _local(name: str, path: Path) -> Found:
    if path.is_file():
        content = _checkpoint(path)
        recipe = content.get("recipe") if isinstance(content, Mapping) else None
        if not isinstance(content, Mapping) or "state_dict" not in content:
            raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
        section = parse(recipe, str(path)) if isinstance(recipe, str) else None
        return Found(name, path, section, checked(content.get("record")))
    if (path / ADAPTER).is_file() or (path / RECIPE).is_file():
        return _folder(name, path)
    newest = best_checkpoint(path)
    if newest is None:
        raise FileNotFoundError(f"{path} is not an adapter folder: it has no {ADAPTER}, and no last.ckpt of a run lies below it")
    return _local(name, newest)


def _folder(name: str, folder: Path) -> Found:
    for needed in (ADAPTER, RECIPE):
        if not (folder / needed).is_file():
            raise FileNotFoundError(f"{folder} is not an adapter folder: it has no {needed}")
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{folder / RECIPE} is not UTF-8 text: get the folder again") from error
    document = parse_document(text, str(folder / RECIPE))
    return Found(name, folder, _in_folder(document["model"], folder), checked(document.get("record")))


def _in_folder(node: Any, folder: Path) -> Any:
    """A recipe's options, with the place of the file of low-rank weights that lies beside it."""
    if not isinstance(node, dict):
        return node
    return {
        name: str(folder / LORA) if name == "lora" and value == LORA else _in_folder(value, folder)
        for name, value in node.items()
    }


def _checkpoint(path: Path) -> Any:
    from xmodal.registry.checkpoint import read_pickle

    return read_pickle(path, RUN)


def _from_hub(name: str, revision: str | None, token: str | None, local_files_only: bool | None) -> Path:
    """Return the folder of a published adapter, which was asked for by its hub id; what the hub's cache has is not asked for."""
    page = f"{HUB}{name}"
    card = Card(name, dict.fromkeys(FILES), "unknown", False, page, 0)
    if revision is None and (found := card.find()) is not None:
        return found
    from huggingface_hub import snapshot_download

    local = offline() if local_files_only is None else local_files_only
    try:
        return Path(
            snapshot_download(name, revision=revision, token=token, allow_patterns=[*FILES, LORA], local_files_only=local)
        )
    except Exception as error:  # its network libraries' own kinds have changed from version to version
        start = f"the adapter {name!r} is not on this machine ({', '.join(FILES)}; size unknown; from {page})"
        if local:
            mend = "run the same command once without them, or give the path of its folder"
            raise OSError(f"{start}, and this is offline (--offline or HF_HUB_OFFLINE=1): {mend}") from error
        reason = (" ".join(str(error).split()) or type(error).__name__).partition(". ")[0][:200]
        raise OSError(f"{start}, and the hub did not give it ({reason}): is the name right?") from error
