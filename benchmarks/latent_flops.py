"""How many multiply-adds does a training step of CLIPSonic take over latents?  python benchmarks/latent_flops.py

Forward and backward passes of the U-Net at base size for one clip of 10 s, counted from the shapes alone: nothing is computed.
The baseline are spectrograms as recipes/text2audio/clipsonic.yaml makes them; the latents are those of
overlays/clipsonic_latent.yaml. Where latents are not stored, the autoencoder encodes each clip once a step.
Writes benchmarks/results/latent_flops.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xmodal.foundation import mel_vae
from xmodal.foundation.mel import MelSpec, preset
from xmodal.foundation.mel_vae import MelVAE
from xmodal.text2audio import MelUNet

RESULTS = Path(__file__).parent / "results"
SECONDS, CLIP = 10.0, 768  # CLIP ViT-L/14's width


def frames(mel: MelSpec, factor: int = 1) -> int:
    """Frames of a clip, the last one begun."""
    return -(-round(SECONDS * mel.sample_rate) // (mel.hop_length * factor))


def step(network: MelUNet, length: int) -> float:
    """Multiply-adds of one clip's training step, in thousand millions."""
    with FlopCounterMode(display=False) as counter:
        condition = network.prepare(torch.empty(1, CLIP, device="meta"))
        noisy = torch.empty(1, network.n_mels, length, device="meta")
        network(noisy, torch.empty(1, device="meta"), condition).sum().backward()
    return counter.get_total_flops() / 2e9


def encoding(vae: MelVAE) -> float:
    """Multiply-adds of encoding one clip, in thousand millions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.encode(torch.empty(1, vae.mel.n_mels, frames(vae.mel, vae.factor) * vae.factor, device="meta"))
    return counter.get_total_flops() / 2e9


def main() -> None:
    """Count, print and write."""
    own, audioldm = preset("bigvgan-22k-80"), preset("audioldm")
    with torch.device("meta"):
        model: nn.Module = mel_vae.build("audioldm")
        vae = MelVAE.from_model(model, audioldm)
        whole, narrow = MelUNet(CLIP, own.n_mels), MelUNet(CLIP, audioldm.n_mels)
        latent = MelUNet(CLIP, vae.size, latent_channels=vae.latent_channels)
    made = step(latent, frames(audioldm, vae.factor))
    counts = {
        "spectrograms, 80 bands at 22.05 kHz": step(whole, frames(own)),
        "spectrograms, 64 bands at 16 kHz": step(narrow, frames(audioldm)),
        "latents, stored": made,
        "latents, encoded in each step": made + encoding(vae),
    }
    baseline, rows = next(iter(counts.values())), {}
    for name, count in counts.items():
        rows[name] = {"multiply_adds_1e9": round(count, 1), "baseline_over_this": round(baseline / count, 2)}
        print(f"{name:<36} {count:8.1f} thousand million multiply-adds, 1/{baseline / count:.2f} of the baseline")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latent_flops.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
