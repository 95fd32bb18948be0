"""CLIPSonic: text to sound, learnt from pictures and sounds."""

from xmodal.text2audio.pipeline import CLIPSonicOutput, CLIPSonicPipeline
from xmodal.text2audio.task import CLIPSonic
from xmodal.text2audio.unet import MelNetwork, MelUNet

__all__ = ["CLIPSonic", "CLIPSonicOutput", "CLIPSonicPipeline", "MelNetwork", "MelUNet"]
