"""What one GPU does with the full-size models, in at most six minutes.  python benchmarks/gpu.py [--tiny] [--parts a,b] [-o FILE]

Random weights of the published sizes, made on the device; nothing is downloaded. Writes benchmarks/results/gpu.json: for each
part the peak memory, samples a second and, where the card is known, MFU: multiplications of the model's own forward and
backward pass, counted by PyTorch, against the card's dense bf16 rate. What is computed twice to save memory is not counted.

- audiotoken: a step at 512 x 320 pixels by the recipe, with latents and audio tokens from the store, bf16, channels-last, a
  batch of 16; against the original's arithmetic (float32 in PyTorch's own settings, BEATs and VAE in each step, 4 x 4 samples
  for an update), by the same code. With more than two minutes left once more with the UNet compiled.
- v2a: both mappers over 200,000 stored random pairs on the device, by their recipes; hours of the recipe's whole schedule.
- clipsonic: a step of the paper-size network by its recipe, from stored log-mels.
- generate: 32 sounds into 32 pictures in batches, against one call of diffusers' pipeline for each.

--tiny runs every part on a CPU with tiny models, in seconds: whether it works, not how fast.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
SECONDS = 360  # of the whole; what has not begun by then is left out
PEAK = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}  # dense bf16 operations a second, by NVIDIA
PAIRS = 200_000


class Bench:
    """Where and how large: a GPU at full size, or a CPU with tiny models."""

    def __init__(self, tiny: bool) -> None:
        self.tiny, self.device = tiny, torch.device("cpu" if tiny else "cuda")
        self.began = time.perf_counter()
        self.card = "CPU" if tiny else torch.cuda.get_device_name()
        self.peak = next((rate for name, rate in PEAK.items() if name in self.card), None)

    @property
    def left(self) -> float:
        """Seconds."""
        return SECONDS - (time.perf_counter() - self.began)

    def now(self) -> float:
        """Seconds, when the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def memory(self, anew: bool = False) -> int | None:
        """Peak bytes since the last ``anew``; None on a CPU."""
        if self.device.type != "cuda":
            return None
        found = torch.cuda.max_memory_allocated()
        if anew:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return found

    def row(self, samples: float, seconds: float, flops: float | None = None) -> dict[str, Any]:
        """What is written of a measurement; ``flops`` are of one sample."""
        rate = samples / seconds
        known = flops is not None and self.peak is not None
        mfu = {"mfu": rate * flops / self.peak} if known else {"mfu": None}  # type: ignore[operator]
        return {"samples_per_second": rate, "peak_bytes": self.memory(), "flops_per_sample": flops, **mfu}

    def steps(self, full: int) -> int:
        """How many steps are timed."""
        return 2 if self.tiny else full


def recipe(name: str) -> dict[str, Any]:
    """Batch size, options of the task and trainer of a recipe."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    return found


def train(bench: Bench, task: Any, batches: Iterator[Any], steps: int, settings: dict[str, Any]) -> float:
    """Seconds of ``steps`` steps of Lightning's trainer, after as many to warm up as are half of them."""
    from lightning.pytorch import Callback, Trainer

    warm, times = max(1, steps // 2), []

    class Clock(Callback):
        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step in (warm, warm + steps):
                times.append(bench.now())

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    kept = {name: settings[name] for name in ("precision", "gradient_clip_val") if name in settings}
    accelerator = "cpu" if bench.tiny else "gpu"
    Trainer(max_steps=warm + steps, accelerator=accelerator, devices=1, callbacks=[Clock()], **kept, **quiet).fit(task, batches)
    task.to(bench.device)
    return times[1] - times[0]


def endless(draw: Callable[[], dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    while True:
        yield draw()


def flops_of(task: Any, batch: dict[str, Tensor]) -> float:
    """Operations of one sample's forward and backward pass."""
    counter = FlopCounterMode(display=False)
    task.train()
    with counter, torch.autocast(next(iter(batch.values())).device.type, torch.bfloat16):
        torch.stack(list(task.losses(batch).values())).sum().backward()
    task.zero_grad()
    return counter.get_total_flops() / len(next(iter(batch.values())))


def halved(measure: Callable[[int], dict[str, Any]], batch: int) -> dict[str, Any]:
    """Measure with the batch, or half of it as often as memory ends."""
    while True:
        try:
            return measure(batch)
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            torch.cuda.empty_cache()


# ---- the parts


def painter(bench: Bench) -> tuple[Any, Any]:
    """BEATs and Stable Diffusion 1.4."""
    from diffusers import DDPMScheduler

    from xmodal.foundation import beats, stable_diffusion
    from xmodal.foundation.beats import BEATs
    from xmodal.foundation.painter_parts import tiny_parts
    from xmodal.foundation.stable_diffusion import StableDiffusion

    if bench.tiny:
        return beats.tiny()["BEATs"](), stable_diffusion.tiny()["StableDiffusion"]()
    with bench.device:
        networks, ear = dict(stable_diffusion.build("sd-1.4").named_children()), beats.build("iter3-plus-as2m")
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    words = tiny_parts()["tokenizer"]  # any words: all prompts are padded to one length
    return BEATs.from_model(ear, layers=[4, 8, 12]), StableDiffusion.from_parts(**networks, tokenizer=words, scheduler=scheduler)


def audiotoken(bench: Bench) -> Iterator[tuple[str, dict[str, Any]]]:
    from xmodal.audio2image import AudioToken

    settings = recipe("audio2image/audiotoken")
    options, data = settings["model"]["init_args"], settings["data"]["init_args"]
    width, height = (32, 32) if bench.tiny else (data["width"], data["height"])
    batch, part = (2, 2) if bench.tiny else (data["batch_size"], 4)
    ear, paints = painter(bench)
    chosen = {name: options[name] for name in ("prompt", "l1_weight")}
    task = AudioToken(ear, paints, optimizer=partial(torch.optim.AdamW, lr=1.6e-4), **chosen).to(bench.device)
    seconds = 1.1 if bench.tiny else data["seconds"]

    def media(count: int) -> dict[str, Tensor]:
        sounds = torch.randn(count, round(seconds * ear.sample_rate), device=bench.device) * 0.1
        return {"waveform": sounds, "pixels": torch.rand(count, 3, height, width, device=bench.device)}

    def original() -> dict[str, Any]:
        """Forward and backward of four samples at a time, an update after four of those."""
        optimizer, given, count = torch.optim.AdamW(task.adapter.parameters(), lr=1.6e-4), media(part), bench.steps(8)
        task.train()
        bench.memory(anew=True)
        for index in range(count + 4):
            if index == 4:
                start = bench.now()
            torch.stack(list(task.losses(given).values())).sum().backward()
            if index % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        return {"batch": part, **bench.row(count * part, bench.now() - start)}

    before = original()
    yield "the original's arithmetic", before
    stored = task.features(media(batch))
    flops = flops_of(task, {name: value[:1] for name, value in stored.items()})
    paints.to(torch.bfloat16)
    paints.unet.to(memory_format=torch.channels_last)

    def ours(size: int) -> dict[str, Any]:
        bench.memory(anew=True)
        count = bench.steps(10)
        given = {name: value[:size] for name, value in stored.items()}
        took = train(bench, task, endless(lambda: given), count, settings["trainer"])
        made = bench.row(count * size, took, flops)
        return {"batch": size, **made, "times_the_original": made["samples_per_second"] / before["samples_per_second"]}

    yield "by the recipe", halved(ours, batch)
    if not bench.tiny and bench.left > 120:
        paints.unet.compile()  # in place: names of weights, and so checkpoints, stay as they are
        yield "by the recipe, UNet compiled", halved(ours, batch)


def v2a(bench: Bench) -> Iterator[tuple[str, dict[str, Any]]]:
    from xmodal.foundation import audioldm, clap, clip
    from xmodal.registry.build import Builder
    from xmodal.vision2audio import V2AMapper
    from xmodal.vision2audio.mapper import Mapper

    eye, ear, voice = clip.tiny()["ImageTower"](), clap.tiny()["AudioTower"](), audioldm.tiny()["AudioLDM"]()
    if not bench.tiny:
        eye.dim = ear.dim = voice.cond_dim = 512  # of the cards; all embeddings come from the store, so nothing sees or hears
    for name in ("v2a_regression", "v2a_diffusion"):
        settings = recipe(f"vision2audio/{name}")
        options = settings["model"]["init_args"]
        adapter, size = options["adapter"], 8 if bench.tiny else settings["data"]["init_args"]["batch_size"]
        if bench.tiny:
            small = {"hidden_dim": 16} if name == "v2a_regression" else {"width": 16, "depth": 1, "heads": 2, "dim_head": 8}
            adapter = {**adapter, "init_args": {**adapter["init_args"], **small}}
        factory = Builder(name).factory(adapter, Mapper)
        task = V2AMapper(eye, lambda: ear, lambda: voice, factory, ema_decay=options.get("ema_decay", 0.0)).to(bench.device)
        task._target, task._generator = ear, voice
        count = 64 if bench.tiny else PAIRS
        shapes = {"image_embedding": eye.dim, "audio_embedding": ear.dim}
        pairs = {key: torch.randn(count, width, device=bench.device).half() for key, width in shapes.items()}
        flops = flops_of(task, {key: value[:2].float() for key, value in pairs.items()})

        def draw(pairs: Any = pairs, count: int = count, size: int = size) -> dict[str, Tensor]:
            index = torch.randint(count, (size,), device=bench.device)
            return {key: value[index].float() for key, value in pairs.items()}

        bench.memory(anew=True)
        steps = bench.steps(400)
        took = train(bench, task, endless(draw), steps, settings["trainer"])
        whole = settings["trainer"]["max_steps"]
        schedule = {"batch": size, "pairs": count, "schedule_steps": whole, "schedule_minutes": whole * took / steps / 60}
        yield name, {**bench.row(steps * size, took, flops), **schedule}


def clipsonic(bench: Bench) -> Iterator[tuple[str, dict[str, Any]]]:
    from xmodal.foundation import clip, vocoder
    from xmodal.text2audio import CLIPSonic, MelUNet

    settings = recipe("text2audio/clipsonic_paper_size")
    options, batch = settings["model"]["init_args"], 2 if bench.tiny else settings["data"]["init_args"]["batch_size"]
    eye, voice = clip.tiny()["ImageTower"](), vocoder.tiny()["BigVGAN"]()  # of the recipe's mel; neither runs in a step
    narrow: dict[str, Any] = {"block_out_channels": [8, 16], "attention": [False, True], "layers_per_block": 1}
    narrow |= {"attention_head_dim": 8, "norm_num_groups": 4}
    if not bench.tiny:
        eye.dim = 768  # ViT-L/14's
    adapter = partial(MelUNet, **options["adapter"]["init_args"], **(narrow if bench.tiny else {}))
    seconds = 0.5 if bench.tiny else 10.0
    chosen = {name: options[name] for name in ("prediction_type", "beta_schedule", "num_train_timesteps", "ema_decay")}
    task = CLIPSonic(eye, voice, adapter, seconds=seconds, **chosen).to(bench.device)
    frames = task.samples // voice.mel.hop_length
    stored = {
        "condition": torch.randn(batch, eye.dim, device=bench.device),
        "mel": torch.randn(batch, voice.mel.n_mels, frames, device=bench.device) - 4,
    }
    plain = CLIPSonic(eye, voice, partial(adapter, gradient_checkpointing=False), seconds=seconds, **chosen).to(bench.device)
    flops = flops_of(plain, {name: value[:1] for name, value in stored.items()})
    del plain

    def ours(size: int) -> dict[str, Any]:
        bench.memory(anew=True)
        steps = bench.steps(8)
        given = {name: value[:size] for name, value in stored.items()}
        took = train(bench, task, endless(lambda: given), steps, settings["trainer"])
        return {"batch": size, **bench.row(steps * size, took, flops)}

    yield "paper size", halved(ours, batch)


def generate(bench: Bench) -> Iterator[tuple[str, dict[str, Any]]]:
    from diffusers import StableDiffusionPipeline

    from xmodal.audio2image import AudioToken

    ear, paints = painter(bench)
    task = AudioToken(ear, paints).to(bench.device).eval()
    paints.to(torch.float32 if bench.tiny else torch.bfloat16)
    pipe, count, batch = task.pipeline(), 2 if bench.tiny else 32, 2 if bench.tiny else 16
    steps = {"num_inference_steps": 2 if bench.tiny else 25}
    sounds = [torch.randn(round(1.1 * ear.sample_rate)).numpy() * 0.1 for _ in range(count)]
    peer = StableDiffusionPipeline(
        vae=paints.vae, text_encoder=paints.text_encoder, tokenizer=paints.tokenizer, unet=paints.unet, scheduler=pipe.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    peer.set_progress_bar_config(disable=True)
    for _ in range(2):  # the first to warm up
        bench.memory(anew=True)
        start = bench.now()
        pipe(sounds, sampling_rate=ear.sample_rate, batch_size=batch, **steps)
        ours = {"batch": batch, **bench.row(count, bench.now() - start)}
    bench.memory(anew=True)
    start = bench.now()
    for _ in sounds:
        peer("a photo of a dog", **steps)
    theirs = bench.row(count, bench.now() - start)
    yield "in batches", ours | {"times_diffusers": ours["samples_per_second"] / theirs["samples_per_second"]}
    yield "diffusers, one call each", theirs


PARTS: dict[str, Callable[[Bench], Iterator[tuple[str, dict[str, Any]]]]] = {
    "audiotoken": audiotoken, "v2a": v2a, "clipsonic": clipsonic, "generate": generate
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the parts and write what they measured."""
    parser = argparse.ArgumentParser(description="What one GPU does with the full-size models; see the head of the file.")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU, to try the script")
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    options = parser.parse_args(arguments)
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}: the parts are {', '.join(PARTS)}")
    if options.tiny and options.output == RESULTS:
        parser.error("--tiny measures nothing that belongs among the results: give another file with -o")
    if not options.tiny and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU, and PyTorch finds none here: --tiny tries it on a CPU", file=sys.stderr)
        raise SystemExit(2)
    bench = Bench(options.tiny)
    found: dict[str, Any] = {"card": bench.card, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": bench.tiny}
    if not bench.tiny:
        found["memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    found |= {"peak_flops": bench.peak, "parts": {}}
    for name in names:
        if bench.left < 0:
            found.setdefault("left_out", []).append(name)
            continue
        found["parts"][name] = {}
        for what, row in PARTS[name](bench):
            found["parts"][name][what] = row
            print(f"{name}, {what}: {row['samples_per_second']:.4g} samples/s", flush=True)
            options.output.write_text(json.dumps(found, indent=1) + "\n")  # after each, so that a run that is cut has them
        bench.memory(anew=True)
    found["seconds"] = time.perf_counter() - bench.began
    options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
