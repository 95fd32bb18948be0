"""Names, near misses, third parties, cards read without importing; each registered model is checked by being registered."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import xmodal
from tests.tiny import SECTION, TinyTask, build
from xmodal import routes
from xmodal.__main__ import run
from xmodal.commands import generate as generation
from xmodal.foundation.base import Card
from xmodal.frozen import Frozen
from xmodal.registry import catalogue, recipes
from xmodal.registry import models as registry


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("acme-ear", "tests.tiny", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry._homes.cache_clear()
    yield
    registry._homes.cache_clear()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module of another package and return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        name = f"acme_{len(list(tmp_path.iterdir()))}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


def test_every_file_is_a_model() -> None:
    names = {path.stem for path in (registry.PACKAGE / "foundation").glob("*.py")}
    assert {name for name in names if hasattr(import_module(f"xmodal.foundation.{name}"), "CARDS")} == set(registry.available())
    assert xmodal.available() == registry.available()


@pytest.mark.parametrize("name", registry.available())
def test_a_models_file_is_complete(name: str) -> None:
    module = registry.resolve(name)
    classes = registry.towers(module)
    assert classes
    assert all(issubclass(kind, Frozen) and kind.__doc__ for kind in classes.values())
    assert module.CARDS
    for tag, card in module.CARDS.items():
        assert isinstance(card, Card), tag
        assert card.licence
        assert card.origin
        assert card.files or card.source == "package:", f"{tag} names no file"  # what is computed needs none


@pytest.mark.parametrize("name", registry.available())
def test_what_is_read_is_what_an_import_finds(name: str) -> None:
    found, module = registry.listing(name), registry.resolve(name)
    assert found.cards == module.CARDS
    assert list(found.cards) == list(module.CARDS)
    classes = registry.towers(module)
    assert list(found.towers) == list(classes)
    for kind, tower in found.towers.items():
        assert tower.contract in {base.__name__ for base in classes[kind].__mro__}
        default = inspect.signature(classes[kind]).parameters["card"].default
        assert tower.card == (None if default is inspect.Parameter.empty else default)
        assert tower.card is None or tower.card in (*found.cards, "none")
    assert all(callable(getattr(module, function)) for function in found.functions)


@pytest.mark.parametrize("name", registry.available())
def test_no_file_needs_an_import_to_be_listed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: str) -> None:
        raise AssertionError(f"CARDS of {names} need more than literals, small functions and the standard library")

    monkeypatch.setattr(catalogue, "_imported", refuse)
    catalogue.read.__wrapped__(name, registry._homes()[name])


HEADER = "import torch\nfrom xmodal.foundation.base import AudioEncoder, Card as Where, ImageEncoder\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("CARDS = {'a': _one('x')}\ndef _one(n): return Where(n, {}, 'MIT', True, URL + n, 0)\nURL = 'https://'\n", None),
        ("def _one(n): return Where(n, {}, 'MIT', True, n, 0)\nCARDS = {}\nfor n in 'ab':\n    CARDS[n] = _one(n)\n", ["a", "b"]),
        ("CARDS = {'a': Where('a', {}, 'MIT', True, '', 0)}\nCARDS.update(b=CARDS['a'])\nCARDS |= {'c': 0 or CARDS['b']}\n",
         ["a", "b", "c"]),
        ("import math\nCARDS = {'a': Where('a', {}, 'MIT', True, '', int(math.exp(3)))}\n", ["a"]),
        ("from xmodal.foundation.clip import MEAN\nCARDS = {'a': Where('a', {}, 'MIT', True, '', 0, mean=MEAN)}\n", ["a"]),
    ],
)  # fmt: skip
def test_cards_are_made_without_running_the_rest(module: Callable[[str], str], body: str, expected: list[str] | None) -> None:
    name = module(
        f"{HEADER}raise SystemExit('the file was run')\n{body}class Ear(AudioEncoder): pass\nclass _Hidden(Ear): pass\n"
    )
    if expected is None:  # a function that stands below its use, as in an import
        with pytest.raises(ValueError, match=f"{name}.py cannot say its cards .NameError"):
            catalogue.read("ear", name)
        return
    found = catalogue.read("ear", name)
    assert (list(found.cards), list(found.towers)) == (expected, ["Ear"])


def test_towers_through_classes_between(module: Callable[[str], str]) -> None:
    name = module(f"""{HEADER}
class _Both(torch.nn.Module):
    def __init__(self, card: str = "a") -> None: ...
class Ear(_Both, AudioEncoder): ...
class Eye(Ear, ImageEncoder):
    def __init__(self, *, card: str = "b") -> None: ...
class Plain(torch.nn.Module): ...
CARDS = {{"a": Where("a", {{}}, "MIT", True, "", 0)}}
""")
    towers = catalogue.read("both", name).towers
    assert {kind: (tower.contract, tower.card) for kind, tower in towers.items()} == {
        "Ear": ("AudioEncoder", "a"),
        "Eye": ("AudioEncoder", "b"),
    }


def test_a_file_that_reading_cannot_understand_is_imported(module: Callable[[str], str]) -> None:
    base = module("from xmodal.foundation.base import AudioEncoder, Card\nclass Parent(AudioEncoder): ...\n")
    name = module(f"import {base}\nfrom {base} import Card\nclass Ear({base}.Parent):\n    def __init__(self, card='a'): ...\n"
                  "CARDS = {'a': Card('a', {}, 'MIT', True, '', 0)}\n")  # fmt: skip
    found = catalogue.read("ear", name)
    assert found.towers == {"Ear": catalogue.Tower("AudioEncoder", "a")}
    assert list(found.cards) == ["a"]


@pytest.mark.parametrize(
    ("source", "words"), [("class (:", "cannot be read as Python"), ("import nothing_at_all_x", "nothing_at")]
)
def test_a_broken_file_is_named(module: Callable[[str], str], source: str, words: str) -> None:
    name = module(source)
    with pytest.raises((ValueError, ImportError), match=words) as caught:
        catalogue.read("broken", name)
    assert name in str(caught.value) or "nothing_at" in str(caught.value)


def test_a_towers_own_default_card_is_used() -> None:
    assert registry.load("diffusion_prior", tower="Identity").dim == 768


def test_cards_by_name_path_and_hub_id(tmp_path: Path) -> None:
    assert registry.card("clip").name == "clip:mini"
    assert registry.card("clip", "vit-b-32").repository == "openai/clip-vit-base-patch32"
    assert registry.card("clip", str(tmp_path)).source == str(tmp_path)
    free = registry.card("stable_diffusion", "nobody/nothing")
    assert (free.repository, free.name, free.commercial) == ("nobody/nothing", "stable_diffusion:nobody/nothing", False)
    assert "unet/diffusion_pytorch_model.safetensors" in free.files
    with pytest.raises(ValueError, match="clip has no card 'vit-b-33'.*vit-b-32"):
        registry.card("clip", "vit-b-33")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'beats'"):
        xmodal.load("beets")
    with pytest.raises(ValueError, match="known are"):
        xmodal.load("zzzzzz")


def test_unknown_card_and_tower() -> None:
    with pytest.raises(ValueError, match="mini"):
        xmodal.load("picture_tagger", card="no-such-card")
    with pytest.raises(ValueError, match="has no tower"):
        xmodal.load("beats", tower="Beets")


@pytest.mark.usefixtures("third_party")
def test_third_parties_add_models() -> None:
    assert "acme-ear" in registry.available()
    with pytest.raises(ValueError, match="tower=TinyEncoder | OtherEncoder"):
        registry.load("acme-ear", card="any")
    assert set(registry.towers(registry.resolve("acme-ear"))) == {"TinyEncoder", "OtherEncoder"}


def test_a_taken_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("beats", "acme.ear", group)])
    registry._homes.cache_clear()
    with pytest.raises(ValueError, match="already provided"):
        registry.available()
    monkeypatch.undo()
    registry._homes.cache_clear()


def test_table_has_one_row_per_card() -> None:
    rows = registry.table()
    assert [row[:2] for row in rows] == [(name, tag) for name in registry.available() for tag in registry.listing(name).cards]
    assert all(len(row) == len(registry.COLUMNS) for row in rows)
    (imagebind,) = (dict(zip(registry.COLUMNS, row, strict=True)) for row in rows if row[:2] == ("imagebind", "huge"))
    assert (imagebind["licence"], imagebind["dim"], imagebind["takes"]) == ("CC-BY-NC-SA-4.0 *", "1024", "16 kHz 224 px")


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run(["models", "beats", "clip", "--json"])
    records = json.loads(capsys.readouterr().out)
    assert {record["model"] for record in records} == {"beats", "clip"}
    (mini,) = (record for record in records if (record["model"], record["card"]) == ("beats", "mini"))
    assert Path(mini["weights"]).is_dir()
    assert (mini["sample_rate"], mini["licence"], mini["towers"]) == (16000, "Apache-2.0", ["BEATs"])


def test_models_table_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    run(["models", "beats"])
    header, *rows, gap, _, _ = capsys.readouterr().out.splitlines()
    assert header.split() == list(registry.COLUMNS)
    assert gap == ""
    assert [row.split()[:2] for row in rows] == [["beats", tag] for tag in registry.listing("beats").cards]
    run(["models"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 124  # the longest names leave no less
    run(["models", "--names"])
    assert capsys.readouterr().out.split() == registry.available()
    with pytest.raises(ValueError, match="did you mean 'beats'"):
        run(["models", "beets"])


def test_recipes_are_found_with_their_titles() -> None:
    found = recipes.bases() | recipes.overlays()
    assert {"audiotoken", "audiotoken-mini", "v2a-regression", "mean-pool"} <= found.keys()
    assert [path for path in found.values() if not recipes.title(path)] == []


def test_pipeline_of_a_folder_and_a_checkpoint(tmp_path: Path) -> None:
    task = build(SECTION, TinyTask)
    task.recipe = __import__("yaml").safe_dump(SECTION)
    folder = task.save_adapter(tmp_path / "mine")
    assert callable(xmodal.pipeline(folder))


def test_unknown_pipeline() -> None:
    with pytest.raises(ValueError, match="neither a built-in adapter nor a path"):
        xmodal.pipeline("audiotokn-mini")
    with pytest.raises(ValueError, match="no way from text to smell"):
        routes.route("smell", "text")


def test_generate_checks_inputs_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(generation.generate([tmp_path / "none.wav"], "image"))
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is a picture"):
        list(generation.generate([tmp_path / "a.png"], "image"))
    for name in ("a.wav", "a.mp3"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="same file name"):
        list(generation.generate([tmp_path / "a.wav", tmp_path / "a.mp3"], "image"))


@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["models", "clip", "vocoder"], ["recipes"]])
def test_listing_imports_no_heavy_package(words: list[str]) -> None:
    """Which is what keeps the command below a third of a second: the time itself depends on the machine."""
    heavy = ("torch", "numpy", "transformers", "diffusers", "lightning", "huggingface_hub", "safetensors", "open_clip")
    found = f"str([name for name in {heavy!r} if name in sys.modules])"
    code = f"import sys\nfrom xmodal.__main__ import run\nrun({words!r})\nsys.exit({found})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout
    assert result.stderr.strip() == "[]"
