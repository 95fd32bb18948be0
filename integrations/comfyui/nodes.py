"""Nodes of ComfyUI's third version: a sound as conditioning, and the sounds of pictures and texts.

Only ComfyUI's own interface is imported here; xmodal and its models are when a node runs for the first time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from comfy_api.latest import ComfyExtension, io

CATEGORY = "xmodal"
ADAPTER = "A built-in name (`xmodal adapters`), a folder, a checkpoint, or a hub id whose files are here. Nothing is fetched."
OWN = "0: the adapter's own"
LARGEST_SEED = 2**63 - 1 - 4096  # each result of a batch has the next seed
KEPT = 2  # pipelines in memory
FAR = 0.1  # relative distance of two encoders' empty prompts above which they are said to be others

_pipelines: OrderedDict[str, Any] = OrderedDict()


class SoundToConditioning(io.ComfyNode):
    """AudioToken: a sound is a word in a prompt.

    The prompt's embeddings come from the adapter's own text encoder, which the word was trained for. They fit every model that
    reads that encoder: for an adapter trained with Stable Diffusion 1.x all checkpoints of 1.x.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="XmodalSoundToConditioning",
            display_name="Sound to conditioning (AudioToken)",
            category=CATEGORY,
            description=(
                "Puts a sound into a prompt, as a word of its own, and encodes it by the adapter's own text encoder. For models "
                "of the same text encoder: Stable Diffusion 1.x for an adapter that was trained with it, not SDXL. "
                "Several sounds in a batch give several conditionings, for latents in a batch."
            ),
            inputs=[
                io.Audio.Input("audio"),
                io.String.Input("prompt", default="a photo of {}", tooltip="Exactly one {}, the place of the sound."),
                io.String.Input("adapter", default="audiotoken-mini", tooltip=ADAPTER),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Of your checkpoint: only compared with the adapter's text encoder."
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )

    @classmethod
    def execute(cls, audio: dict[str, Any], prompt: str, adapter: str, clip: Any = None) -> io.NodeOutput:
        """Return ``[[embeddings (B, S, c), {}]]``; raises ValueError for what does not fit.

        There is no ``pooled_output``: Stable Diffusion 1.x reads none, and what does would be told something invented.
        """
        import torch

        if prompt.count("{}") != 1:
            raise ValueError(f"the prompt {prompt!r} must hold exactly one {{}}, the place of the sound")
        pipe = _pipeline(adapter, "audio", "image")
        sounds = list(audio["waveform"])
        words = pipe.encode(sounds, int(audio["sample_rate"]))
        with torch.no_grad(), pipe.evaluating(), pipe.using(pipe.generator):
            embeds = pipe.generator.prompt_embeds([prompt] * len(sounds), words).float().cpu()
            if clip is not None:
                _compare(clip, pipe.generator.prompt_embeds([""]).float().cpu())
        return io.NodeOutput([[embeds, {}]])


class PictureToSound(io.ComfyNode):
    """V2A-Mapper: a picture's CLIP embedding becomes the one that CLAP would have of its sound, and AudioLDM makes that."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="XmodalPictureToSound",
            display_name="Picture to sound (V2A-Mapper)",
            category=CATEGORY,
            description="Makes the sound of each picture of a batch: CLIP, a trained mapper to CLAP, AudioLDM.",
            inputs=[io.Image.Input("image"), *_settings("v2a-mini")],
            outputs=[io.Audio.Output(display_name="audio")],
        )

    @classmethod
    def execute(cls, image: Any, adapter: str, seed: int, steps: int, guidance: float) -> io.NodeOutput:
        """Pictures (B, H, W, C) in [0, 1] -> B sounds."""
        pictures = [each.movedim(-1, 0).float().cpu() for each in image]
        return _sounds(_pipeline(adapter, "image", "audio"), pictures, seed, steps, guidance)


class TextToSound(io.ComfyNode):
    """CLIPSonic: a text asks a generator that has learnt the sounds of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The node as ComfyUI shows it."""
        return io.Schema(
            node_id="XmodalTextToSound",
            display_name="Text to sound (CLIPSonic)",
            category=CATEGORY,
            description="Makes the sound of a text, by a generator that was trained with pictures and sounds alone.",
            inputs=[io.String.Input("text", multiline=True, default="two large bells"), *_settings("clipsonic-mini")],
            outputs=[io.Audio.Output(display_name="audio")],
        )

    @classmethod
    def execute(cls, text: str, adapter: str, seed: int, steps: int, guidance: float) -> io.NodeOutput:
        """A text -> one sound."""
        if not text.strip():
            raise ValueError("the text is empty: say what is to be heard")
        pipe = _pipeline(adapter, "text", "audio")
        # Said outright: a text that names a file is a text.
        query = "text" if getattr(pipe, "prior", None) is None else "prior"
        return _sounds(pipe, [text.strip()], seed, steps, guidance, query=query)


class Xmodal(ComfyExtension):
    """The pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Its nodes."""
        return [SoundToConditioning, PictureToSound, TextToSound]


async def comfy_entrypoint() -> Xmodal:
    """What ComfyUI calls."""
    return Xmodal()


def _settings(adapter: str) -> list[Any]:
    return [
        io.String.Input("adapter", default=adapter, tooltip=ADAPTER),
        io.Int.Input("seed", default=0, min=0, max=LARGEST_SEED, control_after_generate=True),
        io.Int.Input("steps", default=0, min=0, max=1000, tooltip=OWN),
        io.Float.Input("guidance", default=0.0, min=0.0, max=100.0, step=0.1, tooltip=OWN),
    ]


def _pipeline(adapter: str, source: str, to: str) -> Any:
    """The adapter's pipeline on ComfyUI's device; its parts are there only while they work, beside ComfyUI's own models."""
    from comfy import model_management

    import xmodal

    if adapter not in _pipelines:
        while len(_pipelines) >= KEPT:
            _pipelines.popitem(last=False)
        # A workflow comes from anybody: it imports no code and fetches nothing by the name that stands in it.
        pipe = xmodal.pipeline(adapter, local_files_only=True)
        device = model_management.get_torch_device()
        _pipelines[adapter] = pipe if device.type == "cpu" else pipe.enable_model_cpu_offload(device)
    _pipelines.move_to_end(adapter)
    pipe = _pipelines[adapter]
    if source not in pipe.takes or pipe.makes != to:
        raise ValueError(f"the adapter {adapter} makes {pipe.makes} of {', '.join(pipe.takes)}: this node needs {to} of {source}")
    return pipe


def _sounds(pipe: Any, asked: list[Any], seed: int, steps: int, guidance: float, **options: Any) -> io.NodeOutput:
    """Sounds as ComfyUI has them: ``waveform`` (B, C, T) and ``sample_rate``."""
    import torch

    noise = [torch.Generator().manual_seed(seed + number) for number in range(len(asked))]
    made = pipe(
        asked, generator=noise, num_inference_steps=steps or None, guidance_scale=guidance or None, output_type="pt",
        callback_on_step_end=_progress(), **options,
    )  # fmt: skip
    waveform = made.audios if made.audios.ndim == 3 else made.audios[:, None]
    return io.NodeOutput({"waveform": waveform.float().cpu(), "sample_rate": made.sampling_rate})


def _progress() -> Callable[[int, int], None]:
    """Moves ComfyUI's bar, and ends the node when the user asks for it."""
    from comfy import model_management
    from comfy.utils import ProgressBar

    bar = ProgressBar(1)

    def step(done: int, total: int) -> None:
        model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return step


def _compare(clip: Any, ours: Any) -> None:
    """Raise ValueError for a checkpoint whose embeddings have another shape; say so where they are merely others."""
    theirs = clip.encode_from_tokens(clip.tokenize(""), return_pooled=True)[0].float().cpu()
    if theirs.shape != ours.shape:
        sizes = f"{tuple(theirs.shape[1:])}, the adapter's {tuple(ours.shape[1:])}"
        raise ValueError(f"this checkpoint's text encoder gives embeddings of {sizes}: take one of the adapter's own kind")
    if (distance := float((theirs - ours).norm() / ours.norm())) > FAR:
        words = (
            "the checkpoint's text encoder is not the adapter's (%.0f %% apart on an empty prompt): the picture may not follow"
        )
        logging.getLogger("xmodal").warning(words, 100 * distance)
