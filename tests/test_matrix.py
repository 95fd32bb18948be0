"""Every combination of registered parts trains one step with tiny parts, or is refused with a reason when it is put together.

Nothing is listed here: a new file under xmodal/foundation joins by existing.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_stable_diffusion
from xmodal.audio2image import AudioToken, AudioTokenEmbedder, MeanPoolEmbedder
from xmodal.foundation.base import Adapter, AudioEncoder, AudioGenerator, ImageEncoder
from xmodal.registry import models as registry
from xmodal.task import Task
from xmodal.vision2audio import DiffusionMapper, LinearMapper, MeanShift, RegressionMapper, V2AMapper

SECONDS = 1.1  # the shortest sound that every encoder hears
MAPPERS = {
    "regression": partial(RegressionMapper, hidden_dim=16),
    "diffusion": partial(DiffusionMapper, width=16, depth=1, heads=2, dim_head=8, num_inference_steps=2),
    "linear": LinearMapper,
    "residual": partial(RegressionMapper, hidden_dim=16, residual=True),
    "mean shift": MeanShift,
}
SAME_SIZE = {"residual", "mean shift"}  # these can only join spaces of one size


def names(contract: type) -> list[str]:
    """``model.Tower`` of all registered towers of a contract."""
    return [
        f"{model}.{kind}"
        for model in registry.available()
        for kind, tower in registry.listing(model).towers.items()
        if tower.contract == contract.__name__
    ]


@cache
def part(name: str) -> Any:
    """The tiny instance of a tower; every combination shares it."""
    model, kind = name.split(".")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return registry.resolve(model).tiny()[kind]()


@cache
def painter() -> Any:
    return tiny_stable_diffusion()


@cache
def seen(name: str) -> Tensor:
    return torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(3))


@cache
def heard(name: str) -> Tensor:
    samples = round(SECONDS * part(name).sample_rate)
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(4)) * 0.1


@cache
def features(name: str) -> Tensor:
    """Embeddings of two clips, computed once for all combinations; that the towers give them is another test's matter."""
    tower = part(name)
    with torch.no_grad():
        return tower.embed(heard(name) if isinstance(tower, AudioEncoder) else seen(name))


def step(task: Task, batch: dict[str, Any]) -> None:
    """One step of training: finite loss and gradients, the adapter moves, what is frozen gets no gradient."""
    task.train()
    optimizer: Any = task.configure_optimizers()
    before = {name: value.clone() for name, value in task.adapter.state_dict().items()}
    loss = torch.stack(list(task.losses(batch).values())).sum()
    loss.backward()
    gradients = [value.grad for value in task.adapter.parameters() if value.grad is not None]
    assert loss.isfinite()
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    optimizer.step()
    assert any(not torch.equal(before[name], value) for name, value in task.adapter.state_dict().items())
    trained = {id(value) for value in task.adapter.parameters()}
    assert not any(value.grad is not None for value in task.parameters() if id(value) not in trained)


def refused(reason: str, build: Any) -> None:
    """Building raises ValueError with a reason in one line."""
    with pytest.raises(ValueError, match=reason) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("adapter", [AudioTokenEmbedder, MeanPoolEmbedder])
@pytest.mark.parametrize("ear", names(AudioEncoder))
def test_audiotoken(ear: str, adapter: type[Adapter]) -> None:
    task = AudioToken(part(ear), painter(), adapter)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    step(task, {"waveform": heard(ear), "pixels": pixels})


def pairs() -> Iterator[Any]:
    for eye in names(ImageEncoder):
        for ear in names(AudioEncoder):
            yield pytest.param(eye, ear, id=f"{eye}-{ear}")


@pytest.mark.parametrize("mapper", MAPPERS)
@pytest.mark.parametrize(("eye", "ear"), pairs())
def test_v2a_mapper(eye: str, ear: str, mapper: str) -> None:
    def build() -> V2AMapper:
        return V2AMapper(part(eye), part(ear), never, MAPPERS[mapper], ema_decay=0.9)

    if mapper in SAME_SIZE and part(eye).dim != part(ear).dim:
        refused(f"from size {part(eye).dim} to size {part(ear).dim}: .*(one width|residual)", build)
        return
    task = build()
    step(task, {"image_embedding": features(eye), "audio_embedding": features(ear)})
    made = task.eval().published.sample(features(eye))
    assert made.shape == (2, part(ear).dim)
    assert torch.allclose(made.norm(dim=1), torch.ones(2), atol=1e-5)


def never() -> AudioGenerator:
    raise AssertionError("training built the generator")


@pytest.mark.parametrize("eye", names(ImageEncoder))
def test_v2a_mapper_from_media(eye: str) -> None:
    """From pixels and waveforms, as one frame and as several, with each way of making one of them."""
    ear = names(AudioEncoder)[0]
    for how in ("mean", "middle", "first", "random", "per_frame"):
        task = V2AMapper(part(eye), part(ear), never, MAPPERS["linear"], aggregation=how)  # type: ignore[arg-type]
        frames = torch.stack([seen(eye), seen(eye).flip(-1)], 1)
        step(task, {"pixels": frames if how != "middle" else seen(eye), "waveform": heard(ear)})


@pytest.mark.parametrize("voice", names(AudioGenerator))
@pytest.mark.parametrize("ear", names(AudioEncoder))
def test_v2a_mapper_with_its_generator(ear: str, voice: str) -> None:
    """A generator that is conditioned on another size is refused before anything is trained; one that fits makes sounds."""

    def build() -> V2AMapper:
        return V2AMapper(part(names(ImageEncoder)[0]), part(ear), part(voice), num_inference_steps=2, seconds=0.3)

    if part(ear).dim != part(voice).cond_dim:
        refused(f"embeddings of size {part(ear).dim}, but the generator is conditioned on size {part(voice).cond_dim}", build)
        return
    pipe = build().eval().pipeline()
    made = pipe(torch.rand(3, 8, 8), candidates=2, generator=[torch.Generator().manual_seed(0)])
    assert made.audios.shape == (1, round(0.3 * made.sampling_rate))


def test_the_matrix_has_rows_and_columns() -> None:
    assert min(len(names(kind)) for kind in (AudioEncoder, ImageEncoder)) >= 4
    fitting = [ear for ear in names(AudioEncoder) for voice in names(AudioGenerator) if part(ear).dim == part(voice).cond_dim]
    assert "clap.AudioTower" in fitting
