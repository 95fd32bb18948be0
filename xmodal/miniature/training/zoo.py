"""What all trainings of the zoo share: the exponential moving average, the export into the part's place, a mel or picture VAE."""

from __future__ import annotations

import copy
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xmodal.files import readable_as_new
from xmodal.registry.adapters import find
from xmodal.task import Averaged


class ZooTask(Averaged):
    """Trains ``build()``'s network, averages its weights and exports the average to ``output`` when training ends.

    Args:
        output: folder that receives the exported weights; replaced as a whole, only when the export is complete.
        ema_decay: of the exponential moving average of the weights; shorter at first, so that it forgets the beginning.
        start: a checkpoint of an earlier run, whose averaged weights this one starts from, with an optimizer of its own.
    """

    def __init__(self, output: Path, ema_decay: float = 0.998, start: Path | None = None, **task: Any) -> None:
        super().__init__(ema_decay=ema_decay, **task)
        self.output = Path(output)
        self.net = self.build()
        if start is not None:
            self.net.load_state_dict(_averaged(start))
        self.start_average()

    @property
    def trained(self) -> nn.Module:
        """The whole network."""
        return self.net

    @abstractmethod
    def build(self) -> nn.Module:
        """The network to train."""

    @abstractmethod
    def export(self, net: nn.Module, folder: Path) -> None:
        """Write the averaged network into an empty folder."""

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            self.save()

    def save(self) -> None:
        """Export to a temporary folder beside ``output`` and swap it in."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.output.parent) as scratch:
            fresh = Path(scratch) / "export"
            fresh.mkdir()
            self.export(copy.deepcopy(self.published).eval(), fresh)
            for part in readable_as_new(fresh).iterdir():
                target = self.output / part.name
                self.output.mkdir(exist_ok=True)
                if target.is_dir():
                    shutil.rmtree(target)
                part.replace(target)


def _averaged(path: Path) -> dict[str, Tensor]:
    """The averaged network of a checkpoint; earlier versions wrapped it once more."""
    state = find(path).state()
    found = {key.removeprefix("average."): value for key, value in state.items() if key.startswith("average.")}
    return {key.removeprefix("module."): value for key, value in found.items() if key != "n_averaged"}


def autoencoder(channels: Sequence[int], layers: Sequence[int], latent_channels: int, in_channels: int = 3) -> Any:
    """A deep-compression autoencoder of residual blocks, its decoder the mirror of its encoder."""
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        in_channels=in_channels,
        latent_channels=latent_channels,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=tuple(channels),
        decoder_block_out_channels=tuple(channels),
        encoder_layers_per_block=tuple(layers),
        decoder_layers_per_block=tuple(layers),
        encoder_qkv_multiscales=((),) * len(channels),
        decoder_qkv_multiscales=((),) * len(channels),
        downsample_block_type="pixel_unshuffle",
        upsample_block_type="pixel_shuffle",
    )
