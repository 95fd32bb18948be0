"""The painter trained beside the embedder, to compare AudioToken's few parameters with (benchmarks/audiotoken_table.py)."""

from __future__ import annotations

from typing import Any

from xmodal.audio2image import AudioToken


class WholePainter(AudioToken):
    """AudioToken whose UNet is trained, too: from the painter's weights, or from nothing.

    Args:
        scratch: start from random weights.
        **options: as of AudioToken.
    """

    def __init__(self, scratch: bool = False, **options: Any) -> None:
        super().__init__(**options)
        unet: Any = self.generator.unet
        self.painter = type(unet).from_config(unet.config)
        if not scratch:
            self.painter.load_state_dict(unet.state_dict())
        self.generator._modules["unet"] = self.painter  # the same module at both places: what is frozen takes no assignment
