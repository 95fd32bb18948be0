"""Recipes of what was built in Python: a loop of one's own ends in a folder that others load."""

from __future__ import annotations

import pickle
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import xmodal
from tests.tiny import TinyAdapter, TinyEncoder, TinyTask
from tests.vision2audio.parts import Ears, Eyes, Voice
from xmodal.audio2image import AudioToken, AudioTokenEmbedder
from xmodal.foundation.audioldm import AudioLDM
from xmodal.foundation.base import Adapter
from xmodal.foundation.beats import BEATs
from xmodal.foundation.beats import tiny as tiny_beats
from xmodal.foundation.clap import AudioTower
from xmodal.foundation.clip import ImageTower
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.registry.adapters import find
from xmodal.registry.describe import section_of
from xmodal.vision2audio import RegressionMapper, V2AMapper

ROOT = Path(__file__).parent.parent.parent
DOG = ROOT / "examples" / "pictures" / "dog.png"
BELL = ROOT / "examples" / "sounds" / "bell.wav"


def test_a_loop_of_ones_own_ends_in_a_folder(tmp_path: Path) -> None:
    """As in docs/sharing.md, shorter."""
    draw = torch.Generator().manual_seed(0)
    seen, heard = torch.randn(8, 128, generator=draw), torch.randn(8, 128, generator=draw)
    mapper = RegressionMapper(128, 128, hidden_dim=16, loss="cosine")
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = mapper.loss(seen, heard)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    generator = partial(AudioLDM, card="mini")
    task = V2AMapper(ImageTower("mini"), AudioTower("mini"), generator, mapper, aggregation="middle", seconds=2.5)
    task.record = {"data": "eight random pairs", "steps": 20, "seed": 0}
    folder = task.save_pretrained(tmp_path / "mine")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())["model"]
    assert recipe["class_path"] == "xmodal.vision2audio.V2AMapper"
    options = recipe["init_args"]
    assert options["adapter"] == {
        "class_path": "xmodal.vision2audio.RegressionMapper",
        "init_args": {
            "hidden_dim": 16, "expansion": 4.0, "depth": 1, "residual": False, "source_norm": "scaled", "loss": "cosine",
            "scale_target": True,
        },
    }  # fmt: skip
    assert options["generator"] == {"class_path": "xmodal.foundation.audioldm.AudioLDM", "init_args": {"card": "mini"}}
    assert (options["aggregation"], options["seconds"]) == ("middle", 2.5)
    assert "Data: eight random pairs" in (folder / "README.md").read_text()
    pipe = xmodal.pipeline(folder)
    assert pipe.aggregation == "middle"
    assert torch.equal(pipe.mapper(seen), mapper.eval()(seen))
    again = V2AMapper.from_pretrained(folder)
    assert torch.equal(again.adapter(seen), mapper(seen))
    assert find(again.save_pretrained(tmp_path / "again")).recipe == find(folder).recipe


def test_audiotoken_of_ones_own(tmp_path: Path) -> None:
    encoder, generator = BEATs("mini"), StableDiffusion("mini")
    embedder = AudioTokenEmbedder(encoder.width, generator.token_dim, hidden_dim=8)
    task = AudioToken(encoder, generator, embedder, seconds=2.5, short="pad", num_inference_steps=2)
    pipe = xmodal.pipeline(task.save_pretrained(tmp_path / "mine"))
    assert pipe.seconds == 2.5
    assert torch.equal(pipe.encode(BELL), task.pipeline().encode(BELL))
    with pytest.raises(ValueError, match="from size 5 to size 6, but its place is from size 384 to size 128"):
        AudioToken(encoder, generator, AudioTokenEmbedder(5, 6))


def test_what_a_constructor_was_given() -> None:
    adapter = TinyAdapter(3, 2, bias=False)
    assert adapter.constructed_with == {"in_dim": 3, "out_dim": 2, "bias": False}
    for copied in (deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert copied.constructed_with == adapter.constructed_with
        assert list(copied.state_dict()) == ["linear.weight"]

    class Further(TinyAdapter):
        def __init__(self, in_dim: int, out_dim: int, more: int = 1) -> None:
            super().__init__(in_dim, out_dim + more)

    assert Further(3, 2).constructed_with == {"in_dim": 3, "out_dim": 2, "more": 1}
    assert tiny_beats()["BEATs"]().constructed_with is None
    with pytest.raises(TypeError, match="bais"):
        TinyAdapter(3, 2, bais=True)  # type: ignore[call-arg]
    task = TinyTask(TinyEncoder(dim=3), weight=1.0, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    assert section_of(task) == {
        "class_path": "tests.tiny.TinyTask",
        "init_args": {
            "encoder": {"class_path": "tests.tiny.TinyEncoder", "init_args": {"dim": 3, "hidden": 3}},
            "adapter": {"class_path": "tests.tiny.TinyAdapter"},
            "weight": 1.0,
        },
    }


class Changed(Adapter):
    def __init__(self, in_dim: int, out_dim: int, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(in_dim, out_dim) if net is None else net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def parts(**changed: Any) -> TinyTask:
    return TinyTask(**{"encoder": TinyEncoder(), **changed})


def in_a_function() -> type[Adapter]:
    class Local(TinyAdapter):
        pass

    return Local


def test_what_no_recipe_can_name_is_refused(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

    shown = Changed(4, 2)
    shown.net = nn.Linear(4, 2, bias=False)
    local = in_a_function()
    program = type("Tiny", (TinyAdapter,), {"__module__": "__main__"})
    eyes = Eyes()
    cases = {
        "adapter is a Plain, .*derived from xmodal.foundation.base.Adapter": parts(adapter=Plain()),
        "adapter.net is a Linear": parts(adapter=Changed(4, 2, nn.Linear(4, 2))),
        "the adapter has net.bias not at all, but Changed with its options has it": parts(adapter=shown),
        "adapter is a in_a_function.*defined in a function": parts(adapter=local(4, 2)),
        "adapter is a Tiny that is defined in the running program": parts(adapter=program(4, 2)),
        "encoder is a BEATs that was put together in memory": AudioToken(tiny_beats()["BEATs"](), StableDiffusion("mini")),
        "target is <function": V2AMapper(eyes, lambda: Ears(), Voice),
        "generator is functools.partial": V2AMapper(eyes, Ears, partial(Voice, "six")),
    }
    for said, task in cases.items():
        with pytest.raises(ValueError, match=said) as caught:
            task.save_adapter(tmp_path / "x")
        assert "\n" not in str(caught.value)
        assert "set task.recipe" in str(caught.value) or "let its constructor build all of it" in str(caught.value)
    assert not (tmp_path / "x").exists()
