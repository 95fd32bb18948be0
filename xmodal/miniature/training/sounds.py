"""Training of the miniature AudioLDM: the autoencoder of its log-mels, the vocoder, and the UNet under CLAP's embeddings.

Each part is written where `xmodal.foundation.audioldm` and `xmodal.foundation.vocoder` find it; the kind of log-mel is
that of the vocoder's card. Letters: B batch, T samples, L frames and M bands of the log-mel, d embedding size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.training import denoising_loss
from xmodal.foundation import mel_vae
from xmodal.foundation.audioldm import save_null_embedding
from xmodal.foundation.base import Vocoder
from xmodal.foundation.mel import MINIATURE as MEL
from xmodal.foundation.mel import log_mel
from xmodal.miniature.training.zoo import ZooTask, autoencoder

FRAMES = 160  # of every log-mel: 2.56 s, the world's 2.5 s and a little silence
# Of the world's log-mels. The networks read and write log-mels as they are; these only make a good start.
MEAN, SCALE = -7.3, 3.1
DECIBELS = 8.686  # in one unit of the natural logarithm of a magnitude


def to_mel(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Waveforms (B, T) -> with silence at the end (B, FRAMES * hop_length), and their log-mels (B, M, FRAMES)."""
    padded = F.pad(waveform, (0, FRAMES * MEL.hop_length - waveform.shape[1]))
    return padded, log_mel(padded, MEL)


class TrainMelVAE(ZooTask):
    """The autoencoder of the miniature AudioLDM, over log-mels (B, 1, L, M): squared and absolute error, edges.

    Like the picture VAE it is a deep-compression autoencoder, whose latents are kept small and decoded with a little noise.

    Args:
        block_out_channels: from full resolution down, each level at half the one before; the decoder mirrors it.
        layers_per_block: residual blocks at each level; 0 at the first unshuffles the log-mel straight to half resolution.
        latent_channels: C of the latents (B, C, L / f, M / f), with factor f = 2 ** (levels - 1).
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
        net = autoencoder(*self.sizes, in_channels=1)
        first, last = (getattr(conv, "conv", conv) for conv in (net.encoder.conv_in, net.decoder.conv_out))
        with torch.no_grad():
            first.weight /= SCALE
            first.bias -= MEAN * first.weight.sum((1, 2, 3))
            last.weight *= SCALE
            last.bias.fill_(MEAN)
        return net.to(memory_format=torch.channels_last)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net: Any = self.net if self.training else self.published
        mel = to_mel(batch["waveform"])[1].transpose(1, 2)[:, None]
        latents = net.encode(mel).latent
        error = (net.decode(latents + self.noise * torch.randn_like(latents)).sample - mel) / SCALE
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        terms = {"l2": error.square().mean(), "l1": 0.5 * error.abs().mean(), "edges": 0.2 * edges}
        return {**terms, "shrink": self.shrink * latents.square().mean()}

    @torch.no_grad()
    def export(self, net: Any, folder: Path) -> None:
        waveforms = [batch["waveform"] for batch in self.trainer.datamodule.val_dataloader()]  # type: ignore[attr-defined]
        mel = to_mel(torch.cat(waveforms).to(self.device))[1].transpose(1, 2)[:, None]
        latents = net.encode(mel).latent
        off = DECIBELS * (net.decode(latents).sample - mel).abs().mean()
        print(f"mel VAE: {off:.2f} dB mean absolute error on {len(mel)} validation sounds", flush=True)
        net.register_to_config(scaling_factor=float(1 / latents.std()))
        net.half().save_pretrained(folder / "vae")


class TrainVocoder(ZooTask):
    """The miniature HiFi-GAN (Kong et al., arXiv 2010.05646), without its discriminators.

    It minimises the distance of spectra at several resolutions (Yamamoto et al., arXiv 1910.11480) and of the log-mel.

    Args:
        channels: after the first convolution; halved at each of the three levels.
        kernels, dilations: of the residual blocks.
        segment: frames of each sound, from a random place, that a step synthesises; validation takes the whole.
        resolutions: window lengths of the spectra in samples; hops are a quarter of them.
        mel_weight: of the mean absolute error of the log-mel.
    """

    def __init__(
        self,
        output: Path,
        channels: int = 128,
        kernels: tuple[int, ...] = (3, 7),
        dilations: tuple[int, ...] = (1, 3),
        segment: int = 32,
        resolutions: tuple[int, ...] = (256, 512, 1024, 2048),
        mel_weight: float = 1.0,
        ema_decay: float = 0.995,
        **task: Any,
    ) -> None:
        self.sizes = (channels, kernels, dilations)
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.segment, self.resolutions, self.mel_weight = segment, resolutions, mel_weight

    def build(self) -> nn.Module:
        from xmodal.foundation.vocoder import hifigan

        channels, kernels, dilations = self.sizes
        net: Any = hifigan(
            normalize_before=True,  # a silent band is far from zero, and the first convolution pads with zeros
            model_in_dim=MEL.n_mels,
            sampling_rate=MEL.sample_rate,
            upsample_initial_channel=channels,
            upsample_rates=[8, 8, 4],
            upsample_kernel_sizes=[16, 16, 8],
            resblock_kernel_sizes=list(kernels),
            resblock_dilation_sizes=[list(dilations)] * len(kernels),
        )
        net.mean.fill_(MEAN)
        net.scale.fill_(SCALE)
        # transformers begins with weights so small that nothing is to be heard for a long time.
        for module in net.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, a=0.1, nonlinearity="leaky_relu")
            elif isinstance(module, nn.ConvTranspose1d):
                fan = module.in_channels * module.kernel_size[0] / module.stride[0]
                nn.init.normal_(module.weight, std=(2 / fan) ** 0.5)
        for block in net.resblocks:
            for conv in block.convs2:
                conv.weight.data.mul_(0.3)  # the sum of several branches keeps its size
        net.conv_post.weight.data.mul_(0.05)
        return net

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net: Any = self.net if self.training else self.published
        waveform, mel = to_mel(batch["waveform"])
        if self.training:
            waveform, mel = self._cut(waveform, mel)
        made = net(mel.transpose(1, 2))[:, : waveform.shape[1]]
        terms = [_spectral_distance(made, waveform, size) for size in self.resolutions]
        # Frames at the ends of a segment see mirrored samples, not what the given log-mel saw: compare like with like.
        off = (log_mel(made, MEL) - log_mel(waveform, MEL)).abs().mean()
        return {"spectra": torch.stack(terms).mean(), "mel": self.mel_weight * off}

    def _cut(self, waveform: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        starts = torch.randint(mel.shape[-1] - self.segment + 1, (len(mel),)).tolist()
        hop = MEL.hop_length
        sounds = [row[start * hop : (start + self.segment) * hop] for row, start in zip(waveform, starts)]
        return torch.stack(sounds), torch.stack([row[:, start : start + self.segment] for row, start in zip(mel, starts)])

    @torch.no_grad()
    def export(self, net: Any, folder: Path) -> None:
        from xmodal.foundation.vocoder import save

        batches = [batch["waveform"].to(self.device) for batch in self.trainer.datamodule.val_dataloader()]  # type: ignore[attr-defined]
        mels = [to_mel(batch)[1] for batch in batches]
        length = FRAMES * MEL.hop_length
        off = [DECIBELS * (log_mel(net(mel.transpose(1, 2))[:, :length], MEL) - mel).abs().mean((1, 2)) for mel in mels]
        print(f"vocoder: {torch.cat(off).mean():.2f} dB off the log-mel of {len(torch.cat(off))} validation sounds", flush=True)
        save(net, MEL, folder)


def _spectral_distance(made: Tensor, real: Tensor, size: int) -> Tensor:
    """Spectral convergence and mean absolute error of the logarithms, at one window length."""
    curve = torch.hann_window(size, device=real.device)

    def magnitude(waveform: Tensor) -> Tensor:
        spectrum = torch.stft(waveform, size, size // 4, window=curve, return_complex=True)
        # The root has no slope at zero, where silence lies.
        return (spectrum.real.square() + spectrum.imag.square()).clamp_min(1e-8).sqrt()

    ours, theirs = magnitude(made), magnitude(real)
    convergence = (ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1).clamp_min(1.0)
    return convergence.mean() + (ours.log() - theirs.log()).abs().mean()


class TrainAudioLDM(ZooTask):
    """The UNet of the miniature AudioLDM, under CLAP's embedding of the sound itself; VAE and CLAP are frozen.

    Velocity and an end in pure noise for the reason that `xmodal.miniature.training.pictures.TrainDiffusion` gives.

    Args:
        vae: folder of the trained mel VAE.
        clap: folder (or card) of the trained CLAP.
        vocoder: makes the sounds that are judged at the end.
        block_out_channels: of the UNet, from the latents' resolution down; all levels but the first attend to themselves.
        layers_per_block: residual blocks at each level.
        dropout: share of embeddings replaced by that of the empty text (classifier-free guidance).
        judged: validation sounds generated and judged when training ends; 0 skips it.
    """

    def __init__(
        self,
        output: Path,
        vae: Path,
        clap: str,
        vocoder: Vocoder,
        block_out_channels: tuple[int, ...] = (48, 64, 96),
        layers_per_block: int = 1,
        dropout: float = 0.1,
        judged: int = 32,
        ema_decay: float = 0.995,
        **task: Any,
    ) -> None:
        from diffusers import DDPMScheduler

        from xmodal.foundation.clap import AudioTower, TextTower

        self.sizes = (block_out_channels, layers_per_block)
        coder = mel_vae.read_autoencoder(Path(vae))
        ears = AudioTower(clap)
        self.latent_channels, self.dim = coder.config.latent_channels, ears.dim
        self.factor = mel_vae.factor_of(coder)
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.vae, self.ears, self.vocoder = coder.requires_grad_(False).eval(), ears, vocoder
        self.register_buffer("null", TextTower(clap).embed([""])[0])
        self.null: Tensor
        self.dropout, self.judged = dropout, judged
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

        channels, layers = self.sizes
        others = len(channels) - 1
        unet: Any = UNet2DConditionModel(
            sample_size=(FRAMES // self.factor, MEL.n_mels // self.factor),  # type: ignore[arg-type]  # diffusers takes pairs
            in_channels=self.latent_channels,
            out_channels=self.latent_channels,
            down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * others),
            up_block_types=(*("CrossAttnUpBlock2D",) * others, "UpBlock2D"),
            block_out_channels=channels,
            layers_per_block=layers,
            cross_attention_dim=channels,  # without text states, AudioLDM's cross attention looks at its own input
            attention_head_dim=4,
            norm_num_groups=16,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=self.dim,
            class_embeddings_concat=True,
        )
        return unet.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(self, batch: Any) -> dict[str, Tensor]:
        """Latents (B, C, l, m), scaled to unit variance, and CLAP's embeddings (B, d)."""
        mel = to_mel(batch["waveform"])[1].transpose(1, 2)[:, None]
        latents = self.vae.encode(mel).latent * self.vae.config.scaling_factor
        return {"latents": latents, "embedding": self.ears.embed(batch["waveform"])}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net: Any = self.net if self.training else self.published
        condition = F.normalize(batch["embedding"], dim=-1)
        dropped = torch.rand(len(condition), 1, device=condition.device) < self.dropout
        condition = torch.where(dropped, self.null, condition)

        def model_call(noisy: Tensor, timesteps: Tensor) -> Tensor:
            laid = noisy.contiguous(memory_format=torch.channels_last)
            return net(laid, timesteps, encoder_hidden_states=None, class_labels=condition).sample

        return {"denoising": denoising_loss(model_call, self.scheduler, batch["latents"])}

    def export(self, net: Any, folder: Path) -> None:
        if self.judged:
            print(f"AudioLDM: {self.report(net)}", flush=True)
        net.half().save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")
        save_null_embedding(self.null, folder)

    @torch.no_grad()
    def report(self, net: Any) -> str:
        """How near CLAP hears the generated sounds to the embeddings asked for, and how near VAE and vocoder alone come."""
        from xmodal.foundation.audioldm import AudioLDM

        loader = self.trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        rows = [(batch["embedding"], batch["latents"]) for batch in loader]
        embedding, latents = (torch.cat(column)[: self.judged].to(self.device) for column in zip(*rows))
        model = AudioLDM.from_parts(self.vae, net, self.vocoder, self.scheduler, self.null)  # type: ignore[arg-type]
        made = model.generate(embedding, generator=torch.Generator().manual_seed(0))
        near = [F.cosine_similarity(self.ears.embed(each), embedding).mean() for each in (made, model.decode(latents))]
        other = F.cosine_similarity(self.ears.embed(made), embedding.roll(1, 0)).mean()
        names = ("generated", "VAE and vocoder alone", "generated for another sound")
        shares = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, (*near, other)))
        return f"CLAP cosine on {len(embedding)} validation sounds: {shares}"
