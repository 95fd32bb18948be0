"""Sound to picture: AudioToken, and the baselines of its table."""

from typing import TYPE_CHECKING

from xmodal.registry.lazy import lazily

if TYPE_CHECKING:
    from xmodal.audio2image.baseline_tasks import LabelText, SoundUnCLIP
    from xmodal.audio2image.baselines import LabelTextPipeline, SoundUnCLIPPipeline, TextPainterPipeline
    from xmodal.audio2image.bridges import LinearBridge, NoAdapter, PictureSpace
    from xmodal.audio2image.embedder import AudioTokenEmbedder, MeanPoolEmbedder
    from xmodal.audio2image.pipeline import AudioTokenOutput, AudioTokenPipeline
    from xmodal.audio2image.ranking import PictureRanker
    from xmodal.audio2image.task import AudioToken
    from xmodal.audio2image.textual_inversion import LearnedWord, TextualInversionPipeline

# What each task becomes in use: a pipeline is built without its task, which needs a trainer.
PIPELINES = {
    "AudioToken": "AudioTokenPipeline",
    "LabelText": "LabelTextPipeline",
    "SoundUnCLIP": "SoundUnCLIPPipeline",
    "TextPainterPipeline": "TextPainterPipeline",
    "TextualInversionPipeline": "TextualInversionPipeline",
}
# What `xmodal import` makes adapters of: kind -> the function that reads a published file.
IMPORTS = {"audiotoken": "published.audiotoken", "textual-inversion": "published.textual_inversion"}
_HOMES = {
    "AudioToken": "task",
    "AudioTokenEmbedder": "embedder",
    "AudioTokenOutput": "pipeline",
    "AudioTokenPipeline": "pipeline",
    "LabelText": "baseline_tasks",
    "LabelTextPipeline": "baselines",
    "LearnedWord": "textual_inversion",
    "LinearBridge": "bridges",
    "MeanPoolEmbedder": "embedder",
    "NoAdapter": "bridges",
    "PictureRanker": "ranking",
    "PictureSpace": "bridges",
    "SoundUnCLIP": "baseline_tasks",
    "SoundUnCLIPPipeline": "baselines",
    "TextPainterPipeline": "baselines",
    "TextualInversionPipeline": "textual_inversion",
}
__all__ = [*_HOMES]  # noqa: PLE0604
__getattr__ = lazily(__name__, _HOMES)
