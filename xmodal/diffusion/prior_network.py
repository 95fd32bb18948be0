"""The transformer that turns a noisy embedding into a clean one: the network of a diffusion prior (DALL-E 2, arXiv
2204.06125, section 2.2) as the library dalle2-pytorch builds it, and the one whose size fits V2A-Mapper's (arXiv 2308.09300).

Parameter names below ``transformer`` are that library's, so that its files load. Written from a description of its behaviour.
Letters: B batch, d embedding width, L text tokens, n tokens in all, h heads, c channels of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOGIT_SCALE = 16.0
BUCKETS, MAX_DISTANCE = 32, 128
ROTARY_CHANNELS, ROTARY_BASE = 32, 10_000.0


@dataclass(frozen=True)
class PriorConfig:
    """Sizes and switches. The defaults are the 48.79 M network with the four tokens that V2A-Mapper's paper describes.

    ``timesteps`` is the length of the time table, or None for a network of continuous time. ``text_tokens`` are learned
    placeholders in front, which stand in for the words that are not there. Raises ValueError for sizes that cannot work.
    """

    dim: int = 512
    depth: int = 12
    heads: int = 12
    dim_head: int = 64
    ff_mult: int = 4
    timesteps: int | None = 1000
    time_tokens: int = 1
    noisy_tokens: int = 1
    condition_tokens: int = 1
    text_tokens: int = 0
    causal: bool = True
    norm_in: bool = False
    normformer: bool = True
    norm_out: bool = True
    final_proj: bool = True
    rotary: bool = True
    attention_dropout: float = 0.0
    ff_dropout: float = 0.0

    def __post_init__(self) -> None:
        positive = ("dim", "depth", "heads", "dim_head", "ff_mult", "time_tokens", "noisy_tokens", "condition_tokens")
        wrong = [name for name in positive if getattr(self, name) < 1]
        if wrong or self.text_tokens < 0 or (self.timesteps is not None and self.timesteps < 1):
            name = wrong[0] if wrong else "text_tokens" if self.text_tokens < 0 else "timesteps"
            raise ValueError(f"{name} of a prior network is {getattr(self, name)}, but it must be a positive number")
        if self.dim % 2 or self.dim_head % 2:
            raise ValueError(f"dim {self.dim} and dim_head {self.dim_head} of a prior network must both be even")

    @property
    def tokens(self) -> int:
        """Length of the sequence: placeholders or words, condition, time, noisy embedding and the learned query."""
        return self.text_tokens + self.condition_tokens + self.time_tokens + self.noisy_tokens + 1


Memory = tuple[Tensor, Tensor]


class GainNorm(nn.Module):
    """Layer normalization with a gain and no bias; ``stable`` divides by the row's signed maximum first."""

    def __init__(self, dim: int, stable: bool = False) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(dim))
        self.stable = stable

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        if self.stable:
            x = x / x.amax(-1, keepdim=True).detach()
        return F.layer_norm(x, self.g.shape, self.g, None, 1e-5)


class SwiGLU(nn.Module):
    """The first half of the channels, gated by the SiLU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2m) -> (..., m)."""
        value, gate = x.chunk(2, -1)
        return value * F.silu(gate)


def feed_forward(config: PriorConfig) -> nn.Sequential:
    """Pre-norm SwiGLU layer; its places carry the library's parameter names, hence the identity."""
    inner = config.ff_mult * config.dim
    return nn.Sequential(
        GainNorm(config.dim),
        nn.Linear(config.dim, 2 * inner, bias=False),
        SwiGLU(),
        GainNorm(inner) if config.normformer else nn.Identity(),
        nn.Dropout(config.ff_dropout),
        nn.Linear(inner, config.dim, bias=False),
    )


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring channels (2i, 2i + 1) of the first 2r channels of (..., n, c) by angles (n, r), in float32."""
    turned, rest = x[..., : 2 * angles.shape[-1]].float(), x[..., 2 * angles.shape[-1] :]
    even, odd = turned.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1)
    return torch.cat((pairs.flatten(-2).to(x.dtype), rest), -1)


class Attention(nn.Module):
    """Pre-norm attention by cosine: one key/value head for all queries, a learned null key, a norm on the way out."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        inner = config.heads * config.dim_head
        self.norm = GainNorm(config.dim)
        self.null_kv = nn.Parameter(torch.randn(2, config.dim_head))
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * config.dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, config.dim, bias=False), GainNorm(config.dim))

    def forward(self, x: Tensor, bias: Tensor, angles: Tensor | None, before: Memory | None = None) -> tuple[Tensor, Memory]:
        """(B, n, d) -> (B, n, d) and what later tokens attend to.

        ``before`` holds the normalized keys and the values, (1 or B, 1, m, c) each, of the null key and of tokens in front; by
        default there are none. ``bias`` (h, n, m + n) is added to the logits; ``angles`` (n, r) turn queries and keys.
        """
        x = self.norm(x)
        query = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.to_kv(x)[:, None].chunk(2, -1)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        if before is None:
            null_key, null_value = self.null_kv.to(key.dtype)[:, None, None, None].unbind()
            before = F.normalize(null_key, dim=-1), null_value
        first_keys, first_values = (part.expand(len(x), -1, -1, -1) for part in before)
        keys = torch.cat((first_keys, key), 2)
        values = torch.cat((first_values, value.to(key.dtype)), 2)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            query,
            keys.expand(-1, self.heads, -1, -1),
            values.expand(-1, self.heads, -1, -1),
            bias.to(query.dtype),
            dropout,
            scale=LOGIT_SCALE,
        )
        return self.to_out(out.transpose(1, 2).flatten(2)), (keys, values)


def position_buckets(tokens: int, causal: bool) -> Tensor:
    """T5's bucket (n, n + 1) of the distance from query to key, on the CPU; the null key has index 0, token i has i + 1."""
    place = torch.arange(tokens + 1, device="cpu")
    behind = place[:-1, None] - place[None]  # the query's own index is not shifted: token i sees itself at -1
    buckets, start = BUCKETS, torch.zeros_like(behind)
    if causal:
        distance = behind.clamp(min=0)
    else:
        buckets, distance = buckets // 2, behind.abs()
        start = (behind < 0) * buckets
    exact = buckets // 2
    far = exact + ((distance.clamp(min=1) / exact).log() / math.log(MAX_DISTANCE / exact) * (buckets - exact)).long()
    return start + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


class PositionBias(nn.Module):
    """One table for all layers; causal attention is its minus infinity."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, config.heads)
        self.register_buffer("buckets", position_buckets(config.tokens, config.causal), persistent=False)
        place = torch.arange(config.tokens + 1, device="cpu")
        hidden = (place[None] > place[:-1, None] + 1) & config.causal
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self) -> Tensor:
        """-> (h, n, n + 1)."""
        bias = self.relative_attention_bias(self.buckets).movedim(-1, 0)
        return bias.masked_fill(cast(Tensor, self.hidden), -torch.inf)


class Transformer(nn.Module):
    """The layers, (B, n, d) -> (B, n, d)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.init_norm = GainNorm(config.dim) if config.norm_in else nn.Identity()
        self.rel_pos_bias = PositionBias(config)
        self.layers = nn.ModuleList(nn.ModuleList((Attention(config), feed_forward(config))) for _ in range(config.depth))
        self.norm = GainNorm(config.dim, stable=True) if config.norm_out else nn.Identity()
        self.project_out = nn.Linear(config.dim, config.dim, bias=False) if config.final_proj else nn.Identity()

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """(B, n, d) -> (B, n, d).

        ``shared`` (1, m, d) are tokens in front of every row. Where attention is causal nothing of the rows reaches them, so
        they are computed once for the batch (with one dropout mask for all rows), and rows are what they would be with them.
        """
        if shared is not None and not self.config.causal:
            return self(torch.cat((shared.expand(len(x), -1, -1), x), 1))[:, shared.shape[1] :]
        bias = self.rel_pos_bias()
        parts = [x] if shared is None else [shared, x]
        lengths = [part.shape[1] for part in parts]
        angles: list[Tensor | None] = [None] * len(parts)
        if self.config.rotary:
            place = torch.arange(sum(lengths), device=x.device, dtype=torch.float32)
            angles = [*(place[:, None] * rotary_frequencies(self.config.dim_head, x.device)).split(lengths)]
        rows = bias.split(lengths, 1)
        parts = [self.init_norm(part) for part in parts]
        for attention, feed in cast("list[list[nn.Module]]", self.layers):
            before: Memory | None = None
            for number, part in enumerate(parts):
                seen = sum(lengths[: number + 1]) + 1
                out, before = attention(part, rows[number][..., :seen], angles[number], before)
                parts[number] = part + out
                parts[number] = parts[number] + feed(parts[number])
        return self.project_out(self.norm(parts[-1]))


def rotary_frequencies(dim_head: int, device: torch.device | str = "cpu") -> Tensor:
    """Angle per position of each rotated pair of channels, float32."""
    channels = min(ROTARY_CHANNELS, dim_head)
    return ROTARY_BASE ** (-torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)


class Sinusoids(nn.Module):
    """Time (B,) -> (B, d): sines, then cosines, of geometrically spaced frequencies."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, times: Tensor) -> Tensor:
        """(B,) -> (B, d)."""
        half = self.dim // 2
        steps = torch.arange(half, device=times.device, dtype=torch.float32)
        angles = times.float()[:, None] * torch.exp(steps * -(math.log(10_000) / (half - 1)))
        return torch.cat((angles.sin(), angles.cos()), -1)


class TimeMLP(nn.Module):
    """Two hidden layers of twice the output's width."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        first, second = nn.Linear(dim, 2 * out), nn.Linear(2 * out, 2 * out)
        self.net = nn.Sequential(nn.Sequential(first, nn.SiLU()), nn.Sequential(second, nn.SiLU()), nn.Linear(2 * out, out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, out), in the precision of the weights."""
        return self.net(x.to(next(self.net.parameters()).dtype))


class PriorNetwork(nn.Module):
    """Guesses the clean embedding from a noisy one, its time and a condition; see `PriorConfig`."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        dim, wide = config.dim, config.time_tokens * config.dim
        time = (
            nn.Sequential(Sinusoids(dim), TimeMLP(dim, wide))
            if config.timesteps is None
            else nn.Embedding(config.timesteps, wide)
        )
        self.to_time_embeds = nn.Sequential(time)
        self.to_image_embeds = _split(dim, config.noisy_tokens)
        self.to_text_embeds = _split(dim, config.condition_tokens)
        self.learned_query = nn.Parameter(torch.randn(dim))
        self.transformer = Transformer(config)
        self.null_text_encodings = nn.Parameter(torch.randn(1, config.text_tokens, dim)) if config.text_tokens else None
        self.null_text_embeds = nn.Parameter(torch.randn(1, config.condition_tokens, dim))
        self.null_image_embed = nn.Parameter(torch.randn(1, dim))

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        keep_condition: Tensor | None = None,
        keep_noisy: Tensor | None = None,
    ) -> Tensor:
        """Return the guess (B, d).

        Args:
            noisy: (B, d).
            timesteps: (B,) or (), from 0 (clean) to T - 1.
            condition: (B, d).
            text: word encodings (B, L, d); the learned placeholders stand where there are none, so L may be anything.
            text_mask: (B, L), true at words; default where ``text`` is not all zero, as the library has it.
            keep_condition: (B,) bool, false where words and condition give way to learned null tokens; default all kept.
            keep_noisy: the same for the noisy embedding.

        Raises ValueError for ``text`` where the network has no place for it.
        """
        kept = torch.ones(len(noisy), dtype=torch.bool, device=noisy.device)
        keep_condition = (kept if keep_condition is None else keep_condition)[:, None, None]
        keep_noisy = (kept if keep_noisy is None else keep_noisy)[:, None, None]
        times = timesteps.expand(len(noisy))
        if self.config.timesteps is not None:
            times = times.round().long() if times.is_floating_point() else times
        parts = [
            torch.where(keep_condition, self._tokens(self.to_text_embeds, condition), self.null_text_embeds),
            self.to_time_embeds(times).unflatten(-1, (-1, self.config.dim)),
            torch.where(keep_noisy, self._tokens(self.to_image_embeds, noisy), self.null_image_embed),
            self.learned_query.expand(len(noisy), 1, -1),
        ]
        x = torch.cat(parts, 1)
        if text is None:
            return self.transformer(x, self.null_text_encodings)[:, -1]
        return self.transformer(torch.cat((self._words(text, text_mask, keep_condition), x), 1))[:, -1]

    def _tokens(self, split: nn.Module, x: Tensor) -> Tensor:
        return split(x).unflatten(-1, (-1, self.config.dim))

    def _words(self, text: Tensor, mask: Tensor | None, keep: Tensor) -> Tensor:
        if self.null_text_encodings is None:
            raise ValueError("this network has no places for word encodings (text_tokens is 0): leave text out")
        mask = (text != 0).any(-1) if mask is None else mask.bool()
        room = self.config.text_tokens - text.shape[1]
        text, mask = F.pad(text, (0, 0, 0, room)), F.pad(mask, (0, room))  # a negative room cuts off
        return torch.where(mask[..., None] & keep, text, self.null_text_encodings)


def _split(dim: int, tokens: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, tokens * dim)) if tokens > 1 else nn.Identity()
