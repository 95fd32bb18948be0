"""Files that are broken, foreign or made to harm: refused in one sentence, never executed, nothing left behind."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.rounding import agree
from xmodal.__main__ import main
from xmodal.registry import models as registry
from xmodal.registry.checkpoint import only_tensors, read_folder, read_module, read_pickle, read_tensors
from xmodal.registry.importer import import_weights, kinds

SENTINEL = "it-was-executed"


class Calls:
    """A pickle that calls a function on loading."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touch(folder: Path) -> Calls:
    return Calls(os.system, f"touch {folder / SENTINEL}")


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def rezipped(content: bytes, method: int = zipfile.ZIP_STORED, **replaced: bytes) -> bytes:
    """The same archive with other members: names without their folder; ``data_0`` stands for data/0."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            short = name.partition("/")[2].replace("/", "_").replace(".", "_")
            new.writestr(name, replaced.get(short, old.read(name)))
    return buffer.getvalue()


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def numpy_zip(content: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, content=content)
    return buffer.getvalue()


STATE = {"a.weight": torch.ones(300, 4), "a.bias": torch.ones(4)}
WHOLE = saved(STATE)
# How each file is made, given a folder where a sentinel would appear if it were executed.
PICKLES: dict[str, Callable[[Path], bytes]] = {
    # would run code
    "os_system": lambda folder: saved(touch(folder)),
    "os_system_plain_pickle": lambda folder: pickle.dumps(touch(folder)),
    "os_system_protocol_0": lambda folder: pickle.dumps(touch(folder), protocol=0),
    "os_system_old_format": lambda folder: saved(touch(folder), _use_new_zipfile_serialization=False),
    "os_system_beside_tensors": lambda folder: saved({**STATE, "extra": touch(folder)}),
    "os_system_under_model": lambda folder: saved({"model": STATE, "cfg": touch(folder)}),
    "eval": lambda folder: saved({"model": Calls(eval, f"open({str(folder / SENTINEL)!r}, 'w')")}),
    "exec": lambda folder: saved(Calls(exec, f"open({str(folder / SENTINEL)!r}, 'w')")),
    "open": lambda folder: saved(Calls(open, str(folder / SENTINEL), "w")),
    "path_touch": lambda folder: saved(Calls(Path.touch, folder / SENTINEL)),
    "getattr": lambda folder: saved(Calls(getattr, "text", "upper")),
    "import_module": lambda folder: saved(Calls(__import__, "antigravity")),
    "torch_load_again": lambda folder: saved(Calls(torch.load, str(folder / "x"))),
    "torch_hub": lambda folder: saved(Calls(torch.hub.load, "acme/ear", "ear")),
    "module": lambda folder: saved(torch.nn.Linear(2, 2)),
    "object_array": lambda folder: saved({"model": {"a": np.array([touch(folder)], dtype=object)}}),
    "in_the_archives_pickle": lambda folder: rezipped(WHOLE, data_pkl=pickle.dumps(touch(folder), protocol=2)),
    "numpy_objects": lambda folder: numpy_zip(np.array([touch(folder)], dtype=object)),
    # broken
    "empty": lambda folder: b"",
    "one_byte": lambda folder: b"\x80",
    "text": lambda folder: b"this is not a checkpoint\n" * 40,
    "html": lambda folder: b"<!DOCTYPE html><html><body>404: not found</body></html>",
    "lfs_pointer": lambda folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4000\n",
    "zeros": lambda folder: bytes(5000),
    "noise": lambda folder: np.random.default_rng(0).bytes(5000),
    "half": lambda folder: WHOLE[: len(WHOLE) // 2],
    "all_but_the_end": lambda folder: WHOLE[:-30],
    "without_the_start": lambda folder: WHOLE[100:],
    "old_format_half": lambda folder: (old := saved(STATE, _use_new_zipfile_serialization=False))[: len(old) // 2],
    "storage_cut": lambda folder: rezipped(WHOLE, data_0=b"short"),
    "a_safetensors_file": lambda folder: struct.pack("<Q", 2) + b"{}",
    "json": lambda folder: b'{"model": {"a": [1, 2, 3]}}',
    # archives
    "zip_of_texts": lambda folder: archive({"a.txt": b"a", "b.txt": b"b"}),
    "zip_without_members": lambda folder: archive({}),
    "zip_bomb": lambda folder: rezipped(WHOLE, zipfile.ZIP_DEFLATED, data_0=bytes(5_000_000)),
    "zip_of_many_names": lambda folder: archive({f"archive/data/{index}" * 9: bytes(40) for index in range(3000)}),
    "zip_with_paths_upwards": lambda folder: archive({f"../../{SENTINEL}": b"x", "archive/data.pkl": b"x"}),
    # readable, but no weights
    "number": lambda folder: saved(3),
    "list": lambda folder: saved([torch.ones(2)]),
    "tensor": lambda folder: saved(torch.ones(3)),
    "empty_dict": lambda folder: saved({}),
    "texts": lambda folder: saved({"model": {"a": "b"}, "state_dict": "no"}),
    "none_among_tensors": lambda folder: saved({**STATE, "c": None}),
    "numbers_as_names": lambda folder: saved({1: torch.ones(2), 2: torch.ones(2)}),
    "other_weights": lambda folder: WHOLE,
    "other_weights_under_model": lambda folder: saved({"model": STATE, "state_dict": STATE}),
    "claims_more_than_it_holds": lambda folder: saved({"a": torch.ones(1).expand(10**12)}),
    "sparse": lambda folder: saved({"a": torch.ones(3, 3).to_sparse()}),
    "quantized": lambda folder: saved({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}),
}


def header(content: Any, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], start: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


TENSORS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "seven_bytes": lambda: b"1234567",
    "text": lambda: b"version https://git-lfs.github.com/spec/v1\n" * 9,
    "pickle": lambda: WHOLE,
    "huge_header": lambda: struct.pack("<Q", 2**62) + b"{}",
    "header_of_a_gigabyte": lambda: struct.pack("<Q", 2**30) + b"{}",
    "header_longer_than_the_file": lambda: struct.pack("<Q", 500) + b"{}",
    "negative_header": lambda: b"\xff" * 8 + b"{}",
    "no_json": lambda: header(b"{{{{"),
    "not_utf8": lambda: header(b"\xff\xfe\xfd\xfc"),
    "deep_json": lambda: header(b"[" * 5000),
    "list": lambda: header([1, 2]),
    "cut": lambda: header({"a": entry([4], 0, 16)}, bytes(9)),
    "too_long": lambda: header({"a": entry([4], 0, 16)}, bytes(900)),
    "overlapping": lambda: header({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, bytes(24)),
    "backwards": lambda: header({"a": entry([4], 16, 0)}, bytes(16)),
    "wrong_size": lambda: header({"a": entry([400], 0, 16)}, bytes(16)),
    "shape_that_overflows": lambda: header({"a": entry([2**40, 2**40], 0, 16)}, bytes(16)),
    "negative_shape": lambda: header({"a": entry([-4], 0, 16)}, bytes(16)),
    "unknown_dtype": lambda: header({"a": entry([4], 0, 16, "F33")}, bytes(16)),
    "no_offsets": lambda: header({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)),
    "offsets_beyond_the_end": lambda: header({"a": entry([4], 2**50, 2**50 + 16)}, bytes(16)),
}


def sentence(error: BaseException, path: Path) -> str:
    text = str(error)
    assert "\n" not in text
    assert path.name in text
    assert len(text) < 700
    return text


# ---- the readers


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.pt"
    path.write_bytes(PICKLES[name](tmp_path))
    if name in ("other_weights", "numbers_as_names", "sparse", "quantized"):  # tensors, of another model
        assert only_tensors(read_pickle(path, "https://acme.ear"), path)
    else:
        with pytest.raises(ValueError, match=r"acme\.ear|give an unmodified weight file") as caught:
            only_tensors(read_pickle(path, "https://acme.ear"), path)
        assert "weights_only" not in sentence(caught.value, path)  # nobody is told how to run it all the same
    assert not (tmp_path / SENTINEL).exists()


def test_the_pickles_would_run_elsewhere(tmp_path: Path) -> None:
    """The sentinel works: what is refused above does run where it is trusted."""
    path = tmp_path / "file.pt"
    path.write_bytes(PICKLES["os_system"](tmp_path))
    torch.load(path, weights_only=False)
    assert (tmp_path / SENTINEL).exists()


@pytest.mark.parametrize("name", TENSORS)
def test_safetensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(TENSORS[name]())
    with pytest.raises(ValueError, match="damaged or not a safetensors file") as caught:
        read_tensors(path, "https://acme.ear")
    assert "acme.ear" in sentence(caught.value, path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        read_folder(tmp_path, "https://acme.ear")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a": nope}'])
def test_configs(content: bytes, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json (is damaged|holds a)") as caught:
        read_folder(tmp_path, "https://acme.ear")
    sentence(caught.value, tmp_path / "config.json")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    for name, words in (
        ("", "is a folder"),
        ("absent.pt", "does not exist"),
        ("pipe.pt", "no ordinary file"),
        ("loop.pt", "not exist"),
    ):
        for read in (read_pickle, read_tensors):
            with pytest.raises(FileNotFoundError, match=words):
                read(tmp_path / name, "https://acme.ear")


# ---- every importer, and the loaders of what they write


@pytest.mark.parametrize("kind", kinds())
def test_importers_refuse_them_all(kind: str, tmp_path: Path) -> None:
    for name, make in PICKLES.items():
        path, folder = tmp_path / f"{name}.pt", tmp_path / "out"
        path.write_bytes(make(tmp_path))
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            import_weights(kind, path, folder)
        assert "\n" not in str(caught.value), name
        assert not folder.exists(), name
        assert not (tmp_path / SENTINEL).exists(), name


@pytest.mark.parametrize("kind", registry.available())
def test_loaders_refuse_broken_folders(kind: str, tmp_path: Path) -> None:
    """Every tower with a file of weights of its own, given a folder that is not of it."""
    foreign = {
        "config.json": b'{"hidden_size": 3, "class": "Other"}',
        "model.safetensors": header({"a": entry([1], 0, 4)}, bytes(4)),
    }
    texts = {"config.json": b'{"cfg": "x", "config": [], "labels": {}, "network": 3}', "model.safetensors": b"text"}
    hollow = {"config.json": b"{}", "model.safetensors": header({})}
    folders: dict[str, dict[str, bytes]] = {"nothing": {}, "hollow": hollow, "foreign": foreign, "texts": texts}
    for name, files in folders.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content)
        for tower, facts in registry.listing(kind).towers.items():
            if facts.card == "none" or tower == "GriffinLim":  # these have no weights
                continue
            with pytest.raises((ValueError, FileNotFoundError, ImportError)) as caught:
                registry.load(kind, tower=tower, card=str(tmp_path / name))
            assert "\n" not in str(caught.value)


RUNS_CODE = [*PICKLES][: [*PICKLES].index("empty")]


def hifigan(folder: Path) -> Any:
    """A whole folder of transformers', and its loader."""
    from xmodal.foundation import vocoder

    model = vocoder.tiny()["HifiGan"]()
    vocoder.save(model.model, model.mel, folder)
    return lambda: vocoder.HifiGan(str(folder)), folder / "model.safetensors", folder / "pytorch_model.bin"


def karlo(folder: Path) -> Any:
    """A whole folder of diffusers', and its loader."""
    from xmodal.foundation import diffusion_prior

    model = diffusion_prior.tiny()["KarloPrior"]()
    model.prior.save_pretrained(folder / "prior")
    model.scheduler.save_pretrained(folder / "prior_scheduler")
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
    return lambda: diffusion_prior.KarloPrior(str(folder)), *(folder / "prior" / name for name in names)


def clip(folder: Path) -> Any:
    """A whole folder of transformers', and a loader of our own."""
    from xmodal.foundation import clip as model
    from xmodal.miniature.tokenizer import build_tokenizer

    model.save(model.build("mini", len(words := build_tokenizer())), words, folder)
    return lambda: model.ImageTower(str(folder)), folder / "model.safetensors", folder / "pytorch_model.bin"


@pytest.mark.parametrize("make", [hifigan, karlo, clip])
def test_loaders_refuse_broken_weights(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """In folders that are whole but for the weights, in either of their forms."""
    with torch.random.fork_rng(devices=[]):
        load, new, old = make(tmp_path)
    load()  # the folder is a good one
    for name, content in TENSORS.items():
        new.write_bytes(content())
        with pytest.raises(ValueError, match="damaged") as caught:
            load()
        assert "\n" not in str(caught.value), name
    new.unlink()
    for name in RUNS_CODE:
        old.write_bytes(PICKLES[name](tmp_path))
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            load()
        assert "\n" not in str(caught.value), name
        assert not (tmp_path / SENTINEL).exists(), name


# ---- the command


@pytest.mark.parametrize("name", ["os_system", "half", "text", "other_weights", "zip_bomb", "empty"])
def test_the_command_says_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{name}.pt"
    path.write_bytes(PICKLES[name](tmp_path))
    monkeypatch.setattr("sys.argv", ["xmodal", "import", "beats", str(path), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xmodal: error: ")
    assert path.name in line
    assert sorted(each.name for each in tmp_path.iterdir()) == [path.name]


def test_an_import_leaves_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.foundation import beats
    from xmodal.registry.cards import sha256

    model = beats.tiny()["BEATs"]().model
    path = tmp_path / "BEATs_iter3_plus_AS2M.pt"
    torch.save({"cfg": vars(model.config), "model": model.state_dict()}, path)
    monkeypatch.setattr("sys.argv", ["xmodal", "import", "beats", str(path), "-o", str(tmp_path / "ear")])
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "ear")
    note = (tmp_path / "ear" / "README.md").read_text()
    assert sha256(path) in note
    assert sha256(tmp_path / "ear" / "model.safetensors") in note
    assert "MIT" in note
    loaded = registry.load("beats", card=str(tmp_path / "ear"))
    waveform = torch.randn(1, 8000)
    assert agree(loaded.model.features(waveform), model.features(waveform))  # at full precision


def test_an_import_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "file.pt").write_bytes(WHOLE)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        import_weights("beats", tmp_path / "file.pt", tmp_path)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        import_weights("beats", tmp_path / "file.pt", tmp_path / "mine.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"file\.pt"):
        import_weights("beats", tmp_path / "file.pt", tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'beats'"):
        import_weights("beets", tmp_path / "a.pt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"a\.pt does not exist.*microsoft/unilm"):
        import_weights("beats", tmp_path / "a.pt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        import_weights("beats", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RuntimeError("Error(s) in loading: size mismatch for weight"), ValueError, "are damaged"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError, "could not be loaded"),
        (RuntimeError("pool INTERNAL ASSERT FAILED: Invalid thread pool!"), RuntimeError, "could not be loaded"),
        (MemoryError(), RuntimeError, r"could not be loaded \(MemoryError\)"),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "^CUDA out of memory$"),
        (ImportError("this tokenizer needs sentencepiece"), ImportError, "^this tokenizer needs sentencepiece$"),
    ],
)
def test_files_are_not_blamed_for_the_machine(error: Exception, kind: type[Exception], says: str, tmp_path: Path) -> None:
    class Fails:
        @staticmethod
        def from_pretrained(folder: Path, **options: Any) -> Any:
            raise error

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(kind, match=says) as caught:
        read_module(Fails, tmp_path)
    assert str(tmp_path) in str(caught.value) or caught.value is error
