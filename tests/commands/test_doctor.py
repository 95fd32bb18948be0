"""What `xmodal doctor` notices, and when it says that something is broken."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xmodal.__main__ import run
from xmodal.commands import doctor
from xmodal.registry import cards as cards
from xmodal.registry import models as registry
from xmodal.registry.cards import Card


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "own"))
    return tmp_path


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cards, "WEIGHTS", tmp_path / "weights")
    folder = tmp_path / "weights" / "ear"
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


MINI = Card("package:ear", dict.fromkeys(["config.json", "model.safetensors"]), "MIT", True, "", 3, name="ear:mini")
BIG = Card("acme/ear", dict.fromkeys(["config.json", "model.safetensors"]), "MIT", True, "https://huggingface.co/acme/ear", 3,
           size=3_000_000, name="ear:big")  # fmt: skip


def test_shipped_weights(shipped: Path) -> None:
    found = doctor._card(MINI, True)
    assert (found.state, found.mend) == ("ok", "")
    assert "no sha256 is known" in found.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", None, "lacks model.safetensors"),
        ("model.safetensors", b"", "model.safetensors"),
        ("model.safetensors", b"text, not tensors", "no safetensors file"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}rest", "14 bytes, but its header says 10"),
        ("config.json", b"{", "config.json (unreadable"),
    ],
)
def test_broken_shipped_weights(shipped: Path, name: str, content: bytes | None, words: str) -> None:
    (shipped / name).unlink() if content is None else (shipped / name).write_bytes(content)
    found = doctor._card(MINI, False)
    assert found.state == "broken"
    assert words in found.text
    assert found.mend == "pip install --force-reinstall xmodal"
    assert doctor.broken([found])


def test_truncated_weights(shipped: Path) -> None:
    file = shipped / "model.safetensors"
    assert doctor.damage(file) is None
    file.write_bytes(file.read_bytes()[:-1])
    assert "its header says" in str(doctor.damage(file))
    (shipped / "model.safetensors").unlink()
    assert "unreadable" in str(doctor.damage(file))


def test_shipped_weights_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "WEIGHTS", tmp_path)
    assert doctor._card(MINI, True).state == "broken"
    assert doctor._card(Card("package:", {}, "MIT", True, "computed", 0, name="ear:computed"), True).state == "ok"


def test_weights_that_are_not_shipped_are_never_broken(tmp_path: Path) -> None:
    missing = doctor._card(BIG, True)
    assert (missing.state, missing.mend) == ("note", "xmodal pull ear:big")
    assert "missing (3 MB, MIT, gated: unknown)" in missing.text
    hand = Card("ear.pt", {"ear.pt": None}, "MIT", True, "https://acme.ear", 3, name="ear:hand")
    assert doctor._card(hand, True).mend == f"by hand from https://acme.ear, to {tmp_path}/own/weights/acme.ear/ear.pt"


def test_the_hubs_cache(tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--acme--ear"
    folder, blob = place / "snapshots" / "c0ffee", place / "blobs" / hashlib.sha256(b"{}").hexdigest()
    for each in (folder, blob.parent, place / "refs"):
        each.mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    blob.write_bytes(b"{}")
    (folder / "config.json").symlink_to(blob)
    assert "incomplete" in doctor._card(BIG, True).text
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    assert "1 of 2 files have the published sha256" in doctor._card(BIG, True).text
    blob.write_bytes(b"[]")
    damaged = doctor._card(BIG, True)
    assert (damaged.state, damaged.mend) == ("note", f"rm -r {folder} && xmodal pull ear:big")
    assert "config.json (another sha256)" in damaged.text
    assert doctor._card(BIG, False).state == "ok"  # hashes are not compared


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("av", "shtab"):
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    found = {each.name: each for each in doctor._packages()}
    assert (found["av"].state, found["av"].mend) == ("broken", "pip install av")
    assert (found["shtab"].state, found["shtab"].mend) == ("note", "pip install 'xmodal[completion]'")
    assert (found["torch"].state, found["torch"].text) == ("ok", "1.0")


def test_every_dependency_is_looked_at() -> None:
    from tests.test_packaging import setup_cfg

    lines = setup_cfg()["options"]["install_requires"].split()
    names = {line.split(">")[0].split("[")[0].lower().replace("-", "_") for line in lines}
    assert names == {name.lower() for name in doctor.PACKAGES}


def test_decoders_that_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> object:
        raise OSError(f"lib{name}.so is missing")

    monkeypatch.setattr(doctor, "import_module", fail)
    states = {each.name: each.state for each in doctor._decoders()}
    assert states == {"soundfile": "broken", "av": "broken", "torchcodec": "note"}


def test_the_whole_report(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = doctor.Finding("weights", "ear:mini", "broken", "gone", "install again")
    monkeypatch.setattr(doctor, "_weights", lambda hashes: iter([doctor._card(registry.card("beats", "mini"), hashes)]))
    run(["doctor", "--fast", "--all"])
    text = capsys.readouterr().out
    assert all(words in text for words in ("torch: ", "soundfile: ", "hub: ", "beats:mini: present", "nothing is broken"))
    monkeypatch.setattr(doctor, "_weights", lambda hashes: iter([trouble]))
    with pytest.raises(SystemExit) as caught:
        run(["doctor", "--json", "--fast"])
    assert caught.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert report["broken"]
    assert vars(trouble) in report["findings"]
    assert "! ear:mini: gone" in "\n".join(doctor.lines([trouble]))
    assert list(doctor.short([trouble]))[1] == "  ! ear:mini: gone\n      install again"


def test_every_card_is_reported() -> None:
    names = [each.name for each in doctor._weights(False)]
    assert names == [f"{name}:{tag}" for name in registry.available() for tag in registry.listing(name).cards]
