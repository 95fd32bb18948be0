"""Training of what stands between the miniature CLIP's pictures and sounds: two ears in its space, and a painter out of it.

They are the parts of AudioToken's baselines (arXiv 2305.13050, table 1): Wav2CLIP or ImageBind hears, Stable unCLIP paints
what CLIP would have seen. Letters: B batch, d size of CLIP's embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.diffusion.sampling import draw_noise
from xmodal.diffusion.training import denoising_loss
from xmodal.foundation.base import ImageEncoder
from xmodal.miniature.training.zoo import ZooTask
from xmodal.miniature.world import THINGS


class TrainEar(ZooTask):
    """An ear trained into the space of a frozen picture tower: symmetric InfoNCE between a clip's sound and its picture.

    Reads ``waveform`` and ``pixels``, which only frozen parts read, and ``factors``.

    Args:
        encoder: the picture tower.
        temperature: by which the cosines are divided; fixed.
    """

    def __init__(
        self, output: Path, encoder: ImageEncoder, temperature: float = 0.07, ema_decay: float = 0.99, **task: Any
    ) -> None:
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.encoder, self.temperature = encoder, temperature

    @abstractmethod
    def spectrogram(self, waveform: Tensor) -> Tensor:
        """What the ear looks at of waveforms (B, T)."""

    @abstractmethod
    def hear(self, net: Any, spectrogram: Tensor) -> Tensor:
        """Embeddings (B, d) of any length."""

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Spectrograms, and CLIP's embeddings (B, d) of the pictures."""
        return {"spectrogram": self.spectrogram(batch["waveform"]), "embedding": self.encoder.embed(batch["pixels"])}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        net = self.net if self.training else self.published
        heard, seen = F.normalize(self.hear(net, batch["spectrogram"]), dim=-1), F.normalize(batch["embedding"], dim=-1)
        cosines, target = heard @ seen.T / self.temperature, torch.arange(len(seen), device=seen.device)
        things = batch["factors"][:, 0]
        right = (things[cosines.argmax(1)] == things).float().mean()  # the nearest picture of the batch shows the thing
        self.log("train/thing" if self.training else "val/thing", right, prog_bar=True, batch_size=len(seen))
        return {"forth": F.cross_entropy(cosines, target) / 2, "back": F.cross_entropy(cosines.T, target) / 2}


class TrainWav2CLIP(TrainEar):
    """The miniature Wav2CLIP (arXiv 2110.11499)."""

    def build(self) -> nn.Module:
        from xmodal.foundation.wav2clip import build

        return build("mini")

    def spectrogram(self, waveform: Tensor) -> Tensor:
        from xmodal.foundation.wav2clip import log_spectrogram, standardise

        return standardise(log_spectrogram(waveform))

    def hear(self, net: Any, spectrogram: Tensor) -> Tensor:
        return net(spectrogram)

    def export(self, net: Any, folder: Path) -> None:
        from xmodal.foundation.wav2clip import save

        save(net, folder)


class TrainImageBind(TrainEar):
    """The sound tower of a miniature ImageBind (arXiv 2305.05665), bound to the miniature CLIP's pictures; no other tower.

    In training it hears the first two seconds alone, as the loaded tower does with ``clips`` 1.
    """

    def build(self) -> nn.Module:
        from xmodal.foundation.imagebind import build

        return build("mini")

    def spectrogram(self, waveform: Tensor) -> Tensor:
        from xmodal.foundation.imagebind import CLIP, spectrogram

        return spectrogram(waveform[:, :CLIP])

    def hear(self, net: Any, spectrogram: Tensor) -> Tensor:
        return net("audio", spectrogram)

    def export(self, net: Any, folder: Path) -> None:
        from xmodal.foundation.imagebind import save

        save(net, folder)


class TrainUnCLIP(ZooTask):
    """The miniature Stable unCLIP: the miniature Stable Diffusion, told CLIP's embedding of the picture instead of a prompt.

    Only what reads time, embedding and words is trained, and only that is written: `xmodal.foundation.stable_unclip` lays it over
    the painter's own UNet. The words that an embedding becomes begin as the linear map that comes nearest to the text encoder's
    own states of the picture's caption, which it already paints from. Each embedding carries noise of a random level, as Stable
    unCLIP's do, small levels more often than large ones.

    Args:
        generator: card of the Stable Diffusion that learns.
        encoder: the picture tower, whose embeddings are read as they come, not normalized.
        unconditional: share of embeddings left out (classifier-free guidance).
        judged: validation pictures painted again from their embeddings and named by the tagger when training ends; 0 skips it.
    """

    def __init__(
        self, output: Path, encoder: ImageEncoder, generator: str = "mini", unconditional: float = 0.1, judged: int = 96,
        ema_decay: float = 0.995, **task: Any,
    ) -> None:  # fmt: skip
        from diffusers import DDPMScheduler

        from xmodal.foundation.stable_diffusion import StableDiffusion

        self.dim, self.base = encoder.dim, generator
        painter = StableDiffusion(generator)
        self.begins_as = (painter.unet,)  # in a tuple, so that it is no part of what is trained
        super().__init__(output=output, ema_decay=ema_decay, **task)
        self.painter, self.encoder = painter, encoder
        self.noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        self.unconditional, self.judged = unconditional, judged
        self.register_buffer("states", painter.prompt_embeds([""]).detach())
        self.register_buffer("mean", torch.zeros(1, encoder.dim))
        self.register_buffer("std", torch.ones(1, encoder.dim))
        self.states: Tensor
        self.mean: Tensor
        self.std: Tensor

    def build(self) -> nn.Module:
        from xmodal.foundation.stable_unclip import reads_condition, with_embedding

        unet = with_embedding(self.begins_as[0], self.dim)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(reads_condition(name))
        self.words = unet.encoder_hid_proj.num_image_text_embeds
        return unet.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Latents (B, C, h, w), CLIP's embeddings (B, d) of the pictures, and the text states (B, S, c) of their captions."""
        states = self.painter.prompt_embeds(list(batch["full_caption"]))[:, : self.words]
        latents = self.painter.encode(batch["pixels"])[0] * self.painter.scaling_factor
        return {"latents": latents, "embedding": self.encoder.embed(batch["pixels"]), "states": states}

    def on_train_start(self) -> None:
        super().on_train_start()
        batches = list(self.trainer.train_dataloader)  # type: ignore[arg-type]
        seen, said = (
            torch.cat([batch[name] for batch in batches]).flatten(1).to(self.device) for name in ("embedding", "states")
        )
        self.mean, self.std = seen.mean(0, keepdim=True), seen.std(0, keepdim=True)
        if self.trainer.global_step == 0:
            self._begin(seen.double(), said.double())

    @torch.no_grad()
    def _begin(self, seen: Tensor, said: Tensor, ridge: float = 1e-2) -> None:
        """Least squares from embeddings (N, d) to states (N, S c)."""
        x, middle = seen - seen.mean(0), said.mean(0)
        within = x.T @ x + ridge * len(x) * torch.eye(x.shape[1], device=x.device) * x.var(0)
        weight = torch.linalg.solve(within, x.T @ (said - middle))
        layer: Any = self.net.encoder_hid_proj.image_embeds  # type: ignore[union-attr]
        layer.weight.copy_(weight.T)
        layer.bias.copy_(middle - seen.mean(0) @ weight)
        self.start_average()

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        from xmodal.foundation.stable_unclip import noised

        net: Any = self.net if self.training else self.published
        seen, device = batch["embedding"], batch["embedding"].device
        levels = (torch.rand(len(seen), device=device).square() * self.noising.config.num_train_timesteps).long()
        labels = noised(seen, levels, draw_noise(seen.shape, None, device), self.mean, self.std, self.noising)
        labels = labels * (torch.rand(len(seen), 1, device=device) >= self.unconditional)
        states = self.states.expand(len(seen), -1, -1)

        def model_call(latents: Tensor, timesteps: Tensor) -> Tensor:
            laid = latents.contiguous(memory_format=torch.channels_last)
            seen_as = {"image_embeds": labels[:, : self.dim]}
            return net(laid, timesteps, encoder_hidden_states=states, class_labels=labels, added_cond_kwargs=seen_as).sample

        return {"denoising": denoising_loss(model_call, self.painter.noise_scheduler, batch["latents"])}

    def export(self, net: Any, folder: Path) -> None:
        from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

        from xmodal.foundation.stable_unclip import save_over

        normalizer = StableUnCLIPImageNormalizer(self.dim)
        normalizer.load_state_dict({"mean": self.mean, "std": self.std})
        if self.judged:
            print(f"Stable unCLIP: {self.report(net, normalizer)}", flush=True)
        save_over(self.base, net, normalizer, self.noising, folder)

    @torch.no_grad()
    def report(self, net: Any, normalizer: Any) -> str:
        """How often the tagger of pictures finds the thing in a picture painted from another's embedding."""
        from xmodal.foundation.picture_tagger import PictureTagger
        from xmodal.foundation.stable_unclip import StableUnCLIP

        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = [(batch["embedding"], batch["factors"][:, 0]) for batch in data.val_dataloader()]
        seen, things = (torch.cat(column)[: self.judged].to(self.device) for column in zip(*rows))
        own = self.painter
        model = StableUnCLIP.from_parts(own.vae, own.text_encoder, own.tokenizer, net, own.scheduler, normalizer, self.noising)
        states = self.states.expand(len(seen), -1, -1)
        made = model.generate(
            states, states, guidance_scale=2.0, generator=torch.Generator().manual_seed(0), image_embedding=seen
        )
        named = PictureTagger().to(self.device).tag(made)["thing"]
        right = sum(name == THINGS[thing] for name, thing in zip(named, things.tolist())) / len(things)
        return f"thing named right {right:.3f} among {len(THINGS)}, {len(things)} pictures"
