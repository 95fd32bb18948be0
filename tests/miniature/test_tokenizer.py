"""The miniature tokenizer reads the world's words whole."""

from __future__ import annotations

import pytest
from transformers import CLIPTokenizer

from xmodal.miniature import world
from xmodal.miniature.tokenizer import MAX_LENGTH, build_tokenizer, words


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def test_every_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    assert [word for word in words() if tokenizer.tokenize(word) != [f"{word}</w>"]] == []


def test_every_full_caption_fits(tokenizer: CLIPTokenizer) -> None:
    for index in range(300):
        clip = world.sample("train", index)
        for noun in ("", world.SYNONYMS.get(clip.thing, "")):
            text = "a photo of " + world.caption(clip, noun=noun)
            ids = tokenizer(text).input_ids
            assert len(ids) <= MAX_LENGTH
            assert len(ids) == len(text.replace(",", " ,").split()) + 2


def test_unknown_words_are_spelt_out(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a Zebra café").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1] or tokenizer.unk_token == "<|endoftext|>"
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a zebra café"
