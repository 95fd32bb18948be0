"""What V2A-Mapper trains on, saves and loads, and what it does not build."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.rounding import agree
from tests.tiny import build
from tests.vision2audio.parts import DIFFUSION, RATE, Ears, Eyes, Voice, batch, colour, task
from xmodal.adapter_task import AdapterTask
from xmodal.vision2audio import DiffusionMapper, MeanShift, StereoPan, V2AMapper
from xmodal.vision2audio.agreement import Agreement
from xmodal.vision2audio.frames import aggregate
from xmodal.vision2audio.task import promised_dim


class Data(LightningDataModule):
    def __init__(self, items: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__()
        self.items = items or batch()
        vars(self).update(settings)

    def train_dataloader(self) -> DataLoader[Any]:
        rows = [{name: value[index] for name, value in self.items.items()} for index in range(len(self.items["id"]))]
        return DataLoader(rows, batch_size=8)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def trainer(folder: Path, steps: int = 3, **options: Any) -> Trainer:
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(max_steps=steps, max_epochs=-1, default_root_dir=folder, enable_checkpointing=False, **{**settings, **options})


def never() -> Any:
    raise AssertionError("a part was built that is not needed")


def test_features_are_the_two_embeddings() -> None:
    one, items = task(), batch()
    found = one.features(items)
    assert agree(found["image_embedding"], one.encoder.embed(items["pixels"]))
    assert agree(found["audio_embedding"], one.target.embed(items["waveform"]))
    assert one.features({**items, **found}) == {}
    assert agree(one.eval().losses(found)["mapping"], one.losses(items)["mapping"])
    frames = torch.stack([items["pixels"], items["pixels"].roll(1, 1)], 1)
    seen = one.features({**items, "pixels": frames})["image_embedding"]
    assert seen.shape == (8, 2, 5)
    assert torch.allclose(seen[:, 0], found["image_embedding"])
    features = one.frozen_features()
    assert [features[name].inputs for name in ("image_embedding", "audio_embedding")] == [("pixels",), ("waveform",)]


def test_training_learns_and_never_builds_the_generator(tmp_path: Path) -> None:
    one = task(generator=never, optimizer=lambda found: torch.optim.AdamW(found, lr=1e-2))
    before = one.eval().agreement(one.features(batch()))
    fit = trainer(tmp_path, steps=60)
    fit.fit(one.train(), Data())
    after = one.eval().agreement(one.features(batch()))
    assert after["cosine"] > max(0.95, float(before["cosine"]))
    assert after["cosine_shuffled"] < 0.3  # the four pitches are nearly orthogonal
    assert float(fit.callback_metrics["val/cosine"]) == pytest.approx(float(after["cosine"]), abs=0.2)
    with pytest.raises(AssertionError, match="not needed"):
        one.pipeline()


def test_pairs_of_embeddings_train_without_any_tower(tmp_path: Path) -> None:
    """The size comes from the card of the generator; nothing but the mapper is built."""
    items = {"image_embedding": torch.randn(8, 5), "audio_embedding": torch.randn(8, 6), "id": ["a"] * 8}
    kept, built = {name: value.clone() if name != "id" else value for name, value in items.items()}, Voice.built  # type: ignore
    one = task(target=never, generator=partial(Voice, card="six"))
    assert Voice.built == built
    trainer(tmp_path).fit(one, Data(items))
    assert all(torch.equal(items[name], kept[name]) for name in ("image_embedding", "audio_embedding"))  # type: ignore


def test_sizes_that_cards_promise_and_pairs_that_do_not_fit() -> None:
    built = Ears.built, Voice.built
    assert promised_dim(Ears, "dim") == 6
    assert promised_dim(partial(Ears, card="seven"), "dim") == 7
    assert promised_dim(partial(Ears, card="some/path"), "dim") is None
    assert promised_dim(never, "dim") is None
    with pytest.raises(ValueError, match=r"embeddings of size 7, but the generator is conditioned on size 6: take the CLAP"):
        task(target=partial(Ears, card="seven"))
    assert (Ears.built, Voice.built) == built
    assert promised_dim(Voice("seven"), "cond_dim") == 7
    late = task(target=lambda: Ears("seven"))
    with pytest.raises(ValueError, match="size 7, but the mapper was built for size 6"):
        late.losses(batch())
    with pytest.raises(ValueError, match=r"no adapter can be built from size 5 to size 6: MeanShift"):
        task(adapter=MeanShift)
    with pytest.raises(TypeError, match="must make a Mapper, not a Linear"):
        task(adapter=torch.nn.Linear)
    unknown = task(target=lambda: Ears("seven"), generator=lambda: Voice("six"))
    assert unknown.adapter.out_dim == 7
    with pytest.raises(ValueError, match="size 7, but the generator is conditioned on size 6"):
        unknown.pipeline()


def test_sounds_of_another_rate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sounds at 16000 Hz, but the target hears 4000 Hz"):
        trainer(tmp_path).fit(task(), Data(sample_rate=16_000))
    trainer(tmp_path, steps=1).fit(task(), Data(sample_rate=RATE))


@pytest.mark.parametrize("how", ["mean", "middle", "first", "random", "per_frame"])
def test_frames_become_sources(how: Any) -> None:
    frames = torch.arange(24.0).view(2, 3, 4) + 1
    made = aggregate(frames, how, generator=torch.Generator().manual_seed(0))
    expected = {"middle": frames[:, 1], "first": frames[:, 0], "per_frame": frames.flatten(0, 1)}
    if how in expected:
        assert torch.equal(made, expected[how])
    elif how == "mean":
        assert torch.allclose(made, F.normalize(frames, dim=-1).mean(1))
        assert torch.equal(aggregate(frames, how, raw=True), frames.mean(1))
    else:
        assert all(any(torch.equal(row, frame) for frame in clip) for row, clip in zip(made, frames, strict=True))
        drawn = {int(aggregate(frames, how)[0, 0]) for _ in range(40)}
        assert drawn == {1, 5, 9}
    one = task(aggregation=how)
    source, target = one.pairs({"image_embedding": torch.randn(2, 3, 5), "audio_embedding": torch.eye(2, 6)})
    assert source.shape == (len(target), 5)
    assert len(target) == (6 if how == "per_frame" else 2)
    assert torch.equal(target[: len(target) // 2], torch.eye(2, 6)[:1].expand(len(target) // 2, 6))
    assert torch.isfinite(one.losses({"image_embedding": torch.randn(2, 3, 5), "audio_embedding": torch.eye(2, 6)})["mapping"])


def test_validation_is_the_same_each_time_and_leaves_the_random_state(tmp_path: Path) -> None:
    one, items = task(adapter=DIFFUSION, aggregation="random").eval(), batch()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    assert agree(one.losses(items)["mapping"], one.losses(items)["mapping"])
    assert torch.equal(torch.get_rng_state(), state)
    one.train()
    assert not agree(one.losses(items)["mapping"], one.losses(items)["mapping"])


def test_average_follows_its_rule_and_is_what_is_used(tmp_path: Path) -> None:
    one = task(adapter=DIFFUSION, ema_decay=0.5, optimizer=lambda found: torch.optim.SGD(found, lr=0.1))
    start = one.adapter.read_source.weight.detach().clone()
    trainer(tmp_path, steps=1, accumulate_grad_batches=2, limit_val_batches=0).fit(one, Data())
    trained, average = one.adapter.read_source.weight, one.average.read_source.weight  # type: ignore[union-attr]
    assert not agree(trained, start)
    assert torch.allclose(average, start + (1 - min(0.5, 2 / 11)) * (trained - start), atol=1e-6)
    assert not average.requires_grad
    assert one.published is one.average
    assert one.pipeline().mapper is one.average
    assert task().published is not None
    assert task().average is None


def test_exact_keys_of_a_checkpoint_and_the_way_back(tmp_path: Path) -> None:
    one = task(adapter=DIFFUSION, ema_decay=0.9, target=Ears(), generator=Voice())
    fit = trainer(tmp_path)
    fit.fit(one, Data())
    keys = set(one.adapter.state_dict())
    assert set(one.state_dict()) == {f"{part}.{key}" for part in ("adapter", "average") for key in keys}
    fit.save_checkpoint(tmp_path / "a.ckpt")
    parts: dict[str, Any] = {"encoder": Eyes(), "target": Ears, "generator": Voice, "adapter": DIFFUSION, "ema_decay": 0.9}
    again = V2AMapper.from_checkpoint(tmp_path / "a.ckpt", **parts)
    assert all(torch.equal(value, one.state_dict()[name]) for name, value in again.state_dict().items())
    assert set(task().state_dict()) == {f"adapter.{key}" for key in task().adapter.state_dict()}


SECTION = """
class_path: xmodal.vision2audio.V2AMapper
init_args:
  encoder: {class_path: tests.vision2audio.parts.Eyes}
  target: {class_path: tests.vision2audio.parts.Ears, init_args: {card: six}}
  generator: {class_path: tests.vision2audio.parts.Voice, init_args: {card: six}}
  adapter:
    class_path: xmodal.vision2audio.DiffusionMapper
    init_args: {width: 16, depth: 1, heads: 2, dim_head: 8, timesteps: 20, num_inference_steps: 3}
  ema_decay: 0.9
  seconds: 0.1
"""


def test_recipe_builds_only_what_is_needed_and_publishes_the_average(tmp_path: Path) -> None:
    built = Ears.built, Voice.built
    one = build(yaml.safe_load(SECTION), V2AMapper)
    one.recipe = yaml.safe_dump({"model": yaml.safe_load(SECTION)})
    assert (Ears.built, Voice.built) == built
    with torch.no_grad():
        one.average.read_source.weight.fill_(1)  # type: ignore[union-attr]
    folder = one.save_adapter(tmp_path / "mini", dtype=torch.float16)
    assert not torch.equal(one.adapter.read_source.weight, one.average.read_source.weight)  # type: ignore[union-attr]
    assert torch.equal(load_file(folder / "adapter.safetensors")["read_source.weight"], torch.ones(16, 5).half())
    again = AdapterTask.from_folder(folder)
    assert isinstance(again, V2AMapper)
    pipe = again.pipeline()
    assert (Ears.built, Voice.built) == (built[0], built[1] + 1)  # to make sounds, nothing has to hear
    assert torch.equal(pipe.mapper.read_source.weight, torch.ones(16, 5))
    assert again.pipeline().generator is pipe.generator
    assert pipe(colour("red"), candidates=2).audios.shape == (1, 400)
    assert Ears.built == built[0] + 1
    assert again.pipeline().target is pipe.target  # built once for all


def test_predictions_are_written_once_and_depend_on_the_id_alone(tmp_path: Path) -> None:
    one = task(predictions=tmp_path / "sounds", adapter=DIFFUSION).eval()
    items = batch(2)
    paths = one.predict_step(items, 0)
    assert [path.name for path in paths] == ["red-0.wav", "green-1.wav"]
    info = soundfile.info(paths[0])
    assert (info.samplerate, info.frames) == (RATE, 400)
    first, together = paths[0].read_bytes(), soundfile.read(paths[1])[0]
    paths[1].unlink()
    one.predict_step(items, 0)
    assert paths[0].read_bytes() == first
    paths[1].unlink()
    one.predict_step({name: value[1:] for name, value in items.items()}, 0)
    assert abs(soundfile.read(paths[1])[0] - together).max() < 1e-3
    assert sorted(path.name for path in (tmp_path / "sounds").iterdir()) == ["green-1.wav", "red-0.wav"]
    with pytest.raises(ValueError, match="gives no pixels, only id, waveform"):
        one.predict_step({"id": ["z"], "waveform": items["waveform"]}, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "sum"}, "aggregation 'sum' is not one of mean, middle, first, random, per_frame"),
        ({"seconds": 0}, "seconds above 0, not 4 and 0"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay 1.0 is not a share"),
        ({"weights": "nowhere"}, "neither a built-in adapter nor a path"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        task(**options)


class Named(torch.utils.data.Dataset):
    """Pairs of embeddings with names; 11 of them, so that two processes have unlike shares and one clip comes twice."""

    def __init__(self) -> None:
        stream = torch.Generator().manual_seed(0)
        self.one, self.two = torch.randn(11, 5, generator=stream), torch.randn(11, 6, generator=stream)

    def __len__(self) -> int:
        return len(self.one)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image_embedding": self.one[index], "audio_embedding": self.two[index], "id": f"clip-{index}"}


def agreement(devices: int, batch_size: int, **options: Any) -> dict[str, float]:
    torch.manual_seed(0)
    one = task(target=never, generator=partial(Voice, card="six"), **options).eval()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    strategy = "ddp_fork" if devices > 1 else "auto"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    try:
        run = Trainer(accelerator="cpu", devices=devices, strategy=strategy, **quiet)
        (found,) = run.test(one, DataLoader(Named(), batch_size), verbose=False)
    finally:
        torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("drawing", [False, True])
def test_r14_processes_and_batches_do_not_change_the_agreement(drawing: bool) -> None:
    options = {"adapter": DIFFUSION} if drawing else {}
    one = agreement(1, 4, **options)
    for devices, batch_size in ((2, 4), (2, 3), (1, 11), (1, 1)):
        other = agreement(devices, batch_size, **options)
        for name in ("test/cosine", "test/cosine_shuffled"):
            # The mapper itself is float32, and rounds by the batch that a clip is in; sums over clips do not.
            assert other[name] == pytest.approx(one[name], abs=1e-6), (devices, batch_size)


def test_r14_sums_over_processes_are_exact() -> None:
    whole, parts = Agreement(), [Agreement(), Agreement()]
    stream = torch.Generator().manual_seed(0)
    guess, target = torch.randn(11, 6, generator=stream), torch.randn(11, 6, generator=stream)
    whole.update(guess, target, [f"{index}" for index in range(11)])
    for rank, part in enumerate(parts):
        rows = [*range(rank, 11, 2), *([0] if rank else [])]  # a distributed sampler pads with repeats
        for start in range(0, len(rows), 4):
            some = rows[start : start + 4]
            part.update(guess[some], target[some], [f"{index}" for index in some])
    parts[0].merge_state(parts[1])
    expected, found = whole.compute(), parts[0].compute()
    for name in expected:
        assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-12)
    own = torch.nn.functional.cosine_similarity(guess.double(), target.double(), dim=-1).mean()
    assert float(expected["cosine"]) == pytest.approx(float(own), abs=1e-12)


def test_validation_guesses_in_a_few_steps_and_a_test_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int | None] = []
    plain = DiffusionMapper.sample

    def counted(mapper: DiffusionMapper, *arguments: Any, **options: Any) -> Any:
        steps.append(options.get("num_inference_steps"))
        return plain(mapper, *arguments, **options)

    monkeypatch.setattr(DiffusionMapper, "sample", counted)
    items = {"image_embedding": torch.randn(8, 5), "audio_embedding": torch.randn(8, 6), "id": list("abcdefgh")}
    for default, expected in ((12, 8), (3, 3)):
        one = task(adapter=partial(DIFFUSION, num_inference_steps=default))
        trainer(tmp_path).validate(one, Data(items), verbose=False)
        assert set(steps) == {expected}
        steps.clear()
        trainer(tmp_path).test(one, Data(items).val_dataloader(), verbose=False)
        assert set(steps) == {None}
        steps.clear()
    stereo = task(adapter=partial(StereoPan, mapper=partial(DIFFUSION, num_inference_steps=12)))
    assert stereo.adapter.quick == {"num_inference_steps": 8}
    assert task().adapter.quick == {}
