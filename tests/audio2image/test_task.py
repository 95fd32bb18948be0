"""What several pseudo-words are bound to, and what the miniature tells of its sounds."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.test_matrix import painter, part
from xmodal.audio2image import AudioToken, AudioTokenEmbedder
from xmodal.audio2image.losses import classification_loss
from xmodal.miniature import world
from xmodal.miniature.data import Clips


def task(num_tokens: int) -> AudioToken:
    adapter = partial(AudioTokenEmbedder, num_tokens=num_tokens)
    return AudioToken(part("beats.BEATs"), painter(), adapter, classification_weight=1.0, classification_target="phrase")


def test_pseudo_words_are_bound_to_a_labels_last_words() -> None:
    made = task(3)
    token = torch.randn(3, 3, made.generator.token_dim)
    bound, words = made._bound(token, ["bell", "two_large bells", "one very small bell"])
    assert torch.equal(bound, token[[0, 1, 1, 1, 2, 2, 2], [2, 0, 1, 2, 0, 1, 2]])
    expected = made.generator.label_embeds(["bell", "two", "large", "bells", "very", "small", "bell"])
    assert torch.equal(words, expected)
    perfect = made.generator.label_embeds(["very", "small", "bell"])[None]
    assert float(classification_loss(*made._bound(perfect, ["one very small bell"]))) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="has no tokens"):
        made._bound(token, ["bell", "", "bell"])


def test_one_pseudo_word_is_bound_to_the_whole_label() -> None:
    made = task(1)
    token = torch.randn(2, made.generator.token_dim)
    bound, words = made._bound(token, ["two large bells", "bell"])
    assert bound is token
    assert torch.equal(words, made.generator.label_embeds(["two large bells", "bell"]))


def test_the_loss_reads_the_target_that_was_named() -> None:
    made = task(2).eval()
    batch = {"waveform": torch.randn(2, 16_000), "pixels": torch.rand(2, 3, 32, 32)}
    terms = made.losses({**batch, "phrase": ["two bells", "one dog"], "name": ["x", "x"]})
    assert float(terms["classification"]) > 0
    with pytest.raises(KeyError, match="phrase"):
        made.losses({**batch, "name": ["bell", "dog"]})


def test_the_world_tells_what_is_heard_in_few_words() -> None:
    clips = Clips("train", 40, ("phrase", "name"))
    for index in range(40):
        number, size, *_ = clips[index]["phrase"].split()
        clip = world.sample("train", index)
        assert (number, size) == ({1: "one", 2: "two", 3: "three"}[clip.count], clip.size)
