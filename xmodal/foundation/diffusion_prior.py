"""Diffusion priors: a text embedding becomes an image embedding of the same space (DALL-E 2, arXiv 2204.06125, section 2.2).

`DiffusionPrior` is dalle2-pytorch's network (LAION's files, and those trained here), `KarloPrior` and `KandinskyPrior` are
diffusers' PriorTransformer, and five baselines cost next to nothing: `Identity`, `MeanShift`, `Linear`, `MLP`, `Retrieval`.
Letters: B batch, d embedding width, L text tokens, k candidates for each text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.diffusion import sampling
from xmodal.diffusion.embedding_diffusion import EmbeddingDiffusion, Strided, best_of, guided_model
from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork
from xmodal.diffusion.sampling import Generators, Scheduler, with_guidance
from xmodal.diffusion.schedules import check_scheduler, prediction_of
from xmodal.foundation.base import Card, Prior, find_card
from xmodal.foundation.original_names import read_library_state, version_ignored
from xmodal.foundation.prior_parts import Bank, Shift, as_of, check, check_class
from xmodal.frozen import Frozen
from xmodal.registry.cards import any_card, locate
from xmodal.registry.checkpoint import assign, only_tensors, read_folder, read_module, read_pickle, read_scheduler, unfilled
from xmodal.registry.checkpoint import write_folder as write

HUB = "https://huggingface.co"


class DiffusionPrior(Prior):
    """Frozen prior of dalle2-pytorch's form.

    Args:
        card: a name in `CLASSIC`, a folder written by `import_checkpoint` or `save`, or a published file itself.
        local_files_only: a card's file is looked up in the local hub cache only; False permits the download.

    Raises ValueError for an unknown card or a file that does not fit, FileNotFoundError where weights are missing.
    """

    def __init__(self, card: str = "mini", local_files_only: bool = True) -> None:
        super().__init__()
        path = _path(CLASSIC, card, local_files_only)
        self._assemble(*(_read(path) if path.is_dir() else _read_published(path)))

    @classmethod
    def from_model(
        cls,
        network: PriorNetwork,
        diffusion: EmbeddingDiffusion | None = None,
        drop_noisy: bool = True,
        reads_tokens: bool = True,
    ) -> Self:
        """Build from a network in memory, which is frozen in place; ``diffusion`` is the cosine schedule unless given.

        ``drop_noisy``: guidance also hides the noisy vector. ``reads_tokens``: word encodings must be given, if the network
        has places for them.
        """
        return cls.assembled(network, diffusion or EmbeddingDiffusion(network.config.timesteps or 1000), drop_noisy, reads_tokens)

    def _assemble(self, network: PriorNetwork, diffusion: EmbeddingDiffusion, drop_noisy: bool, reads_tokens: bool) -> None:
        self.network, self.diffusion, self.drop_noisy = network, diffusion, drop_noisy
        self.reads_tokens = reads_tokens and network.config.text_tokens > 0
        self.dim = network.config.dim

    def sample(
        self,
        text_embedding: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        generator: Generators = None,
        num_inference_steps: int = 64,
        guidance_scale: float = 1.0,
        candidates: int = 2,
        sampler: str = "ddim_original",
        eta: float = 1.0,
        scheduler: Scheduler = None,
    ) -> Tensor:
        """Text embeddings (B, d) -> image embeddings (B, d), float32, normalized.

        Args:
            text_embedding: normalized here, as in training.
            tokens: the text tower's outputs after its last norm (B, L, d), L at most ``network.config.text_tokens``.
            mask: (B, L), true up to and including the end-of-text token; default where ``tokens`` are not all zero.
            generator: one, or one for each text, whose result then depends on nothing else in the batch.
            guidance_scale: LAION found values above 1 to be worse.
            candidates: guesses for each text, of which the nearest to the text is kept.
            num_inference_steps, sampler, eta, scheduler: see ``EmbeddingDiffusion.sample``; defaults as LAION samples.

        Raises ValueError for shapes that do not fit, and where word encodings are missing or of no use.
        """
        check(self, text_embedding, tokens, candidates)
        conditions = {"condition": F.normalize(text_embedding.float(), dim=-1), "text": tokens, "text_mask": mask}
        given = {name: value for name, value in conditions.items() if value is not None}
        model = guided_model(self._guess, given, candidates, guidance_scale, self.drop_noisy)
        shape, device = (len(text_embedding), candidates, self.dim), text_embedding.device
        found = self.diffusion.sample(model, shape, generator, device, num_inference_steps, sampler, eta, scheduler)
        return best_of(found, text_embedding)

    def _guess(self, noisy: Tensor, time: Tensor, **rows: Tensor | None) -> Tensor:
        given = {name: as_of(self.network, value) for name, value in rows.items()}
        return self.network(as_of(self.network, noisy), time, **given)


def save(prior: DiffusionPrior, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write config.json and model.safetensors for `DiffusionPrior` to load; returns the folder."""
    diffusion = {"timesteps": prior.diffusion.timesteps, "schedule": prior.diffusion.schedule}
    switches = {"drop_noisy": prior.drop_noisy, "reads_tokens": prior.reads_tokens}
    config = {"class": "DiffusionPrior", "network": asdict(prior.network.config), "diffusion": diffusion, **switches}
    return write(folder, config, prior.network.state_dict(), dtype)


def import_checkpoint(file: Path, folder: Path) -> Path:
    """Convert a prior of dalle2-pytorch into a folder for ``card``; returns the folder.

    Takes a flat state dict (with or without CLIP inside), a trainer's checkpoint (its EMA weights) and a saved model.
    Raises FileNotFoundError, or ValueError that names what does not fit.
    """
    return save(DiffusionPrior.from_model(*_read_published(file)), folder)


def _read(folder: Path) -> tuple[PriorNetwork, EmbeddingDiffusion, bool, bool]:
    config, state = read_folder(folder, "the folder that import_checkpoint wrote")
    check_class(config, "DiffusionPrior", folder)
    try:
        sizes, diffusion = PriorConfig(**config["network"]), EmbeddingDiffusion(**config["diffusion"])
        switches = bool(config["drop_noisy"]), bool(config["reads_tokens"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is not of a DiffusionPrior ({error}): import the checkpoint again") from error
    return _fill(sizes, state, folder), diffusion, *switches


def _read_published(file: Path) -> tuple[PriorNetwork, EmbeddingDiffusion, bool, bool]:
    origin = f"{HUB}/laion/DALLE2-PyTorch"
    with version_ignored():
        content = read_pickle(file, origin)
    keys = [key for key in ("ema_model", "model") if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    state = only_tensors(content, file, keys[0] if keys else None)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        sizes, kept = read_library_state(state)
        betas = state.get("noise_scheduler.betas")
        diffusion = EmbeddingDiffusion(sizes.timesteps or 1000) if betas is None else EmbeddingDiffusion.from_betas(betas)
    except ValueError as error:
        raise ValueError(f"{file} cannot be used: {error}; give a prior's file from {origin}") from error
    return _fill(sizes, kept, file), diffusion, True, sizes.text_tokens > 0


def _fill(config: PriorConfig, state: Mapping[str, Tensor], path: Path) -> PriorNetwork:
    with unfilled():
        network = PriorNetwork(config)
    assign(network, state, path, "a diffusion prior of its own sizes")
    return network.eval()


class _UnCLIP(Prior):
    """A PriorTransformer of diffusers and its scheduler."""

    def _load(self, folder: Path) -> None:
        from diffusers import PriorTransformer

        places = [folder / name for name in ("prior_scheduler", "scheduler") if (folder / name).is_dir()]
        if not (folder / "prior").is_dir() or not places:
            raise FileNotFoundError(f"{folder} lacks prior or prior_scheduler (or scheduler): copy the whole diffusers folder")
        self._assemble(read_module(PriorTransformer, folder / "prior", low_cpu_mem_usage=False), read_scheduler(places[0]))

    @classmethod
    def from_parts(cls, prior: Any, scheduler: Scheduler) -> Self:
        """Build from a PriorTransformer, which is frozen in place, and a scheduler in memory."""
        return cls.assembled(prior, scheduler)

    def _assemble(self, prior: Any, scheduler: Scheduler) -> None:
        if not prior.clip_std.any():  # they start at zero, and zeros would make every result the same
            raise ValueError("the prior's clip_std is all zero: its file lacks the statistics of image embeddings, get it again")
        self.prior, self.scheduler = prior, scheduler
        self.dim = prior.config.embedding_dim
        self.reads_tokens = prior.encoder_hidden_states_proj is not None

    @torch.no_grad()
    def sample(
        self,
        text_embedding: Tensor,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        negative_embedding: Tensor | None = None,
        negative_tokens: Tensor | None = None,
        negative_mask: Tensor | None = None,
        generator: Generators = None,
        num_inference_steps: int = 25,
        guidance_scale: float | None = None,
        candidates: int = 2,
        scheduler: Scheduler = None,
    ) -> Tensor:
        """Text embeddings (B, d) -> image embeddings (B, d), float32, normalized.

        Args:
            text_embedding: as the text tower's projection gives them, not normalized.
            tokens: the text tower's last hidden states (B, L, d), L being the prior's number of places.
            mask: (B, L), true at tokens that are not padding.
            negative_embedding, negative_tokens, negative_mask: the same of the empty text, one row or B.
            generator: one, or one for each text.
            guidance_scale: default 4 where the empty text is given, else 1 (none).
            candidates: guesses for each text, of which the nearest to the text is kept.
            scheduler: any diffusers scheduler over the same noise schedule with this prior's prediction_type.

        Raises ValueError for shapes that do not fit and for guidance without the empty text.
        """
        check(self, text_embedding, tokens, candidates)
        if text_embedding.norm(dim=-1).sub(1).abs().max() < 1e-3:
            raise ValueError(f"{type(self).__name__} reads text embeddings as projected, but these are normalized: give them raw")
        scale = guidance_scale if guidance_scale is not None else 1.0 if negative_embedding is None else 4.0
        if scale > 1 and negative_embedding is None:
            raise ValueError(f"guidance_scale {scale} needs the empty text: give negative_embedding (and its tokens and mask)")
        batch = len(text_embedding)
        pairs = {
            "proj_embedding": (negative_embedding, text_embedding),
            "encoder_hidden_states": (negative_tokens, tokens),
            "attention_mask": (negative_mask, mask),
        }
        tables = {name: _stack(name, empty, asked, scale > 1) for name, (empty, asked) in pairs.items() if asked is not None}
        rows = torch.arange(batch, device=text_embedding.device)
        off, on = rows, rows + batch if scale > 1 else rows

        def call(latents: Tensor, time: Tensor, rows: Tensor) -> Tensor:
            index = rows.repeat_interleave(candidates)
            given = {name: as_of(self.prior, table[index]) for name, table in tables.items()}
            made = self.prior(as_of(self.prior, latents.flatten(0, 1)), time, **given).predicted_image_embedding
            return made.view(latents.shape)

        chosen = self._check_scheduler(self.scheduler if scheduler is None else scheduler, num_inference_steps)
        shape, device = (batch, candidates, self.dim), text_embedding.device
        model = with_guidance(call, on, off, scale)
        found = sampling.sample(model, chosen, shape, num_inference_steps, generator, device)
        return best_of(self.prior.post_process_latents(found), text_embedding)

    def _check_scheduler(self, scheduler: Any, steps: int) -> Scheduler:
        check_scheduler(scheduler, prediction_of(self.scheduler))
        if type(scheduler).__name__ != "UnCLIPScheduler":
            return scheduler
        if steps < 2:
            raise ValueError(f"UnCLIPScheduler takes at least 2 steps, not {steps}")
        return Strided(scheduler)


def _stack(name: str, negative: Tensor | None, given: Tensor, guided: bool) -> Tensor:
    """Rows of the empty text, then those given; the latter alone without guidance."""
    if not guided:
        return given
    if negative is None or negative.shape[1:] != given.shape[1:] or len(negative) not in (1, len(given)):
        found = "nothing" if negative is None else tuple(negative.shape)
        raise ValueError(f"guidance needs the empty text's {name} like {tuple(given.shape)} (or one row of it), found {found}")
    return torch.cat((negative.expand_as(given), given))


class KarloPrior(_UnCLIP):
    """Karlo's frozen prior in the space of OpenAI's CLIP ViT-L/14; ``card`` is a name, a diffusers folder or a hub id."""

    def __init__(self, card: str = "karlo", local_files_only: bool = True) -> None:
        super().__init__()
        self._load(_path(KARLO, card, local_files_only))


class KandinskyPrior(_UnCLIP):
    """Kandinsky's frozen prior: 2.1 in the space of OpenAI's CLIP ViT-L/14, 2.2 in that of OpenCLIP ViT-bigG/14."""

    def __init__(self, card: str = "kandinsky-2.1", local_files_only: bool = True) -> None:
        super().__init__()
        self._load(_path(KANDINSKY, card, local_files_only))


class Identity(Prior):
    """The text embedding itself, normalized: what a prior must beat."""

    def __init__(self, card: str = "none", dim: int = 768) -> None:
        super().__init__()
        if card != "none":
            raise ValueError(f"Identity has no weights, so card {card!r} cannot be loaded: leave it out, or say 'none'")
        self.dim = dim

    def sample(self, text_embedding: Tensor, **options: Any) -> Tensor:
        """(B, d) -> (B, d), normalized; options of other priors are ignored."""
        check(self, text_embedding)
        return F.normalize(text_embedding.float(), dim=-1)


class _Baseline(Identity):
    """A small module from a folder, or fitted to pairs; reads and gives unit vectors."""

    def __init__(self, card: str) -> None:
        Prior.__init__(self)
        if not Path(card).is_dir():
            raise FileNotFoundError(f"{type(self).__name__} has no published weights: card {card!r} must be a folder of its own")
        config, state = read_folder(Path(card), f"{type(self).__name__}.fit(...).save(folder)")
        check_class(config, type(self).__name__, Path(card))
        sizes = {key: int(config[key]) for key in ("dim", "hidden", "count") if key in config}
        net = self._build(**sizes)
        assign(net, state, Path(card), type(self).__name__)
        self._assemble(net, **sizes)

    @classmethod
    def from_model(cls, net: nn.Module, **sizes: int) -> Self:
        """Build from a module in memory, which is frozen ; ``sizes``: ``dim``, an MLP's ``hidden``, a bank's ``count``."""
        return cls.assembled(net, **sizes)

    def _assemble(self, net: nn.Module, **sizes: int) -> None:
        self.net, self.sizes, self.dim = net, sizes, sizes["dim"]

    @staticmethod
    def _build(dim: int) -> nn.Module:
        return nn.Linear(dim, dim)

    def save(self, folder: Path) -> Path:
        """Write config.json and model.safetensors, float32; returns the folder."""
        return write(folder, {"class": type(self).__name__, **self.sizes}, self.net.state_dict(), None)

    def sample(self, text_embedding: Tensor, **options: Any) -> Tensor:
        """(B, d) -> (B, d), normalized; options of other priors are ignored."""
        return F.normalize(self.net(as_of(self.net, super().sample(text_embedding))).float(), dim=-1)


class MeanShift(_Baseline):
    """Text minus the mean text plus the mean image."""

    @staticmethod
    def _build(dim: int) -> nn.Module:
        return Shift(dim)

    @classmethod
    def fit(cls, text: Tensor, image: Tensor) -> Self:
        """Means of text and image embeddings (N, d); they need not be pairs."""
        net = Shift(text.shape[1])
        net.mean_text.data, net.mean_image.data = (F.normalize(x.float(), dim=-1).mean(0) for x in (text, image))
        return cls.from_model(net, dim=text.shape[1])


class Linear(_Baseline):
    """One affine map."""

    @classmethod
    def fit(cls, text: Tensor, image: Tensor, ridge: float = 1e-3) -> Self:
        """Least squares on pairs (N, d); ``ridge`` times N is added to the diagonal, the bias being free."""
        x, y = (F.normalize(each.double(), dim=-1) for each in (text, image))
        dx, dy, net = x - x.mean(0), y - y.mean(0), cls._build(text.shape[1])
        weight = torch.linalg.solve(dx.T @ dx + ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype), dx.T @ dy).T
        net.load_state_dict({"weight": weight, "bias": y.mean(0) - weight @ x.mean(0)})
        return cls.from_model(net, dim=text.shape[1])


class MLP(_Baseline):
    """One hidden layer."""

    @staticmethod
    def _build(dim: int, hidden: int = 0) -> nn.Module:
        hidden = hidden or 4 * dim
        return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.LayerNorm(hidden), nn.Linear(hidden, dim))

    @classmethod
    def fit(cls, text: Tensor, image: Tensor, hidden: int = 0, steps: int = 500, batch: int = 1024, seed: int = 0) -> Self:
        """AdamW on 1 - cosine over pairs (N, d); ``hidden`` is 4 d unless given. Leaves no trace in the random state."""
        hidden = hidden or 4 * text.shape[1]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            net = cls._build(text.shape[1], hidden)
            optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
            for _ in range(steps):
                pick = torch.randint(len(text), (min(batch, len(text)),))
                loss = 1 - F.cosine_similarity(net(F.normalize(text[pick].float(), dim=-1)), image[pick].float()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return cls.from_model(net, dim=text.shape[1], hidden=hidden)


class Retrieval(_Baseline):
    """The known picture embeddings that lie nearest, as a weighted mean: projection onto a memory (DeCap, arXiv 2303.03032)."""

    @staticmethod
    def _build(dim: int, count: int = 1) -> nn.Module:
        return Bank(dim, count)

    @classmethod
    def fit(cls, image: Tensor, temperature: float = 0.02) -> Self:
        """Keep picture embeddings (N, d); a low ``temperature`` takes the nearest alone, and must be above 0 (ValueError)."""
        if not temperature > 0:
            raise ValueError(f"temperature {temperature} must be above 0")
        net = Bank(image.shape[1], len(image), temperature)
        net.rows.data = F.normalize(image.float(), dim=-1)
        return cls.from_model(net, dim=image.shape[1], count=len(image))


def card_of(name: str) -> Card:
    """Return the card of a name, of a hub id with a diffusers prior, or of a path."""
    return any_card(CARDS, name, "diffusion_prior", UNCLIP_FILES)


def _path(cards: Mapping[str, Card], card: str, local_files_only: bool) -> Path:
    """Find the folder (or file) of a path, of a card of one kind of prior or, for diffusers' kinds, of a hub id."""
    chosen = find_card(cards, card, "diffusion_prior") if cards is CLASSIC or card in CARDS else card_of(card)
    return locate(chosen, local_files_only)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """Random instances of every class that build in no time, offline."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "embedding_dim": 24, "num_embeddings": 0}

    def unclip(kind: type[_UnCLIP]) -> Frozen:
        from diffusers import PriorTransformer, UnCLIPScheduler

        prior: Any = PriorTransformer(**sizes, encoder_hid_proj_type=None)
        prior.clip_std.data.fill_(1.0)
        return kind.from_parts(prior, UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0))

    network = PriorConfig(dim=24, depth=1, heads=2, dim_head=8, ff_mult=2, timesteps=100)
    return {
        "DiffusionPrior": lambda: DiffusionPrior.from_model(PriorNetwork(network)),
        "KarloPrior": lambda: unclip(KarloPrior),
        "KandinskyPrior": lambda: unclip(KandinskyPrior),
        "Identity": lambda: Identity(dim=24),
        "MeanShift": lambda: MeanShift.from_model(Shift(24), dim=24),
        "Linear": lambda: Linear.from_model(nn.Linear(24, 24), dim=24),
        "Retrieval": lambda: Retrieval.fit(torch.eye(24)),
        "MLP": lambda: MLP.from_model(MLP._build(24, 48), dim=24, hidden=48),
    }


def build(card: str) -> nn.Module:
    """The full-size network of a card, with random weights (or none, on the meta device)."""
    options = find_card(CARDS, card, "diffusion_prior").options
    if "network" in options:
        return PriorNetwork(PriorConfig(**options["network"]))
    from diffusers import PriorTransformer

    network: nn.Module = PriorTransformer(**options["prior"])  # type: ignore[assignment]
    return network


def _card(source: str, files: list[str], licence: str, parameters: int, options: Any, dim: int = 768, size: int = 0) -> Card:
    recipe, commercial = source.partition("package:")[2], licence != "unverified"
    origin = f"recipes/miniature/{recipe}.yaml" if recipe else f"{HUB}/{source}"
    common = {"dim": dim, "normalized": True, "options": options, "size": size}
    return Card(source, dict.fromkeys(files), licence, commercial, origin, parameters, **common)


def _network(**sizes: int) -> dict[str, Any]:
    return {"network": {"dim": 768, "dim_head": 64, **sizes}}


UNCLIP_FILES = ["prior/*", "prior_scheduler/*", "scheduler/*"]
_UNCLIP = ("unverified", 1_022_030_080, {"prior": {"embedding_dim": 768}})
_WIDE = {"prior": {"embedding_dim": 1280}}
_OWN, _MINI = ["config.json", "model.safetensors"], _network(dim=128, depth=4, heads=4, dim_head=32)
_DEEP, _BASE = _network(depth=24, heads=32, text_tokens=256), _network(depth=12, heads=12, text_tokens=77)
_NOUS, _DALLE2 = "nousr/conditioned-prior", "laion/DALLE2-PyTorch"

CLASSIC: dict[str, Card] = {
    "mini": _card("package:prior", _OWN, "Apache-2.0", 1_099_136, _MINI, 128),
    "mini_names": _card("package:prior_names", _OWN, "Apache-2.0", 1_099_136, _MINI, 128),
    "laion": _card(_DALLE2, ["prior/best.pth"], "MIT", 101_756_544, _BASE, size=1_340_000_000),
    "laion-24": _card(_DALLE2, ["prior_ema_fp16.pth"], "MIT", 249_416_704, _DEEP),
    "conditioned-prior": _card(_NOUS, ["vit-l-14/laion2b/ema855M.pth"], "unverified", 249_416_704, _DEEP, size=5_850_000_000),
}
KARLO: dict[str, Card] = {"karlo": _card("kakaobrain/karlo-v1-alpha", UNCLIP_FILES, *_UNCLIP)}
KANDINSKY: dict[str, Card] = {
    "kandinsky-2.1": _card("kandinsky-community/kandinsky-2-1-prior", UNCLIP_FILES, *_UNCLIP),
    "kandinsky-2.2": _card("kandinsky-community/kandinsky-2-2-prior", UNCLIP_FILES, "unverified", 1_026_225_920, _WIDE, 1280),
}
CARDS: dict[str, Card] = CLASSIC | KARLO | KANDINSKY
