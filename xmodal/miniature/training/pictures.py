"""The miniature Stable Diffusion: its text encoder and UNet; its autoencoder is of `xmodal.miniature.training.autoencoders`.

The classes are the full-size libraries' own (diffusers, transformers) with small sizes; what is exported loads through the
same cards and loaders as the full-size files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.training import denoising_loss, draw_timesteps
from xmodal.miniature.training.autoencoders import seen_apart
from xmodal.miniature.training.zoo import ZooTask
from xmodal.miniature.world import FACTORS, IMAGE_SIZE
from xmodal.registry.checkpoint import read_module

BLOCK = re.compile(r"(?P<way>down|up)_blocks\.(?P<level>\d+)\.(?P<kind>resnets|attentions)\.(?P<number>\d+)\.(?P<weight>.+)")


class TrainDiffusion(ZooTask):
    """Text encoder and UNet of the miniature Stable Diffusion, jointly, from captions; the VAE is frozen.

    The UNet answers with the velocity, and the schedule ends in pure noise (Lin et al., arXiv 2305.08891). Pictures of
    this world are so plain that noise must be strong before it hides which thing they show; the error of a predicted
    noise hardly counts there, and a UNet trained on it learnt colours but not shapes.

    Args:
        vae: folder of the trained VAE.
        weights: folder of an exported Stable Diffusion of these sizes, whose text encoder and UNet training starts from; the
            probe of ``reading_weight`` begins anew. A UNet of fewer latent channels than the VAE's knows their first ones (see
            `TrainWiderVAE`): of the others it hears and says nothing at first. It may have fewer blocks, too: further ones
            begin as the identity.
        block_out_channels: of the UNet, from the latents' resolution down.
        attention: whether each level attends to the text.
        layers_per_block: residual blocks at each level, or how many at which, from the latents' resolution down.
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
        detail: share of the squared error, from 0 to 1, that is dealt out by the picture's edges in place of its area, so that
            what is small counts as much as what is large. It fades with the signal in what is denoised: where noise hides the
            picture, a weight by the picture would teach to see things everywhere.
    """

    def __init__(
        self,
        output: Path,
        vae: Path,
        weights: Path | None = None,
        block_out_channels: tuple[int, ...] = (48, 96, 160),
        attention: tuple[bool, ...] = (False, True, True),
        layers_per_block: int | tuple[int, ...] = 1,
        width: int = 128,
        text_layers: int = 2,
        unconditional: float = 0.1,
        reading_weight: float = 1.0,
        perceptual: float = 0.0,
        clear: float = 0.6,
        eyes: str = "mini",
        detail: float = 0.0,
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
        self.detail = detail
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
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        parts: Any = self.net
        unet = read_module(UNet2DConditionModel, folder / "unet", torch_dtype=torch.float32, low_cpu_mem_usage=False)
        text_encoder = read_module(CLIPTextModel, folder / "text_encoder", dtype=torch.float32)
        for name, weights in (("text_encoder", text_encoder.state_dict()), ("unet", _grown(unet, parts["unet"]))):
            try:
                parts[name].load_state_dict(weights)
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
        """Latents (B, C, h, w), of unit variance.

        With a perceptual loss also what CLIP sees in them, ``seen`` (B, 1 + N, w); for `detail` where edges are (B, 1, h, w).
        """
        latents = self.vae.encode(batch["pixels"] * 2 - 1).latent * self.vae.config.scaling_factor
        found = {"latents": latents} | ({} if self.eyes is None else {"seen": self._seen(latents)})
        return found | ({"edges": _edges(batch["pixels"], latents.shape[-1])} if self.detail else {})

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
        latents, weight = batch["latents"], None
        timesteps = draw_timesteps(self.scheduler, len(latents), None, latents.device)
        if self.detail:
            signal = self.scheduler.alphas_cumprod.to(latents)[timesteps][:, None, None, None]
            weight = 1 + self.detail * signal * (batch["edges"] - 1)
        denoising = denoising_loss(model_call, self.scheduler, latents, timesteps=timesteps, weight=weight)
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
        return seen_apart(self._seen(guessed), meant[clear])

    def _seen(self, latents: Tensor) -> Tensor:
        """CLIP's tokens (B, 1 + N, w) of the pictures of latents (B, C, h, w) of unit variance."""
        eyes: Any = self.eyes
        return eyes.patches(self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5)

    def export(self, net: nn.Module, folder: Path) -> None:
        from diffusers import DPMSolverMultistepScheduler

        self.tokenizer.save_pretrained(folder / "tokenizer")
        # New noise in each step: an early error does not stay, so fewer things are half drawn.
        sampler = DPMSolverMultistepScheduler.from_config(
            self.scheduler.config, algorithm_type="sde-dpmsolver++", timestep_spacing="linspace"
        )
        sampler.save_pretrained(folder / "scheduler")
        net["text_encoder"].half().save_pretrained(folder / "text_encoder")
        net["unet"].half().save_pretrained(folder / "unet")


def _edges(pixels: Tensor, size: int) -> Tensor:
    """How much of a picture (B, 3, H, W) changes around each place: (B, 1, size, size), of mean 1 in each picture."""
    change = pixels.new_zeros(len(pixels), 1, *pixels.shape[2:])
    change[..., :, 1:] += pixels.diff(dim=-1).abs().mean(1, keepdim=True)
    change[..., 1:, :] += pixels.diff(dim=-2).abs().mean(1, keepdim=True)
    around = F.avg_pool2d(F.adaptive_avg_pool2d(change, size), 3, stride=1, padding=1, count_include_pad=False)
    return around / around.mean((2, 3), keepdim=True).clamp_min(1e-6)


def _grown(trained: Any, new: Any) -> dict[str, Tensor]:
    """Weights of a UNet of more latent channels, or of further residual blocks, that answers as the trained one does.

    It begins with zeros where it hears of further channels and where it answers for them. Further blocks begin as the identity.
    They follow those of their level on the way down, and the first one on the way up, so that each goes on hearing of the
    block it heard of.
    """
    had, has = _layers(trained), _layers(new)
    if len(had) != len(has):
        return dict(trained.state_dict())  # it will not fit
    known = {}
    for name, value in trained.state_dict().items():
        block = BLOCK.fullmatch(name)
        if block and block["way"] == "up" and (number := int(block["number"])):
            level = -1 - int(block["level"])
            name = f"up_blocks.{block['level']}.{block['kind']}.{number + has[level] - had[level]}.{block['weight']}"
        known[name] = value
    weights = {name: value.clone() for name, value in new.state_dict().items() if BLOCK.fullmatch(name)}
    for name in weights.keys() - known:
        if re.search(r"\.(conv2|conv_shortcut|proj_out)\.\w+$", name):
            nn.init.zeros_(weights[name])
        if name.endswith(".conv_shortcut.weight"):  # of what comes and what the level kept: the former passes
            nn.init.dirac_(weights[name])
    for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
        size = new.get_parameter(name).shape
        if all(before <= after for before, after in zip(known[name].shape, size, strict=True)):
            wider = known[name].new_zeros(size)
            wider[tuple(slice(before) for before in known[name].shape)] = known[name]
            known[name] = wider
    return {**weights, **known}


def _layers(unet: Any) -> list[int]:
    """Residual blocks of each level of a UNet, from the latents' resolution down."""
    layers, levels = unet.config.layers_per_block, len(unet.config.down_block_types)
    return [layers] * levels if isinstance(layers, int) else list(layers)


def _channels_last(unet: Any) -> Any:
    """The memory layout in which a CPU (and a GPU in half precision) convolves faster."""
    return unet.to(memory_format=torch.channels_last)
