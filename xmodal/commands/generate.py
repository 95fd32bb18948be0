"""What `xmodal generate` does: inputs of any kind in, files out, each written whole."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from xmodal.commands.budget import budget_options, check_candidates, check_options, fit_into, size_of
from xmodal.commands.chaining import adapters, chain, closes, scores, steps, write_scores
from xmodal.commands.combining import TOGETHER, Together, combine, together, weights
from xmodal.commands.combining import check as check_together
from xmodal.commands.terminal import COMMERCIAL, check, consent, finite, positive, printable, seconds, trust
from xmodal.data.inputs import Asked, read
from xmodal.files import visit, write_beside
from xmodal.registry.adapters import find
from xmodal.registry.build import kind_of
from xmodal.routes import pipeline, route, ways

LONGEST_NAME = 255 - 24  # bytes of a file's name that file systems take, less what an unfinished file has in front
AT_ONCE = 8  # results made in one call; each has its own noise, so the number changes nothing but the speed, and roundings


PICTURES = ("prompt", "negative_prompt", "image", "strength", "position")
Failed = Callable[[Asked, Exception], None]


def main(arguments: Sequence[str]) -> None:
    """Make pictures from sounds, and sounds from pictures, videos and texts."""
    parser = ArgumentParser("xmodal generate", description="Turn each input into another modality, one file per result.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders of them, or texts; a .txt has one per line")
    parser.add_argument("--to", required=True, type=steps, metavar="KIND", help="image, audio, or a chain such as image,audio")
    parser.add_argument("-o", "--output", default="outputs/generate", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--adapter", metavar="NAME", help="built-in name, folder, hub id or checkpoint (default: by modality)")
    parser.add_argument("-n", "--num", type=positive, default=1, metavar="N", help="results per input (default: 1)")
    parser.add_argument("--steps", type=positive, metavar="N", help="denoising steps (default: the adapter's own)")
    best = "made for each result, of which the one nearest to what was asked for is kept (default: the adapter's own)"
    parser.add_argument("--candidates", type=positive, metavar="K", help=best)
    parser.add_argument("--guidance", type=finite, metavar="G", help="classifier-free guidance (default: the adapter's own)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0; each result has its own stream of random numbers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    budget_options(parser, AT_ONCE)
    cycle = "of a chain that ends where it began: how near each result is to its input, by the miniature's judges (1 candidate)"
    parser.add_argument("--score", action="store_true", help=cycle)
    parser.add_argument("--resume", action="store_true", help="pass over results that are there already")
    parser.add_argument("--commercial", action="store_true", help=COMMERCIAL)
    trust(parser)
    _picture_options(parser)
    _sound_options(parser)
    options = vars(parser.parse_args(arguments))
    to, score = options.pop("to"), options.pop("score")
    _check_use(parser, to, options)
    if score and not closes(options["inputs"], to):
        parser.error(f"--score compares a result with its input: --to {','.join(to)} does not end with what was given")
    options["candidates"] = options["candidates"] or (1 if score else None)  # what CLIP chose would be judged by CLIP
    options["how"] = together(parser, options)
    if options["adapter"] is None:
        _check_prompt(parser, options["prompt"])
    options["audio_length_in_s"] = options.pop("seconds")
    commercial = options.pop("commercial")
    consent(options["trust"])
    from xmodal.registry.adapters import parts_of

    first, *others = adapters(to, options["adapter"])
    names = [*adapters_for(options["inputs"], to[0], first, options["trust"]), *filter(None, others)]
    for name in names:
        check(parts_of(name), commercial)
    for name in names:
        if kind_of(find(name).class_path, name, options["trust"]).makes == "image":  # type: ignore[attr-defined]
            _check_prompt(parser, options["prompt"], name, options["trust"])
    check_candidates(to, names, options)
    failures: list[str] = []

    def failed(asked: Asked, error: Exception) -> None:
        failures.append(" ".join(str(error).split()))
        print(printable(f"xmodal: not made of {asked.content}: {failures[-1]}"), file=sys.stderr)

    made: list[Path] = []
    run = partial(generate, to=to[0]) if len(to) == 1 else partial(chain, generate, to=to)
    for path in run(**options, failed=failed, say=lambda text: print(printable(text), file=sys.stderr)):
        made.append(path)
        print(printable(str(path)) if sys.stdout.isatty() else path)
    if score:
        last = [path for path in made if path.parent.name == f"{len(to)}-{to[-1]}" and ".spectrogram" not in path.name]
        print("\n".join(map(printable, write_scores(scores(options["inputs"], last), Path(options["output"])))))
    if failures:
        print(f"xmodal: {len(failures)} inputs failed, {len(made)} files were made", file=sys.stderr)
        raise SystemExit(1)


def generate(
    inputs: Sequence[str | Path],
    to: str,
    output: str | Path = "outputs/generate",
    adapter: str | None = None,
    num: int = 1,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = AT_ONCE,
    resume: bool = False,
    spectrogram: bool = False,
    trust: bool = False,
    memory: str | None = None,
    quantize: str | None = None,
    how: Together | None = None,
    lenient: Sequence[str] = (),
    failed: Failed | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Iterator[Path]:
    """Make ``num`` results of each input and yield the path of each file as it is written.

    A result depends on its input, its number and ``seed`` alone, not on what else is asked for, but for rounding: those that are
    made at once share matrix products.

    Args:
        inputs: files, folders of them, or (for sounds) texts; a .txt file holds one text per line.
        to: ``image`` or ``audio``.
        adapter: name, folder, hub id or checkpoint; default: the built-in one for each input's modality.
        batch_size: results made at once; halved where the device's memory does not suffice.
        resume: pass over results that are there already.
        spectrogram: a picture of each sound beside it, STEM.spectrogram.png.
        trust: import classes that an adapter's recipe names and that are neither xmodal's nor an installed plugin's.
        memory: of the device, such as ``8GB``; precision, batch size and offloading are chosen to fit into it.
        quantize: ``int8`` or ``nf4``, see `xmodal.pipeline`.
        how: inputs that belong together, or long recordings; see `xmodal.commands.combining`.
        lenient: options that a pipeline may lack.
        failed: hears of an input that cannot be read, and the others go on; by default its error is raised.
        say: hears what is passed over in folders.
        **options: of the pipeline's call: ``prompt``, ``negative_prompt``, ``image``, ``strength``, ``query``,
            ``audio_length_in_s``, ``candidates``; None leaves the adapter's own.

    Raises ValueError or OSError before anything is computed where inputs are missing, no adapter takes them, or the
    adapter has no such option.
    """
    if to not in ("image", "audio"):
        raise ValueError(f"cannot make {to!r}: image and audio can be made")
    budget = size_of(memory, together=how is not None)
    asked = read(inputs, _taken(to, adapter, trust), say)
    _check_stems(asked)
    failed = failed if len(asked) > 1 else None  # there is nothing else to go on with
    folder = Path(output)
    names = {each: adapter or route(to, each.modality) for each in asked}
    targets = {each: [folder / name for name in _names(each, num, "png" if to == "image" else "wav")] for each in asked}
    for each, own in targets.items():
        _check_files(each, own, spectrogram)
    folder.mkdir(parents=True, exist_ok=True)
    visit(folder)
    given = {**options, "num_inference_steps": steps, "guidance_scale": guidance}
    options = {name: value for name, value in given.items() if value is not None}
    make = pictures if to == "image" else waveforms
    if how is not None:
        call = options | {"batch_size": batch_size}
        yield from _combined(how, asked, names[asked[0]], trust, device, quantize, folder, num, seed, call)
        return
    for name in dict.fromkeys(names.values()):
        pipe = pipeline(name, trust=trust, device="cpu" if budget else device_named(device), quantize=quantize)
        call = check_options(pipe, name, options, lenient)
        size = fit_into(budget, pipe, name, device_named(device), batch_size, options, say)
        at_once = max(1, size // num)
        groups = _groups([each for each in asked if names[each] == name], at_once)
        mine = [each for group in groups if not (resume and all(_done(targets[one]) for one in group)) for each in group]
        call |= {"batch_size": size} if "batch_size" in signature(type(pipe).__call__).parameters else {}
        for each, made in _made(partial(make, pipe, num, seed), mine, at_once, call, failed):
            if resume and _done(targets[each]):
                continue  # made again beside what was missing, and the same
            try:
                for target, one in zip(targets[each], made, strict=True):
                    yield from _write(target, one, each, spectrogram)
            except ValueError as error:  # OSError is the disk's, and would meet all others, too
                if failed is None:
                    raise
                failed(each, error)


def _picture_options(parser: ArgumentParser) -> None:
    pictures = parser.add_argument_group("to image")
    pictures.add_argument("--prompt", metavar="TEXT", help="template with one {}, the place of the sound")
    pictures.add_argument("--negative-prompt", metavar="TEXT", help="what should not be there")
    pictures.add_argument("--image", type=Path, metavar="FILE", help="a picture to change by each sound, in place of noise")
    pictures.add_argument("--strength", type=finite, metavar="S", help="how much of --image changes, to 1 (default: 0.8)")
    told = "say in the prompt where a stereo sound stands: left, centre or right"
    pictures.add_argument("--position", action="store_true", default=None, help=told)
    pictures.add_argument("--mix", action="store_true", help="one picture of all inputs together")
    pictures.add_argument("--weights", type=weights, metavar="W,W", help="of --mix, one for each input (default: equal)")
    pictures.add_argument("--between", type=positive, metavar="N", help="N pictures on the way from one sound to another")
    pictures.add_argument("--windows", type=seconds, metavar="S", help="a picture for each S seconds, on one contact sheet")
    pictures.add_argument("--video", action="store_true", help="with --windows: a video with the sound in place of the sheet")


def _sound_options(parser: ArgumentParser) -> None:
    sounds = parser.add_argument_group("to audio")
    sounds.add_argument("--seconds", type=seconds, metavar="S", help="length (default: the adapter's own)")
    sounds.add_argument("--query", choices=["image", "text", "prior"], help="how CLIPSonic is asked (default: by input)")
    sounds.add_argument("--spectrogram", action="store_true", help="a picture of each sound beside it")


def _check_use(parser: ArgumentParser, to: Sequence[str], options: dict[str, Any]) -> None:
    """Refuse options that no step of the way has any use for."""
    useless = {"image": ("seconds", "query", "spectrogram"), "audio": (*PICTURES, *TOGETHER)}
    lists = [set(useless[kind]) for kind in to] + ([set(TOGETHER)] if len(to) > 1 else [])
    for name in set.intersection(*lists[: len(to)]).union(*lists[len(to) :]):
        if options[name]:
            parser.error(f"--{name.replace('_', '-')} is of no use with --to {','.join(to)}")


def _check_prompt(parser: ArgumentParser, prompt: str | None, name: str | None = None, trust: bool = False) -> None:
    """Refuse a prompt that does not hold the place of the sound once, or holds one for an adapter that has none."""
    places = 1 if name is None or prompt is None else getattr(kind_of(find(name).class_path, name, trust), "places", 1)
    if prompt is not None and prompt.count("{}") != places:
        wish = "exactly one {}, the place of the sound" if places else f"no {{}}: {name} hears beside the prompt"
        parser.error(f"--prompt {prompt!r} must hold {wish}")


def _combined(
    how: Together,
    asked: list[Asked],
    name: str,
    trust: bool,
    device: str,
    quantize: str | None,
    folder: Path,
    num: int,
    seed: int,
    call: dict[str, Any],
) -> Iterator[Path]:
    """Inputs that belong together, by the adapter of this name."""
    check_together(how, asked, kind_of(find(name).class_path, name, trust))
    pipe = pipeline(name, trust=trust, device=device_named(device), quantize=quantize)
    yield from combine(pipe, how, asked, folder, num, seed, call)


def adapters_for(inputs: Sequence[str | Path], to: str, adapter: str | None = None, trust: bool = False) -> list[str]:
    """Names of the adapters that `generate` would load, found without building any; raises where there is no way."""
    if adapter is not None:
        return [adapter]
    return list(dict.fromkeys(route(to, each.modality) for each in read(inputs, _taken(to, adapter, trust))))


def _taken(to: str, adapter: str | None, trust: bool) -> tuple[str, ...]:
    """What can be handed in: what the adapter takes, or any of those that lead there."""
    if adapter is None:
        return tuple(dict.fromkeys(source for source, made in ways() if made == to))
    kind: Any = kind_of(find(adapter).class_path, adapter, trust)
    if kind.makes != to:
        raise ValueError(f"the adapter {adapter} makes {kind.makes or 'nothing'} of {', '.join(kind.takes)}, not {to}")
    return kind.takes


def _done(targets: Sequence[Path]) -> bool:
    return all(path.exists() for path in targets)


def _groups(asked: Sequence[Asked], at_once: int) -> Iterator[list[Asked]]:
    """Inputs that go into one call: of one modality, a video alone, for its sound is as long as its pictures."""
    for kind in dict.fromkeys(each.modality for each in asked):
        same = [each for each in asked if each.modality == kind]
        step = 1 if kind == "video" else at_once
        yield from (same[start : start + step] for start in range(0, len(same), step))


def _names(asked: Asked, num: int, suffix: str) -> list[str]:
    return [f"{asked.stem}.{suffix}" if num == 1 else f"{asked.stem}-{number + 1}.{suffix}" for number in range(num)]


def _noise(num: int, seed: int) -> list[Any]:
    import torch

    return [torch.Generator().manual_seed(seed + number) for number in range(num)]


def pictures(pipe: Any, num: int, seed: int, asked: list[Asked], call: dict[str, Any]) -> Iterator[list[Any]]:
    """The pictures of each input of a group, in one call."""
    noise = [one for _ in asked for one in _noise(num, seed)]
    made = pipe([each.content for each in asked], num_images_per_prompt=num, generator=noise, **call)
    yield from (made.images[index * num : (index + 1) * num] for index in range(len(asked)))


def waveforms(pipe: Any, num: int, seed: int, asked: list[Asked], call: dict[str, Any]) -> Iterator[list[Any]]:
    """The sounds of each input of a group, in one call."""
    given = dict(call)
    length = given.pop("audio_length_in_s", None)
    if asked[0].modality == "video" and length is None:
        from xmodal.data.video import video_duration

        length = min(video_duration(asked[0].content), pipe.seconds)
    length = pipe.seconds if length is None else length
    if not length > 0:
        raise ValueError(f"audio_length_in_s must be above 0, not {length}")
    # A generator knows only the length of its training: what is shorter is cut from that, or it would be near silence.
    given["audio_length_in_s"] = max(length, pipe.seconds)
    noise = [one for _ in asked for one in _noise(num, seed)]
    made = pipe([str(each.content) for each in asked], num_waveforms_per_prompt=num, generator=noise, **given)
    audios = made.audios[..., : max(1, round(length * made.sampling_rate))] if length < pipe.seconds else made.audios
    for index in range(len(asked)):
        yield [(audio, made.sampling_rate) for audio in audios[index * num : (index + 1) * num]]


def _made(
    make: Callable[..., Iterator[list[Any]]], asked: list[Asked], at_once: int, call: dict[str, Any], failed: Failed | None
) -> Iterator[tuple[Asked, list[Any]]]:
    """What ``make`` makes of each input, group by group; of those that it can make nothing of, ``failed`` hears instead."""
    import torch

    waiting = list(_groups(asked, at_once))
    while waiting:
        group = waiting.pop(0)
        try:
            results = list(make(group, call))
        except torch.OutOfMemoryError:
            if len(group) == 1 and call.get("batch_size", 1) == 1:
                raise
            torch.cuda.empty_cache()
            at_once = max(1, len(group) // 2)
            if "batch_size" in call:
                call["batch_size"] = max(1, call["batch_size"] // 2)
            waiting = list(_groups([*group, *(each for one in waiting for each in one)], at_once))
        except (ValueError, OSError) as error:
            if failed is None:
                raise
            if len(group) > 1:  # one of those that were made together: each alone, and the others go on as before
                waiting = [*([each] for each in group), *waiting]
            else:
                failed(group[0], error)
        else:
            yield from zip(group, results, strict=True)


def _write(target: Path, made: Any, asked: Asked, spectrogram: bool) -> Iterator[Path]:
    """A picture; or a sound, with its spectrogram and the video that it is for, where asked."""
    if target.suffix == ".png":
        yield write_beside(target, made.save)
        return
    import torch

    from xmodal.data.soundfiles import write_sound

    audio, rate = made
    waveform = torch.as_tensor(audio).float().cpu()
    if spectrogram:
        from xmodal.evaluation.spectrogram import spectrogram as draw

        mono = waveform.reshape(-1, waveform.shape[-1]).mean(0)
        # Not STEM.png: that is what a picture beside it is called, perhaps the very one that was asked about.
        yield write_beside(target.with_suffix(".spectrogram.png"), draw(mono.numpy(), rate).save)
    if asked.modality == "video":
        from xmodal.data.video import write_soundtrack

        yield write_soundtrack(asked.content, waveform, rate, _copy(target, asked))
    # The sound comes last: where it is, all of its result is.
    yield write_sound(target, waveform.mT if waveform.ndim == 2 else waveform, rate)


def _copy(target: Path, asked: Asked) -> Path:
    """Where the copy of a video with its new sound goes."""
    suffix = Path(asked.content).suffix.lower()
    return target.with_suffix(suffix if suffix in (".mp4", ".mov", ".mkv") else ".mkv")


def _check_stems(asked: Sequence[Asked]) -> None:
    """Raise ValueError for two inputs whose results would replace each other."""
    first: dict[str, Asked] = {}
    for each in asked:
        if (other := first.setdefault(each.stem, each)) is not each:
            raise ValueError(
                f"two inputs have the same file name {each.stem!r}, and their results would replace each other: "
                f"{other.content} and {each.content}"
            )


def _check_files(asked: Asked, targets: Sequence[Path], spectrogram: bool) -> None:
    """Raise ValueError for a result whose name no file system takes, or where a video's copy would take the video's own place."""
    longest = targets[-1].with_suffix(".spectrogram.png") if spectrogram else targets[-1]
    if (size := len(longest.name.encode(errors="surrogateescape"))) > LONGEST_NAME:
        raise ValueError(
            f"the name of {longest.name[:40]!r} and so on has {size} bytes, more than files may have: rename the input"
        )
    if asked.modality == "video" and Path(asked.content).resolve() in [_copy(target, asked).resolve() for target in targets]:
        raise ValueError(f"the result would take the place of the input {asked.content}: give another --output folder")


def device_named(name: str) -> str:
    """The device of that name; of ``auto`` the fastest here."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
