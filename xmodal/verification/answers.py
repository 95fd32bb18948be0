"""Known answers: what weights compute from a fixed input, compared with what others, or this machine, computed before.

Published answers stand in `xmodal.verification.published`. For weights without one `record` writes down what they compute here
from inputs that need no file, and the sha256 of their files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xmodal.files import own_cache, write_whole
from xmodal.registry import models as registry
from xmodal.registry.cards import WEIGHTS, Card, sha256
from xmodal.verification.cases import Answer

NEAR = 10  # times its tolerance that a published answer may be missed by on another device
CLOSE = 1e-3  # of the root mean square: other processors differ by less, half precision by more
KEPT = 64  # numbers of each result that a record keeps
SHIPPED = WEIGHTS / "answers.json"


@dataclass(frozen=True)
class Verdict:
    """One comparison. ``state``: right, near (a published answer missed by at most `NEAR` tolerances), wrong, or open."""

    card: str
    case: str
    state: str
    text: str


def card_of(word: str) -> Card:
    """Return the card that ``MODEL``, ``MODEL:CARD`` or ``MODEL:PATH`` means; of a path all files count."""
    model, _, tag = word.partition(":")
    card = registry.card(model, tag or None)
    if card.name:
        return card
    place = Path(tag)
    files = (
        [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place.name]
    )
    return replace(card, name=word, files=dict.fromkeys(sorted(files)))


def verify(card: Card) -> Iterator[Verdict]:
    """Compare a card's weights with their sha256, with what was published of them, and with what was recorded of them."""
    if not card.files:
        return
    if card.find() is None:
        yield Verdict(card.name, "weights", "open", card.missing())
        return
    try:
        card.verify(fully=True)
    except ValueError as error:
        yield Verdict(card.name, "files", "wrong", str(error))
        return
    yield from published(card.name, card.name.partition(":")[2])
    yield from _recorded(card)


def published(name: str, card: str) -> Iterator[Verdict]:
    """Compute what was published of the card ``name`` with the weights that ``card``, a name or a path, means."""
    from xmodal.verification.published import ANSWERS

    for answer in ANSWERS.get(name, ()):
        if lacking := answer.lacking():
            yield Verdict(name, answer.case, "open", lacking)
            continue
        try:
            found = [float(each) for each in answer.compute(card)]
        except FileNotFoundError as error:  # of another card that the case needs
            yield Verdict(name, answer.case, "open", str(error))
            continue
        yield compare(name, answer, found)


def compare(name: str, answer: Answer, found: Sequence[float]) -> Verdict:
    """Return the verdict on numbers beside a published answer."""
    if len(found) != len(answer.expected):
        text = f"{len(found)} numbers, but {len(answer.expected)} were published: {answer.source}"
        return Verdict(name, answer.case, "wrong", text)
    limits = [answer.tolerance * (abs(each) if answer.relative else 1) for each in answer.expected]
    gaps = [abs(one - other) / limit for one, other, limit in zip(found, answer.expected, limits, strict=True)]
    worst = max(gaps) if all(map(math.isfinite, gaps)) else math.inf
    state = "right" if worst <= 1 else "near" if worst <= NEAR else "wrong"
    place = gaps.index(max(gaps)) if worst < math.inf else next(i for i, gap in enumerate(gaps) if not math.isfinite(gap))
    numbers = f"{found[place]:.6g} where {answer.expected[place]:.6g} was published"
    return Verdict(name, answer.case, state, f"{numbers}, {worst:.2g} of the tolerance; {answer.source}")


# ---- what was recorded


def record(card: Card, to: Path | None = None) -> Path:
    """Write what a card's weights compute here, with the sha256 of their files, into a file of the user's cache or ``to``.

    ``to`` may hold records of other cards. Raises FileNotFoundError without weights, ValueError where they are damaged or
    nothing can be computed with them.
    """
    card.folder()
    card.verify(fully=True)
    results = computed(card)
    if not results:
        raise ValueError(f"{card.name} has no tower that takes one of the fixed inputs: nothing was recorded")
    path = to or place_of(card)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[card.name] = {"files": digests(card), "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(path, [(json.dumps(known, indent=1, sort_keys=True) + "\n").encode()])


def place_of(card: Card) -> Path:
    """Return the file of the user's own record of a card."""
    name = re.sub(r"[^\w.-]", "_", card.name)
    return own_cache() / "answers" / f"{name}.json"


def recorded(card: Card) -> Mapping[str, Any] | None:
    """Return the record of a card: the package's of shipped weights, or the user's own."""
    path = SHIPPED if card.shipped else place_of(card)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(card.name)
        good = found is None or all(isinstance(found[key], dict) for key in ("files", "results"))
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise ValueError(f"{path} is damaged: remove it and run `xmodal doctor --record {card.name}`")
    return found  # type: ignore[no-any-return]


def digests(card: Card) -> dict[str, str]:
    """Return the sha256 of the card's files that are here, by their names below its folder."""
    place = card.folder()
    files = [place] if place.is_file() else sorted({path for name in card.files for path in place.glob(name) if path.is_file()})
    return {path.relative_to(place).as_posix() if path != place else path.name: sha256(path) for path in files}


def _recorded(card: Card) -> Iterator[Verdict]:
    known = recorded(card)
    if known is None:
        from xmodal.verification.published import ANSWERS

        if card.name not in ANSWERS:
            yield Verdict(card.name, "record", "open", f"no answer is known: `xmodal doctor --record {card.name}` makes one")
        return
    here = digests(card)
    other = [name for name, digest in known["files"].items() if here.get(name) != digest]
    if other:
        yield Verdict(card.name, "files", "wrong", f"{', '.join(other)} differ from those of the record")
        return
    yield from judge(card.name, computed(card), known["results"])


def judge(name: str, found: Mapping[str, Sequence[float]], expected: Mapping[str, Sequence[float]]) -> Iterator[Verdict]:
    """Compare results by their names with those of a record."""
    for case in sorted({*found, *expected}):
        if case not in found or case not in expected:
            yield Verdict(name, case, "wrong", "computed, but not recorded" if case in found else "recorded, but not computed")
            continue
        scale = math.sqrt(sum(each * each for each in expected[case]) / max(len(expected[case]), 1)) or 1.0
        gaps = [abs(a - b) / scale for a, b in zip(found[case], expected[case], strict=False)]
        same = len(found[case]) == len(expected[case]) and all(map(math.isfinite, gaps))
        state = "right" if same and max(gaps, default=0) <= CLOSE else "wrong"
        text = f"off by {max(gaps, default=0):.2g} of the recorded size" if same else "of another length, or not finite"
        yield Verdict(name, case, state, text)


def computed(card: Card) -> dict[str, list[float]]:
    """Return what every tower of a card makes of the fixed inputs, by ``TOWER.method``."""
    model, _, tag = card.name.partition(":")
    module = registry.resolve(model)
    found: dict[str, list[float]] = {}
    for name, kind in registry.towers(module).items():
        try:
            tower = kind(card=tag)
        except (ValueError, FileNotFoundError):  # a card that is another tower's
            continue
        if next(tower.parameters(), None) is None:  # nothing of it was learnt
            continue
        found.update({f"{name}.{what}": values for what, values in results(tower).items()})
    return found


def results(tower: Any) -> dict[str, list[float]]:
    """Return what one frozen part makes of the fixed inputs, `KEPT` numbers of each result, by the method's name."""
    import torch

    from xmodal.foundation import base

    made: dict[str, Any] = {}
    options: dict[str, Any] = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
    with torch.no_grad():
        if isinstance(tower, base.AudioEncoder):
            sound = _sound(tower.sample_rate)
            made = {"embed": tower.embed(sound), "tokens": tower.tokens(sound)}
        elif isinstance(tower, base.ImageEncoder):
            made["embed"] = tower.embed(_picture(96, 128))
        elif isinstance(tower, base.TextEncoder):
            made["embed"] = tower.embed(["a bell rings", "rain on a roof"])
        elif isinstance(tower, base.Vocoder):
            made["forward"] = tower(_noise(1, tower.mel.n_mels, 32) - 4)
        elif isinstance(tower, base.MelAutoencoder):
            made["encode"] = tower.encode(_noise(1, tower.mel.n_mels, 32) - 4)
            made["decode"] = tower.decode(_noise(1, tower.size, 8))
        elif isinstance(tower, base.ImageGenerator):
            side = tower.image_size
            mean, _ = tower.encode(_picture(side, side))
            embeds = tower.prompt_embeds(["a bell"])
            made = {"encode": mean, "prompt_embeds": embeds}
            made["loss"] = tower.loss(mean * tower.scaling_factor, embeds, torch.Generator().manual_seed(0))[None]
        elif isinstance(tower, base.AudioGenerator):
            made["spectrum"] = _spectrum(tower.generate(_noise(1, tower.cond_dim), **options))
        elif isinstance(tower, base.Prior):
            places = _places(tower)
            text = (_noise(1, places, tower.dim), torch.ones(1, places, dtype=torch.bool)) if places else ()
            made["sample"] = tower.sample(_noise(1, tower.dim), *text, **options)
        if isinstance(tower, base.Classifier):
            inputs = _sound(tower.sample_rate) if isinstance(tower, base.AudioEncoder) else _picture(96, 128)
            made["class_logits"] = tower.class_logits(inputs)
    return {name: _some(value) for name, value in made.items()}


def _places(prior: Any) -> int:
    """How many token states a prior must be given."""
    if not prior.reads_tokens:
        return 0
    inner = getattr(prior, "prior", None)
    return int(inner.config.num_embeddings if inner is not None else prior.network.config.text_tokens)


def _some(value: Any) -> list[float]:
    flat = value.detach().float().flatten()
    step = max(len(flat) // KEPT, 1)
    return [float(f"{each:.7g}") for each in flat[::step][:KEPT].tolist()]


def _spectrum(waveform: Any) -> Any:
    """Root mean square of each frequency of waveforms (1, T), (1, 257): where phases are guessed, samples are luck."""
    import torch

    found = torch.stft(waveform.float(), 512, 160, window=torch.hann_window(512), return_complex=True)
    return found.abs().square().mean(-1).sqrt()


def _noise(*shape: int) -> Any:
    """Normal noise of a generator whose numbers are promised to stay."""
    import numpy as np
    import torch

    return torch.from_numpy(np.random.RandomState(0).standard_normal(shape).astype(np.float32))


def _sound(rate: int) -> Any:
    """Two seconds of a rising tone over noise, (1, T)."""
    import torch

    time = torch.arange(2 * rate, dtype=torch.float64) / rate
    return (0.3 * torch.sin(2 * torch.pi * (300 + 400 * time) * time)).float()[None] + 0.02 * _noise(1, 2 * rate)


def _picture(height: int, width: int) -> Any:
    """A colour gradient with grain, (1, 3, H, W)."""
    import torch

    down, right = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    planes = torch.stack([down.expand(height, width), right.expand(height, width), down * right])
    return (0.8 * planes[None] + 0.1 + 0.03 * _noise(1, 3, height, width)).clamp(0, 1)
