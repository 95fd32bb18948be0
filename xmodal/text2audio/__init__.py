"""CLIPSonic: text to sound, learnt from pictures and sounds."""

from typing import TYPE_CHECKING

from xmodal.registry.lazy import lazily

if TYPE_CHECKING:
    from xmodal.text2audio.network import MelNetwork
    from xmodal.text2audio.pipeline import CLIPSonicOutput, CLIPSonicPipeline
    from xmodal.text2audio.task import CLIPSonic
    from xmodal.text2audio.unet import MelUNet

# What each task becomes in use: a pipeline is built without its task, which needs a trainer.
PIPELINES = {"CLIPSonic": "CLIPSonicPipeline"}
_HOMES = {
    "CLIPSonic": "task",
    "CLIPSonicOutput": "pipeline",
    "CLIPSonicPipeline": "pipeline",
    "MelNetwork": "network",
    "MelUNet": "unet",
}
__all__ = [*_HOMES]  # noqa: PLE0604
__getattr__ = lazily(__name__, _HOMES)
