"""AudioLDM (Liu et al., arXiv 2301.12503) from diffusers' components: sounds from one CLAP embedding each.

The text encoder stays outside: what comes in is an embedding, of a text, a sound, or a picture that a mapper has brought
into CLAP's space. Letters: B batch, d embedding size, k candidates of each embedding, T samples, L frames and M bands of the
log-mel, C latent channels, l and m latent frames and bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.diffusion.sampling import Generators, draw_noise, sample, with_guidance
from xmodal.diffusion.schedules import check_scheduler, prediction_of
from xmodal.diffusion.training import denoising_loss
from xmodal.foundation import mel_vae, memory
from xmodal.foundation import vocoder as vocoders
from xmodal.foundation.base import AudioGenerator, Card, Vocoder, find_card
from xmodal.foundation.laion_names import renamed as laion_renamed
from xmodal.foundation.laion_names import tables, text_sizes
from xmodal.foundation.mel import AUDIOLDM, log_mel
from xmodal.foundation.original_names import below, hifigan_names, renamed, unet_names, vae_names
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import (
    CONFIG,
    assign,
    only_tensors,
    read_json,
    read_module,
    read_pickle,
    read_scheduler,
    read_tensors,
    unfilled,
)  # fmt: skip

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
    from transformers import SpeechT5HifiGan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PARTS = ("unet", "vae", "scheduler")
NULL = "null_embedding"
OFFICIAL = "https://github.com/haoheliu/AudioLDM"
# Attention heads of the official code (channels // channels of one head) by the UNet's channels. diffusers' conversion
# never wrote them down, so its folders say 8 everywhere and load without a word.
OFFICIAL_HEADS: dict[tuple[int, ...], tuple[int, ...]] = {
    (128, 256, 384, 640): (4, 8, 12, 20), (192, 384, 576, 960): (6, 12, 18, 30), (256, 512, 768, 1280): (4, 8, 12, 20),
}  # fmt: skip
Ranker = Callable[[Tensor, Tensor], Tensor]  # (waveforms (N, T), embeddings (N, d)) -> scores (N,), higher is better


class AudioLDM(AudioGenerator):
    """Frozen AudioLDM. Conditions are L2-normalized here, as they were in its training.

    Args:
        card: a name in `CARDS`, the path of a diffusers folder (``unet``, ``vae``, ``scheduler``, ``vocoder``), or a hub id.
        heads: "official" gives a UNet of published size the attention heads of the official code; "as_saved" takes the
            folder at its word, which for diffusers' conversions means 8 everywhere, as published diffusers results had it.
        vocoder: takes the place of the folder's; its mel must be of the same kind.
        dtype: of UNet's and VAE's weights in memory: float32, bfloat16, float16.
        local_files_only: a hub id is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card or option, or parts that do not fit, FileNotFoundError where weights are missing.
    """

    exact, streamed, repeated = ("vae",), ("unet", "vae"), ("unet",)
    null_embedding: Tensor | None
    _folder: Path | None

    def __init__(
        self,
        card: str = "mini",
        heads: str = "official",
        vocoder: Vocoder | None = None,
        dtype: str = "float32",
        local_files_only: bool = True,
    ) -> None:
        super().__init__()
        for name, value, choices in (("heads", heads, ("official", "as_saved")), ("dtype", dtype, DTYPES)):
            if value not in choices:
                raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")
        folder = _folder(card, local_files_only)
        named = CARDS[card].options.get("vocoder") if card in CARDS else None
        own = str(folder / "vocoder") if (folder / "vocoder").is_dir() else named
        if vocoder is None and own is None:
            raise FileNotFoundError(f"{folder} lacks vocoder: copy that folder too, or give a vocoder")
        if vocoder is not None and own is not None:
            vocoder.mel.require(vocoders.mel_of(own), "the vocoder given", f"that of {card}")
        stored = folder / f"{NULL}.safetensors"
        null = read_tensors(stored, str(folder)).get(NULL) if stored.is_file() else None
        self._assemble(**_load(folder, heads, DTYPES[dtype]), vocoder=vocoder or vocoders.of_card(own or ""), null_embedding=null)
        self._folder = folder

    @classmethod
    def from_parts(
        cls,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        vocoder: SpeechT5HifiGan | Vocoder,
        scheduler: SchedulerMixin,
        null_embedding: Tensor | None = None,
    ) -> Self:
        """Build from components in memory, which are frozen in place; ``null_embedding`` (d,) is the unconditional one.

        Raises ValueError where they do not fit. To train the UNet, unfreeze ``generator.unet`` afterwards.
        """
        vocoder = vocoder if isinstance(vocoder, Vocoder) else vocoders.HifiGan.from_model(vocoder)
        return cls.assembled(vae, unet, scheduler, vocoder, null_embedding)

    def _assemble(self, vae: Any, unet: Any, scheduler: Any, vocoder: Any, null_embedding: Tensor | None) -> None:
        from diffusers import DDPMScheduler

        self.factor = mel_vae.factor_of(vae)
        _check_parts(vae, unet, vocoder, self.factor)
        self.vae, self.unet, self.vocoder, self.scheduler = vae, unet, vocoder, scheduler
        self.noise_scheduler = DDPMScheduler.from_config(scheduler.config)
        self.cond_dim: int = unet.config.projection_class_embeddings_input_dim
        self.mel, self.sample_rate = vocoder.mel, vocoder.sample_rate
        self.scaling_factor: float = vae.config.scaling_factor
        self.step = 2 ** (len(unet.config.block_out_channels) - 1)  # latent frames come in multiples of this
        size = unet.config.sample_size
        frames = self.factor * (max(size) if isinstance(size, (list, tuple)) else size)
        self.seconds: float = frames * self.mel.hop_length / self.sample_rate
        self._folder = None
        self.register_buffer(NULL, None if null_embedding is None else self._condition(null_embedding[None], NULL)[0])

    def encode(self, waveform: Tensor, sample: bool = False, generator: Generators = None) -> Tensor:
        """Waveforms (B, T) at ``sample_rate`` -> scaled latents (B, C, l, m) float32, padded with silence to whole steps.

        They are the mean of the VAE's posterior, or with ``sample`` a draw from it. Official AudioLDM was trained on sounds
        without offset whose peak is 0.5. Raises ValueError for another shape.
        """
        if waveform.ndim != 2:
            raise ValueError(f"AudioLDM encodes waveforms of shape (batch, samples), got {tuple(waveform.shape)}")
        frames = self._latent_frames(waveform.shape[1]) * self.factor
        padded = F.pad(waveform, (0, frames * self.mel.hop_length - waveform.shape[1]))
        mel = log_mel(padded, self.mel)[..., :frames]
        encoded = self.vae.encode(mel.transpose(1, 2)[:, None].to(self.vae.dtype))
        if hasattr(encoded, "latent"):  # AutoencoderDC has no posterior: its latents are certain
            latents = encoded.latent.float()
        else:
            latents = encoded.latent_dist.mean.float()
            if sample:
                latents = latents + encoded.latent_dist.std.float() * draw_noise(latents.shape, generator, latents.device)
        return latents * self.scaling_factor

    def decode_mel(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, l, m) -> log-mel spectrograms (B, M, L), float32."""
        return self.vae.decode((latents / self.scaling_factor).to(self.vae.dtype)).sample[:, 0].float().transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, l, m) -> waveforms (B, L * hop_length) float32 in [-1, 1]."""
        return self.vocoder(self.decode_mel(latents))

    def activations(self, part: str, batch: int, seconds: float | None = None) -> int:
        """Bytes, in float32, that ``unet`` (with guidance) or ``vae`` (with the vocoder) need for a batch besides weights."""
        twin, rows = memory.without_weights(self), batch * (2 if part == "unet" else 1)
        length = self._latent_frames(round((seconds or self.seconds) * self.sample_rate))
        sizes = (rows, self.unet.config.in_channels, length, self.mel.n_mels // self.factor), (rows, self.cond_dim), ()
        latents, given, time = (torch.ones(size, device="meta") for size in sizes)
        with torch.no_grad():
            return memory.peak(lambda: twin.decode(latents) if part == "vae" else twin._predict(latents, time, given))

    def _latent_frames(self, samples: int) -> int:
        span = self.mel.hop_length * self.factor * self.step
        return max(math.ceil(samples / span), 1) * self.step

    def loss(
        self,
        latents: Tensor,
        embedding: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Denoising loss (scalar, float32) of scaled latents (B, C, l, m) under embeddings (B, d).

        With probability ``dropout`` (official: 0.1) an embedding is replaced by the unconditional one. What is not given is
        drawn, from ``generator`` if there is one. Raises ValueError for shapes that do not fit.
        """
        condition = self._condition(embedding, "embedding")
        if len(latents) != len(condition):
            raise ValueError(f"{len(latents)} latents and {len(condition)} embeddings were given: give one for one")
        if dropout > 0:
            source = condition.device if generator is None else generator.device
            dropped = torch.rand(len(condition), 1, generator=generator, device=source).to(condition.device) < dropout
            condition = torch.where(dropped, self.unconditional().to(condition), condition)
        predict = partial(self._predict, condition=condition)
        return denoising_loss(predict, self.noise_scheduler, latents, noise, timesteps, generator)

    @torch.no_grad()
    def generate(
        self,
        embedding: Tensor,
        negative: Tensor | None = None,
        seconds: float | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 2.5,
        generator: Generators = None,
        scheduler: SchedulerMixin | None = None,
        num_waveforms_per_embedding: int = 1,
        ranker: Ranker | None = None,
        latents: Tensor | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Embeddings (B, d) -> mono waveforms float32 in [-1, 1] of round(seconds * sample_rate) samples each.

        Args:
            embedding: of CLAP; normalized here.
            negative: (B, d) or (1, d), what to move away from; default CLAP's embedding of the empty text.
            seconds: of the result; the latents are made for the next whole step and cut. Default: the UNet's own length.
            num_inference_steps: solver steps.
            guidance_scale: weight of classifier-free guidance; at most 1 switches it off and halves the cost.
            generator: one for the batch, or one for each embedding, whose sounds then depend on nothing else in the batch.
            scheduler: any diffusers scheduler with this model's ``prediction_type``; default see `default_scheduler`.
            num_waveforms_per_embedding: k candidates of each embedding (official: 3).
            ranker: scores the candidates, as CLAP's cosine does; the best of each embedding is kept.
            latents: the noise to begin with, (B, C, l, m), or (B, k, C, l, m) of k candidates; default drawn.
            callback: called with (steps done, steps in all).

        Returns (B * k, T), the candidates of one embedding in a row, or (B, T) with a ranker.

        Raises ValueError for arguments that cannot work, before anything is computed.
        """
        count, seconds = num_waveforms_per_embedding, self.seconds if seconds is None else seconds
        samples = round(seconds * self.sample_rate)
        if samples < 1 or count < 1:
            raise ValueError(f"seconds {seconds} must be positive and num_waveforms_per_embedding {count} at least 1")
        scheduler = self.default_scheduler() if scheduler is None else scheduler
        check_scheduler(scheduler, prediction_of(self.scheduler))
        condition, unconditional = self._condition(embedding, "embedding"), None
        if guidance_scale > 1:
            unconditional = self.unconditional()[None] if negative is None else self._condition(negative, "negative")
            unconditional = unconditional.expand(len(condition), -1) if len(unconditional) == 1 else unconditional
        # The candidates are an axis of their own: a generator belongs to an embedding, whatever the number of candidates.
        bands = self.mel.n_mels // self.factor
        shape = (len(condition), count, self.unet.config.in_channels, self._latent_frames(samples), bands)
        model = with_guidance(self._predict_candidates, condition, unconditional, guidance_scale)
        begin = latents[:, None] if latents is not None and latents.ndim == len(shape) - 1 else latents
        made = sample(model, scheduler, shape, num_inference_steps, generator, self.unet.device, callback, begin)
        waveforms = self.decode(made.flatten(0, 1))[:, :samples]
        return waveforms if ranker is None else _best(waveforms, condition, count, ranker)

    def unconditional(self) -> Tensor:
        """Return the unconditional embedding (d,): stored with the weights, or made once by the folder's own text encoder.

        Raises ValueError where there is neither.
        """
        if self.null_embedding is None:
            if self._folder is None or not (self._folder / "text_encoder").is_dir():
                mend = "give negative (CLAP's embedding of the empty text), or guidance_scale 1"
                raise ValueError(f"this AudioLDM has no {NULL} and no text encoder to make it with: {mend}")
            from transformers import ClapTextModelWithProjection

            with torch.inference_mode(False):  # it is kept, and must serve training too
                made = _empty_text(read_module(ClapTextModelWithProjection, self._folder / "text_encoder"))
                self.null_embedding = self._condition(made[None].to(self.unet.device), NULL)[0]
        return self.null_embedding

    def default_scheduler(self) -> SchedulerMixin:
        """DPM-Solver++ (Lu et al., arXiv 2211.01095), second order multistep, over the folder's own noise schedule."""
        from diffusers import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler.from_config(self.scheduler.config, timestep_spacing="linspace")

    def original_scheduler(self) -> SchedulerMixin:
        """DDIM with the noise of eta 1, which the official code uses with 200 steps."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler.from_config(self.scheduler.config)
        scheduler.step = partial(scheduler.step, eta=1.0)
        return scheduler

    def _predict(self, latents: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        dtype = self.unet.dtype
        return self.unet(latents.to(dtype), timestep, encoder_hidden_states=None, class_labels=condition.to(dtype)).sample

    def _predict_candidates(self, latents: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """The same for latents (B, k, C, l, m)."""
        count = latents.shape[1]
        made = self._predict(latents.flatten(0, 1), timestep, condition.repeat_interleave(count, 0))
        return made.unflatten(0, (-1, count))

    def _condition(self, embedding: Tensor, name: str) -> Tensor:
        if embedding.ndim != 2 or embedding.shape[1] != self.cond_dim:
            raise ValueError(f"{name} has the shape {tuple(embedding.shape)}, but the UNet expects (B, {self.cond_dim})")
        return F.normalize(embedding.float(), dim=-1)


def _best(waveforms: Tensor, condition: Tensor, count: int, ranker: Ranker) -> Tensor:
    """The waveform of each embedding that the ranker puts first."""
    scores = ranker(waveforms, condition.repeat_interleave(count, 0))
    if scores.shape != (len(waveforms),):
        raise ValueError(
            f"the ranker gave {tuple(scores.shape)} scores for {len(waveforms)} waveforms: it must give one for each"
        )
    best = scores.view(-1, count).argmax(1)
    return waveforms.unflatten(0, (-1, count))[torch.arange(len(best), device=best.device), best]


def _check_parts(vae: Any, unet: Any, vocoder: Vocoder, factor: int) -> None:
    """Raise ValueError with both numbers for the first pair of parts that does not fit."""
    found, expected, kind = vae.config.latent_channels, unet.config.in_channels, unet.config.class_embed_type
    if found != expected:
        raise ValueError(f"the VAE has {found} latent channels, but the UNet reads {expected}: take both of one model")
    if kind != "simple_projection" or not unet.config.projection_class_embeddings_input_dim:
        raise ValueError(f"the UNet's class_embed_type is {kind!r}, but AudioLDM's is 'simple_projection': take AudioLDM 1's")
    if vocoder.mel.n_mels % factor:
        raise ValueError(f"the vocoder's {vocoder.mel.n_mels} mel bands are no multiple of the VAE's factor {factor}")


def card_of(name: str) -> Card:
    """Return the card of a name, a hub id or a path."""
    return any_card(CARDS, name, "audioldm", _FILES)


def _folder(card: str, local_files_only: bool) -> Path:
    """Find the folder of a card, path or hub id."""
    return locate(card_of(card), local_files_only)


def _load(folder: Path, heads: str, dtype: torch.dtype) -> dict[str, Any]:
    """Read UNet, VAE and scheduler of a diffusers folder."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: a diffusers folder holds them, copy them all")
    import diffusers

    channels = tuple(read_json(folder / "unet" / CONFIG, OFFICIAL).get("block_out_channels") or ())
    known = heads == "official" and channels in OFFICIAL_HEADS
    heads_of = {"attention_head_dim": OFFICIAL_HEADS[channels]} if known else {}  # diffusers' name for the number of heads
    options: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": False, **heads_of}
    return {
        "vae": mel_vae.read_autoencoder(folder / "vae", dtype),
        "unet": read_module(diffusers.UNet2DConditionModel, folder / "unet", **options),
        "scheduler": read_scheduler(folder / "scheduler"),
    }


def save_null_embedding(embedding: Tensor, folder: Path) -> None:
    """Store the unconditional embedding (d,) in a model's folder, where `AudioLDM` finds it."""
    from safetensors.torch import save_file

    save_file({NULL: embedding.detach().float().cpu().contiguous()}, folder / f"{NULL}.safetensors")


@torch.no_grad()
def _empty_text(encoder: Any) -> Tensor:
    """Embedding (d,) of the empty text, which RoBERTa reads as its start and end tokens, by a ClapTextModelWithProjection."""
    ids = [encoder.config.bos_token_id, encoder.config.eos_token_id]
    return encoder.eval()(torch.tensor([ids])).text_embeds[0]


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Turn an official AudioLDM 1 ``.ckpt`` into a diffusers folder that ``card`` takes, at full precision; returns the folder.

    Its plain weights are taken (an average under ``model_ema`` is passed over), with the official attention heads. Of its
    CLAP only the embedding of the empty text is kept. The names are those of the official code and of diffusers' own
    conversion; no published file was at hand to try. Raises FileNotFoundError, or ValueError with what was expected.
    """
    state = only_tensors(read_pickle(file, OFFICIAL), file, "state_dict")
    unet_state, vae_state = (below(state, prefix) for prefix in ("model.diffusion_model.", "first_stage_model."))
    try:
        base, latent = unet_state["input_blocks.0.0.weight"].shape[:2]
        dim, fine = unet_state["film_emb.weight"].shape[1], len(vae_state["encoder.conv_in.weight"])
        wide, scale = len(vae_state["vocoder.conv_pre.weight"]), float(state["scale_factor"])
    except KeyError as error:
        raise ValueError(f"{file} is no AudioLDM 1 checkpoint: it lacks {error}; take one from {OFFICIAL}") from error
    channels = (base, 2 * base, 3 * base, 5 * base)
    if channels not in OFFICIAL_HEADS:
        raise ValueError(f"{file} has a UNet of {base} channels, but expected one of {[first for first, *_ in OFFICIAL_HEADS]}")
    with unfilled():
        parts = _networks(channels, (fine, 2 * fine, 4 * fine), dim=dim, latent=latent)
        parts["vocoder"] = vocoders.hifigan(upsample_initial_channel=wide)
    parts["vae"].register_to_config(scaling_factor=scale)
    unused = {"mean": torch.zeros(AUDIOLDM.n_mels), "scale": torch.ones(AUDIOLDM.n_mels)}
    coder = ("encoder.", "decoder.", "quant_", "post_quant_")
    given: dict[str, tuple[Callable[..., dict[str, str]], dict[str, Tensor]]] = {
        "unet": (partial(unet_names, layers=2, attention_up=(True, True, True, False)), unet_state),
        "vae": (partial(vae_names, levels=3), {key: value for key, value in vae_state.items() if key.startswith(coder)}),
        "vocoder": (hifigan_names, vocoders.fuse_weight_norm(below(vae_state, "vocoder.")) | unused),
    }
    for name, (names, weights) in given.items():
        own = parts[name].state_dict()
        assign(parts[name], renamed(weights, names(own), own), file, f"the {name} of AudioLDM")
    null = _empty_text(_text_encoder(below(state, "cond_stage_model.model."), file))
    vocoders.save(parts.pop("vocoder"), AUDIOLDM, folder / "vocoder", dtype=None)
    for name, part in {**parts, "scheduler": _ddim()}.items():
        part.save_pretrained(folder / name)
    save_null_embedding(null, folder)
    return folder


def _text_encoder(clap: Mapping[str, Tensor], file: Path) -> Any:
    """Build the text encoder of a checkpoint's own CLAP."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    state = {key: value for key, value in laion_renamed(clap).items() if key.startswith("text_")}
    with unfilled():
        encoder = ClapTextModelWithProjection(ClapTextConfig(**text_sizes(state, file)))
    assign(encoder, state | tables(encoder), file, "CLAP's text encoder")
    return encoder


def _networks(
    channels: tuple[int, ...],
    coder: tuple[int, ...] = (128, 256, 512),
    heads: tuple[int, ...] | None = None,
    layers: int = 2,
    dim: int = 512,
    latent: int = 8,
    groups: int = 32,
) -> dict[str, Any]:
    """UNet (no attention at the finest level, self-attention at the others) and VAE, with random weights."""
    from diffusers import UNet2DConditionModel

    others = len(channels) - 1
    shared = {"layers_per_block": layers, "norm_num_groups": groups}
    unet = UNet2DConditionModel(
        sample_size=128, in_channels=latent, out_channels=latent, block_out_channels=channels, cross_attention_dim=channels,
        attention_head_dim=heads or OFFICIAL_HEADS[channels],
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * others),
        up_block_types=(*("CrossAttnUpBlock2D",) * others, "UpBlock2D"), class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=dim, class_embeddings_concat=True, **shared,
    )  # fmt: skip
    return {"unet": unet, "vae": mel_vae.kl(coder, latent, layers, groups)}


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    betas = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def build(card: str) -> Any:
    """Return UNet, VAE and vocoder of a card's size with random weights; None for the miniature."""
    channels = find_card(CARDS, card, "audioldm").options.get("channels")
    return None if channels is None else nn.ModuleDict({**_networks(channels), "vocoder": vocoders.hifigan()})


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Small random instances by class name."""

    def build_tiny() -> AudioLDM:
        parts = _networks((8, 16), (4, 8), heads=(1, 2), layers=1, dim=12, latent=4, groups=4)
        parts |= {"vocoder": vocoders.tiny()["HifiGan"](), "scheduler": _ddim()}
        return AudioLDM.from_parts(**parts, null_embedding=torch.ones(12))

    return {"AudioLDM": build_tiny}


_FILES = [
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "vocoder/config.json", "vocoder/model.safetensors", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.safetensors",
]  # fmt: skip


# Of audioldm-s-full-v2 at the revision that two places agree on.
_S_V2 = "feeb3d14203495a4b6ac0893cbdedb2159b4819c"
_S_V2_FILES = {
    "unet/diffusion_pytorch_model.safetensors": "fc30d5b5a3bb8d08672736efb1fff10755ba7024dace39b2dcb579a105aa2a5a",
    "vae/diffusion_pytorch_model.safetensors": "42f64f7565b23eabde68c9694e39f18b8bba5f7a14f477e7ed4b51e0ea7de8a5",
    "vocoder/model.safetensors": "d9dc6513c30a5b86c2497712690c04fe74b4aa79fdab6d490b34fcb4e24c590c",
    "text_encoder/model.safetensors": "c92b5a2bee69ff5dd05820d9e0a5cddbc9c9b9dd19a6cb3214f0cf4f29a4d1b0",
}


def _cvssp(source: str, parameters: int, channels: tuple[int, ...]) -> Card:
    known, revision = (_S_V2_FILES, _S_V2) if source == "audioldm-s-full-v2" else ({}, "")
    return Card(
        source=f"cvssp/{source}", files={name: known.get(name) for name in _FILES}, revision=revision,
        licence="CC-BY-NC-SA-4.0", commercial=False, origin=f"https://huggingface.co/cvssp/{source}",
        parameters=parameters, dim=512, sample_rate=16_000, normalized=True, options={"channels": channels},
    )  # fmt: skip


_S, _M, _L = (128, 256, 384, 640), (192, 384, 576, 960), (256, 512, 768, 1280)
CARDS: dict[str, Card] = {
    "mini": Card(
        "package:audioldm", dict.fromkeys([*_FILES[:4], _FILES[6], "null_embedding.safetensors"]), "Apache-2.0", True,
        "recipes/miniature/audioldm.yaml", 3_569_732, 128, 16_000, normalized=True, options={"vocoder": "gl"},
    ),
    "audioldm-s-full-v2": _cvssp("audioldm-s-full-v2", 295_678_322, _S),
    "audioldm-s-full": _cvssp("audioldm", 295_678_322, _S),
    "audioldm-m-full": _cvssp("audioldm-m-full", 526_596_338, _M),
    "audioldm-l-full": _cvssp("audioldm-l-full", 849_780_850, _L),
}  # fmt: skip
