"""The terms that AudioToken adds to the denoising loss (arXiv 2305.13050 and its public code); unweighted.

Letters: B batch, d width of a word embedding. Several pseudo-words of a sound, (B, k, d), count as one each.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def l1_loss(token: Tensor) -> Tensor:
    """Mean absolute value of the pseudo-words (B, d): keeps them as short as real word embeddings."""
    return token.abs().mean()


def l2_loss(token: Tensor) -> Tensor:
    """Squared length of the pseudo-words (B, d), averaged over the batch."""
    return token.square().sum(-1).mean()


def classification_loss(token: Tensor, label: Tensor) -> Tensor:
    """(1 - mean cosine)^2 of pseudo-words and label embeddings, both (B, d).

    The mean over the batch is taken before squaring, as in the public code. The label embedding is the mean word
    embedding of the label's tokens (``ImageGenerator.label_embeds``). Raises ValueError for shapes that differ.
    """
    if token.shape != label.shape:
        shapes = f"{tuple(token.shape)} and {tuple(label.shape)}"
        raise ValueError(f"token and label have the shapes {shapes}: give one label for each token")
    return (1 - F.cosine_similarity(token, label, dim=-1).mean()).square()
