"""AudioToken: sound to picture."""

from xmodal.audio2image.embedder import AudioTokenEmbedder, MeanPoolEmbedder
from xmodal.audio2image.pipeline import AudioTokenPipeline
from xmodal.audio2image.task import AudioToken

__all__ = ["AudioToken", "AudioTokenEmbedder", "AudioTokenPipeline", "MeanPoolEmbedder"]
