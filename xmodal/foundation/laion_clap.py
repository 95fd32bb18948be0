"""CLAP (Wu et al., arXiv 2211.06687) by the package laion-clap.

`AudioTower` runs the audio networks of that package, which holds PANN beside HTSAT; its text network is the one of the
model ``clap``. The package downloads tokenizers and changes ``sys.path`` when it is imported, so only its two files with
the networks are.

Letters: B batch, N clips, L tokens in time, d embedding size, w width of the last feature map.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.foundation.base import AudioEncoder, Card, find_card
from xmodal.foundation.clap import CARDS as CLAP_CARDS
from xmodal.foundation.clap import AudioTower as ClapAudioTower
from xmodal.foundation.clap import Crop, FrontEnd, Waveforms, to_int16
from xmodal.foundation.laion_names import LAION, TABLES, audio_sizes, read, renamed
from xmodal.frozen import Frozen
from xmodal.registry.cards import locate
from xmodal.registry.checkpoint import assign

PACKAGE = "laion_clap"
# What the package's networks compute when they are built; files list it beside the weights.
FIXED = re.compile(rf"(spectrogram_extractor|logmel_extractor)\.|({'|'.join(TABLES)})$")


class AudioTower(ClapAudioTower):
    """Frozen audio tower of a CLAP, run by the package laion-clap: HTSAT or PANN's Cnn14.

    Args:
        card: a name in `CARDS`, or the path of a ``.pt`` file in LAION's layout.
        crop, normalize, int16, sample_rate, local_files_only: as for the model ``clap``.

    Raises ImportError without the package, else as the model ``clap`` does. The package computes the spectrograms of
    networks that are not fused, in float32.
    """

    def __init__(
        self,
        card: str = "630k-audioset-best",
        crop: Crop = "centre",
        normalize: bool = True,
        int16: bool = False,
        sample_rate: int | None = None,
        local_files_only: bool = True,
    ) -> None:
        AudioEncoder.__init__(self)
        chosen = find_card(CARDS, card, PACKAGE)
        model = load(locate(chosen, local_files_only))
        self._assemble(model, FrontEnd(fused=model.config.enable_fusion), crop, normalize, int16, sample_rate)

    def _run(self, sounds: Waveforms) -> tuple[Any, list[int]]:
        rows = self._rows(sounds)
        if self.front.fused:
            features, longer, counts = self.front(rows, self.crop, self.int16)
            return self.model({"mel_fusion": features, "longer": longer[:, 0]}), counts
        clips = [self.front.clips(to_int16(row) if self.int16 else row, self.crop) for row in rows]
        return self.model({"waveform": torch.cat(clips).float()}), [len(each) for each in clips]


class PackageModel(nn.Module):
    """An audio network of the package under its projection; both as named in LAION's files."""

    def __init__(self, branch: nn.Module, hidden: int, dim: int, bands: int = 64, fused: bool = False, side: int = 256) -> None:
        super().__init__()
        self.audio_branch = branch
        self.audio_projection = nn.Sequential(nn.Linear(hidden, dim), nn.ReLU(), nn.Linear(dim, dim))
        sizes = {"hidden_size": hidden, "projection_dim": dim, "num_mel_bins": bands, "enable_fusion": fused, "spec_size": side}
        self.config = SimpleNamespace(**sizes)

    def forward(self, sounds: dict[str, Tensor]) -> SimpleNamespace:
        """Waveforms (N, samples), or log-mel clips (N, 4, F, bands) -> embeddings (N, d) and a map (N, w, 1, L)."""
        made = self.audio_branch(sounds, device=self.audio_projection[0].weight.device)
        # every step is listed 32 times, to count frames
        steps = made["fine_grained_embedding"][:, ::32].transpose(1, 2)[:, :, None]
        return SimpleNamespace(audio_embeds=self.audio_projection(made["embedding"]), last_hidden_state=steps)


def load(file: Path) -> PackageModel:
    """Build the network of one of LAION's files from the package and fill it, strictly; in eval mode.

    Raises ImportError without the package, FileNotFoundError or ValueError for a file that does not fit.
    """
    state = {key: value for key, value in read(file).items() if key.startswith(("audio_branch.", "audio_projection."))}
    front = FrontEnd()
    mel = {"sample_rate": front.sample_rate, "window_size": front.n_fft, "hop_size": front.hop, "mel_bins": front.bands}
    mel |= {"fmin": int(front.low), "fmax": int(front.high)}
    if "audio_branch.conv_block1.conv1.weight" in state:
        if "audio_branch.conv_block6.conv1.weight" not in state or any("fusion_model" in key for key in state):
            raise ValueError(f"{file} is of a PANN that the package cannot run evenly: only Cnn14 without fusion can be loaded")
        branch = networks()["pann_model"].Cnn14(**mel, classes_num=len(state["audio_branch.fc_audioset.weight"]))
        model = PackageModel(branch, 2048, len(state["audio_projection.2.weight"]))
    else:
        sizes = audio_sizes(renamed(state), file)
        branch = networks()["htsat"].HTSAT_Swin_Transformer(
            config=SimpleNamespace(**mel), embed_dim=sizes["patch_embeds_hidden_size"], depths=sizes["depths"],
            num_heads=sizes["num_attention_heads"], num_classes=len(state.get("audio_branch.head.weight", ())),
            enable_fusion=sizes["enable_fusion"], fusion_type=sizes["fusion_type"] or "None",
        )  # fmt: skip
        model = PackageModel(branch, sizes["hidden_size"], sizes["projection_dim"], fused=sizes["enable_fusion"])
    fixed = {key: value for key, value in model.state_dict().items() if FIXED.search(key)}
    assign(model, {key: value for key, value in state.items() if not FIXED.search(key)} | fixed, file, "laion-clap's network")
    for name in ("spectrogram_extractor", "logmel_extractor"):
        setattr(branch, name, Single(getattr(branch, name)))
    branch.bn0.register_forward_pre_hook(_as_weights)
    return model.eval()


class Single(nn.Module):
    """Keeps a module in float32 when the network around it is cast; it moves between devices as any other."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        device = fn(next(self.inner.parameters()).new_empty(0)).device
        return super()._apply(lambda value: value.to(device), recurse)

    def forward(self, x: Tensor) -> Tensor:
        """Waveforms or spectra in any precision -> what the module makes of them, float32."""
        return self.inner(x.float())


def _as_weights(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.to(next(module.parameters()).dtype) for value in inputs)


def networks() -> dict[str, ModuleType]:
    """Import the package's two files with audio networks, and nothing else of it; ImportError without the package."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError('LAION\'s own audio networks need the package laion-clap: run pip install "xmodal[clap]"')
    with _stand_ins(Path(found.submodule_search_locations[0])):
        try:
            return {name: import_module(f"{PACKAGE}.clap_module.{name}") for name in ("htsat", "pann_model")}
        except ImportError as error:
            raise ImportError(f'laion-clap lacks what it needs ({error}): run pip install "xmodal[clap]"') from error


@contextmanager
def _stand_ins(folder: Path) -> Iterator[None]:
    """Put empty modules in the place of the package and its subpackage, whose own code then does not run."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    for name in kept:
        del sys.modules[name]
    for name, path in ((PACKAGE, folder), (f"{PACKAGE}.clap_module", folder / "clap_module")):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
        sys.modules.update(kept)


def tiny() -> dict[str, Callable[[], Frozen]]:
    """A random tower around a stand-in for the package's networks, for tests."""

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 8, 400, 160)

        def forward(self, sounds: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
            steps = self.conv(sounds["waveform"][:, None].to(self.conv.weight.dtype)).abs().transpose(1, 2)
            return {"embedding": steps.mean(1), "fine_grained_embedding": steps.repeat_interleave(32, 1)}

    front = FrontEnd(16_000, 256, 160, 64, 50.0, 8000.0, 16_000)
    return {"AudioTower": lambda: AudioTower.from_model(PackageModel(Branch(), 8, 6), front)}


CARDS: dict[str, Card] = {name: card for name, card in CLAP_CARDS.items() if card.origin == LAION}
