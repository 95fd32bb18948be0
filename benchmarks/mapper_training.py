r"""How fast does a mapper train on stored pairs?  python benchmarks/mapper_training.py [--device cuda] [--library FOLDER]

Random pairs of real shape (CLIP ViT-L/14's 768 numbers to CLAP's 512, float16, in memory, shuffled) through `xmodal.vision2audio`
under Lightning: forward, backward, clipping, AdamW and the average of the weights; what the first steps cost is left out.

The baseline is the training step of dalle2-pytorch's DiffusionPriorTrainer (forward, backward, clipping, AdamW, EMA) at equal
size, if that package is found; it pins an older open_clip, so keep it apart:
    pip install --no-deps --target FOLDER dalle2-pytorch accelerate beartype clip-anytorch coca-pytorch einops einx \
        ema-pytorch embedding-reader frozendict kornia kornia-rs loguru pytorch-warmup resize-right \
        rotary-embedding-torch torch-einops-utils vector-quantize-pytorch webdataset x-clip
Without it, a plain torch.nn.TransformerEncoder of as many layers over the same four tokens stands in, and is named so.

Every ratio compares two numbers of this run. Writes benchmarks/results/mapper_training.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from xmodal.foundation.audioldm import AudioLDM
from xmodal.foundation.base import ImageEncoder
from xmodal.vision2audio import DiffusionMapper, RegressionMapper, V2AMapper

RESULTS = Path(__file__).parent / "results"
SOURCE, TARGET = 768, 512


class Pairs(Dataset[dict[str, Tensor]]):
    """Rows of both embeddings; a batch is one gather."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(count, SOURCE, generator=generator).half()
        self.sound = F.normalize(torch.randn(count, TARGET, generator=generator), dim=-1).half()

    def __len__(self) -> int:
        return len(self.image)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(rows)
        return {"image_embedding": self.image[index].float(), "audio_embedding": self.sound[index].float()}

    def loader(self, batch: int) -> DataLoader[Any]:
        return DataLoader(self, batch_size=batch, shuffle=True, drop_last=True, collate_fn=lambda found: found)


class Eye(ImageEncoder):
    """Stands where CLIP would; stored pairs never ask it."""

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.image_size = SOURCE, 224

    def embed(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("pictures were given where embeddings are stored")


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        self.times.append(now(module.device))


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(pairs: Pairs, adapter: Callable[[int, int], Any], options: argparse.Namespace) -> dict[str, float]:
    def never() -> Any:
        raise RuntimeError("stored pairs need no target")

    generator = partial(AudioLDM, card="audioldm-s-full-v2")  # never built: its card says 512
    optimizer = partial(torch.optim.AdamW, lr=1.1e-4, weight_decay=0.0602, betas=(0.9, 0.99), eps=1e-6, fused=True)
    task = V2AMapper(Eye(), never, generator, adapter, ema_decay=0.9999, optimizer=optimizer)
    clock, quiet = Clock(), {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision=options.precision,
        max_steps=options.warm + options.steps,
        max_epochs=-1,
        gradient_clip_val=0.5,
        enable_checkpointing=False,
        callbacks=[clock],
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(task, pairs.loader(options.batch))
    took = clock.times[-1] - clock.times[options.warm - 1]
    return {"samples_per_second": options.steps * options.batch / took, "parameters": count(task.adapter)}


def library(pairs: Pairs, placeholders: int, options: argparse.Namespace) -> dict[str, float]:
    """The library's prior has one width for both embeddings: a linear layer reads the wider one, as in ours."""
    from accelerate import Accelerator
    from dalle2_pytorch import DiffusionPrior, DiffusionPriorNetwork
    from dalle2_pytorch.trainer import DiffusionPriorTrainer

    net = DiffusionPriorNetwork(
        dim=TARGET, depth=options.depth, heads=12, dim_head=64, ff_mult=4, num_timesteps=1000, max_text_len=placeholders,
        normformer=True, attn_dropout=0.05, ff_dropout=0.05, rotary_emb=True,
    )  # fmt: skip
    net.to_text_embeds[0] = nn.Linear(SOURCE, TARGET)
    prior = DiffusionPrior(net=net, image_embed_dim=TARGET, cond_drop_prob=0.1, condition_on_text_encodings=False)
    mixed = {"32-true": "no", "bf16-mixed": "bf16"}[options.precision]
    accelerator = Accelerator(cpu=options.device == "cpu", mixed_precision=mixed)
    trainer = DiffusionPriorTrainer(prior, accelerator, lr=1.1e-4, wd=0.0602, max_grad_norm=0.5, ema_beta=0.9999)

    def step(source: Tensor, target: Tensor) -> None:
        trainer(text_embed=source, image_embed=target)
        trainer.update()

    speed = timed(step, pairs, torch.device(accelerator.device), options)
    return {"samples_per_second": speed, "parameters": count(prior)}


class Plain(nn.Module):
    """Source, time, noisy target and a learned query through torch's own transformer."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(TARGET, 8, 4 * TARGET, 0.05, F.gelu, batch_first=True, norm_first=True)
        self.net = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.read, self.time, self.query = (
            nn.Linear(SOURCE, TARGET),
            nn.Embedding(1000, TARGET),
            nn.Parameter(torch.randn(TARGET)),
        )

    def forward(self, source: Tensor, time: Tensor, noisy: Tensor) -> Tensor:
        tokens = [self.read(source), self.time(time), noisy, self.query.expand(len(source), -1)]
        return self.net(torch.stack(tokens, 1))[:, -1]


def plain(pairs: Pairs, options: argparse.Namespace) -> dict[str, float]:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from xmodal.diffusion.embedding_diffusion import EmbeddingDiffusion, scale_up

    device = torch.device(options.device)
    net, diffusion = Plain(options.depth).to(device), EmbeddingDiffusion()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9999))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.1e-4, weight_decay=0.0602, fused=True)

    def step(source: Tensor, target: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16-mixed"):
            loss = diffusion.loss(lambda noisy, time: net(source, time, noisy), scale_up(target))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(net)

    return {"samples_per_second": timed(step, pairs, device, options), "parameters": count(net)}


def timed(step: Callable[[Tensor, Tensor], None], pairs: Pairs, device: torch.device, options: argparse.Namespace) -> float:
    """Samples per second of a step over shuffled batches, after the first ones."""

    def batches() -> Iterator[dict[str, Tensor]]:
        while True:
            yield from pairs.loader(options.batch)

    start, source = 0.0, batches()
    for number in range(options.warm + options.steps):
        if number == options.warm:
            start = now(device)
        batch = next(source)
        step(batch["image_embedding"].to(device), batch["audio_embedding"].to(device))
    return options.steps * options.batch / (now(device) - start)


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters() if value.requires_grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=100, help="timed ones")
    parser.add_argument("--warm", type=int, default=10, help="steps before them")
    parser.add_argument("--depth", type=int, default=12, help="layers of the diffusion mappers")
    parser.add_argument("--placeholders", type=int, default=77, help="of the baseline; the library has no fewer than 1")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--library", type=Path, help="folder with dalle2-pytorch and what it needs")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if options.library is not None:
        sys.path.append(str(options.library))
    pairs, prior = Pairs(options.pairs), partial(DiffusionMapper, depth=options.depth)
    try:
        name, baseline = "dalle2-pytorch", library(pairs, options.placeholders, options)
    except ImportError as error:
        name, baseline = f"torch.nn.TransformerEncoder ({error})", plain(pairs, options)
    same = partial(prior, null_tokens=options.placeholders)
    rows = {
        f"baseline: {name}": baseline,
        f"DiffusionMapper, {options.placeholders} placeholders": ours(pairs, same, options),
        "DiffusionMapper": ours(pairs, prior, options),
        "RegressionMapper": ours(pairs, RegressionMapper, options),
    }
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, {options.precision}, batch {options.batch}, {options.steps} steps, {options.pairs} pairs")
    for row, found in rows.items():
        ratio = found["samples_per_second"] / baseline["samples_per_second"]
        print(f"  {row:<40}{found['parameters']:>12,} parameters{found['samples_per_second']:>12,.1f} samples/s {ratio:>8.2f}x")
    settings = {name: value for name, value in vars(options).items() if name != "library"}
    RESULTS.mkdir(exist_ok=True)
    report = {"device": where, **settings, "rows": rows}
    (RESULTS / "mapper_training.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
