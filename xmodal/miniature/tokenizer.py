"""The tokenizer of the miniature text encoders: CLIP's byte-level BPE with a vocabulary of the world's own words."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from xmodal.miniature import world

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_LENGTH = 24


def words() -> list[str]:
    """Every word that a caption of the world can hold, and a few that people put around them."""
    nouns = " ".join((*world.THINGS, *world.SYNONYMS.values())).split()
    plurals = [noun + "s" for noun in nouns]
    attributes = [*world.SIZES, *world.PLACES, *world.COLOURS, *world.BACKGROUNDS, "one", "two", "three", "background"]
    around = ["a", "an", "the", "of", "on", "in", "at", "and", "with", "photo", "picture", "drawing", "image", "sound", ",", "."]
    return sorted({*nouns, *plurals, *attributes, *around})


def build_tokenizer() -> CLIPTokenizer:
    """One token for each word of the world; any other word is spelt out in bytes, so no text is out of vocabulary."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], int] = {}
    for word in words():
        # A new merge ranks last, so the words before it are still read as they were.
        while len(pieces := _pieces(word, merges)) > 1:
            merges[pieces[0], pieces[1]] = len(merges)
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=list(merges), model_max_length=MAX_LENGTH)


def _pieces(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """What byte-pair encoding makes of a word: the pair of the lowest rank is merged first, as long as there is one."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while pairs := [pair for pair in pairwise(pieces) if pair in merges]:
        first = min(pairs, key=merges.__getitem__)
        joined: list[str] = []
        for piece in pieces:
            if joined and (joined[-1], piece) == first:
                joined[-1] += piece
            else:
                joined.append(piece)
        pieces = joined
    return pieces
