"""V2A-Mapper: picture to sound."""

from typing import TYPE_CHECKING

from xmodal.registry.lazy import lazily

if TYPE_CHECKING:
    from xmodal.vision2audio.diffusion_mapper import DiffusionMapper
    from xmodal.vision2audio.mapper import Mapper
    from xmodal.vision2audio.pipeline import V2AMapperOutput, V2AMapperPipeline, slerp
    from xmodal.vision2audio.regression import LinearMapper, MeanShift, RegressionMapper
    from xmodal.vision2audio.stereo import StereoPan
    from xmodal.vision2audio.task import V2AMapper
    from xmodal.vision2audio.texts import TextPipeline

# What each task becomes in use: a pipeline is built without its task, which needs a trainer.
PIPELINES = {"V2AMapper": "V2AMapperPipeline", "TextPipeline": "TextPipeline"}
IMPORTS = {"v2a-mapper": "published.v2a_mapper"}  # see xmodal.audio2image
_HOMES = {
    "DiffusionMapper": "diffusion_mapper",
    "LinearMapper": "regression",
    "Mapper": "mapper",
    "MeanShift": "regression",
    "RegressionMapper": "regression",
    "StereoPan": "stereo",
    "TextPipeline": "texts",
    "V2AMapper": "task",
    "V2AMapperOutput": "pipeline",
    "V2AMapperPipeline": "pipeline",
    "slerp": "pipeline",
}
__all__ = [*_HOMES]  # noqa: PLE0604
__getattr__ = lazily(__name__, _HOMES)
