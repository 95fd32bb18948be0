"""V2A-Mapper: picture to sound."""

from xmodal.vision2audio.diffusion_mapper import DiffusionMapper
from xmodal.vision2audio.regression import LinearMapper, Mapper, MeanShift, RegressionMapper

__all__ = ["DiffusionMapper", "LinearMapper", "Mapper", "MeanShift", "RegressionMapper"]
