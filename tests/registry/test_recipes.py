"""Names of recipes: from any folder, with overlays that fit; a class that takes another's place keeps none of its options."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from xmodal.__main__ import main, run
from xmodal.registry import recipes
from xmodal.registry.recipe import in_one, read

BEATS, CLAP = "xmodal.foundation.beats.BEATs", "xmodal.foundation.clap.AudioTower"


def encoder(words: list[str]) -> dict[str, object]:
    command = in_one(["fit", *words])
    document = yaml.safe_load(command[command.index("--config") + 1])
    return document["model"]["init_args"]["encoder"]


def test_names_and_paths_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = recipes.bases()["audiotoken"]
    assert read(["audiotoken"]) == read([path]) == read(["AudioToken"])
    assert read(["audiotoken+clap+mini"]) == read([path, "clap", "audiotoken_mini"]) == read([f"{path}+clap", "mini"])
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {init_args: {batch_size: 3}}")
    assert read(["audiotoken+mini+mine.yaml"])["data"]["init_args"]["batch_size"] == 3
    assert recipes.name_of(["audiotoken+clap+mini", mine]) == "audiotoken+clap+mini+mine"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("audiotokn", "did you mean 'audiotoken'"),
        ("audiotoken+clapp", "did you mean 'clap'"),
        ("v2a-regression+vggish", "does not fit v2a-regression: it fits audiotoken"),
        ("v2a-regression+causal.yaml", "no recipe 'causal.yaml'"),
        ("v2a-linear", "is an overlay, which stands behind a base: v2a-"),
        ("clip-tta+mini", "'mini' does not fit clip-tta"),
    ],
)
@pytest.mark.parametrize("command", [["fit"], ["cache"]], ids=" ".join)
def test_unknown_names_end_at_once(
    command: list[str], word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "xmodal.commands.lightning", raising=False)
    monkeypatch.setattr("sys.argv", ["xmodal", *command, "--config", word])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "xmodal.commands.lightning" not in __import__("sys").modules


def test_an_overlay_of_a_name_is_the_one_that_fits_the_base() -> None:
    known = recipes.overlays()
    assert recipes.files(["clipsonic-mini+sd"])[1] == known["clipsonic-mini-sd"]
    assert recipes.files(["clipsonic+sd"])[1] == known["clipsonic-sd"]
    assert recipes.files(["v2a-diffusion+guidance"])[1] == known["v2a-guidance"]
    for base, path in recipes.bases().items():
        for short, overlay in recipes.fitting(path).items():
            assert recipes.files([f"{base}+{short}"])[1] == overlay, f"{base}+{short}"


def test_a_swapped_class_keeps_no_card() -> None:
    assert encoder(["--config", "audiotoken+clap"]) == {"class_path": CLAP, "init_args": {"card": "htsat-unfused"}}
    for words in (["--model.encoder", CLAP], [f"--model.encoder={CLAP}"], ["--model.encoder.class_path", CLAP]):
        assert encoder(["--config", "audiotoken", *words]) == {"class_path": CLAP}
    assert encoder(["--config", "audiotoken", "--model.encoder", "AudioTower"]) == {"class_path": BEATS}  # found later
    for same in (BEATS, "BEATs"):
        assert encoder(["--config", "audiotoken", "--model.encoder", same])["init_args"] == {"card": "iter3-plus-as2m-cpt2"}


def test_an_optimizer_keeps_its_learning_rate_alone() -> None:
    base = {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "betas": [0.9, 0.99]}}}
    made = recipes.merge(base, {"optimizer": {"class_path": "torch.optim.SGD"}})
    assert made["optimizer"] == {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


def test_lists_grow() -> None:
    assert recipes.merge({"callbacks": None}, {"callbacks+": [1]}) == {"callbacks": [1]}
    assert recipes.merge({"callbacks": [1]}, {"callbacks+": [2]}) == {"callbacks": [1, 2]}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    document = {"a": "1e-4", "b": 1e-4, "c": "yes", "d": None, "e": "${vars.x}", "f": [1, "a: b"], "g": "\n#"}
    (tmp_path / "a.yaml").write_text(recipes.dump(document))
    assert recipes.load(tmp_path / "a.yaml") == document


def test_show_and_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["recipes", "show", "audiotoken"])
    assert capsys.readouterr().out == recipes.bases()["audiotoken"].read_text()
    mine = tmp_path / "mine.yaml"
    run(["recipes", "copy", "audiotoken+clap+mini", str(mine)])
    assert read([mine]) == read(["audiotoken+clap+mini"])
    with pytest.raises(FileExistsError, match="give another name"):
        run(["recipes", "copy", "audiotoken", str(mine)])


def test_the_listing_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    assert all(any(line.split()[:1] == [name] for line in lines) for name in recipes.bases() | recipes.overlays())
