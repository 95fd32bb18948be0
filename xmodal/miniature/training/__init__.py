"""Training of the miniature zoo, one file a trade; recipes name the classes by this package alone.

Nothing is imported before a class is asked for: a task of pictures needs none of the sounds' libraries.
"""

from xmodal.registry.lazy import lazily

_HOMES = {
    "TrainVAE": "autoencoders", "TrainWiderVAE": "autoencoders", "TrainDecoder": "autoencoders",
    "TrainDiffusion": "pictures",
    "TrainHearing": "taggers", "TrainSeeing": "taggers",
    "TrainMelVAE": "sounds", "TrainVocoder": "sounds", "TrainAudioLDM": "sounds",
    "TrainCLIP": "embeddings", "TrainCLAP": "embeddings",
    "TrainPrior": "prior",
    "TrainWav2CLIP": "bridges", "TrainImageBind": "bridges", "TrainUnCLIP": "bridges",
}  # fmt: skip
__all__ = [*_HOMES]  # noqa: PLE0604
__getattr__ = lazily(__name__, _HOMES)
