"""What CLIPSonic trains on, saves and loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.rounding import agree
from tests.text2audio.parts import MEL, UNET, Eyes, Guess, Reader, batch, task
from xmodal.adapter_task import AdapterTask
from xmodal.foundation.base import AudioEncoder
from xmodal.foundation.mel import log_mel
from xmodal.foundation.vocoder import GriffinLim
from xmodal.text2audio import CLIPSonic


class Pairs(Dataset[dict[str, Any]]):
    def __init__(self) -> None:
        self.items = batch(8)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: value[index] for name, value in self.items.items()}


class Data(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Pairs(), batch_size=4)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Pairs(), batch_size=4)


def trainer(folder: Path, steps: int = 3, **options: Any) -> Trainer:
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(max_steps=steps, default_root_dir=folder, enable_checkpointing=False, **{**settings, **options})


def test_features_are_conditions_and_log_mels() -> None:
    one, items = task(), batch()
    found = one.features(items)
    assert set(found) == {"condition", "mel"}
    assert agree(found["condition"], one.encoder.embed(items["pixels"]))
    assert found["mel"].shape == (4, 14, 32)  # 0.512 s: whole frames
    padded = F.pad(items["waveform"], (0, 48))
    assert agree(found["mel"], log_mel(padded, MEL))
    assert one.features({**items, **found}) == {}


def test_stored_features_give_the_same_loss() -> None:
    one, items = task().eval(), batch()
    stored = {name: items[name] for name in ("name",)} | one.features(items)
    assert agree(one.losses(stored)["denoising"], one.losses(items)["denoising"])


def test_feature_names_what_its_numbers_depend_on() -> None:
    features = task().frozen_features()
    assert features["mel"].options["mel"] == MEL.to_dict()
    assert [features[name].inputs for name in ("condition", "mel")] == [("pixels",), ("waveform",)]


def test_text_never_enters_the_generators_training(tmp_path: Path) -> None:
    """Neither the text tower nor the prior is built by fit, and other texts in the batch leave every weight the same."""

    def never() -> Any:
        raise AssertionError("a text part was built")

    weights = []
    for names in (["red", "green"], ["a storm", ""]):
        data = Data()
        pairs = Pairs()
        pairs.items["name"] = names * 4
        data.train_dataloader = lambda pairs=pairs: DataLoader(pairs, batch_size=4)  # type: ignore[method-assign]
        # Plain descent: Adam divides by the gradient and would turn the rounding of a small one into a whole step.
        one = task(text_encoder=never, prior=never, optimizer=lambda found: torch.optim.SGD(found, lr=0.1))
        torch.manual_seed(1)
        trainer(tmp_path, limit_val_batches=0).fit(one, data)
        weights.append(one.adapter.state_dict())
    assert all(agree(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(AssertionError, match="a text part was built"):
        one.pipeline()


def test_training_learns_and_moves_the_average(tmp_path: Path) -> None:
    one = task(optimizer=lambda found: torch.optim.AdamW(found, lr=3e-3), condition_dropout=0.1, ema_decay=0.9)
    one.eval()
    before, start = one.losses(batch())["denoising"], [value.clone() for value in one.average.parameters()]
    one.train()
    trainer(tmp_path, steps=40, max_epochs=-1, limit_val_batches=0).fit(one, Data())
    one.eval()
    assert one.losses(batch())["denoising"] < 0.6 * before
    trained, average = list(one.adapter.parameters()), list(one.average.parameters())
    moved = sum((a - b).square().sum() for a, b in zip(average, start, strict=True))
    behind = sum((a - b).square().sum() for a, b in zip(average, trained, strict=True))
    assert 0 < behind < moved
    assert not any(parameter.requires_grad for parameter in average)


def test_average_follows_its_rule_once_per_optimizer_step(tmp_path: Path) -> None:
    one = task(optimizer=lambda found: torch.optim.SGD(found, lr=0.1), condition_dropout=0.0, ema_decay=0.5)
    start = one.adapter.read[0].weight.detach().clone()
    trainer(tmp_path, steps=1, accumulate_grad_batches=2, limit_val_batches=0).fit(one, Data())
    share = 1 - min(0.5, 2 / 11)  # the decay after the first step
    expected = start + share * (one.adapter.read[0].weight - start)
    assert torch.allclose(one.average.read[0].weight, expected, atol=1e-6)
    assert not agree(one.adapter.read[0].weight, start)


def test_dropout_and_noise_only_in_training() -> None:
    one, items = task(condition_dropout=0.5, condition_noise=0.5), batch()
    one.eval()
    assert agree(one.losses(items)["denoising"], one.losses(items)["denoising"])
    seen: list[Any] = []
    prepare = one.adapter.prepare
    one.adapter.prepare = lambda condition, keep=None: seen.append((condition, keep)) or prepare(condition, keep)  # type: ignore
    one.train()
    torch.manual_seed(0)
    for _ in range(20):
        one.losses(items)
    kept = torch.stack([keep for _, keep in seen]).float().mean()
    assert 0.3 < kept < 0.7
    clean = F.normalize(one.encoder.embed(items["pixels"]), dim=-1)
    lengths = torch.stack([(condition - clean).norm(dim=1) for condition, _ in seen])
    assert lengths.mean() == pytest.approx(0.5, abs=0.1)  # of the noise, whatever the width


def test_exact_keys_of_a_checkpoint_and_the_way_back(tmp_path: Path) -> None:
    one = task()
    trainer(tmp_path).fit(one, Data())
    keys = set(one.adapter.state_dict())
    assert set(one.state_dict()) == {f"{part}.{key}" for part in ("adapter", "average") for key in keys}
    fit = trainer(tmp_path)
    fit.strategy.connect(one)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    parts = {"encoder": one.encoder, "vocoder": one.vocoder, "adapter": UNET, "seconds": 0.5}
    again = CLIPSonic.from_checkpoint(tmp_path / "a.ckpt", **parts)
    assert torch.equal(again.average.null, one.average.null)
    other = GriffinLim(iterations=1)
    with pytest.raises((ValueError, RuntimeError), match="64"):
        CLIPSonic.from_checkpoint(tmp_path / "a.ckpt", **{**parts, "vocoder": other})


SECTION = """
class_path: xmodal.text2audio.CLIPSonic
init_args:
  encoder: {class_path: tests.text2audio.parts.Eyes}
  vocoder: {class_path: xmodal.foundation.vocoder.GriffinLim, init_args: {mel: miniature, iterations: 1}}
  adapter:
    class_path: xmodal.text2audio.MelUNet
    init_args: {preset: mini, channels: [16, 16], attention: [false, true], head: 16, groups: 8}
  prior: {class_path: tests.text2audio.parts.Guess}
  seconds: 0.3
"""


def test_recipe_builds_the_prior_only_when_used_and_publishes_the_average(tmp_path: Path) -> None:
    from tests.tiny import build

    one = build(yaml.safe_load(SECTION), CLIPSonic)
    one.recipe = yaml.safe_dump({"model": yaml.safe_load(SECTION)})
    assert not isinstance(one._prior, Guess)
    with torch.no_grad():
        one.average.null += 1
    folder = one.save_adapter(tmp_path / "mini", dtype=torch.float16)
    assert torch.equal(one.adapter.null, torch.zeros(6))
    again = AdapterTask.from_folder(folder)
    assert isinstance(again, CLIPSonic)
    assert torch.equal(again.adapter.null, torch.ones(6))
    assert torch.equal(again.average.null, torch.ones(6))
    pipe = again.pipeline()
    assert isinstance(pipe.prior, Guess)
    assert again.pipeline().prior is pipe.prior
    other = Guess()
    assert AdapterTask.from_folder(folder, prior=other).pipeline().prior is other


class Ears(AudioEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.dim, self.sample_rate, self.width = 6, 2_000, 6

    def embed(self, inputs: Tensor) -> Tensor:
        assert inputs.shape[1] == 1_000
        return inputs[:, :6]

    def tokens(self, waveform: Tensor) -> Tensor:
        return waveform[:, None, :6]


def test_supervised_baselines_read_the_label_and_ears_hear_at_their_own_rate() -> None:
    eyes = Eyes()
    reader = Reader(eyes)
    supervised, items = task(encoder=reader, template="the sound of {}"), batch()
    assert set(supervised.frozen_features()) == {"mel"}
    assert supervised.texts({"name": ["dog_barking"]}) == ["the sound of dog barking"]
    assert agree(supervised.condition(items), reader.embed(items["name"]))
    assert torch.isfinite(supervised.losses(items)["denoising"])
    captions = task(encoder=reader, text="caption")
    assert captions.texts({"caption": ("a {} red",)}) == ["a {} red"]
    with pytest.raises(ValueError, match="the batch holds no 'caption'"):
        captions.losses(items)
    heard = task(encoder=Ears())
    assert heard.features(items)["condition"].shape == (4, 6)


def test_predictions_are_written_once_and_depend_on_the_id_alone(tmp_path: Path) -> None:
    import soundfile

    one = task(predictions=tmp_path / "sounds", num_inference_steps=2, text_encoder=Reader(Eyes())).eval()
    items = {**batch(2), "id": ["a", "b"]}
    paths = one.predict_step(items, 0)
    first, together = paths[0].read_bytes(), soundfile.read(paths[0])[0]
    assert soundfile.info(paths[0]).samplerate == 4_000
    assert soundfile.info(paths[0]).frames == 2_000
    (tmp_path / "sounds" / "b.wav").unlink()
    one.predict_step(items, 0)
    assert paths[0].read_bytes() == first
    paths[0].unlink()
    one.predict_step({name: value[:1] for name, value in items.items()}, 0)
    assert np.allclose(soundfile.read(paths[0])[0], together, atol=1e-2)
    (tmp_path / "sounds" / "a.wav").unlink()
    with pytest.raises(ValueError, match="the data gives none"):
        one.predict_step({"id": ["a"], "name": ["red"]}, 0)
    one.query = "text"
    assert one.predict_step({"id": ["a"], "name": ["red"]}, 0)[0].exists()


def test_predictions_read_what_the_query_needs() -> None:
    eyes = Eyes()
    assert task().predict_inputs == task(query="image").predict_inputs == ("pixels",)
    assert task(query="text").predict_inputs == task(query="prior").predict_inputs == ()
    assert task(encoder=Reader(eyes)).predict_inputs == task(encoder=Ears()).predict_inputs == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "x"}, "exactly one {}"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"condition_dropout": 1.0}, "condition_dropout 1.0 is not a share"),
        ({"condition_noise": -1.0}, "at least 0"),
        ({"mel_high": -20.0}, "must rise"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_longer_sounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sounds of 0\.75 s at 4000 Hz, but the task is for 0\.5 s"):
        task().losses({**batch(), "waveform": torch.zeros(4, 3_000)})
