"""V2A-Mapper: picture to sound."""

from xmodal.vision2audio.diffusion_mapper import DiffusionMapper
from xmodal.vision2audio.pipeline import V2AMapperOutput, V2AMapperPipeline, slerp
from xmodal.vision2audio.regression import LinearMapper, Mapper, MeanShift, RegressionMapper
from xmodal.vision2audio.stereo import StereoPan
from xmodal.vision2audio.task import V2AMapper

__all__ = [
    "DiffusionMapper",
    "LinearMapper",
    "Mapper",
    "MeanShift",
    "RegressionMapper",
    "StereoPan",
    "V2AMapper",
    "V2AMapperOutput",
    "V2AMapperPipeline",
    "slerp",
]
