"""Names, near misses, third parties; each registered model is checked by being registered."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import xmodal
from tests.tiny import SECTION, TinyTask
from xmodal import registry, routes
from xmodal.foundation.base import Card
from xmodal.frozen import Frozen
from xmodal.task import build


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("acme-ear", "tests.tiny", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    registry._homes.cache_clear()
    yield
    registry._homes.cache_clear()


def test_every_file_is_a_model() -> None:
    files = {path.stem for path in (registry.PACKAGE / "foundation").glob("*.py")} - {"__init__", "base"}
    assert files <= set(registry.available())
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
        assert card.files


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
    assert {row[0] for row in rows} == set(registry.available())
    assert all(len(row) == len(registry.COLUMNS) for row in rows)


def test_recipes_are_found_with_their_titles() -> None:
    found = dict(registry.recipes())
    assert any(path.endswith("miniature/audiotoken.yaml") for path in found)
    assert all(found.values()), [path for path, title in found.items() if not title]


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


def test_modality(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").touch()
    names = {"a.WAV": "audio", "b.jpg": "image", "c.mp4": "video", "rain on a roof": "text"}
    assert {name: routes.modality(name) for name in names} == names
    with pytest.raises(ValueError, match="cannot tell"):
        routes.modality(tmp_path / "a.xyz")


def test_generate_checks_inputs_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(routes.generate([tmp_path / "none.wav"], "image"))
    (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match="is a picture"):
        list(routes.generate([tmp_path / "a.png"], "image"))
    for name in ("a.wav", "a.mp3"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="same file name"):
        list(routes.generate([tmp_path / "a.wav", tmp_path / "a.mp3"], "image"))
