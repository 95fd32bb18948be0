"""The picture autoencoder of the miniature Stable Diffusion: itself, with further latent channels, and its decoder once more.

The class is diffusers' own with small sizes; what is exported loads through the same cards and loaders as full-size files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.sampling import sample, with_guidance
from xmodal.miniature.training.zoo import ZooTask, autoencoder


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
        latents = _encoded(self, net)
        net.register_to_config(scaling_factor=float(1 / latents.std()))
        net.half().save_pretrained(folder / "vae")


class TrainWiderVAE(ZooTask):
    """Further latent channels for a trained VAE: it keeps its latents in the first ones, and learns to put details in the others.

    So a painter of the narrow latents can be trained on (`TrainDiffusion`'s ``weights``) in place of beginning anew: what it
    knows of the first channels stays true. The shortcuts at both ends of the latents are written into the convolutions beside
    them, as they are for one number of channels only; the widened VAE begins as the narrow one, number by number.

    Args:
        vae: folder of the trained VAE, an ``AutoencoderDC``; ``output``/vae receives the wider one.
        channels: how many are added.
        noise: standard deviation of the noise that the decoder learns to bear.
        tie: weight of the mean squared distance of the first channels to the narrow VAE's latents.
        shrink: weight of the mean squared further latent.
        perceptual: weight of what CLIP sees, as for `TrainDecoder`; 0 builds none.
        eyes: card of that CLIP.

    Raises:
        ValueError: ``channels`` is below 1.
    """

    def __init__(
        self,
        output: Path,
        vae: Path,
        channels: int = 4,
        noise: float = 0.08,
        tie: float = 5.0,
        shrink: float = 1e-3,
        perceptual: float = 0.0,
        eyes: str = "mini",
        ema_decay: float = 0.998,
        **task: Any,
    ) -> None:
        from diffusers import AutoencoderDC

        from xmodal.foundation.clip import ImageTower

        if channels < 1:
            raise ValueError(f"channels is {channels}, but expected how many latent channels to add, at least 1")
        narrow = AutoencoderDC.from_pretrained(vae, torch_dtype=torch.float32, low_cpu_mem_usage=False)
        self.begins_as, self.channels = (narrow.requires_grad_(False).eval(),), channels
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.narrow, self.noise, self.tie, self.shrink = self.begins_as[0], noise, tie, shrink
        self.perceptual, self.eyes = perceptual, ImageTower(eyes) if perceptual else None

    def build(self) -> nn.Module:
        narrow: Any = self.begins_as[0]
        latents = narrow.config.latent_channels + self.channels
        wider = _changed(narrow, encoder_out_shortcut=False, decoder_in_shortcut=False, latent_channels=latents)
        wider.load_state_dict(_widened(narrow, wider.state_dict()))
        return wider

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The narrow VAE's ``latents`` (B, c, h, w); with a perceptual loss also what CLIP sees: ``seen`` (B, 1 + N, w)."""
        found = {"latents": self.narrow.encode(batch["pixels"] * 2 - 1).latent}
        return found | ({} if self.eyes is None else {"seen": self.eyes.patches(batch["pixels"])})

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net: Any = self.net if self.training else self.published
        pixels, known = batch["pixels"] * 2 - 1, batch["latents"].shape[1]
        latents = net.encode(pixels).latent
        made = net.decode(latents + self.noise * torch.randn_like(latents)).sample
        terms = _likeness(made - pixels)
        terms["tie"] = self.tie * (latents[:, :known] - batch["latents"]).square().mean()
        terms["shrink"] = self.shrink * latents[:, known:].square().mean()
        if self.eyes is not None:
            terms["perceptual"] = self.perceptual * seen_apart(self.eyes.patches(made / 2 + 0.5), batch["seen"])
        return terms

    def export(self, net: nn.Module, folder: Path) -> None:
        vae: Any = net
        _encoded(self, vae)
        # The scaling factor stays the narrow one's: a painter of the narrow latents meets them as it knows them.
        vae.half().save_pretrained(folder / "vae")


def _widened(narrow: Any, new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a wider VAE without shortcuts, of the sizes of ``new``, that answers as the narrow one does."""
    old = narrow.state_dict()
    weights = {name: old[name] if name in old and old[name].shape == fresh.shape else fresh for name, fresh in new.items()}
    # The encoder's shortcut is the mean of each latent's group of features, the decoder's gives each latent to its group.
    out, into = old["encoder.conv_out.weight"].clone(), old["decoder.conv_in.weight"].clone()
    known = len(out)
    if narrow.config.encoder_out_shortcut:
        group = out.shape[1] // known
        for channel in range(known):
            out[channel, channel * group : (channel + 1) * group, 1, 1] += 1 / group
    if narrow.config.decoder_in_shortcut:
        group = len(into) // known
        for feature in range(len(into)):
            into[feature, feature // group, 1, 1] += 1
    # What the encoder says in the further channels is left as it was drawn; the decoder hears nothing of it yet.
    for name, value in (("encoder.conv_out.weight", out), ("encoder.conv_out.bias", old["encoder.conv_out.bias"])):
        weights[name] = torch.cat([value, new[name][known:]])
    weights["decoder.conv_in.weight"] = torch.cat([into, torch.zeros_like(new["decoder.conv_in.weight"][:, known:])], dim=1)
    return weights


def _changed(vae: Any, **options: Any) -> Any:
    """An untrained autoencoder like this one, but for these options of its configuration."""
    from diffusers import AutoencoderDC

    public = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    return AutoencoderDC.from_config({**public, **options})


@torch.no_grad()
def _encoded(task: ZooTask, vae: Any) -> Tensor:
    """Unscaled latents (N, C, h, w) of the validation pictures; prints how near what is decoded of them comes."""
    pixels = torch.cat([batch["pixels"] for batch in task.trainer.datamodule.val_dataloader()])  # type: ignore[attr-defined]
    latents: Tensor = vae.encode(pixels.to(task.device) * 2 - 1).latent
    print(f"VAE: {_psnr(vae, latents, pixels):.1f} dB PSNR on {len(pixels)} validation pictures", flush=True)
    return latents


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
        trained = self.begins_as[0]
        deeper = _changed(trained, decoder_layers_per_block=self.layers)
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
            terms["perceptual"] = self.perceptual * seen_apart(self.eyes.patches(made / 2 + 0.5), batch["seen"])
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


def seen_apart(seen: Tensor, meant: Tensor) -> Tensor:
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
