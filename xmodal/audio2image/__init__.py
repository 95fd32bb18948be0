"""AudioToken: sound to picture."""

from typing import TYPE_CHECKING

from xmodal.registry.lazy import lazily

if TYPE_CHECKING:
    from xmodal.audio2image.embedder import AudioTokenEmbedder, MeanPoolEmbedder
    from xmodal.audio2image.pipeline import AudioTokenOutput, AudioTokenPipeline
    from xmodal.audio2image.task import AudioToken

# What each task becomes in use: a pipeline is built without its task, which needs a trainer.
PIPELINES = {"AudioToken": "AudioTokenPipeline"}
_HOMES = {
    "AudioToken": "task",
    "AudioTokenEmbedder": "embedder",
    "AudioTokenOutput": "pipeline",
    "AudioTokenPipeline": "pipeline",
    "MeanPoolEmbedder": "embedder",
}
__all__ = [*_HOMES]  # noqa: PLE0604
__getattr__ = lazily(__name__, _HOMES)
