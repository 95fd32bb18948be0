"""Training of the miniature zoo: each part's own objective, the exponential moving average, and the export.

The classes are the full-size libraries' own (diffusers, transformers) or ours (BEATs) with small sizes; what is
exported loads through the same cards and loaders as the full-size files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.training import denoising_loss
from xmodal.miniature.data import LABELS
from xmodal.miniature.training.zoo import ZooTask, autoencoder
from xmodal.miniature.world import FACTORS, IMAGE_SIZE, THINGS


class TrainVAE(ZooTask):
    """The picture autoencoder of the miniature Stable Diffusion: L2 + L1 + edges.

    It is a deep-compression autoencoder (Chen et al., arXiv 2410.10733) rather than Stable Diffusion's AutoencoderKL:
    its pixel-shuffling shortcuts make it a linear code from the first step, which learnt faster on a CPU.
    In place of a KL term, its latents are kept small and are decoded with a little noise on them.

    Args:
        block_out_channels: of the encoder from full resolution down, each level at half the one before; the decoder mirrors it.
        layers_per_block: residual blocks at each level; 0 at the first unshuffles the pixels straight to half resolution.
        latent_channels: C of the latents (B, C, H/f, W/f), with factor f = 2 ** (levels - 1).
        noise: standard deviation of the noise that the decoder learns to bear.
        shrink: weight of the mean squared latent.
        encoder: False trains the decoder only, over the encoder already in ``output``.
    """

    def __init__(
        self,
        output: Path,
        block_out_channels: tuple[int, ...] = (16, 32, 64),
        layers_per_block: tuple[int, ...] = (0, 1, 2),
        latent_channels: int = 8,
        noise: float = 0.05,
        shrink: float = 1e-3,
        encoder: bool = True,
        ema_decay: float = 0.99,
        **task: Any,
    ) -> None:
        self.sizes = (block_out_channels, layers_per_block, latent_channels)
        self.train_encoder = encoder
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.noise, self.shrink = noise, shrink

    def build(self) -> nn.Module:
        from diffusers import AutoencoderDC

        if not self.train_encoder:
            trained = AutoencoderDC.from_pretrained(self.output / "vae", torch_dtype=torch.float32, low_cpu_mem_usage=False)
            trained.encoder.requires_grad_(False)
            return trained
        return autoencoder(*self.sizes)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        pixels = batch["pixels"] * 2 - 1
        net = self.net if self.training else self.published
        latents = net.encode(pixels).latent
        # A decoder trained alone knows the scale of its latents; the noise is relative to unit variance then.
        noise = (self.noise if self.train_encoder else self.noise / net.config.scaling_factor) * torch.randn_like(latents)
        error = net.decode(latents + noise).sample - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        # The squared error finds the colours fast; L1 and edges then keep flat areas flat and outlines crisp.
        terms = {"l2": error.square().mean(), "l1": 0.2 * error.abs().mean(), "edges": 0.3 * edges}
        return {**terms, "shrink": self.shrink * latents.square().mean()} if self.train_encoder else terms

    def export(self, net: nn.Module, folder: Path) -> None:
        with torch.no_grad():
            pixels = torch.cat([batch["pixels"] for batch in self.trainer.datamodule.val_dataloader()])
            latents = net.encode(pixels.to(self.device) * 2 - 1).latent
            error = net.decode(latents).sample.clamp(-1, 1).cpu() / 2 + 0.5 - pixels
        if self.train_encoder:
            net.register_to_config(scaling_factor=float(1 / latents.std()))
        print(f"VAE: {-10 * error.square().mean().log10():.1f} dB PSNR on {len(pixels)} validation pictures", flush=True)
        net.half().save_pretrained(folder / "vae")


class TrainDiffusion(ZooTask):
    """Text encoder and UNet of the miniature Stable Diffusion, jointly, from captions; the VAE is frozen.

    The UNet answers with the velocity, and the schedule ends in pure noise (Lin et al., arXiv 2305.08891). Pictures of
    this world are so plain that noise must be strong before it hides which thing they show; the error of a predicted
    noise hardly counts there, and a UNet trained on it learnt colours but not shapes.

    Args:
        vae: folder of the trained VAE.
        block_out_channels: of the UNet, from the latents' resolution down.
        attention: whether each level attends to the text.
        layers_per_block: residual blocks at each level.
        width: of the text encoder's token embeddings and of the UNet's cross attention.
        text_layers: depth of the text encoder.
        unconditional: share of captions replaced by "" (classifier-free guidance).
        reading_weight: of a linear probe that reads the clip's factors from the mean text state. Without it the text
            encoder, which starts from nothing here, takes thousands of steps to tell the words apart.
    """

    def __init__(
        self,
        output: Path,
        vae: Path,
        block_out_channels: tuple[int, ...] = (48, 96, 160),
        attention: tuple[bool, ...] = (False, True, True),
        layers_per_block: int = 1,
        width: int = 128,
        text_layers: int = 2,
        unconditional: float = 0.1,
        reading_weight: float = 1.0,
        ema_decay: float = 0.995,
        **task: Any,
    ) -> None:
        from diffusers import AutoencoderDC, DDPMScheduler

        from xmodal.miniature.tokenizer import build_tokenizer

        self.sizes = (block_out_channels, attention, layers_per_block, width, text_layers)
        vae_config = AutoencoderDC.load_config(vae)
        self.latent_channels = vae_config["latent_channels"]
        self.latent_size = IMAGE_SIZE // 2 ** (len(vae_config["encoder_block_out_channels"]) - 1)
        self.tokenizer = build_tokenizer()
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.unconditional, self.reading_weight = unconditional, reading_weight
        self.vae = (
            AutoencoderDC.from_pretrained(vae, torch_dtype=torch.float32, low_cpu_mem_usage=False).requires_grad_(False).eval()
        )
        self.scheduler = DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            clip_sample=False,
        )

    def build(self) -> nn.Module:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        channels, attention, layers, width, text_layers = self.sizes
        reader = nn.Linear(width, sum(map(len, FACTORS.values())))
        text = CLIPTextConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=text_layers,
            num_attention_heads=4,
            max_position_embeddings=self.tokenizer.model_max_length,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        kinds = ["CrossAttn" if attends else "" for attends in attention]
        unet = UNet2DConditionModel(
            sample_size=self.latent_size,
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            block_out_channels=channels,
            layers_per_block=layers,
            cross_attention_dim=width,
            attention_head_dim=4,
            norm_num_groups=16,
        )
        return nn.ModuleDict({"text_encoder": CLIPTextModel(text), "unet": _channels_last(unet), "reader": reader})

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Latents (B, C, h, w), scaled to unit variance."""
        return {"latents": self.vae.encode(batch["pixels"] * 2 - 1).latent * self.vae.config.scaling_factor}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.net if self.training else self.published
        captions = [("" if torch.rand(()) < self.unconditional else text) for text in batch["caption"]]
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(self.device)
        states = net["text_encoder"](ids).last_hidden_state

        def model_call(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return net["unet"](noisy.contiguous(memory_format=torch.channels_last), timesteps, states).sample

        sizes = [len(labels) for labels in FACTORS.values()]
        rows = net["reader"](states.mean(1)).split(sizes, dim=1)
        reading = torch.stack([F.cross_entropy(row, batch["factors"][:, i]) for i, row in enumerate(rows)]).mean()
        denoising = denoising_loss(model_call, self.scheduler, batch["latents"])
        return {"denoising": denoising, "reading": self.reading_weight * reading}

    def export(self, net: nn.Module, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        net["text_encoder"].half().save_pretrained(folder / "text_encoder")
        net["unet"].half().save_pretrained(folder / "unet")


def _channels_last(unet: Any) -> Any:
    """The memory layout in which a CPU (and a GPU in half precision) convolves faster."""
    return unet.to(memory_format=torch.channels_last)


class TrainHearing(ZooTask):
    """The miniature BEATs as a tagger of what can be heard: the thing, its size, its count (multi-label).

    An attribute that is NaN is not known of a clip, and teaches nothing.

    Args:
        config: sizes of :class:`xmodal.foundation.beats.BEATsConfig` that differ from the release.
        weights: folder of an exported BEATs of this config, whose weights training starts from.
        masked: greatest share of the filter bank's frames, and of its bins, that a stripe of training hides
            (SpecAugment, Park et al., arXiv 1904.08779); two stripes each way.
        choice_weight: of a cross-entropy over the things alone, of which a clip holds just one.
    """

    def __init__(
        self,
        output: Path,
        config: dict[str, Any],
        weights: Path | None = None,
        masked: float = 0.0,
        choice_weight: float = 0.0,
        ema_decay: float = 0.99,
        **task: Any,
    ) -> None:
        self.config = config
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.masked, self.choice_weight = masked, choice_weight
        if weights is not None:
            self._begin_with(Path(weights))

    def _begin_with(self, folder: Path) -> None:
        from xmodal.foundation.beats import load

        self.net.load_state_dict(load(folder)[0].state_dict())
        self.start_average()

    def build(self) -> nn.Module:
        from xmodal.foundation.beats import BEATsConfig, BEATsModel

        return BEATsModel(BEATsConfig(**self.config, finetuned_model=True, predictor_class=len(LABELS)))

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net: Any = self.net if self.training else self.published
        bank, target = net.fbank(batch["waveform"]), batch["attributes"]
        if self.training and self.masked:
            bank = self._striped(bank)
        logits = net.classify(net.encode(bank)[-1])
        things = len(THINGS)
        right = (logits[:, :things].argmax(-1) == target[:, :things].argmax(-1)).float().mean()
        self.log("train/accuracy" if self.training else "val/accuracy", right, prog_bar=True, batch_size=len(target))
        known = ~target.isnan()
        terms = {"tags": F.binary_cross_entropy_with_logits(logits[known], target[known])}
        if self.choice_weight:
            terms["choice"] = self.choice_weight * F.cross_entropy(logits[:, :things], target[:, :things].argmax(-1))
        return terms

    def _striped(self, bank: Tensor) -> Tensor:
        """Hide stripes of the filter bank (B, F, 128) at its mean, other ones in every clip."""
        for axis in (1, 2) * 2:
            size = bank.shape[axis]
            width = torch.rand(len(bank), 1, device=bank.device) * self.masked * size
            start = torch.rand(len(bank), 1, device=bank.device) * (size - width)
            place = torch.arange(size, device=bank.device)
            hidden = (place >= start) & (place < start + width)
            bank = bank.masked_fill(hidden.unsqueeze(2 if axis == 1 else 1), 0.0)
        return bank

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.beats import save

        save(net, list(LABELS), folder)


class TrainSeeing(ZooTask):
    """The picture tagger: thing, size, place, count, colour and background, on rendered pictures with a little noise.

    Args:
        noise: standard deviation of the training noise, in [0, 1] pixel units.
    """

    def __init__(self, output: Path, noise: float = 0.04, ema_decay: float = 0.995, **task: Any) -> None:
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.noise = noise

    def build(self) -> nn.Module:
        from xmodal.foundation.picture_tagger import PictureTaggerModel

        return PictureTaggerModel({name: list(labels) for name, labels in FACTORS.items()})

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.net if self.training else self.published
        noise = self.noise * torch.rand((), device=self.device) if self.training else 0.0
        logits = net(batch["pixels"] + noise * torch.randn_like(batch["pixels"]))[1]
        right = (logits["thing"].argmax(-1) == batch["factors"][:, 0]).float().mean()
        self.log("train/accuracy" if self.training else "val/accuracy", right, prog_bar=True, batch_size=len(batch["pixels"]))
        return {name: F.cross_entropy(rows, batch["factors"][:, i]) for i, (name, rows) in enumerate(logits.items())}

    def export(self, net: nn.Module, folder: Path) -> None:
        from xmodal.foundation.picture_tagger import save

        save(net, folder)
