"""The miniature Stable Diffusion: its autoencoder, its text encoder and UNet, and the decoder once more.

The classes are the full-size libraries' own (diffusers, transformers) with small sizes; what is exported loads through the
same cards and loaders as the full-size files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.sampling import sample, with_guidance
from xmodal.diffusion.training import denoising_loss
from xmodal.miniature.training.zoo import ZooTask, autoencoder
from xmodal.miniature.world import FACTORS, IMAGE_SIZE


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
    """

    def __init__(
        self,
        output: Path,
        block_out_channels: tuple[int, ...] = (16, 32, 64),
        layers_per_block: tuple[int, ...] = (0, 1, 2),
        latent_channels: int = 8,
        noise: float = 0.05,
        shrink: float = 1e-3,
        ema_decay: float = 0.99,
        **task: Any,
    ) -> None:
        self.sizes = (block_out_channels, layers_per_block, latent_channels)
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.noise, self.shrink = noise, shrink

    def build(self) -> nn.Module:
        return autoencoder(*self.sizes)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        pixels = batch["pixels"] * 2 - 1
        net = self.net if self.training else self.published
        latents = net.encode(pixels).latent
        error = net.decode(latents + self.noise * torch.randn_like(latents)).sample - pixels
        return {**_likeness(error), "shrink": self.shrink * latents.square().mean()}

    def export(self, net: nn.Module, folder: Path) -> None:
        with torch.no_grad():
            pixels = torch.cat([batch["pixels"] for batch in self.trainer.datamodule.val_dataloader()])
            latents = net.encode(pixels.to(self.device) * 2 - 1).latent
        net.register_to_config(scaling_factor=float(1 / latents.std()))
        print(f"VAE: {_psnr(net, latents, pixels):.1f} dB PSNR on {len(pixels)} validation pictures", flush=True)
        net.half().save_pretrained(folder / "vae")


def _likeness(error: Tensor) -> dict[str, Tensor]:
    """Losses of a picture's error (B, 3, H, W)."""
    # The squared error finds the colours fast; L1 and edges then keep flat areas flat and outlines crisp.
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return {"l2": error.square().mean(), "l1": 0.2 * error.abs().mean(), "edges": 0.3 * edges}


@torch.no_grad()
def _psnr(net: Any, latents: Tensor, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, over all pixels, of decoded latents (N, C, h, w) to pixels (N, 3, H, W) in [0, 1]."""
    error = net.decode(latents).sample.clamp(-1, 1).cpu() / 2 + 0.5 - pixels
    return -10 * error.square().mean().log10()


class TrainDecoder(ZooTask):
    """A deeper decoder over the VAE's encoder, which stays, and with it every UNet trained on its latents.

    It learns from the latents of pictures and from those that the painter makes of them: noise on a picture's latents
    hides its details, not its layout, and the painter, told the caption, fills in what it can (the way of SDEdit, Meng et
    al., arXiv 2108.01073). So it learns to draw finely what the painter drew coarsely. What is in doubt is kept from being
    blurred by a CLIP that shall see in both pictures the same (a perceptual loss, Johnson et al., arXiv 1603.08155), and by a
    patch discriminator with the hinge loss (as VQGAN's, Esser et al., arXiv 2012.09841).

    Args:
        painter: folder of the trained Stable Diffusion; ``output`` receives its VAE with the deeper decoder.
        layers_per_block: residual blocks at each level. Weights of the decoder there are kept where the sizes agree; further
            blocks begin as the identity.
        noise: standard deviation, where that of the latents is 1, of the noise that the decoder learns to bear.
        strength: least and greatest share of the noise schedule from which the painter paints.
        painted: share of a batch's latents that are the painter's; with 0 nothing is painted.
        adversarial: weight of the discriminator's word; 0 trains none.
        perceptual: weight of what CLIP sees: one less the cosine of its last block's tokens, the class token's and the mean of
            the patches'; 0 builds none.
        eyes: card of that CLIP.
    """

    def __init__(
        self,
        output: Path,
        painter: Path,
        layers_per_block: tuple[int, ...] = (0, 2, 6),
        noise: float = 0.1,
        strength: tuple[float, float] = (0.3, 0.8),
        painted: float = 0.5,
        adversarial: float = 0.0,
        perceptual: float = 0.0,
        eyes: str = "mini",
        ema_decay: float = 0.998,
        **task: Any,
    ) -> None:
        from xmodal.foundation.clip import ImageTower
        from xmodal.foundation.stable_diffusion import StableDiffusion

        frozen = StableDiffusion(str(painter))
        self.begins_as = (frozen.vae,)  # in a tuple, so that it is no part of what is trained
        self.layers, self.adversarial = tuple(layers_per_block), adversarial
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.painter, self.noise, self.strength, self.painted = frozen, noise, strength, painted
        self.perceptual, self.eyes = perceptual, ImageTower(eyes) if perceptual else None

    def build(self) -> nn.Module:
        from diffusers import AutoencoderDC

        trained = self.begins_as[0]
        public = {name: value for name, value in trained.config.items() if not name.startswith("_")}
        deeper = AutoencoderDC.from_config({**public, "decoder_layers_per_block": self.layers})
        old, new = trained.state_dict(), deeper.state_dict()
        kept = {name: value for name, value in old.items() if name in new and value.shape == new[name].shape}
        deeper.load_state_dict({**new, **kept})
        for name, block in deeper.named_modules():
            if hasattr(block, "conv2") and f"{name}.conv2.weight" not in kept:
                nn.init.zeros_(block.norm.weight)
        deeper.encoder.requires_grad_(False)
        return nn.ModuleDict({"vae": deeper, "critic": _critic()} if self.adversarial else {"vae": deeper})

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Latents (B, C, h, w) of the pictures and, where they are asked for, those painted of them; of unit variance.

        With a perceptual loss also what CLIP sees in the pictures: ``seen`` (B, 1 + N, w).
        """
        from diffusers import DDIMScheduler

        painter: Any = self.painter
        latents = painter.encode(batch["pixels"])[0] * painter.scaling_factor
        found = {"latents": latents} | ({} if self.eyes is None else {"seen": self.eyes.patches(batch["pixels"])})
        if not self.painted:
            return found
        told = painter.prompt_embeds(batch["full_caption"])

        def predict(noisy: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
            return painter.unet(noisy, timestep, encoder_hidden_states=states).sample

        model = with_guidance(predict, told, painter.empty_embeds().expand_as(told), 2.0)
        scheduler = DDIMScheduler.from_config(painter.scheduler.config, timestep_spacing="trailing")
        strength = torch.empty(()).uniform_(*self.strength).item()
        painted = sample(model, scheduler, latents.shape, 15, device=latents.device, start=latents, strength=strength)
        return {**found, "painted": painted}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        from torch.func import functional_call

        pixels = batch["pixels"] * 2 - 1
        net: Any = self.net if self.training else self.published
        latents = batch["latents"]
        if self.painted:
            painted = torch.rand(len(pixels), 1, 1, 1, device=self.device) < self.painted
            latents = torch.where(painted, batch["painted"], latents)
        made = net["vae"].decode((latents + self.noise * torch.randn_like(latents)) / net["vae"].config.scaling_factor).sample
        terms = _likeness(made - pixels)
        if self.eyes is not None:
            terms["perceptual"] = self.perceptual * _seen_apart(self.eyes.patches(made / 2 + 0.5), batch["seen"])
        if self.adversarial:
            # One step teaches both: the critic sees pictures cut off from the decoder, the decoder a critic that stays.
            critic, fixed = net["critic"], {name: weight.detach() for name, weight in net["critic"].named_parameters()}
            terms["critic"] = F.relu(1 - critic(pixels)).mean() + F.relu(1 + critic(made.detach())).mean()
            terms["adversarial"] = -self.adversarial * functional_call(critic, fixed, (made,)).mean()
        return terms

    def export(self, net: nn.Module, folder: Path) -> None:
        vae: Any = net["vae"]  # type: ignore[index]
        batches = list(self.trainer.datamodule.val_dataloader())
        pixels = torch.cat([batch["pixels"] for batch in batches])
        for name in ("latents", "painted") if self.painted else ("latents",):
            latents = torch.cat([batch[name] for batch in batches]).to(self.device) / vae.config.scaling_factor
            print(
                f"decoder: {_psnr(vae, latents, pixels):.1f} dB PSNR of the {name} of {len(pixels)} validation pictures",
                flush=True,
            )
        vae.half().save_pretrained(folder / "vae")


def _seen_apart(seen: Tensor, meant: Tensor) -> Tensor:
    """How different CLIP's tokens (B, 1 + N, w) of two batches of pictures are, from 0 to 4 (a scalar)."""
    apart = 1 - F.cosine_similarity(seen, meant.float(), dim=-1)
    return apart[:, 0].mean() + apart[:, 1:].mean()


def _critic() -> nn.Module:
    """A patch discriminator: (B, 3, 64, 64) in [-1, 1] to (B, 1, 16, 16), each told by some 25 pixels across."""
    sizes = ((3, 32, 4, 2), (32, 64, 4, 2), (64, 64, 3, 1))
    layers: list[nn.Module] = []
    for before, after, kernel, stride in sizes:
        layers += [nn.Conv2d(before, after, kernel, stride, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))


class TrainDiffusion(ZooTask):
    """Text encoder and UNet of the miniature Stable Diffusion, jointly, from captions; the VAE is frozen.

    The UNet answers with the velocity, and the schedule ends in pure noise (Lin et al., arXiv 2305.08891). Pictures of
    this world are so plain that noise must be strong before it hides which thing they show; the error of a predicted
    noise hardly counts there, and a UNet trained on it learnt colours but not shapes.

    Args:
        vae: folder of the trained VAE.
        weights: folder of an exported Stable Diffusion of these sizes, whose text encoder and UNet training starts from; the
            probe of ``reading_weight`` begins anew.
        block_out_channels: of the UNet, from the latents' resolution down.
        attention: whether each level attends to the text.
        layers_per_block: residual blocks at each level.
        width: of the text encoder's token embeddings and of the UNet's cross attention.
        text_layers: depth of the text encoder.
        unconditional: share of captions replaced by "" (classifier-free guidance).
        reading_weight: of a linear probe that reads the clip's factors from the mean text state. Without it the text
            encoder, which starts from nothing here, takes thousands of steps to tell the words apart.
        perceptual: weight of what CLIP shall see alike in the clip's picture and in the one that a single step from the noise
            gives; 0 builds none. The squared error is content with a mean of all that may be there, and an eye is not (after
            Berrada et al., arXiv 2411.04873, who look with the VAE's decoder).
        clear: share of the training timesteps, those with the least noise, whose pictures CLIP looks at.
        eyes: card of that CLIP.
    """

    def __init__(
        self,
        output: Path,
        vae: Path,
        weights: Path | None = None,
        block_out_channels: tuple[int, ...] = (48, 96, 160),
        attention: tuple[bool, ...] = (False, True, True),
        layers_per_block: int = 1,
        width: int = 128,
        text_layers: int = 2,
        unconditional: float = 0.1,
        reading_weight: float = 1.0,
        perceptual: float = 0.0,
        clear: float = 0.6,
        eyes: str = "mini",
        ema_decay: float = 0.995,
        **task: Any,
    ) -> None:
        from diffusers import AutoencoderDC, DDPMScheduler

        from xmodal.foundation.clip import ImageTower
        from xmodal.miniature.tokenizer import build_tokenizer

        self.sizes = (block_out_channels, attention, layers_per_block, width, text_layers)
        vae_config = AutoencoderDC.load_config(vae)
        self.latent_channels = vae_config["latent_channels"]
        self.latent_size = IMAGE_SIZE // 2 ** (len(vae_config["encoder_block_out_channels"]) - 1)
        self.tokenizer = build_tokenizer()
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.unconditional, self.reading_weight = unconditional, reading_weight
        self.perceptual, self.clear, self.eyes = perceptual, clear, ImageTower(eyes) if perceptual else None
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
        if weights is not None:
            self._begin_with(Path(weights))

    def _begin_with(self, folder: Path) -> None:
        from xmodal.foundation.stable_diffusion import StableDiffusion

        trained, parts = StableDiffusion(str(folder)), cast("nn.ModuleDict", self.net)
        for name in ("text_encoder", "unet"):
            try:
                parts[name].load_state_dict(getattr(trained, name).state_dict())
            except RuntimeError as error:
                raise ValueError(f"{folder / name} has other sizes than the recipe: give the sizes of its config.json") from error
        self.start_average()

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
        """Latents (B, C, h, w), of unit variance; with a perceptual loss also what CLIP sees in them, ``seen`` (B, 1 + N, w)."""
        latents = self.vae.encode(batch["pixels"] * 2 - 1).latent * self.vae.config.scaling_factor
        return {"latents": latents} | ({} if self.eyes is None else {"seen": self._seen(latents)})

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.net if self.training else self.published
        captions = [("" if torch.rand(()) < self.unconditional else text) for text in batch["caption"]]
        ids = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(self.device)
        states = net["text_encoder"](ids).last_hidden_state

        answers: list[tuple[Tensor, Tensor, Tensor]] = []

        def model_call(noisy: Tensor, timesteps: Tensor) -> Tensor:
            velocity = net["unet"](noisy.contiguous(memory_format=torch.channels_last), timesteps, states).sample
            answers.append((noisy, timesteps, velocity))
            return velocity

        sizes = [len(labels) for labels in FACTORS.values()]
        rows = net["reader"](states.mean(1)).split(sizes, dim=1)
        reading = torch.stack([F.cross_entropy(row, batch["factors"][:, i]) for i, row in enumerate(rows)]).mean()
        denoising = denoising_loss(model_call, self.scheduler, batch["latents"])
        terms = {"denoising": denoising, "reading": self.reading_weight * reading}
        if self.eyes is not None:
            terms["perceptual"] = self.perceptual * self._unlike(batch["seen"], *answers[0])
        return terms

    def _unlike(self, meant: Tensor, noisy: Tensor, timesteps: Tensor, velocity: Tensor) -> Tensor:
        """How differently CLIP sees the clips' pictures and those that the velocities give, under weak noise alone (a scalar)."""
        clear = timesteps < self.clear * self.scheduler.config.num_train_timesteps
        if not clear.any():
            return velocity.sum() * 0
        signal = self.scheduler.alphas_cumprod.to(noisy)[timesteps[clear]][:, None, None, None]
        guessed = signal.sqrt() * noisy[clear] - (1 - signal).sqrt() * velocity[clear]
        return _seen_apart(self._seen(guessed), meant[clear])

    def _seen(self, latents: Tensor) -> Tensor:
        """CLIP's tokens (B, 1 + N, w) of the pictures of latents (B, C, h, w) of unit variance."""
        eyes: Any = self.eyes
        return eyes.patches(self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5)

    def export(self, net: nn.Module, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.scheduler.save_pretrained(folder / "scheduler")
        net["text_encoder"].half().save_pretrained(folder / "text_encoder")
        net["unet"].half().save_pretrained(folder / "unet")


def _channels_last(unet: Any) -> Any:
    """The memory layout in which a CPU (and a GPU in half precision) convolves faster."""
    return unet.to(memory_format=torch.channels_last)
