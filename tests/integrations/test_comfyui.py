"""The nodes for ComfyUI, against stand-ins of its interface: their schemas, their results in its own shapes, what they refuse."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import xmodal

PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
# What the inputs of comfy_api.latest take, of what nodes commonly give: name -> options.
SHARED = {"id", "display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link", "advanced"}
WIDGET = SHARED | {"default", "socketless", "force_input"}
NUMBER = WIDGET | {"min", "max", "step", "display_mode"}
INPUTS = {"Audio": SHARED, "Image": SHARED, "Clip": SHARED, "Conditioning": SHARED, "Float": NUMBER | {"round"}}
INPUTS |= {"Int": NUMBER | {"control_after_generate"}, "String": WIDGET | {"multiline", "placeholder", "dynamic_prompts"}}
SCHEMA = {"node_id", "display_name", "category", "description", "inputs", "outputs"}


class Part:
    """An input or an output, which takes what the real one takes."""

    def __init__(self, kind: str, known: set[str]) -> None:
        self.kind, self.known = kind, known

    def __call__(self, id: str | None = None, **options: Any) -> SimpleNamespace:
        assert options.keys() <= self.known, f"{self.kind} has no {options.keys() - self.known}"
        return SimpleNamespace(kind=self.kind, id=id, options=options)


def schema(**options: Any) -> SimpleNamespace:
    assert options.keys() <= SCHEMA
    return SimpleNamespace(**options)


def stand_ins(interrupted: list[bool]) -> dict[str, ModuleType]:
    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(content)
        return made

    kinds = {
        name: SimpleNamespace(Input=Part(name, known), Output=Part(name, {"display_name", "tooltip", "is_output_list"}))
        for name, known in INPUTS.items()
    }
    io = SimpleNamespace(ComfyNode=object, Schema=schema, NodeOutput=lambda *made: SimpleNamespace(result=made), **kinds)

    def throw() -> None:
        if interrupted:
            raise InterruptedError

    bar = SimpleNamespace(update_absolute=lambda done, total: None)
    management = module(
        "comfy.model_management",
        get_torch_device=lambda: torch.device("cpu"),
        throw_exception_if_processing_interrupted=throw,
    )
    utils = module("comfy.utils", ProgressBar=lambda total: bar)
    latest = module("comfy_api.latest", ComfyExtension=object, io=io)
    return {
        "comfy_api": module("comfy_api", latest=latest), "comfy_api.latest": latest, "comfy.utils": utils,
        "comfy.model_management": management, "comfy": module("comfy", model_management=management, utils=utils),
    }  # fmt: skip


@pytest.fixture
def interrupted() -> list[bool]:
    return []


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, interrupted: list[bool]) -> Iterator[dict[str, Any]]:
    """The nodes by their ids, loaded from the folder as ComfyUI loads it."""
    for name, made in stand_ins(interrupted).items():
        monkeypatch.setitem(sys.modules, name, made)
    spec = importlib.util.spec_from_file_location("custom_xmodal", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "custom_xmodal", pack)
    spec.loader.exec_module(pack)
    found = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    yield {each.define_schema().node_id: each for each in found}
    sys.modules.pop("custom_xmodal.nodes", None)


def defaults(node: Any) -> dict[str, Any]:
    return {each.id: each.options["default"] for each in node.define_schema().inputs if "default" in each.options}


def test_schemas(nodes: dict[str, Any]) -> None:
    assert {name: [each.kind for each in node.define_schema().outputs] for name, node in nodes.items()} == {
        "XmodalSoundToConditioning": ["Conditioning"],
        "XmodalPictureToSound": ["Audio"],
        "XmodalTextToSound": ["Audio"],
    }
    for node in nodes.values():
        shape = node.define_schema()
        names = node.execute.__code__.co_varnames[1 : node.execute.__code__.co_argcount]
        assert [each.id for each in shape.inputs] == [*names]
        assert shape.category == "xmodal"


def test_loading_the_pack_imports_no_model() -> None:
    code = (
        "import sys; sys.path.insert(0, 'integrations'); from types import ModuleType as M, SimpleNamespace as S\n"
        "latest = M('comfy_api.latest'); latest.ComfyExtension = object; latest.io = S(ComfyNode=object)\n"
        "sys.modules |= {'comfy_api': M('comfy_api'), 'comfy_api.latest': latest}\n"
        "import comfyui; sys.exit(bool({'torch', 'xmodal', 'comfy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PACK.parents[1], check=False).returncode == 0


def test_a_sound_is_a_conditioning(nodes: dict[str, Any]) -> None:
    node = nodes["XmodalSoundToConditioning"]
    waveform = torch.randn(2, 2, 48_000, generator=torch.Generator().manual_seed(0)).mul(0.1)
    audio = {"waveform": waveform, "sample_rate": 16_000}
    ((conditioning,),) = [node.execute(audio, **defaults(node)).result]
    ((embeds, options),) = conditioning
    pipe = xmodal.pipeline("audiotoken-mini")
    assert embeds.shape == (2, pipe.generator.max_length, pipe.generator.token_dim)
    assert options == {}
    # The very embeddings that the pipeline paints from.
    words = pipe.encode(list(waveform), 16_000)
    with torch.no_grad():
        expected = pipe.generator.prompt_embeds(["a photo of {}"] * 2, words)
    torch.testing.assert_close(embeds, expected)
    assert not torch.allclose(embeds[0], embeds[1])


def test_the_clip_of_a_checkpoint_is_compared(nodes: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    node = nodes["XmodalSoundToConditioning"]
    audio = {"waveform": torch.randn(1, 1, 48_000).mul(0.1), "sample_rate": 16_000}
    with torch.no_grad():
        own = xmodal.pipeline("audiotoken-mini").generator.prompt_embeds([""])

    def clip(embeds: torch.Tensor) -> Any:
        encode: Callable[..., Any] = lambda tokens, return_pooled: (embeds, None)  # noqa: E731
        return SimpleNamespace(tokenize=lambda text: text, encode_from_tokens=encode)

    node.execute(audio, **defaults(node), clip=clip(own))
    assert not caplog.records
    node.execute(audio, **defaults(node), clip=clip(-own))
    assert "200 % apart" in caplog.text
    with pytest.raises(ValueError, match=r"\(77, 768\), the adapter's"):
        node.execute(audio, **defaults(node), clip=clip(torch.zeros(1, 77, 768)))


def test_pictures_and_texts_sound(nodes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, read = nodes["XmodalPictureToSound"], nodes["XmodalTextToSound"]
    pictures = torch.rand(2, 64, 48, 3, generator=torch.Generator().manual_seed(0))
    (two,) = seen.execute(pictures, **{**defaults(seen), "steps": 2, "seed": 5}).result
    assert two["waveform"].shape[:2] == (2, 1)
    assert two["waveform"].shape[2] > two["sample_rate"] * 2
    (one,) = seen.execute(pictures[:1], **{**defaults(seen), "steps": 2, "seed": 5}).result
    torch.testing.assert_close(one["waveform"], two["waveform"][:1], atol=1e-3, rtol=1e-2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bell.png").write_text("reading this as a picture fails")
    (made,) = read.execute(**{**defaults(read), "text": "bell.png", "steps": 2}).result
    assert made["waveform"].shape[:2] == (1, 1)


def test_refusals_and_stops(nodes: dict[str, Any], interrupted: list[bool]) -> None:
    read, heard = nodes["XmodalTextToSound"], nodes["XmodalSoundToConditioning"]
    with pytest.raises(ValueError, match="makes audio of image, video: this node needs audio of text"):
        read.execute(**{**defaults(read), "adapter": "v2a-mini"})
    with pytest.raises(ValueError, match="the text is empty"):
        read.execute(**{**defaults(read), "text": " "})
    with pytest.raises(OSError, match="not on this machine"):
        read.execute(**{**defaults(read), "adapter": "nobody/nothing-of-this-name"})
    audio = {"waveform": torch.zeros(1, 1, 48_000), "sample_rate": 16_000}
    with pytest.raises(ValueError, match="silent"):
        heard.execute(audio, **defaults(heard))
    with pytest.raises(ValueError, match="exactly one"):
        heard.execute(audio, **{**defaults(heard), "prompt": "a bell"})
    interrupted.append(True)
    with pytest.raises(InterruptedError):
        read.execute(**{**defaults(read), "steps": 2})
