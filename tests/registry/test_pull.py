"""Fetching weights, and finding them again; the network is the only thing that is replaced."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from xmodal.__main__ import run
from xmodal.registry import models as registry
from xmodal.registry import pull
from xmodal.registry.cards import Card, find_card, hub_cache, readable

CONTENT = {"config.json": b"{}", "model.safetensors": b"weights", "vocab.json": b"{}", "merges.txt": b"", "flax.msgpack": b"no"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "own"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with one repository; ``content`` is what it announces, ``sent`` what arrives."""
    from huggingface_hub.errors import RepositoryNotFoundError

    state: dict[str, Any] = {"content": dict(CONTENT), "sent": {}, "asked": [], "error": None, "revisions": [], "gone": []}

    def model_info(self: object, repository: str, revision: str | None, files_metadata: bool) -> SimpleNamespace:
        state["revisions"].append((repository, revision))
        if repository in state["gone"]:
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        if state["error"]:
            raise state["error"]
        siblings = [
            SimpleNamespace(rfilename=name, size=len(data), lfs=SimpleNamespace(sha256=digest(data)) if "model" in name else None)
            for name, data in state["content"].items()
        ]
        return SimpleNamespace(siblings=siblings)

    def snapshot_download(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        state["asked"] += allow_patterns
        place = hub_cache() / f"models--{repository.replace('/', '--')}"
        folder = place / "snapshots" / "c0ffee"
        for name in allow_patterns:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(state["sent"].get(name, state["content"][name]))
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text("c0ffee")
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return state


CARD = Card("acme/ear", dict.fromkeys(["config.json", "model.safetensors"]), "MIT", True, "https://huggingface.co/acme/ear", 1,
            size=5_900_000_000, name="acme-ear:big")  # fmt: skip


def test_from_the_hub(hub: dict[str, Any], caches: Path) -> None:
    said: list[str] = []
    assert CARD.find() is None
    folder = pull.pull(CARD, said.append)
    assert folder == CARD.find() == CARD.folder() == caches / "hub" / "models--acme--ear" / "snapshots" / "c0ffee"
    assert hub["asked"] == ["config.json", "model.safetensors"]
    text = "\n".join(said)
    assert "acme-ear:big from https://huggingface.co/acme/ear (MIT), 9 B" in text
    assert "model.safetensors  7 B" in text
    assert "model.safetensors  sha256 is right" in text
    hub["asked"].clear()
    assert pull.pull(CARD, said.append) == folder
    assert not hub["asked"]
    assert "here already" in said[-1]


def test_a_download_that_is_not_what_was_announced_is_removed(hub: dict[str, Any]) -> None:
    hub["sent"] = {"model.safetensors": b"rubbish"}
    with pytest.raises(ValueError, match=r"model\.safetensors arrived with sha256 .* was announced.*pull it again"):
        pull.pull(CARD, print)
    assert CARD.find() is None
    with pytest.raises(ValueError, match="another|announced"):
        pull.pull(replace(CARD, files={"config.json": "0" * 64, "model.safetensors": None}), print)


def test_older_forms_and_patterns(hub: dict[str, Any]) -> None:
    hub["content"] = {"config.json": b"{}", "pytorch_model.bin": b"old", "prior/a.json": b"{}", "prior/b.safetensors": b"b"}
    assert pull.select(CARD.files, hub["content"]) == ["config.json", "pytorch_model.bin"]
    assert pull.select({"prior/*": None, "scheduler/*": None}, hub["content"]) == ["prior/a.json", "prior/b.safetensors"]
    assert pull.select({}, [*CONTENT, "a/b.h5"]) == ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
    assert pull.select({"config.json": None}, CONTENT) == ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
    with pytest.raises(FileNotFoundError, match="has no vae.bin .*config.json"):
        pull.select({"vae.bin": None}, hub["content"])
    pull.pull(CARD, print)
    assert CARD.find() is not None  # the older form will do


@pytest.mark.parametrize(
    ("kind", "words"),
    [("GatedRepoError", "gated.*accept them at https.*hf auth login"), ("RepositoryNotFoundError", "no repository 'acme/ear'"),
     (None, "could not be fetched from .*no route to host.*try again")],
)  # fmt: skip
def test_refusals_of_the_hub(hub: dict[str, Any], kind: str | None, words: str) -> None:
    import huggingface_hub.errors

    hub["error"] = ConnectionError("no route to host")
    if kind:
        made = getattr(huggingface_hub.errors, kind)
        hub["error"] = made.__new__(made)
    with pytest.raises(OSError, match=words) as caught:
        pull.pull(CARD, print)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_noticed_first(hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(OSError, match=r"needs 9 B, but .* has 3 B of space left"):
        pull.pull(CARD, print)
    assert not hub["asked"]


@pytest.mark.parametrize("words", [["--offline", "pull", "panns:cnn14"], ["pull", "clip:vit-b-32", "--offline"]])
def test_offline_is_one_sentence_and_no_network(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(OSError, match=f"run `xmodal pull {words[1] if ':' in words[1] else words[2]}`.*offline") as caught:
        run(words)
    assert "\n" not in str(caught.value)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_offline_in_a_process_of_its_own_loads_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom xmodal.__main__ import run\ntry:\n    run(['pull', 'clip:vit-b-32'])\nexcept OSError as error:\n"
        "    print(error)\nprint([name for name in ('torch', 'huggingface_hub', 'httpx') if name in sys.modules])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    sentence, loaded = result.stdout.splitlines()
    assert all(words in sentence for words in ("openai/clip-vit-base-patch32", "model.safetensors", "xmodal pull clip:vit-b-32"))
    assert loaded == "[]"


def test_of_several_forms_the_best_is_fetched(hub: dict[str, Any]) -> None:
    forms = ["config.json", "model.safetensors", "pytorch_model.bin", "model.fp16.safetensors", "pytorch_model.fp16.bin"]
    assert pull.select({"*": None}, forms) == pull.select(CARD.files, forms) == ["config.json", "model.safetensors"]
    assert pull.select(CARD.files, forms, "fp16") == ["config.json", "model.fp16.safetensors"]
    assert pull.select(CARD.files, [forms[0], forms[3]]) == ["config.json", "model.fp16.safetensors"]  # there is no other
    assert pull.select(CARD.files, [forms[0], forms[3]], "fp16") == ["config.json", "model.fp16.safetensors"]
    with pytest.raises(FileNotFoundError, match="no files of the variant 'fp16': leave --variant out"):
        pull.select(CARD.files, CONTENT, "fp16")
    hub["content"] = dict.fromkeys(forms, b"1")
    folder = pull.pull(CARD, print, "fp16")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.fp16.safetensors"]
    assert CARD.find() == folder


def test_what_is_fetched_and_found_is_of_the_cards_revision(hub: dict[str, Any], caches: Path) -> None:
    card = replace(CARD, revision="c0ffee")
    folder = pull.pull(card, print)
    assert hub["revisions"] == [("acme/ear", "c0ffee")]
    for name in ("config.json", "model.safetensors"):  # of main, which is newer
        path = folder.parent / "f00d" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (folder.parent.parent / "refs" / "main").write_text("f00d")
    assert card.find() == folder
    assert CARD.find() == folder.parent / "f00d"


def test_the_older_form_has_a_sha256_of_its_own(hub: dict[str, Any]) -> None:
    hub["content"] = {"config.json": b"{}", "pytorch_model.bin": b"old"}
    card = replace(CARD, files={**CARD.files, "model.safetensors": "0" * 64}, forms={"pytorch_model.bin": digest(b"old")})
    place = pull.pull(card, print)
    card.verify()
    (place / "pytorch_model.bin").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged or not the published file"):
        card.verify()


def test_a_mirror_is_asked_where_the_first_source_is_gone(hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    card = replace(CARD, mirrors=("others/ear",), revision="c0ffee")
    hub["gone"] = ["acme/ear"]
    folder = pull.pull(card, said.append)
    assert "models--others--ear" in str(folder)
    assert folder == card.find()
    assert hub["revisions"] == [("acme/ear", "c0ffee"), ("others/ear", None)]  # a mirror has commits of its own
    assert "asking its mirror" in said[0]
    assert "from a mirror, https://huggingface.co/others/ear; no sha256 is known of model.safetensors" in said[1]
    hub["gone"] = ["acme/ear", "others/ear"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no repository 'others/ear'"):
        pull.pull(card, said.append)
    hub["gone"], hub["sent"] = ["acme/ear"], {"model.safetensors": b"rubbish"}
    with pytest.raises(ValueError, match="arrived with sha256"):
        pull.pull(replace(card, files={**card.files, "model.safetensors": digest(b"weights")}), said.append)


def test_a_mirror_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: Any, timeout: float) -> Response:
        asked.append(request.full_url)
        if "zenodo" in asked[-1]:
            raise HTTPError(asked[-1], 404, "Not Found", Message(), None)
        return Response(b"weights")

    monkeypatch.setattr(pull, "urlopen", answer)
    with pytest.raises(OSError, match=r"404 Not Found\): see https://zenodo.org/record/12"):
        pull.pull(one_file(b"weights"), print)
    card = one_file(b"weights", mirrors=("https://mirror/ear.pt",))
    assert pull.pull(card, print) == card.find() == card.place
    assert asked[-1] == "https://mirror/ear.pt"


def test_what_cards_state_is_well_formed() -> None:
    cards = [registry.card(record["model"], record["card"]) for record in registry.records()]
    for card in cards:
        known = [*card.files.values(), *card.forms.values()]
        assert all(each is None or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", each) for each in known), card.name
        assert re.fullmatch(r"|[0-9a-f]{40}", card.revision), card.name
        assert not set(card.files) & set(card.forms), card.name
        assert all("https:" not in each or len(card.files) == 1 for each in card.mirrors), card.name
        # What comes from strangers as a file that one can only trust has a sha256.
        assert all(card.files.values()) or not any("https:" in each for each in card.mirrors), card.name
        assert card.shipped or card.source.startswith("recipe:") or card.repository or card.address or card.mirrors, card.name
    gone = [card for card in cards if card.source.startswith("stabilityai/stable-diffusion-2")]
    assert len(gone) == 4
    assert all(card.mirrors for card in gone)


# ---- addresses


class Response(io.BytesIO):
    """What a server answers."""

    def __init__(self, data: bytes, status: int = 200, url: str = "https://x", announced: int | None = None) -> None:
        super().__init__(data)
        self.status, self.url = status, url
        self.headers = {"Content-Length": str(len(data) if announced is None else announced)}


def one_file(content: bytes | None, **options: Any) -> Card:
    files = {"ear.pt": digest(content) if content is not None else None}
    return Card("ear.pt", files, "MIT", True, "https://zenodo.org/record/12", 1, name="acme-ear:pt", **options)


def test_from_an_address(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pull, "urlopen", lambda request, timeout: asked.append(request) or Response(b"weights"))
    said: list[str] = []
    path = pull.pull(one_file(b"weights"), said.append)
    assert path == caches / "own" / "weights" / "zenodo.org" / "record" / "12" / "ear.pt"
    assert path.read_bytes() == b"weights"
    assert asked[0].full_url == "https://zenodo.org/records/12/files/ear.pt?download=1"
    assert one_file(b"weights").folder() == path
    assert digest(b"weights") in said[-1]
    assert pull.pull(one_file(b"weights"), said.append) == path
    assert len(asked) == 1
    with pytest.raises(ValueError, match="damaged or not the published file"):
        pull.pull(one_file(b"other"), said.append)


def test_a_stopped_download_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Response(b"wei", announced=7), Response(b"ghts", status=206)]
    asked: list[Any] = []
    monkeypatch.setattr(pull, "urlopen", lambda request, timeout: asked.append(request) or answers[len(asked) - 1])
    card = one_file(b"weights")
    with pytest.raises(OSError, match="3 of 7 bytes arrived.*what arrived is kept"):
        pull.pull(card, print)
    assert card.find() is None
    assert pull.pull(card, print).read_bytes() == b"weights"
    assert asked[1].headers["Range"] == "bytes=3-"


def test_a_server_that_starts_again_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Response(b"wei", announced=7), Response(b"weights")]
    monkeypatch.setattr(pull, "urlopen", lambda request, timeout: answers.pop(0))
    with pytest.raises(OSError, match="bytes arrived"):
        pull.pull(one_file(b"weights"), print)
    assert pull.pull(one_file(b"weights"), print).read_bytes() == b"weights"


def test_a_wrong_file_from_an_address_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "urlopen", lambda request, timeout: Response(b"rubbish"))
    card = one_file(b"weights")
    with pytest.raises(ValueError, match="arrived with sha256"):
        pull.pull(card, print)
    assert list(card.place.parent.iterdir()) == []


def test_no_network_and_no_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: Any, timeout: float) -> Response:
        raise URLError("Name or service not known")

    monkeypatch.setattr(pull, "urlopen", fail)
    with pytest.raises(OSError, match="could not be fetched from https://zenodo.org.*Name or service not known.*try again"):
        pull.pull(one_file(None), print)
    with pytest.raises(ValueError, match="http://x/ear.pt is no https address"):
        pull.pull(one_file(None, url="http://x/ear.pt"), print)
    monkeypatch.setattr(pull, "urlopen", lambda request, timeout: Response(b"w", url="http://elsewhere/ear.pt"))
    with pytest.raises(ValueError, match="leads to http://elsewhere"):
        pull.pull(one_file(None), print)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://a.b/c/ear.pt", "https://a.b/c/ear.pt"),
        ("https://github.com/a/b/releases/tag/v0.1", "https://github.com/a/b/releases/download/v0.1/ear.pt"),
        ("https://zenodo.org/records/7", "https://zenodo.org/records/7/files/ear.pt?download=1"),
        ("https://github.com/a/b (or a mirror)", None),
    ],
)
def test_addresses(origin: str, expected: str | None) -> None:
    card = Card("ear.pt", {"ear.pt": None}, "MIT", True, origin, 0, name="acme-ear:pt")
    assert card.address == expected
    assert ("xmodal pull acme-ear:pt" in card.missing()) == (expected is not None)
    assert ("by hand" in card.missing()) == (expected is None)


# ---- finding


def test_shipped_weights_are_not_fetched() -> None:
    said: list[str] = []
    assert pull.pull(registry.card("beats", "mini"), said.append).name == "beats"
    with pytest.raises(FileNotFoundError, match="come with the package"):
        pull.pull(Card("package:nothing", {"a": None}, "MIT", True, "", 0), said.append)


def test_targets(tmp_path: Path) -> None:
    assert [card.name for card in pull.targets("beats")] == ["beats:mini"]
    (card,) = pull.targets("clip:open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert card.repository == "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    recipe = tmp_path / "r.yaml"
    part = "{class_path: xmodal.foundation.clip.%s, init_args: {card: vit-b-32}}"
    recipe.write_text(f"model: {{init_args: {{a: {part % 'ImageTower'}, b: {part % 'TextTower'}}}}}")
    assert [card.name for card in pull.targets(str(recipe))] == ["clip:vit-b-32"]
    recipe.write_text("model: {init_args: {a: {class_path: xmodal.foundation.clip.ImageTower, init_args: {card: vit-b}}}}")
    with pytest.raises(ValueError, match="model.a: clip has no card 'vit-b'"):
        pull.targets(str(recipe))
    assert [card.name for card in pull.targets("audiotoken+panns")] == ["panns:cnn14", "stable_diffusion:sd-1.4"]
    with pytest.raises(ValueError, match="there is no recipe"):
        pull.targets("absent.yaml")
    with pytest.raises(ValueError, match="did you mean 'clip'"):
        pull.targets("clop")


def test_the_hubs_cache_is_where_the_hubs_library_looks(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom xmodal.registry.cards import hub_cache\nours = hub_cache()\n"
        "import huggingface_hub.constants as theirs\nprint(ours == hub_cache(), str(ours) == theirs.HF_HUB_CACHE)"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE", "XDG_"))}
    for extra in ({}, {"HF_HOME": str(tmp_path)}, {"HF_HUB_CACHE": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path)}):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **extra}, check=True)
        assert result.stdout.split() == ["True", "True"], extra


def test_a_partial_snapshot_is_not_whole(hub: dict[str, Any]) -> None:
    folder = pull.pull(CARD, print)
    (folder / "model.safetensors").unlink()
    assert CARD.find() is None
    assert CARD.lacking(folder) == ["model.safetensors"]
    assert replace(CARD, files={"*.json": None, "*.h5": None}).find() == folder
    assert replace(CARD, files={"*.h5": None}).find() is None


def test_the_only_pickled_file_of_a_card_is_found_itself(hub: dict[str, Any]) -> None:
    hub["content"] = {"sub/ear.pth": b"p", "README.md": b""}
    card = replace(CARD, files={"sub/ear.pth": None})
    assert pull.pull(card, print).name == "ear.pth"
    assert card.folder().read_bytes() == b"p"


def test_missing_says_file_size_source_and_command() -> None:
    text = CARD.missing()
    assert all(
        words in text for words in ("acme/ear", "config.json, model.safetensors; 5.9 GB", "https://huggingface.co/acme/ear")
    )
    assert "run `xmodal pull acme-ear:big`" in text
    assert find_card({"big": replace(CARD, name="")}, "big", "Acme-Ear").name == "acme-ear:big"
    assert [readable(size) for size in (5, 1500, 2_000_000, 1.34e9)] == ["5 B", "1.5 kB", "2 MB", "1.34 GB"]


def test_a_snapshot_fetched_by_its_revision_is_found(caches: Path) -> None:
    place = caches / "hub" / "models--acme--ear"
    for revision, names in (("c0ffee", ("config.json", "model.safetensors")), ("f00d", ("config.json",))):
        (place / "snapshots" / revision).mkdir(parents=True)
        for name in names:
            (place / "snapshots" / revision / name).touch()
    assert CARD.find() == place / "snapshots" / "c0ffee"  # f00d is newer and not whole
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("f00d")
    assert CARD.find() == place / "snapshots" / "c0ffee"


# ---- adapters by hub id


def test_an_adapter_is_looked_up_offline(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.registry.adapters import _from_hub

    def refused(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket.connect", refused)
    with pytest.raises(OSError, match=r"'acme/bells' .*recipe.yaml.*huggingface.co/acme/bells.*offline.*without") as caught:
        _from_hub("acme/bells", None, None, None)
    assert "\n" not in str(caught.value)
    place = caches / "hub" / "models--acme--bells"
    (place / "snapshots" / "c0ffee").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c0ffee")
    assert _from_hub("acme/bells", None, None, None) == place / "snapshots" / "c0ffee"


def test_an_adapter_that_the_hub_does_not_give(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.registry.adapters import _from_hub

    def snapshot_download(repository: str, local_files_only: bool, **_: Any) -> str:
        assert not local_files_only
        raise ConnectionError("no route\nto host. More of it")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(OSError, match=r"did not give it \(no route to host\)"):
        _from_hub("acme/bells", None, None, False)


def test_a_model_names_the_files_of_what_no_card_names() -> None:
    (found,) = pull.targets("clip:open_clip:RN50/openai")
    assert found.repository == "timm/resnet50_clip.openai"
    (found,) = pull.targets("diffusion_prior:acme/prior")
    assert list(found.files) == ["prior/*", "prior_scheduler/*", "scheduler/*"]
