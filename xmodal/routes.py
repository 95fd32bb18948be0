"""From a name, or from one modality to another, to the pipeline that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmodal.registry.models import adapters, suggest

# (from, to) -> the built-in adapters that do it, best first.
ROUTES: dict[tuple[str, str], tuple[str, ...]] = {
    ("audio", "image"): ("audiotoken-mini",),
    ("image", "audio"): ("v2a-mini", "clipsonic-mini"),
    ("video", "audio"): ("v2a-mini", "clipsonic-mini"),
    ("text", "audio"): ("clipsonic-mini",),
}


def pipeline(name: str | Path, **parts: Any) -> Any:
    """Load a trained adapter with its frozen models and return the callable of its task.

    Args:
        name: a built-in name (``xmodal adapters``), a folder with adapter.safetensors, a checkpoint file, or
            ``owner/name`` on the Hugging Face hub. A recipe inside it names classes to build: trust it as you would code.
        **parts: constructor arguments that replace those of the stored recipe.

    Raises ValueError for a name that is none of these, with the nearest built-in ones.
    """
    from xmodal.task import Task

    path = Path(name)
    if path.is_file():
        return Task.from_checkpoint(path, **parts).pipeline()
    if path.is_dir():
        return Task.from_folder(path, **parts).pipeline()
    built_in = adapters()
    if str(name) in built_in:
        return Task.from_folder(built_in[str(name)], **parts).pipeline()
    if str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        return Task.from_folder(_download(str(name)), **parts).pipeline()
    raise ValueError(f"{str(name)!r} is neither a built-in adapter nor a path: {suggest(str(name), built_in)}")


def route(to: str, source: str = "audio") -> str:
    """Return the name of the built-in adapter from ``source`` to ``to``; raises ValueError where there is none."""
    candidates = ROUTES.get((source, to), ())
    for name in candidates:
        if name in adapters():
            return name
    if candidates:
        raise ValueError(f"the adapter {candidates[0]!r} is not installed: train it with its recipe (`xmodal recipes`)")
    known = ", ".join(f"{start} to {end}" for start, end in ROUTES)
    raise ValueError(f"there is no way from {source} to {to}: the ways are {known}")


def _download(name: str) -> Path:
    """Fetch a published adapter, which was asked for by its hub id; offline only what the hub's cache has."""
    from huggingface_hub import constants, snapshot_download

    files, page = ["adapter.safetensors", "recipe.yaml", "README.md"], f"https://huggingface.co/{name}"
    try:
        return Path(snapshot_download(name, allow_patterns=files, local_files_only=constants.HF_HUB_OFFLINE))
    except Exception as error:  # its network libraries' own kinds have changed from version to version
        start = f"the adapter {name!r} is not on this machine ({', '.join(files)}; size unknown; from {page})"
        if constants.HF_HUB_OFFLINE:
            mend = "run the same command once without them, or give the path of its folder"
            raise OSError(f"{start}, and this is offline (--offline or HF_HUB_OFFLINE=1): {mend}") from error
        reason = (" ".join(str(error).split()) or type(error).__name__).partition(". ")[0][:200]
        raise OSError(f"{start}, and the hub did not give it ({reason}): is the name right?") from error
