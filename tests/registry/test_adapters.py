"""Adapters from elsewhere: where they are found, and that nothing of them runs that the user did not agree to."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import xmodal
from xmodal.__main__ import main
from xmodal.registry.adapters import built_in, checkpoints, find, parts_of
from xmodal.registry.build import Builder, parameters
from xmodal.registry.recipe import parse

ROOT = Path(__file__).parent.parent.parent
SHIPPED = built_in()["v2a-regression-mini"]
BOMB = (
    "model:\n  class_path: xmodal.vision2audio.V2AMapper\n  init_args:\n    a: &a [1, 1]\n    b: &b [*a, *a]\n    c: [*b, *b]\n"
)
Change = Callable[[dict[str, Any]], None]


def folder_of(place: Path, recipe: str) -> Path:
    place.mkdir()
    (place / "adapter.safetensors").write_bytes((SHIPPED / "adapter.safetensors").read_bytes())
    (place / "recipe.yaml").write_text(recipe)
    return place


def changed(change: Change) -> str:
    recipe = yaml.safe_load((SHIPPED / "recipe.yaml").read_text())
    change(recipe["model"])
    return yaml.safe_dump(recipe)


def part(name: str, class_path: str, **options: Any) -> Change:
    def change(model: dict[str, Any]) -> None:
        model["init_args"][name] = {"class_path": class_path, "init_args": options}

    return change


def task(class_path: str, **options: Any) -> Change:
    return lambda model: model.update(class_path=class_path, init_args=options)


HOSTILE = {
    "a function": (changed(part("encoder", "torch.distributed.run.main", args=["touch", "SENTINEL"])), "neither of xmodal nor"),
    "a task that is a function": (changed(task("torch.distributed.run.main", args=["-h"])), "neither of xmodal nor"),
    "hub.load": (changed(part("generator", "torch.hub.load", repo_or_dir="a/b", model="c")), "neither of xmodal nor|no class"),
    "subprocess": (
        changed(part("adapter", "subprocess.Popen", args="touch SENTINEL", shell=True)),
        "expected a Mapper|neither of",
    ),
    "a class through ours": (
        changed(part("encoder", "xmodal.frozen.Path")),
        "neither of xmodal nor|expected a ImageEncoder|no class",
    ),
    "another kind of ours": (changed(part("encoder", "xmodal.foundation.clap.AudioTower")), "expected a ImageEncoder"),
    "the working folder": (changed(part("adapter", "mine.Tiny")), "--trust"),
    "an alias bomb": (BOMB, "anchor or an alias"),
    "a tag": ("model: !!python/object/apply:os.system ['touch SENTINEL']", "tag"),
    "the environment": (changed(part("encoder", "xmodal.foundation.clip.ImageTower", card="${oc.env:HOME}")), "interpolation"),
    "an unknown option": (changed(part("encoder", "xmodal.foundation.clip.ImageTower", crad="mini")), "did you mean 'card'"),
    "a path as a class": (
        changed(lambda model: model["init_args"].update(encoder="os.system")),
        "neither of xmodal nor|no class",
    ),
    "very deep": ("model: " + "[" * 5000 + "]" * 5000, "levels"),
    "very long": ("model: {class_path: a.B}\n#" + "x" * 300_000, "characters"),
}
COMMANDS = {
    "pipeline": lambda place: xmodal.pipeline(place),
    "from_folder": lambda place: __import__("xmodal.adapter_task", fromlist=["AdapterTask"]).AdapterTask.from_folder(place),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module of the user's, which leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom pathlib import Path\nfrom xmodal.vision2audio import RegressionMapper\n"
        "Path('SENTINEL').touch()\nclass Tiny(RegressionMapper):\n    pass\n"
    )
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused_and_nothing_runs(name: str, command: str, here: Path) -> None:
    recipe, message = HOSTILE[name]
    place = folder_of(here / "adapter", recipe)
    with pytest.raises(ValueError, match=message) as caught:
        COMMANDS[command](place)
    assert "\n" not in str(caught.value)
    assert not (here / "SENTINEL").exists()
    assert "mine" not in sys.modules


def test_every_command_refuses(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for number, recipe in enumerate((HOSTILE["a function"][0], HOSTILE["the working folder"][0], BOMB)):
        place = folder_of(here / f"adapter{number}", recipe)
        checkpoint = here / f"{number}.ckpt"
        torch.save({"recipe": recipe, "state_dict": {"adapter.a": torch.zeros(1)}}, checkpoint)
        picture = str(ROOT / "examples" / "pictures" / "dog.png")
        for words in (
            ["generate", picture, "--to", "audio", "--adapter", str(place)],
            ["generate", picture, "--to", "audio", "--adapter", str(checkpoint)],
            ["export", str(checkpoint), "-o", str(here / "out")],
            ["export", str(place), "-o", str(here / "out")],
        ):
            monkeypatch.setattr("sys.argv", ["xmodal", *words])
            with pytest.raises(SystemExit) as caught:
                main()
            assert caught.value.code == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("xmodal: error: ")
    assert not (here / "SENTINEL").exists()
    assert not (here / "out").exists()


@pytest.mark.slow
def test_with_consent_the_working_folder_is_imported(here: Path) -> None:
    place = folder_of(here / "adapter", changed(part("adapter", "mine.Tiny", depth=2)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    picture = str(ROOT / "examples" / "pictures" / "dog.png")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "xmodal", *words]
        return subprocess.run(command, cwd=here, env=environment, text=True, capture_output=True, timeout=300)

    refused = run("generate", picture, "--to", "audio", "--adapter", str(place), "-o", "made", "--steps", "1")
    assert (refused.returncode, "to import mine, which runs its code" in refused.stderr) == (1, True), refused.stderr
    made = run("generate", picture, "--to", "audio", "--adapter", str(place), "-o", "made", "--steps", "1", "--trust")
    assert made.returncode == 0, made.stderr
    assert (here / "made" / "dog.wav").is_file()
    exported = run("export", str(place), "-o", "again", "--trust")
    assert exported.returncode == 0, exported.stderr
    assert "mine.Tiny" in (here / "again" / "recipe.yaml").read_text()


def test_a_name_is_found_once(tmp_path: Path) -> None:
    assert find("v2a-regression-mini").place == SHIPPED
    assert find(SHIPPED).recipe == find("v2a-regression-mini").recipe
    state = {f"adapter.{name}": value for name, value in find(SHIPPED).weights().items()}
    run = tmp_path / "run" / "version_0" / "checkpoints"
    run.mkdir(parents=True)
    averaged = {name.replace("adapter.", "average."): value + 1 for name, value in state.items()}
    torch.save({"recipe": (SHIPPED / "recipe.yaml").read_text(), "state_dict": {**state, **averaged}}, run / "last.ckpt")
    found = find(tmp_path / "run")
    assert found.place == run / "last.ckpt"
    assert found.recipe == find(SHIPPED).recipe
    assert all(torch.equal(value, averaged[f"average.{name}"]) for name, value in found.weights().items())
    with pytest.raises(ValueError, match="did you mean 'v2a-mini'"):
        find("v2a-mni")
    for odd in ("x" * 5000, "a\0b", "no/such/place/at/all"):
        with pytest.raises((ValueError, FileNotFoundError)):
            find(odd)


def test_a_torso_is_passed_over(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last-minute.ckpt")
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last-minute.ckpt").read_bytes()[:100])
    assert list(checkpoints(tmp_path)) == [tmp_path / "last-minute.ckpt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    place = folder_of(tmp_path / "adapter", (SHIPPED / "recipe.yaml").read_text())
    state = find(SHIPPED).weights()
    next(iter(state.values())).view(-1)[0] = value
    save_file(state, place / "adapter.safetensors")
    with pytest.raises(ValueError, match="NaN or infinity"):
        xmodal.pipeline(place)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "adapter", (SHIPPED / "recipe.yaml").read_text())
    save_file({name: value.int() for name, value in find(SHIPPED).weights().items()}, place / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"torch.int32, but expected torch.float32"):
        xmodal.pipeline(place)


def test_a_foreign_recipe_starts_no_download(tmp_path: Path) -> None:
    def ask(model: dict[str, Any]) -> None:
        model["init_args"]["encoder"]["init_args"]["local_files_only"] = False
        model["init_args"]["weights"] = "somebody/else"

    builder = Builder("a recipe")
    section = yaml.safe_load(changed(ask))["model"]
    options = builder.options(builder.kind(section["class_path"], (torch.nn.Module,), "model"), section["init_args"], "model")
    assert "weights" not in options
    assert "optimizer" not in options
    assert parse(changed(ask), "a recipe") == section
    assert [each.name for each in parts_of("v2a-regression-mini")] == ["clip:mini", "clap:mini", "audioldm:mini"]


@pytest.mark.parametrize(
    "words", [["--config", "mine.yaml"], ["--config", "plain.yaml", "--model.init_args.card", "${oc.env:HOME}"]]
)
def test_the_environment_is_never_written_into_a_recipe(
    words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine.yaml").write_text("model: {class_path: mine.Tiny, init_args: {card: '${oc.env:HOME}'}}\n")
    (here / "plain.yaml").write_text("model: {class_path: mine.Tiny, init_args: {card: mini}}\n")
    monkeypatch.setattr("sys.argv", ["xmodal", "fit", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "give it as an option instead" in capsys.readouterr().err
    assert not (here / "SENTINEL").exists()


def test_options_are_those_of_the_classes_above_too() -> None:
    from xmodal.vision2audio import V2AMapper

    assert {"encoder", "seconds", "ema_decay", "weights", "predictions", "optimizer"} <= parameters(V2AMapper).keys()


def test_nothing_of_a_trainer_is_imported_for_inference() -> None:
    code = (
        "import sys, xmodal\nxmodal.pipeline('v2a-regression-mini')\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('lightning', 'jsonargparse', 'omegaconf')])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_frozen_parts_compute_in_the_asked_precision() -> None:
    pipe = xmodal.pipeline("audiotoken-mini", dtype=torch.bfloat16)
    assert pipe.dtype == torch.bfloat16
    assert next(pipe.adapter.parameters()).dtype == torch.float32
    noise = torch.Generator().manual_seed(0)
    pixels = pipe(ROOT / "examples" / "sounds" / "bell.wav", num_inference_steps=1, generator=noise, output_type="pt").images
    assert pixels.isfinite().all()


@pytest.mark.parametrize("running", [True, False])
def test_loading_leaves_the_garbage_collector_as_it_was(running: bool) -> None:
    before = gc.isenabled()
    try:
        gc.enable() if running else gc.disable()
        xmodal.pipeline("v2a-regression-mini")
        assert gc.isenabled() is running
        with pytest.raises(ValueError, match="no-such-adapter"):
            xmodal.pipeline("no-such-adapter")
        assert gc.isenabled() is running
    finally:
        gc.enable() if before else gc.disable()
