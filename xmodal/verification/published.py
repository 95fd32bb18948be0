"""Published answers: what others computed with the very weights, and how to compute it here. No weights, no network.

Every case says where its numbers were printed; commits are of those repositories. ``card`` is a name or a path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xmodal.verification.cases import Answer, media_folder


def _seeded(*shapes: tuple[int, ...], seed: int) -> list[Tensor]:
    """Normal noise, drawn one after another from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _numpy_noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape).astype(np.float32))


# ---- CLIP


@torch.no_grad()
def _clip_text(card: str) -> Tensor:
    from xmodal.foundation.clip import TextTower

    tower = TextTower(card)
    states, mask = tower.states(["a photo of a cat"])
    last = states[0, int(mask.sum()) - 1]
    return torch.cat([states[0, 1:4, 1:4].flatten(), last[1:4], tower.embed(["a photo of a cat"])[0, 1:4]])


def _constant(tower: Any, value: float) -> Tensor:
    """A picture that is this constant after normalization."""
    return (tower.preprocess.mean + value * tower.preprocess.std).expand(1, 3, tower.image_size, tower.image_size)


@torch.no_grad()
def _clip_picture(card: str) -> Tensor:
    from xmodal.foundation.clip import ImageTower

    tower = ImageTower(card)
    pixels = _constant(tower, 0.5)
    return torch.cat([tower.patches(pixels)[0, 1:4, 1:4].flatten(), tower.embed(pixels)[0, 1:4]])


@torch.no_grad()
def _clip_both(card: str) -> Tensor:
    from xmodal.foundation.clip import ImageTower, TextTower

    eye, reader = ImageTower(card, normalize=True), TextTower(card, normalize=True)
    seen = torch.cat([eye.embed(_constant(eye, value)) for value in (0.25, 0.75)])
    return (100 * reader.embed(["a photo of a cat", "a photo of a dog"]) @ seen.T).flatten()


@torch.no_grad()
def _clip_scores(card: str) -> Tensor:
    from xmodal.foundation.clip import ImageTower, TextTower

    eye, reader = ImageTower(card, normalize=True), TextTower(card, normalize=True)
    whole = [torch.randint(255, (3, 224, 224), generator=torch.Generator().manual_seed(seed)) for seed in (42, 43)]
    one, other = eye.embed(torch.stack(whole).float() / 255)
    cat, chef, found = reader.embed(
        [
            "a photo of a cat",
            "28-year-old chef found dead in San Francisco mall",
            "A 28-year-old chef who recently moved to San Francisco was found dead.",
        ]
    )
    return 100 * torch.stack([one @ cat, one @ other, chef @ found])


@torch.no_grad()
def _clip_means(card: str) -> Tensor:
    from xmodal.foundation.clip import ImageTower, TextTower

    eye, reader = ImageTower(card), TextTower(card)
    generator = torch.Generator().manual_seed(0)
    pixels, *_ = [torch.randn(1, 3, side, side, generator=generator) for side in (224, 288, 384, 448)]
    ids = torch.randint(0, 49408, (1, 77), generator=generator)
    both = (eye.model(pixel_values=pixels).image_embeds, reader.model(input_ids=ids).text_embeds)
    return torch.stack([F.normalize(each, dim=-1).mean() for each in both])


@torch.no_grad()
def _clip_diagram(card: str) -> Tensor:
    from xmodal.data.image import load_image
    from xmodal.foundation.clip import ImageTower, TextTower

    eye, reader = ImageTower(card, normalize=True), TextTower(card, normalize=True)
    seen = eye.embed(load_image(media_folder() / "CLIP.png")[None])
    return (100 * seen @ reader.embed(["a diagram", "a dog", "a cat"]).T).softmax(-1)[0]


_BUMBLEBEE = "elixir-nx/bumblebee, test/bumblebee at cf4dff6"
_MULTIMODAL = "facebookresearch/multimodal, tests/models/clip/test_checkpoint.py at 3c2a85a"


def _means(picture: float, text: float) -> Answer:
    return Answer("means of a picture's and a text's vector from seeded noise", _clip_means, (picture, text), 1e-4, _MULTIMODAL)


# ---- sounds


@torch.no_grad()
def _vggish(card: str) -> Tensor:
    from xmodal.foundation.vggish import VGGish

    time = torch.arange(48_000, dtype=torch.float64) / 16_000
    rows = VGGish(card, activation=False).tokens(torch.sin(2 * torch.pi * 1000 * time).float()[None])
    return torch.stack([rows.mean(), rows.std(correction=0)])


@torch.no_grad()
def _panns(card: str) -> Tensor:
    from xmodal.data.audio import load_audio
    from xmodal.foundation.panns import PANNs

    ear = PANNs(card)
    waveform = load_audio(media_folder() / "R9_ZSCveAHg_7s.wav", ear.sample_rate)
    # The README prints the ten likeliest classes with their values.
    return ear.tag(waveform.reshape(1, -1))[0].sort(descending=True).values[:10]


# ---- generators and priors


@torch.no_grad()
def _kandinsky(card: str) -> Tensor:
    from xmodal.foundation.diffusion_prior import KandinskyPrior

    prior = KandinskyPrior(card).prior
    wide, places = prior.config.embedding_dim, prior.config.num_embeddings
    found = []
    for seed in (13, 37):
        noisy, text, states = _seeded((1, wide), (1, wide), (1, places, wide), seed=seed)
        made = prior(noisy, 2, proj_embedding=text, encoder_hidden_states=states).predicted_image_embedding
        found.append(made[0, :8])
    return torch.cat(found)


def _astronaut(name: str, **options: Any) -> Any:
    """Three steps of a scheduler, from NumPy's noise."""

    def compute(card: str) -> Tensor:
        import diffusers

        from xmodal.foundation.stable_diffusion import StableDiffusion

        painter = StableDiffusion(card)
        side = painter.image_size // painter.factor
        made = painter.generate(
            painter.prompt_embeds(["a photograph of an astronaut riding a horse"]),
            num_inference_steps=3,
            guidance_scale=7.5,
            scheduler=getattr(diffusers, name).from_config(painter.scheduler.config, **options),
            latents=_numpy_noise(1, painter.unet.config.in_channels, side, side),
        )
        return made[0, 2, -3:, -3:].flatten()

    return compute


_DIFFUSERS = "huggingface/diffusers, tests/pipelines/stable_diffusion/test_stable_diffusion.py at 58eb52c"


def _painted(case: str, compute: Any, *expected: float) -> Answer:
    # The numbers are of a GPU, whose own tests allow 3e-3 for all but DDIM.
    return Answer(f"an astronaut after 3 steps of {case}, from NumPy's noise", compute, expected, 3e-3, _DIFFUSERS)


def _hammer(name: str, steps: int, start: int) -> Any:
    """Ten samples of a hammer's sound, from NumPy's noise."""

    def compute(card: str) -> Tensor:
        import diffusers

        from xmodal.foundation import clap
        from xmodal.foundation.audioldm import AudioLDM, card_of

        generator = AudioLDM(card, heads="as_saved")
        reader = clap.TextTower(str(card_of(card).folder() / "text_encoder"), tokenizer=_tokenizer(card_of(card).folder()))
        said = reader.embed(["A hammer hitting a wooden surface", ""])
        bands = generator.mel.n_mels // generator.factor
        frames = round(5.12 * generator.sample_rate) // (generator.mel.hop_length * generator.factor)
        made = generator.generate(
            said[:1],
            said[1:],
            seconds=5.12,
            num_inference_steps=steps,
            guidance_scale=2.5,
            scheduler=getattr(diffusers, name).from_config(generator.scheduler.config),
            latents=_numpy_noise(1, generator.unet.config.in_channels, frames, bands),
        )
        return made[0, start : start + 10]

    return compute


def _tokenizer(folder: Any) -> str | None:
    return str(folder / "tokenizer") if (folder / "tokenizer").is_dir() else None


_AUDIOLDM = "huggingface/diffusers, tests/pipelines/audioldm/test_audioldm.py at 15d50f16"


# ---- ImageBind


@torch.no_grad()
def _imagebind(card: str) -> Tensor:
    from xmodal.data.image import load_image
    from xmodal.foundation.imagebind import ImageTower, TextTower

    things = ("dog", "car", "bird")
    seen = torch.cat([ImageTower(card).embed(load_image(media_folder() / f"{each}_image.jpg")[None]) for each in things])
    read = TextTower(card, normalize=False).embed(["A dog.", "A car", "A bird"])
    return (seen @ read.T).softmax(-1).flatten()


ANSWERS: dict[str, tuple[Answer, ...]] = {
    "clip:vit-b-32": (
        Answer(
            "a sentence's states, last state and vector", _clip_text,
            (-0.5844, 0.3685, -2.0744, -0.9600, 1.0018, -0.2415, -0.5957, -0.1719, 0.4689,
             0.1658, 0.8876, 10.6313, 0.0733, -0.2448, -0.2212), 1e-4, _BUMBLEBEE,
        ),
        Answer(
            "a constant picture's states and vector", _clip_picture,
            (0.3465, -0.3939, -0.5297, 0.3588, -0.2529, -0.5606, 0.3958, -0.2688, -0.5367, -0.3381, -0.0196, -0.4053), 1e-4,
            _BUMBLEBEE,
        ),
        # Its logits carry the learnt scale, which is 100 to some digits.
        Answer("two sentences beside two pictures", _clip_both, (22.7866, 22.8397, 23.2389, 22.8406), 1e-2, _BUMBLEBEE),
        _means(-0.0014, -0.0041),
        Answer(
            "what a diagram is", _clip_diagram, (0.9927937, 0.00421068, 0.00299572), 1e-3, "openai/CLIP, README at d05afc4",
            media={"CLIP.png": "308a3ca4503f1c7a"},
        ),
    ),
    "clip:vit-b-16": (
        Answer(
            "three scores of seeded pictures and sentences", _clip_scores, (24.426, 99.486, 91.395), 1e-3,
            "Lightning-AI/torchmetrics, src/torchmetrics/functional/multimodal/clip_score.py at dab0333",
        ),
        _means(0.0030, 0.0023),
    ),
    "clip:vit-l-14": (_means(0.0006, -0.0022),),
    "vggish:vggish": (
        Answer(
            "mean and deviation of a sine's patches", _vggish, (0.000657, 0.343), 0.1,
            "tensorflow/models, research/audioset/vggish/vggish_smoke_test.py at 09093db", relative=True,
        ),
    ),
    "panns:cnn14": (
        Answer(
            "ten likeliest classes of a recording", _panns,
            (0.893, 0.754, 0.235, 0.183, 0.092, 0.047, 0.028, 0.014, 0.009, 0.008),
            1e-3, "qiuqiangkong/audioset_tagging_cnn, README and resources at d2f4b8c",
            media={"R9_ZSCveAHg_7s.wav": "59429c7174a37075"},
        ),
    ),
    "diffusion_prior:kandinsky-2.1": (
        Answer(
            "one pass over seeded noise, twice", _kandinsky,
            (-0.5861, 0.1283, -0.0931, 0.0882, 0.4476, 0.1329, -0.0498, 0.0640,
             -0.4913, 0.0110, -0.0483, 0.0541, 0.4954, -0.0170, 0.0354, 0.1651), 1e-3,
            "huggingface/diffusers, tests/models/transformers/test_models_prior.py at 58eb52c",
        ),
    ),
    "stable_diffusion:sd-1.4": (
        _painted("PNDM", _astronaut("PNDMScheduler"), 0.5740, 0.4784, 0.3162, 0.6358, 0.5831, 0.5505, 0.5082, 0.5631, 0.5575),
        _painted("DDIM", _astronaut("DDIMScheduler", clip_sample=False),
                 0.38019, 0.28647, 0.27321, 0.40377, 0.38290, 0.35446, 0.39218, 0.38165, 0.42239),
        _painted("LMS", _astronaut("LMSDiscreteScheduler"),
                 0.10542, 0.09620, 0.07332, 0.09015, 0.09382, 0.07597, 0.08496, 0.07806, 0.06455),
        _painted("DPM-Solver++", _astronaut("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min"),
                 0.03503, 0.03494, 0.01087, 0.03128, 0.02552, 0.00803, 0.00742, 0.00372, 0.0),
    ),
    "audioldm:audioldm-s-full": (
        Answer(
            "a hammer after 3 steps of LMS, from NumPy's noise", _hammer("LMSDiscreteScheduler", 3, 27780),
            (-0.2131, -0.0873, -0.0124, -0.0189, 0.0569, 0.1373, 0.1883, 0.2886, 0.3297, 0.2212), 3e-2, _AUDIOLDM,
        ),
        Answer(
            "a hammer after 25 steps of DDIM, from NumPy's noise", _hammer("DDIMScheduler", 25, 77230),
            (-0.4884, -0.4607, 0.0023, 0.5007, 0.5896, 0.5151, 0.3813, -0.0208, -0.3687, -0.4315), 1e-2, _AUDIOLDM,
        ),
    ),
    "imagebind:huge": (
        Answer(
            "three pictures among three words", _imagebind,
            (0.99761, 0.0023694, 1.8612e-5, 3.3836e-5, 0.99994, 2.4118e-5, 4.7997e-5, 0.013496, 0.98646), 1e-3,
            "facebookresearch/ImageBind, README and .assets at 53680b0",
            media={
                "dog_image.jpg": "c11d7d454d9db85a", "car_image.jpg": "45d920dfe748a66d", "bird_image.jpg": "1d9d891f7785a0a7",
            },
        ),
    ),
}  # fmt: skip
