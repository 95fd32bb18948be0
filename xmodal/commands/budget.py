"""What is settled before an adapter generates: options that it has, and a setting that a budget of memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any


def size_of(memory: str | None, together: bool) -> int:
    """Bytes of a size of memory; 0 where none is given. Raises ValueError for one where sounds are put together."""
    if memory is None:
        return 0
    if together:
        raise ValueError("--memory does not work where sounds are put together: leave it out")
    from xmodal.foundation.memory import parse  # torch

    return parse(memory)


def check_options(pipe: Any, name: str, options: Iterable[str]) -> None:
    """Raise ValueError for an option that an adapter's pipeline does not have."""
    for option in options:
        if option not in signature(type(pipe).__call__).parameters:
            raise ValueError(f"the adapter {name} has no option {option}: leave it out")


def fit_into(budget: int, pipe: Any, name: str, device: str, batch_size: int, say: Callable[[str], None] | None) -> int:
    """Put a pipeline on the device in the quickest setting that ``budget`` bytes hold; returns the batch size.

    Raises ValueError for a painter that cannot tell what it needs, and as `choose`.
    """
    import torch

    from xmodal.foundation.memory import choose, settings, weights

    generator: Any = getattr(pipe, "generator", None)
    if not hasattr(generator, "activations"):
        raise ValueError(f"--memory cannot tell what {name} needs, only what Stable Diffusion does: leave it out")
    parts = {key: weights(part, torch.float32) for key, part in pipe.components.items()}
    needed = {name: [generator.activations(name, batch) for batch in (1, 2)] for name in ("unet", "vae")}

    def work(batch: int, slicing: bool) -> int:
        # Each result more takes what the second took.
        rows = {"unet": batch, "vae": 1 if slicing else batch}
        return max(one + (two - one) * (rows[name] - 1) for name, (one, two) in needed.items())

    dtypes = ["float32", "float16" if device.startswith("cuda") else "bfloat16"]
    chosen = choose(budget, settings(parts, "generator", work, batch_size, dtypes))
    pipe.to(dtype=chosen.torch_dtype)
    if chosen.slicing:
        generator.enable_vae_slicing()
    if chosen.offload:
        pipe.enable_model_cpu_offload(device)
    else:
        pipe.to(device)
    if say is not None:
        say(f"xmodal: {name} within {budget / 1e9:.3g} GB by {chosen}")
    return chosen.batch_size
