"""Adapters go to a hub and come back: tasks, pipelines, the command, against a stand-in of the hub over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load

import xmodal
from tests.hub import TOKEN, Hub, serving
from xmodal.__main__ import main
from xmodal.adapter_task import AdapterTask
from xmodal.audio2image import AudioTokenPipeline
from xmodal.registry.adapters import built_in, find
from xmodal.registry.hub import push
from xmodal.vision2audio import V2AMapper, V2AMapperPipeline

ROOT = Path(__file__).parent.parent.parent
SHIPPED = built_in()["v2a-regression-mini"]
BELL = ROOT / "examples" / "sounds" / "bell.wav"
DOG = ROOT / "examples" / "pictures" / "dog.png"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, with a cache of its own, for this process and those that it starts."""
    with serving() as found:
        cache = str(tmp_path / "cache")
        told = {
            "HF_ENDPOINT": found.url,
            "HF_HUB_CACHE": cache,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", found.url, raising=False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield found


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["xmodal", *words])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def in_another_process(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=surroundings, text=True, capture_output=True, timeout=300)


def test_a_pipeline_goes_to_the_hub_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    pipe = xmodal.pipeline("v2a-regression-mini")
    assert pipe.push_to_hub("ann/v2a", private=True, commit_message="first") == f"{hub.url}/ann/v2a"
    assert hub.private == {"ann/v2a"}
    assert set(hub.files("ann/v2a")) == {"adapter.safetensors", "recipe.yaml", "README.md"}
    assert "PUT large" in hub.asked
    again = V2AMapperPipeline.from_pretrained("ann/v2a", token=TOKEN)
    assert torch.equal(again.encode(DOG), pipe.encode(DOG))
    asked = len(hub.asked)
    assert find("ann/v2a", local_files_only=True).place.is_relative_to(tmp_path / "cache")
    assert len(hub.asked) == asked
    with pytest.raises(ValueError, match="not for a AudioTokenPipeline: use xmodal.pipeline"):
        AudioTokenPipeline.from_pretrained("ann/v2a", local_files_only=True)
    with pytest.raises(OSError, match="the hub did not give it"):
        find("ann/other")


def test_a_task_has_revisions(hub: Hub, tmp_path: Path) -> None:
    task = V2AMapper.from_pretrained("v2a-regression-mini")
    first = {name: value.clone() for name, value in task.adapter.state_dict().items()}
    folder = task.save_pretrained(tmp_path / "mine", repo_id="ann/mapper", push_to_hub=True)
    assert folder == tmp_path / "mine"
    with torch.no_grad():
        for parameter in task.adapter.parameters():
            parameter.add_(1)
    assert task.push_to_hub("ann/mapper", revision="shifted").endswith("/ann/mapper/tree/shifted")
    main_branch = V2AMapper.from_pretrained("ann/mapper", revision="main")
    branch = AdapterTask.from_pretrained("ann/mapper@shifted")
    for name, value in first.items():
        assert torch.equal(main_branch.adapter.state_dict()[name], value)
        assert torch.equal(branch.adapter.state_dict()[name], value + 1)
    commit = hub.branches["ann/mapper"]["main"]
    assert find("ann/mapper", revision=commit).place.name == commit
    assert 'xmodal.pipeline("ann/mapper")' in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="needs repo_id"):
        task.save_pretrained(tmp_path / "b", push_to_hub=True)
    with pytest.raises(ValueError, match="is no name on the hub"):
        task.push_to_hub("mapper")


def test_what_no_recipe_describes_is_not_saved(tmp_path: Path) -> None:
    from functools import partial

    from tests.vision2audio.parts import Eyes
    from xmodal.foundation.clip import ImageTower

    built = V2AMapper.from_pretrained("v2a-regression-mini").pipeline()
    in_memory = xmodal.pipeline("v2a-regression-mini", encoder=lambda: Eyes(128))
    for pipe, said in (
        (built, "so no recipe describes it: save its task"),
        (in_memory, "encoder is <function .*no recipe can name"),
    ):
        with pytest.raises(ValueError, match=said):
            pipe.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    changed = xmodal.pipeline("v2a-regression-mini", seconds=1.0, encoder=partial(ImageTower, card="mini", normalize=True))
    again = xmodal.pipeline(changed.save_pretrained(tmp_path / "b"))
    assert (again.seconds, find(tmp_path / "b").recipe["init_args"]["encoder"]["init_args"]["normalize"]) == (1.0, True)


@pytest.mark.slow
def test_the_offline_cache_serves_another_process(hub: Hub, tmp_path: Path) -> None:
    push(SHIPPED, "ann/v2a")
    code = f"import xmodal; print(xmodal.pipeline('ann/v2a'{{}}).encode({str(DOG)!r}).sum().item())"
    online = in_another_process(code.format(", revision='main'"), tmp_path, HF_HUB_OFFLINE="0")
    assert online.returncode == 0, online.stderr
    offline = in_another_process(code.format(""), tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (offline.returncode, offline.stdout) == (0, online.stdout), offline.stderr
    absent = in_another_process(code.replace("ann/v2a", "ann/none").format(""), tmp_path, HF_HUB_OFFLINE="1")
    assert "the adapter 'ann/none' is not on this machine" in absent.stderr.strip().splitlines()[-1]


def test_push_of_a_folder_and_its_refusals(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert run(monkeypatch, "export", str(SHIPPED), "-o", str(folder)) == 0
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMy own words.\n")
    (folder / "secret.txt").write_text("not for the hub")
    capsys.readouterr()
    assert run(monkeypatch, "push", str(folder), "ann/mine", "--private", "--revision", "v1", "--message", "hello") == 0
    assert capsys.readouterr().out.strip() == f"{hub.url}/ann/mine/tree/v1"
    sent = hub.files("ann/mine", "v1")
    assert set(sent) == {"adapter.safetensors", "recipe.yaml", "README.md"}
    assert b"My own words." in sent["README.md"]
    assert b'xmodal.pipeline("ann/mine")' in sent["README.md"]
    assert hub.files("ann/mine") == {}
    assert sorted(load(sent["adapter.safetensors"])) == sorted(find(folder).weights())
    asked = len(hub.asked)
    for words, said in (
        ((str(folder), "mine"), "'mine' is no name on the hub"),
        ((str(tmp_path / "none"), "ann/x"), "neither a built-in adapter nor a path"),
        ((str(folder), "ann/x", "--results", str(tmp_path)), "holds no results"),
    ):
        assert run(monkeypatch, "push", *words) == 1
        assert said in capsys.readouterr().err
    assert len(hub.asked) == asked
    with pytest.raises(OSError, match="was not sent to ann/x .*`hf auth login` or HF_TOKEN"):
        push(folder, "ann/x", token="hf_of_another")
    card = folder / "README.md"
    text = card.read_text()
    card.write_text("no head")
    with pytest.raises(OSError, match="was not sent to ann/x .*no metadata"):
        push(folder, "ann/x")
    card.unlink()
    with pytest.raises(ValueError, match="has no README.md"):
        push(folder, "ann/x")
    card.write_text(text)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="this is offline"):
        push(folder, "ann/x")


def test_a_run_is_pushed_with_what_it_was_made_from(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its recipe names a class of the tests, which nothing imports to send it."""
    recipe = yaml.safe_load((SHIPPED / "recipe.yaml").read_text())["model"]
    recipe["init_args"]["adapter"]["class_path"] = "mine.Tiny"
    state = {f"adapter.{name}": value for name, value in find(SHIPPED).weights().items()}
    record = {
        "steps": 3, "epochs": 1, "seed": 7,
        "data": {"class_path": "xmodal.data.PairedMedia", "init_args": {"manifest": "a.jsonl"}},
        "files": {"a.jsonl": "0" * 64}, "versions": {"torch": "2"}, "validated": {"val/loss": 0.25}, "imported": "no list",
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    torch.save({"recipe": yaml.safe_dump(recipe), "record": record, "state_dict": state}, tmp_path / "run" / "last.ckpt")
    protocol = {"metric": "fd", "version": 1, "extractor": "clap:mini", "counts": {"made": 9}, "seed": 0, "small_sample": True}
    (tmp_path / "judged" / "results").mkdir(parents=True)
    scores = {"FD": {"value": 0.5, "low": 0.25, "high": 0.75}, "gone": {"value": None, "low": None, "high": None}}
    (tmp_path / "judged" / "results" / "fd.json").write_text(json.dumps({"format": 1, "protocol": protocol, "scores": scores}))
    assert run(monkeypatch, "push", str(tmp_path / "run"), "ann/run", "--results", str(tmp_path / "judged")) == 0
    capsys.readouterr()
    card = hub.files("ann/run")["README.md"].decode()
    for said in (
        "Trained: steps 3, epochs 1, seed 7.", "manifest: a.jsonl", f"`a.jsonl`: sha256 `{'0' * 64}`", "With torch 2.",
        "- val/loss: 0.25", "is data",
        "| FD | 0.5 | 0.25 to 0.75 | fd version 1, clap:mini, 9 made, seed 0, from few items: not for tables |",
        "It uses `mine.Tiny`: `mine` must be there", 'xmodal.pipeline("ann/run", trust=True)',
        "| encoder | `xmodal.foundation.clip",
        "permissive (Apache-2.0",
    ):  # fmt: skip
        assert said in card, card
    assert "gone" not in card
    assert "mine" not in sys.modules
    published = find("ann/run").record
    assert published["measured"]["FD"]["value"] == 0.5
    assert "imported" not in published


@pytest.mark.slow
def test_a_training_records_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny import RECIPE

    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(RECIPE.replace("steps: 3", "steps: 4"))
    done = in_another_process(
        "import sys; sys.argv=['xmodal']; from xmodal.__main__ import run; run(['fit', '--config', 'tiny.yaml'])", tmp_path
    )
    assert done.returncode == 0, done.stderr
    record = find(tmp_path / "outputs").record
    assert (record["steps"], record["seed"]) == (4, 0)
    assert record["data"] == {"class_path": "tests.tiny.TinyData", "init_args": {"batch_size": 4, "count": 16}}
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"val/loss", "val/error"} <= record["validated"].keys()
    folder = AdapterTask.from_pretrained(tmp_path / "outputs", trust=True).save_adapter(tmp_path / "published", {"error": 0.5})
    assert find(folder).record == {**record, "measured": {"error": 0.5}}


def test_places_of_this_machine_are_not_published(tmp_path: Path) -> None:
    from xmodal.registry.modelcard import record_of

    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("{}")
    config = {
        "seed_everything": True,
        "data": {"class_path": "a.B", "init_args": {"manifest": str(manifest), "cache": "/x/y", "n": 3}},
    }
    assert record_of(config) == {
        "data": {"class_path": "a.B", "init_args": {"manifest": "clips.jsonl", "cache": "y", "n": 3}},
        "files": {"clips.jsonl": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
    }


@pytest.mark.parametrize("name", ["audiotoken-mini", "v2a-regression-mini"])
def test_the_cards_snippet_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = xmodal.pipeline(name).save_pretrained(tmp_path / "mine")
    (snippet,) = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL)
    (tmp_path / "bell.wav").symlink_to(BELL)
    (tmp_path / "dog.png").symlink_to(DOG)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    assert len(list(tmp_path.glob("result.*"))) == 1


# ---- a task of the user's own

MINE = '''
import torch
from xmodal.adapter_task import AdapterTask
from xmodal.foundation.base import Adapter, TextEncoder

class Net(Adapter):
    def __init__(self, in_dim: int, out_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.net = torch.nn.Linear(in_dim, out_dim, bias=bias)

class Mine(AdapterTask):
    """A task with a pipeline of its own, which the task alone can build."""

    def __init__(self, reader: TextEncoder, **task) -> None:
        super().__init__(**task)
        self.reader = reader
        self.adopt(Net(reader.dim, 2))

    def losses(self, batch):
        return {"error": self.adapter.net(self.reader.embed(batch["text"])).square().mean()}

    def make(self, batch, rows, generators):
        raise ValueError("nothing")

    def pipeline(self):
        return lambda texts: self.adapter.net(self.reader.embed(texts))
'''


@pytest.mark.slow
def test_the_pipeline_of_ones_own_task_by_revision_and_token(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "own_task_of_the_test.py").write_text(MINE)
    section = {
        "class_path": "own_task_of_the_test.Mine",
        "init_args": {"reader": {"class_path": "xmodal.foundation.clip.TextTower", "init_args": {"card": "mini"}}},
    }
    share = f"""
import torch, yaml
from own_task_of_the_test import Mine
from xmodal.foundation.clip import TextTower
task = Mine(TextTower("mini"))
task.recipe = yaml.safe_dump({section!r})
print(task.push_to_hub("ann/own", private=True, revision="v1"))
print(task.pipeline()(["rain"]).tolist())
"""
    done = in_another_process(share, tmp_path / "home", PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path / 'home'}")
    assert done.returncode == 0, done.stderr
    load_it = "import xmodal; print(xmodal.pipeline('ann/own', revision='v1', token={token!r}{more})(['rain']).tolist())"
    place = f"{ROOT}{os.pathsep}{tmp_path / 'home'}"
    without = in_another_process(load_it.format(token=TOKEN, more=""), tmp_path, HF_TOKEN="")
    assert "to import own_task_of_the_test, which runs its code, give your consent" in without.stderr.strip().splitlines()[-1]
    absent = in_another_process(load_it.format(token=TOKEN, more=", trust=True"), tmp_path, HF_TOKEN="")
    assert "cannot be imported (No module named 'own_task_of_the_test')" in absent.stderr.strip().splitlines()[-1]
    found = in_another_process(load_it.format(token=TOKEN, more=", trust=True"), tmp_path, HF_TOKEN="", PYTHONPATH=place)
    assert found.stdout.strip() == done.stdout.splitlines()[1], found.stderr
    stranger = in_another_process(
        load_it.format(token="hf_of_another", more=", trust=True"), tmp_path, HF_TOKEN="", HF_HUB_CACHE=str(tmp_path / "empty")
    )
    assert "the hub did not give it" in stranger.stderr.strip().splitlines()[-1]
