"""The wider VAE, the deeper decoder, the painter: what they begin as, what CLIP tells them, and that what is written loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC
from lightning.pytorch import Trainer
from torch import Tensor

from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.miniature import world
from xmodal.miniature.data import World
from xmodal.miniature.training import TrainDecoder, TrainDiffusion, TrainWiderVAE, pictures
from xmodal.miniature.training.autoencoders import seen_apart
from xmodal.miniature.training.pictures import _edges
from xmodal.miniature.training.zoo import autoencoder

WEIGHTS = Path(world.__file__).parent / "weights" / "stable_diffusion"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "stable_diffusion"))


def read_vae(folder: Path) -> Any:
    return AutoencoderDC.from_pretrained(folder / "vae", torch_dtype=torch.float32, low_cpu_mem_usage=False)


def decoder(folder: Path, **options: Any) -> TrainDecoder:
    torch.manual_seed(0)
    return TrainDecoder(output=folder, painter=folder, optimizer=lambda rows: torch.optim.AdamW(rows, 1e-3), **options)


def test_further_blocks_begin_as_the_identity(folder: Path) -> None:
    before = read_vae(folder)
    layers = [count + 1 if level else 0 for level, count in enumerate(before.config["decoder_layers_per_block"])]
    after: Any = decoder(folder, layers_per_block=layers).net["vae"]
    assert sum(p.numel() for p in after.decoder.parameters()) > sum(p.numel() for p in before.decoder.parameters())
    latents = torch.randn(2, before.config.latent_channels, 16, 16)
    with torch.no_grad():
        assert torch.allclose(after.decode(latents).sample, before.decode(latents).sample, atol=1e-5)


def test_a_decoder_is_written_under_the_same_encoder(folder: Path) -> None:
    before = read_vae(folder)
    task = decoder(folder, adversarial=0.1)
    data = World(["pixels"], ["pixels", "full_caption"], train_count=16, val_count=8, batch_size=8)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, **quiet).fit(task, data)
    written = read_vae(folder)
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(written.encoder.state_dict()[name], value), name
    assert written.config["scaling_factor"] == before.config["scaling_factor"]
    assert str(folder) not in (folder / "vae" / "config.json").read_text()
    assert not torch.equal(written.decoder.conv_in.weight, before.decoder.conv_in.weight)
    painter = StableDiffusion(str(folder))
    states = painter.prompt_embeds(["a dog", "a bell"])
    assert painter.generate(states, states, 2, 2.0, torch.Generator().manual_seed(0)).shape == (2, 3, 64, 64)


def test_what_is_painted_is_nearer_the_less_was_hidden(folder: Path) -> None:
    clips = World(["pixels", "full_caption"], train_count=8).clips("train", ("pixels", "full_caption"))
    batch = {
        "pixels": torch.stack([clips[i]["pixels"] for i in range(8)]),
        "full_caption": [clips[i]["full_caption"] for i in range(8)],
    }
    apart = []
    for strength in (0.2, 0.9):
        made = decoder(folder, strength=(strength, strength)).features(batch)
        apart.append((made["painted"] - made["latents"]).square().mean().item())
    assert 0 < apart[0] < apart[1] < 2  # latents of other pictures are some 2 apart


def test_the_critic_and_the_decoder_learn_from_their_own_words(folder: Path) -> None:
    task = decoder(folder, adversarial=1.0).train()
    latents, painted = torch.randn(2, 2, read_vae(folder).config.latent_channels, 16, 16)
    batch = {"pixels": torch.rand(2, 3, 64, 64), "latents": latents, "painted": painted}
    terms = task.losses(batch)
    parts: Any = task.net

    def reached(term: str, part: torch.nn.Module) -> bool:
        rows = [weight for weight in part.parameters() if weight.requires_grad]
        return any(g is not None for g in torch.autograd.grad(terms[term], rows, retain_graph=True, allow_unused=True))

    vae = parts["vae"]
    for term, own, other in (("critic", parts["critic"], vae.decoder), ("adversarial", vae.decoder, parts["critic"])):
        assert reached(term, own), term
        assert not reached(term, other), term


def test_clip_tells_the_decoder_what_a_picture_shows(folder: Path) -> None:
    clips = World(["pixels", "full_caption"], train_count=8).clips("train", ("pixels", "full_caption"))
    pixels = torch.stack([clips[i]["pixels"] for i in range(8)])
    task = decoder(folder, perceptual=2.0, painted=0.0).train()
    made = task.features({"pixels": pixels})
    assert set(made) == {"latents", "seen"}  # nothing is painted where none of it is asked for
    terms = task.losses({"pixels": pixels, **made})
    vae: Any = task.net["vae"]
    assert all(grad is not None for grad in torch.autograd.grad(terms["perceptual"], list(vae.decoder.parameters())))
    assert not any(weight.requires_grad for weight in task.eyes.parameters())
    assert not any("eyes" in name for name, _ in task.trained.named_parameters())
    near, far = ((pixels + 0.02).clamp(0, 1), pixels.roll(1, 0))
    apart = [seen_apart(task.eyes.patches(other), made["seen"]).item() for other in (pixels, near, far)]
    assert apart[0] == pytest.approx(0, abs=1e-5)
    assert 0 < 5 * apart[1] < apart[2] < 4


def test_clip_tells_the_painter_where_its_guess_shows_something_else() -> None:
    torch.manual_seed(0)
    clips = World(["pixels"], train_count=8).clips("train", ("pixels",))
    pixels = torch.stack([clips[i]["pixels"] for i in range(8)])
    task = TrainDiffusion(
        output=Path("unused"), vae=WEIGHTS / "vae", perceptual=1.0, optimizer=lambda rows: torch.optim.AdamW(rows, 1e-3)
    ).train()
    made = task.features({"pixels": pixels})
    latents, seen = made["latents"], made["seen"]
    noise, timesteps = torch.randn_like(latents), torch.tensor([50, 100, 200, 300, 400, 500, 900, 999])
    noisy = task.scheduler.add_noise(latents, noise, timesteps)
    truth = task.scheduler.get_velocity(latents, noise, timesteps)
    assert task._unlike(seen, noisy, timesteps, truth).item() == pytest.approx(0, abs=1e-4)
    other = task.scheduler.get_velocity(latents.roll(1, 0), noise, timesteps)
    assert task._unlike(seen, noisy, timesteps, other) > 0.1
    hidden = truth.clone()
    hidden[6:] = other[6:]  # under so much noise a guess is no picture yet
    assert task._unlike(seen, noisy, timesteps, hidden).item() == pytest.approx(0, abs=1e-4)
    assert task._unlike(seen[6:], noisy[6:], timesteps[6:], other[6:]) == 0  # not the mean of nothing

    batch = {"caption": ["a bell"] * 8, "factors": torch.zeros(8, len(world.FACTORS), dtype=torch.long), **made}
    terms = task.losses(batch)
    assert set(terms) == {"denoising", "reading", "perceptual"}
    parts: Any = task.net
    last = parts["unet"].conv_out.weight
    assert torch.autograd.grad(terms["perceptual"], last)[0].abs().sum() > 0
    assert not any(weight.requires_grad for frozen in (task.eyes, task.vae) for weight in frozen.parameters())
    assert not any("eyes" in name or "vae" in name for name, _ in task.trained.named_parameters())


def test_edges_say_where_something_is_drawn() -> None:
    pixels = torch.full((2, 3, 64, 64), 0.2)
    pixels[0, :, 8:16, 8:16] = 0.9  # small
    pixels[1, :, 8:56, 8:56] = 0.9  # large
    edges = _edges(pixels, 16)
    assert edges.shape == (2, 1, 16, 16)
    assert torch.allclose(edges.mean((2, 3)), torch.ones(2, 1))
    assert edges[0, 0, 3, 3] > 2 * edges[1, 0, 3, 3] > 2  # the same corner: the less there is else, the more it counts
    assert edges[0, 0, 10:, 10:].max() < 1e-3
    assert _edges(torch.full((1, 3, 64, 64), 0.5), 16).max() == 0  # nothing there: no division by it


def test_details_count_where_the_noise_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    clips = World(["pixels"], train_count=8).clips("train", ("pixels",))
    pixels = torch.stack([clips[i]["pixels"] for i in range(8)])
    adam = lambda rows: torch.optim.AdamW(rows, 1e-3)  # noqa: E731
    task = TrainDiffusion(output=Path("unused"), vae=WEIGHTS / "vae", detail=0.5, optimizer=adam)
    batch = {"caption": ["a bell"] * 8, "factors": torch.zeros(8, len(world.FACTORS), dtype=torch.long)}
    batch |= task.features({"pixels": pixels})
    parts: Any = task.published
    wrong = batch["edges"] > 1  # the error is 1 where something is drawn, 0 elsewhere

    def loss(timestep: int, detail: float) -> float:
        task.detail = detail
        drawn: dict[str, Tensor] = {}

        def noised(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
            drawn["target"] = task.scheduler.get_velocity(latents, noise, timesteps)
            return latents

        monkeypatch.setattr(pictures, "draw_timesteps", lambda *given: torch.full((8,), timestep))
        monkeypatch.setattr(task.scheduler, "add_noise", noised)
        answer = lambda *given: SimpleNamespace(sample=drawn["target"] + wrong)  # noqa: E731
        monkeypatch.setattr(parts["unet"], "forward", answer)
        return task.eval().losses(batch)["denoising"].item()

    area = wrong.float().mean().item()
    assert loss(999, 0.0) == loss(999, 0.5) == pytest.approx(area, rel=1e-4)  # all is hidden
    assert loss(0, 0.0) == pytest.approx(area, rel=1e-4)
    share = (batch["edges"] * wrong).mean().item()
    assert loss(0, 0.5) == pytest.approx((area + share) / 2, rel=1e-2)
    assert share > 2 * area


def test_a_painter_trained_on_begins_as_the_one_that_was_exported(tmp_path: Path) -> None:
    shipped = StableDiffusion(str(WEIGHTS))
    options: dict[str, Any] = {"vae": WEIGHTS / "vae", "optimizer": lambda rows: torch.optim.AdamW(rows, 1e-3)}
    options["layers_per_block"] = shipped.unet.config.layers_per_block
    task = TrainDiffusion(output=tmp_path / "painter", weights=WEIGHTS, **options)
    for net in (task.net, task.published):
        parts: Any = net
        for name in ("text_encoder", "unet"):
            trained = getattr(shipped, name).state_dict()
            assert all(torch.equal(value, trained[key]) for key, value in parts[name].state_dict().items()), name
    with pytest.raises(ValueError, match="unet has other sizes than the recipe"):
        TrainDiffusion(output=tmp_path / "painter", weights=WEIGHTS, block_out_channels=(32, 96, 160), **options)
    written = tmp_path / "written"
    task.export(task.published, written)
    shutil.copytree(WEIGHTS / "vae", written / "vae")
    for painter in (StableDiffusion(str(written)), shipped):
        assert painter.default_scheduler().config.algorithm_type == "sde-dpmsolver++"
        assert painter.noise_scheduler.alphas_cumprod[-1] == 0  # pure noise
        assert not painter.noise_scheduler.config.clip_sample


def test_further_blocks_of_the_painter_begin_as_the_identity(tmp_path: Path) -> None:
    adam = lambda rows: torch.optim.AdamW(rows, 1e-3)  # noqa: E731
    options: dict[str, Any] = {"output": tmp_path, "vae": WEIGHTS / "vae", "weights": WEIGHTS, "optimizer": adam}
    shipped = StableDiffusion(str(WEIGHTS)).unet
    assert shipped.config.layers_per_block == [3, 1, 1]
    noisy = torch.randn(2, shipped.config.in_channels, 16, 16)
    given = (noisy, torch.tensor([10, 900]), torch.randn(2, 5, 128))
    for changed in ({"layers_per_block": (4, 1, 2)}, {"attention": (True, True, True)}):
        parts: Any = TrainDiffusion(**{**options, "layers_per_block": (3, 1, 1), **changed}).net
        unet = parts["unet"]
        assert sum(p.numel() for p in unet.parameters()) > sum(p.numel() for p in shipped.parameters())
        answer = unet(*given).sample
        with torch.no_grad():
            assert torch.allclose(answer, shipped(*given).sample, atol=1e-5)
        new = [weight for name, weight in unet.named_parameters() if name not in shipped.state_dict()]
        grads = torch.autograd.grad(answer.square().mean(), new, allow_unused=True)
        assert sum(grad is not None and bool(grad.abs().sum() > 0) for grad in grads) > 4  # they can learn
    for changed in ({"attention": (False, True), "block_out_channels": (48, 96)}, {"layers_per_block": 0}):
        with pytest.raises(ValueError, match="unet has other sizes than the recipe"):
            TrainDiffusion(**options, **changed)


def wider(folder: Path, **options: Any) -> TrainWiderVAE:
    torch.manual_seed(0)
    # A step of Adam moves every weight by the rate, whatever the loss: two of them shall not hide the tie.
    adam = lambda rows: torch.optim.AdamW(rows, 2e-4)  # noqa: E731
    return TrainWiderVAE(output=folder, vae=folder / "vae", optimizer=adam, **options)


def test_a_wider_vae_begins_as_the_narrow_one(tmp_path: Path) -> None:
    torch.manual_seed(1)
    autoencoder((16, 32, 64), (0, 1, 2), 4).save_pretrained(tmp_path / "vae")  # with its shortcuts, as vae.yaml trains it
    narrow: Any = read_vae(tmp_path)
    assert narrow.config.encoder_out_shortcut
    assert narrow.config.decoder_in_shortcut
    vae: Any = wider(tmp_path, channels=3).net
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        known, latents = narrow.encode(pixels).latent, vae.encode(pixels).latent
        assert latents.shape == (2, 7, 16, 16)
        assert torch.allclose(latents[:, :4], known, atol=1e-5)
        assert latents[:, 4:].std() > 0.01  # there is something to learn from
        assert torch.allclose(vae.decode(latents).sample, narrow.decode(known).sample, atol=1e-5)
    with pytest.raises(ValueError, match="channels is 0, but expected"):
        wider(tmp_path, channels=0)


def test_a_wider_vae_is_tied_to_the_narrow_one_and_written_for_its_painter(folder: Path) -> None:
    narrow = read_vae(folder)
    known = narrow.config.latent_channels
    task = wider(folder, channels=2, perceptual=1.0).train()
    data = World(["pixels"], ["pixels"], train_count=16, val_count=8, batch_size=8)
    pixels = torch.stack([clip["pixels"] for clip in (data.clips("train", ("pixels",))[i] for i in range(8))])
    terms = task.losses({"pixels": pixels, **task.features({"pixels": pixels})})
    assert set(terms) == {"l2", "l1", "edges", "tie", "shrink", "perceptual"}
    assert terms["tie"].item() == pytest.approx(0, abs=1e-6)
    vae: Any = task.net
    (grad,) = torch.autograd.grad(sum(terms.values()), vae.decoder.conv_in.weight)  # type: ignore[arg-type]
    assert grad[:, known:].abs().sum() > 0  # the decoder begins to listen to what is new
    assert not any("narrow" in name or "eyes" in name for name, _ in task.trained.named_parameters())

    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, **quiet).fit(task, data)
    written = read_vae(folder)
    assert written.config.latent_channels == known + 2
    assert written.config.scaling_factor == narrow.config.scaling_factor
    with torch.no_grad():
        latents = written.encode(pixels * 2 - 1).latent
        assert (latents[:, :known] - narrow.encode(pixels * 2 - 1).latent).abs().mean() < 0.1 * latents[:, :known].std()

    adam = lambda rows: torch.optim.AdamW(rows, 1e-3)  # noqa: E731
    shipped = StableDiffusion(str(WEIGHTS))
    layers = shipped.unet.config.layers_per_block
    painter: Any = TrainDiffusion(output=folder, vae=folder / "vae", weights=folder, layers_per_block=layers, optimizer=adam).net
    noisy, timesteps, states = torch.randn(2, known + 2, 16, 16), torch.tensor([10, 900]), torch.randn(2, 5, 128)
    with torch.no_grad():
        told = painter["unet"](noisy, timesteps, states).sample
        expected = shipped.unet(noisy[:, :known], timesteps, states).sample
    assert torch.allclose(told[:, :known], expected, atol=1e-5)
    assert not told[:, known:].any()
