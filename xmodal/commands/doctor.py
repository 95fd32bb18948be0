"""`xmodal doctor`: what of this installation works, which weights are here, and the command that mends what does not."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xmodal
from xmodal.commands.terminal import WIDTH, shortened
from xmodal.files import own_cache
from xmodal.registry import models as registry
from xmodal.registry.adapters import built_in
from xmodal.registry.cards import Card, hub_cache, readable, sha256

PACKAGES = (
    "torch", "torchvision", "torchaudio", "lightning", "jsonargparse", "omegaconf", "diffusers", "transformers",
    "open_clip_torch", "soundfile", "av", "torchmetrics", "safetensors", "huggingface_hub", "pillow", "numpy", "tqdm",
    "fsspec",
)  # fmt: skip
OPTIONAL = {
    "torchcodec": "codec", "tensorboard": "tensorboard", "shtab": "completion", "laion-clap": "clap", "bitsandbytes": "quantize",
}  # fmt: skip
HEADER_LIMIT = 100_000_000  # bytes that the format allows for the list of tensors


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``ok``, ``note`` (nothing to worry about) or ``broken`` (of what the package itself brings)."""

    section: str
    name: str
    state: str
    text: str
    mend: str = ""


def main(arguments: Sequence[str]) -> None:
    """Report on the installation; exits with status 1 where something that the package brings is broken."""
    parser = ArgumentParser("xmodal doctor", description="What works, which weights are here, and what mends the rest.")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--all", action="store_true", help="every package, card and folder by itself")
    parser.add_argument("--fast", action="store_true", help="compare no sha256, so read no weights")
    parser.add_argument(
        "--verify", nargs="*", metavar="MODEL[:CARD]", help="compute known answers with these weights, or all that are here"
    )
    parser.add_argument("--record", metavar="MODEL:CARD", help="write down what these weights compute here, for --verify")
    parser.add_argument("--to", type=Path, metavar="FILE", help="where to (default: a file in xmodal's cache)")
    options = parser.parse_args(arguments)
    if options.to and not options.record:
        parser.error("--to says where --record writes: give both")
    if options.record:
        from xmodal.verification import answers

        print(answers.record(answers.card_of(options.record), options.to))
        return
    if options.verify is not None:
        from xmodal.verification import answers

        verify([answers.card_of(word) for word in options.verify] or _here(), as_data=options.json)
        return
    findings = examine(hashes=not options.fast)
    print(as_json(findings) if options.json else "\n".join(lines(findings) if options.all else short(findings)))
    if broken(findings):
        raise SystemExit(1)


def verify(cards: Iterable[Card], as_data: bool = False) -> None:
    """Print the verdicts on these cards; exits with status 1 where an answer is wrong."""
    from xmodal.verification import answers

    found = []
    for card in cards:
        for each in answers.verify(card):
            found.append(each)
            if not as_data:
                print(f"{each.state:5}  {each.card}, {each.case}: {each.text}", flush=True)
    count = Counter(each.state for each in found)
    print(
        json.dumps([asdict(each) for each in found], indent=1)
        if as_data
        else ", ".join(f"{count[state]} {state}" for state in ("right", "near", "wrong", "open") if count[state])
        or "nothing to verify"
    )
    if count["wrong"]:
        raise SystemExit(1)


def _here() -> Iterator[Card]:
    """All cards with weights on this machine; a package's wrapper reads the same files as the model itself."""
    for model in registry.available():
        for tag in registry.listing(model).cards:
            card = registry.card(model, tag)
            if card.files and card.find() is not None:
                yield card


def examine(hashes: bool = True) -> list[Finding]:
    """Return all findings; ``hashes`` false leaves out reading the weights to compare their sha256."""
    found = [Finding("system", "python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    found += [Finding("system", "xmodal", "ok", f"{xmodal.__version__} at {Path(xmodal.__file__).parent}")]
    return [*found, *_packages(), *_accelerators(), *_decoders(), *_caches(), *_weights(hashes), *_adapters()]


def broken(findings: list[Finding]) -> bool:
    """Tell whether anything that the package itself brings, or needs, does not work."""
    return any(each.state == "broken" for each in findings)


def lines(findings: list[Finding]) -> Iterator[str]:
    """Yield the report for people."""
    section = ""
    for each in findings:
        if each.section != section:
            section = each.section
            yield f"\n{section}" if section != findings[0].section else section
        mark = {"ok": "  ", "note": "- ", "broken": "! "}[each.state]
        yield f"  {mark}{each.name}: {each.text}"
        if each.mend:
            yield f"      {each.mend}"
    count = sum(each.state == "broken" for each in findings)
    yield f"\n{count} broken: see the lines with !" if count else "\nnothing is broken"


def short(findings: list[Finding]) -> Iterator[str]:
    """Yield a line for each section, and in full what is broken."""
    for section in dict.fromkeys(each.section for each in findings):
        mine = [each for each in findings if each.section == section]
        good = [each for each in mine if each.state == "ok"]
        rest = sum(each.state == "note" for each in mine)
        named = ", ".join(each.name for each in good[:3]) + (f" and {len(good) - 3} more" if len(good) > 3 else "")
        if len(good) == 1 or section == "system":
            named = ", ".join(f"{each.name} {each.text}" for each in good)
        yield shortened(f"{section}: {named or 'none'}" + (f"; {rest} not here" if rest else ""), WIDTH)
        for each in mine:
            if each.state == "broken":
                yield f"  ! {each.name}: {each.text}" + (f"\n      {each.mend}" if each.mend else "")
    count = sum(each.state == "broken" for each in findings)
    yield f"{count} broken: see the lines with !" if count else "nothing is broken; --all shows each"


def as_json(findings: list[Finding]) -> str:
    """Return the report for programs: ``{"broken": bool, "findings": [...]}``."""
    return json.dumps({"broken": broken(findings), "findings": [asdict(each) for each in findings]}, indent=1)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("packages", name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding("packages", name, "broken", "not installed", f"pip install {name}")
    for name, extra in OPTIONAL.items():
        try:
            yield Finding("packages", name, "ok", version(name))
        except PackageNotFoundError:
            yield Finding("packages", name, "note", "optional, not installed", f"pip install 'xmodal[{extra}]'")


def _accelerators() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a broken build of torch fails in many ways
        yield Finding(
            "devices", "torch", "broken", f"cannot be imported ({_reason(error)})", "pip install --force-reinstall torch"
        )
        return
    yield Finding("devices", "cpu", "ok", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            text = f"{device.name}, {readable(device.total_memory)}, CUDA {torch.version.cuda}"
            yield Finding("devices", f"cuda:{index}", "ok", text)
    else:
        why = "this torch is built without it" if torch.version.cuda is None else "no device or driver answers"
        yield Finding("devices", "cuda", "note", f"none ({why})")
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "ok", "available")


def _decoders() -> Iterator[Finding]:
    for name, what in (("soundfile", "sound files"), ("av", "containers and video"), ("torchcodec", "video, optional")):
        try:
            module = import_module(name)
            inner = getattr(module, "__libsndfile_version__", None) or getattr(module, "ffmpeg_version_info", None)
            text = f"{what}; {f'library {inner}' if inner else 'works'}"
            yield Finding("decoders", name, "ok", text)
        except Exception as error:  # missing shared libraries raise OSError or RuntimeError
            needed = name != "torchcodec"
            mend = f"pip install --force-reinstall {name}" if needed else "pip install 'xmodal[codec]', and FFmpeg's libraries"
            yield Finding("decoders", name, "broken" if needed else "note", f"{what}; {_reason(error)}", mend)


def _caches() -> Iterator[Finding]:
    for name, folder, variable in (("hub", hub_cache(), "HF_HOME"), ("xmodal", own_cache(), "XMODAL_CACHE")):
        text = readable(_size(folder)) if folder.is_dir() else "empty"
        yield Finding("caches", name, "ok", f"{folder}, {text} ({variable} moves it)")


def _weights(hashes: bool) -> Iterator[Finding]:
    for model in registry.available():
        for tag in registry.listing(model).cards:
            yield _card(registry.card(model, tag), hashes)


def _card(card: Card, hashes: bool) -> Finding:
    """Report on one card: present, right (its sha256 was compared), damaged, incomplete or missing."""
    if card.shipped and not card.files:
        return Finding("weights", card.name, "ok", "needs none")
    bad, place = "broken" if card.shipped else "note", card.find()
    again = "pip install --force-reinstall xmodal" if card.shipped else f"xmodal pull {card.name}"
    if place is None:
        if card.shipped:
            return Finding("weights", card.name, bad, f"missing: {card.place} does not exist", again)
        size = readable(card.size) if card.size else "size unknown"
        gate = ", gated: unknown" if card.repository else ""
        if card.source.startswith("recipe:"):
            return Finding("weights", card.name, bad, "not trained yet", f"xmodal fit --config {card.origin}")
        mend = again if card.repository or card.address or card.mirrors else f"by hand from {card.origin}, to {card.place}"
        some = "incomplete" if card.place.exists() else "missing"
        return Finding("weights", card.name, bad, f"{some} ({size}, {card.licence}{gate})", mend)
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    names = {path: str(path.relative_to(place)) if place.is_dir() else path.name for path in files}
    lacks = card.lacking(place) if place.is_dir() else []
    wrong = [f"{names[path]} ({why})" for path in files if (why := damage(path))]
    stated = card.hashes(place)
    known = {path: _published(path, stated.get(path)) for path in files} if hashes else {}
    wrong += [f"{names[path]} (another sha256)" for path, hash_ in known.items() if hash_ and not sha256(path).startswith(hash_)]
    if lacks or wrong:
        text = "; ".join([f"lacks {', '.join(lacks)}"] * bool(lacks) + [f"damaged: {', '.join(wrong)}"] * bool(wrong))
        return Finding(
            "weights", card.name, bad, f"{text} at {place}", f"rm -r {place} && {again}" if not card.shipped else again
        )
    count = sum(bool(hash_) for hash_ in known.values())
    right = f"{count} of {len(files)} files have the published sha256" if count else "present, no sha256 is known"
    return Finding("weights", card.name, "ok", f"{right}; {place}, {readable(sum(path.stat().st_size for path in files))}")


def _published(path: Path, expected: str | None) -> str | None:
    """Return the sha256 that a file should have: the card's, or the one by which the hub's cache names its blob."""
    if expected:
        return expected
    blob = path.resolve().name if path.is_symlink() else ""
    return blob if len(blob) == 64 and all(digit in "0123456789abcdef" for digit in blob) else None


def damage(path: Path) -> str | None:
    """Return what is wrong with the form of a .safetensors or .json file, or None; reads no weights."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > HEADER_LIMIT:
                    return "no safetensors file"
                header: dict[str, Any] = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
            if path.stat().st_size != 8 + length + end:
                return f"{path.stat().st_size} bytes, but its header says {8 + length + end}"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        return f"unreadable, {type(error).__name__}"
    return None


def _adapters() -> Iterator[Finding]:
    for name, folder in built_in().items():
        wrong = [file for file in ("recipe.yaml", "README.md") if not (folder / file).is_file()]
        why = damage(folder / "adapter.safetensors") or (f"lacks {', '.join(wrong)}" if wrong else None)
        mend = "pip install --force-reinstall xmodal" if why else ""
        yield Finding("adapters", name, "broken" if why else "ok", why or str(folder), mend)


def _size(folder: Path) -> int:
    """Bytes below a folder; links of the hub's cache are not counted twice."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
