"""Reading weight files of others, safely, and writing ours: config.json beside model.safetensors.

Nothing in a file is ever executed: pickles go through ``weights_only=True`` alone. Every error is one sentence with the
file, what was expected and the mend.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xmodal.registry.cards import INSTEAD, VARIANT

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DRAWING = ("normal_", "uniform_", "trunc_normal_")
CLAIM = 64  # times its size on disk that a file's tensors may be: weights that are shared, or repeated along an axis
MACHINE = ("DefaultCPUAllocator", "out of memory", "INTERNAL ASSERT")  # in errors of torch that no file need be to blame for


def read_pickle(path: Path, origin: str, arrays: bool = False) -> Any:
    """Return the content of a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file: tensors, numbers, text, dicts and lists only.

    ``arrays`` permits numpy's arrays and single numbers besides. ``origin`` tells in messages where a good file comes from.
    Raises FileNotFoundError or ValueError.
    """
    _check_is_file(path, f"give the path of a weight file from {origin}")
    try:
        _check_archive(path)
        with _numpy_values() if arrays else nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of others: whatever goes wrong in reading them is the file's fault
        raise ValueError(f"{path} cannot be read as a PyTorch file ({_reason(error)}): fetch it again from {origin}") from error


def _numpy_values() -> AbstractContextManager[Any]:
    """Let the safe reader accept plain numbers of numpy, alone or in arrays; old files name them by numpy.core."""
    array, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    names: list[Any] = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (("_reconstruct", array), ("scalar", scalar))
    ]
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "bool")]
    return torch.serialization.safe_globals([*names, np.ndarray, np.dtype, *kinds])


def read_tensors(path: Path, origin: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raises FileNotFoundError or ValueError."""
    _check_is_file(path, f"get it from {origin}")
    try:
        return load_file(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {_reason(error)}"
        raise ValueError(f"{path} is damaged or not a safetensors file ({reason}): get it again from {origin}") from error


def read_file(path: Path, origin: str) -> tuple[Any, dict[str, str]]:
    """Return what `read_tensors` or, by the suffix, `read_pickle` gives, and a safetensors file's header."""
    if path.suffix != ".safetensors":
        return read_pickle(path, origin), {}
    tensors = read_tensors(path, origin)
    with safe_open(path, "pt") as file:
        return tensors, file.metadata() or {}


def _check_is_file(path: Path, mend: str) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"{path} {what}: {mend}")


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that unpacks to more than it is; PyTorch itself never compresses."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes would unpack to {unpacked}")


def _reason(error: Exception) -> str:
    """Return one line of what went wrong. PyTorch's advice to load an unsafe file all the same is not passed on."""
    text = str(error).strip()
    named = re.search(r"GLOBAL ([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and named:
        return f"it holds {named[1]}, which is no plain data, and nothing in a file is executed"
    first = (text.rpartition("WeightsUnpickler error: ")[2].splitlines() or [""])[0].strip()
    if "weights_only" in first:
        return "it is of a form that could only be read by executing it"
    return first[:200] or type(error).__name__


def only_tensors(content: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint (below ``key`` if that is given); raises ValueError if it is none."""
    state = content.get(key) if key is not None and isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        place = f" below {key!r}" if key else ""
        found = ", ".join(sorted(map(str, content))[:6]) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds no tensors by name{place} (found {found or 'nothing'}): give an unmodified weight file")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if path.is_file() and claimed > CLAIM * path.stat().st_size:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, but its tensors claim {claimed}: give an unmodified weight file"
        )
    return {str(name): value for name, value in state.items()}


def check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError that names the first tensor with NaN or infinity: whatever it made would be noise."""
    for name, value in state.items():
        # A sum reads each byte once and needs no memory; only a sum that overflowed is looked at number by number.
        if (value.is_floating_point() or value.is_complex()) and (
            not torch.isfinite(value.sum(dtype=None if value.is_complex() else torch.float32)) and not torch.isfinite(value).all()
        ):
            raise ValueError(f"{path} holds NaN or infinity in {name}: it is of a run that diverged, or damaged")


def check_kinds(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError for a tensor whose kind of number (real, whole, complex, truth) is not the model's."""
    for name, value in state.items():
        if name in expected and _kind(value) != _kind(expected[name]):
            raise ValueError(
                f"{path} holds {name} as {value.dtype}, but expected {expected[name].dtype}: it is another model's file"
            )


def _kind(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "truth"
    return "complex" if value.is_complex() else "real" if value.is_floating_point() else "whole"


class _Unfilled(TorchFunctionMode):
    """Passes over what would draw initial weights; even without memory for them torch imports its compiler for the draw."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", None) in DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def unfilled() -> Iterator[None]:
    """While open, networks are built without memory or values for their weights, which `assign` then brings."""
    with torch.device("meta"), _Unfilled():
        yield


def assign(model: nn.Module, state: Mapping[str, Tensor], path: Path, kind: str) -> None:
    """Put a state dict into a model (which may be on the meta device) as float32.

    Raises ValueError that counts and names missing, surplus and misshapen tensors: nothing is filled in or left out.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        first = f"{wrong[0]} (file {found.get(wrong[0], 'lacks it')}, model {expected.get(wrong[0], 'lacks it')})"
        missing, surplus = len(expected.keys() - found.keys()), len(found.keys() - expected.keys())
        raise ValueError(
            f"{path} does not fit {kind}: {len(wrong)} tensors disagree ({missing} missing, {surplus} unknown), first {first}; "
            "use an unmodified file of this model"
        )
    check_kinds(state, model.state_dict(), path)
    check_finite(state, path)
    full = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    model.load_state_dict(full, assign=True)


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy a state dict into a model, in the model's own precision; raises ValueError where names, shapes or kinds disagree."""
    check_kinds(state, model.state_dict(), path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit a {type(model).__name__}: {' '.join(str(error).split())[:300]}") from error


def read_folder(folder: Path, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of a folder written by `write_folder`; raises FileNotFoundError or ValueError."""
    return read_json(folder / CONFIG, origin), read_tensors(folder / WEIGHTS, origin)


def read_json(path: Path, origin: str) -> dict[str, Any]:
    """Return the object in a JSON file that lies beside weights; raises FileNotFoundError or ValueError."""
    _check_is_file(path, f"copy the whole folder from {origin}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): get it again from {origin}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, but expected an object with names and values")
    return content


def read_module(kind: Any, folder: Path, optional: Iterable[str] = (), known: bool = False, **options: Any) -> Any:
    """Load a module of transformers or diffusers from its folder; its pickles are read by weights alone, as `read_pickle` does.

    Raises FileNotFoundError, or ValueError where a file is damaged and where the libraries would go on with random numbers
    in the place of tensors that are missing (``optional`` ones may be) or misshapen; with ``known`` also where there are others.
    RuntimeError where memory ended or torch failed inside, which need not be the files' fault.
    """
    read_json(folder / CONFIG, "its publisher")
    if any(folder.glob(f"*.{VARIANT}.*")) and not any((folder / name).is_file() for pair in INSTEAD.items() for name in pair):
        options["variant"] = VARIANT
    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except (torch.OutOfMemoryError, ImportError):  # callers know the former, the latter names what to install
        raise
    except Exception as error:  # whatever else goes wrong in reading files of others is the files' fault, or the machine's
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        shown = next((line for line in lines if "mismatch" in line), lines[0])[:200]
        if isinstance(error, MemoryError) or any(word in str(error) for word in MACHINE):
            mend = f"try again with more memory free, or compare the sizes in its {CONFIG} with the publisher's"
            raise RuntimeError(f"the weights in {folder} could not be loaded ({shown}): {mend}") from error
        raise ValueError(
            f"the weights in {folder} are damaged or do not fit its {CONFIG} ({shown}): copy the folder again"
        ) from error
    wrong = [*(set(report["missing_keys"]) - set(optional)), *report["mismatched_keys"]]
    wrong += report["unexpected_keys"] if known else []
    if wrong:
        kinds = "missing, misshapen or unknown" if known else "missing or misshapen"
        raise ValueError(f"the weights in {folder} do not fit its {CONFIG}: {len(wrong)} are {kinds}, first {wrong[0]}")
    return model


def read_scheduler(folder: Path) -> Any:
    """Build the diffusers scheduler of a folder with ``scheduler_config.json``; raises FileNotFoundError or ValueError."""
    import diffusers

    path = folder / "scheduler_config.json"
    name = read_json(path, "its publisher").get("_class_name")
    if not (isinstance(name, str) and name.endswith("Scheduler") and hasattr(diffusers, name)):
        raise ValueError(f"{path} names {name!r}, which is no scheduler of diffusers: copy the whole folder again")
    try:
        return getattr(diffusers, name).from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not of a {name} ({str(error).splitlines()[0]}): copy the whole folder again") from error


def write_folder(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype | None = torch.float16
) -> Path:
    """Write ``config.json`` and ``model.safetensors``, each under a temporary name first; returns the folder.

    ``dtype`` is that of the floating-point tensors; None keeps each as it is. Raises ValueError for a tensor that is
    not finite in it.
    """
    tensors = {}
    for key, value in state.items():
        kept = value.detach().to("cpu", dtype if dtype and value.is_floating_point() else value.dtype)
        if kept.is_floating_point() and not kept.isfinite().all():
            raise ValueError(
                f"{key} is not finite in {str(kept.dtype).removeprefix('torch.')}: the model cannot be saved in this form"
            )
        tensors[key] = kept.clone(memory_format=torch.contiguous_format)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{WEIGHTS}.part", metadata={"format": "pt"})
    (folder / f"{CONFIG}.part").write_text(json.dumps(dict(config), indent=1) + "\n", encoding="utf-8")
    (folder / f"{WEIGHTS}.part").chmod((folder / f"{CONFIG}.part").stat().st_mode)  # as the umask says: safetensors asks no umask
    for name in (WEIGHTS, CONFIG):
        os.replace(folder / f"{name}.part", folder / name)
    return folder
