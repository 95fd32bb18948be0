"""The tokenizer of the miniature text encoders: CLIP's byte-level BPE with a vocabulary of the world's own words."""

from __future__ import annotations

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
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words():
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # merge from the left, sharing the merges that other words already made
            merge = (pieces[0], pieces[1])
            if merge not in merges:
                merges.append(merge)
                vocabulary.append("".join(merge))
            pieces[:2] = ["".join(merge)]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    ids = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=MAX_LENGTH)
