"""What is settled before an adapter generates: options that it has, and a setting that a budget of memory holds."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from xmodal.commands.terminal import positive
from xmodal.registry.adapters import find
from xmodal.registry.build import kind_of

UNKNOWN = "--memory cannot tell what --candidates need: leave one of them out"


def budget_options(parser: ArgumentParser, at_once: int) -> None:
    """What a generation may take."""
    fewer = f"results made at once (default: {at_once}; fewer where the device's memory ends)"
    parser.add_argument("--batch-size", type=positive, default=at_once, metavar="N", help=fewer)
    budget = "of the device: precision, batch and offloading are chosen to fit, and said (Stable Diffusion, AudioLDM)"
    parser.add_argument("--memory", metavar="8GB", help=budget)
    fewer = "frozen weights in 8 or 4 bits (pip install 'xmodal[quantize]')"
    parser.add_argument("--quantize", choices=["int8", "nf4"], help=fewer)


def size_of(memory: str | None, together: bool) -> int:
    """Bytes of a size of memory; 0 where none is given. Raises ValueError for one where sounds are put together."""
    if memory is None:
        return 0
    if together:
        raise ValueError("--memory does not work where sounds are put together: leave it out")
    from xmodal.foundation.memory import parse  # torch

    return parse(memory)


def check_candidates(to: Sequence[str], names: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise ValueError, before anything is computed, for several candidates that no adapter of a way has, or no budget knows."""
    if (options["candidates"] or 1) == 1:
        return
    if options["memory"] is not None and "audio" in to:
        raise ValueError(UNKNOWN)
    kinds: list[Any] = [kind_of(find(name).class_path, name, options["trust"]) for name in names]
    if not any("candidates" in signature(getattr(each, "pipeline_class", each).__call__).parameters for each in kinds):
        raise ValueError(f"none of {', '.join(names)} has candidates: leave --candidates out")


def check_options(pipe: Any, name: str, options: Mapping[str, Any], lenient: Sequence[str] = ()) -> dict[str, Any]:
    """Return the options of a call; raises ValueError for one that a pipeline does not have, but for ``lenient`` ones."""
    known = signature(type(pipe).__call__).parameters
    for option in options:
        if option not in known and option not in lenient:
            raise ValueError(f"the adapter {name} has no option {option}: leave it out")
    return {option: value for option, value in options.items() if option in known}


def fit_into(
    budget: int, pipe: Any, name: str, device: str, batch_size: int, options: Mapping[str, Any], say: Callable[[str], None] | None
) -> int:
    """Put a pipeline on the device in the quickest setting that ``budget`` bytes hold; returns the batch size.

    A budget of 0 is none, and the pipeline stays where it is. ``options`` are those of a call. Raises ValueError for a generator
    or options that cannot tell what they need, and as `choose`.
    """
    if not budget:
        return batch_size
    import torch

    from xmodal.foundation.memory import choose, settings
    from xmodal.registry.offloading import resident
    from xmodal.registry.quantized import largest

    generator: Any = getattr(pipe, "generator", None)
    if not hasattr(generator, "activations"):
        raise ValueError(f"--memory cannot tell what {name} needs, only what Stable Diffusion and AudioLDM do: leave it out")
    if pipe.makes == "audio" and options.get("candidates", 1) > 1:
        raise ValueError(UNKNOWN)
    if pipe.makes == "image" and (options.get("candidates") or getattr(pipe, "candidates", 1)) > 1:
        pipe.built_ranker()  # its weights count, too
    length = options.get("audio_length_in_s")
    given = {"seconds": max(length or 0, pipe.seconds)} if pipe.makes == "audio" else {}
    restored, slices = 4 * largest(generator), hasattr(generator, "enable_vae_slicing")
    needed = {name: [generator.activations(name, batch, **given) for batch in (1, 2)] for name in ("unet", "vae")}

    def weigh(dtype: torch.dtype, by_layers: bool) -> dict[str, int]:
        own = {key: torch.float32 if key == pipe.ADAPTER else dtype for key in pipe.components}
        return {key: resident(part, own[key], by_layers) for key, part in pipe.components.items()}

    def work(batch: int, slicing: bool) -> int:
        # Each result more takes what the second took.
        rows = {"unet": batch, "vae": 1 if slicing else batch}
        return restored + max(one + (two - one) * (rows[name] - 1) for name, (one, two) in needed.items())

    dtypes = ["float32", "float16" if device.startswith("cuda") else "bfloat16"]
    chosen = choose(budget, settings(weigh, "generator", work, batch_size, dtypes, slices))
    pipe.to(dtype=chosen.torch_dtype)
    if chosen.slicing:
        generator.enable_vae_slicing()
    if chosen.offload:
        offload = pipe.enable_model_cpu_offload if chosen.offload == "model" else pipe.enable_sequential_cpu_offload
        offload(device)
    else:
        pipe.to(device)
    if say is not None:
        kept = f" ({generator.quantized})" if generator.quantized else ""
        say(f"xmodal: {name}{kept} within {budget / 1e9:.3g} GB by {chosen}")
    return chosen.batch_size
