"""Numbers of the documents, from benchmarks/results.  python benchmarks/documents.py [--check]

Each place below is a piece of a document with {} where a number stands. What the results say is written there; --check writes
nothing, names the places that say something else, and ends with status 1. A place that a document no longer has is an error.
docs/claims.md and docs/listen.md have scripts of their own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trial import load, over_seeds, score_of, spoken_score

ROOT = Path(__file__).parent.parent
CARDS = "xmodal/miniature/weights/adapters"
LONGEST = 40  # characters of a number with its interval


class Place(NamedTuple):
    """A piece of a document, any white space for each space, and the values of its gaps."""

    document: str
    text: str
    values: tuple[str, ...]

    def pattern(self) -> re.Pattern[str]:
        pieces = [r"\s+".join(map(re.escape, piece.split(" "))) for piece in self.text.split("{}")]
        return re.compile(f"([^|]{{1,{LONGEST}}}?)".join(f"({piece})" for piece in pieces))


def spoken(found: Mapping[str, Any], digits: int = 1, scale: float = 1) -> str:
    """A stored score with its interval: "86.1 [81.4, 90.2]"."""
    return spoken_score(score_of(found, scale), digits)


def bare(found: Mapping[str, Any], digits: int = 1, scale: float = 1) -> str:
    """A stored score without it."""
    return f"{score_of(found, scale).value:.{digits}f}"


def apart(found: Mapping[str, Any]) -> tuple[str, ...]:
    """A stored percentage, and the ends of its interval."""
    return tuple(f"{number:.1f}" for number in (found["percent"], *found["interval"]))


def gaps(document: str, label: str, values: list[str], columns: int = 0) -> Place:
    """A row of a table: its first cell, then a gap for each value, then empty cells up to ``columns``."""
    cells = " {} |" * len(values) + " |" * (columns - len(values))
    return Place(document, f"\n| {label} |{cells}\n", tuple(values))


# Pictures


def seen() -> Iterator[Place]:
    """AudioToken, on unseen sounds, and the painter on captions."""
    table, heldout = load("audiotoken_mini_test")["table"], load("audiotoken_mini_heldout")["table"]
    factors = ("thing", "size", "count")
    for row, cells in table.items():
        yield gaps("README.md", row, [spoken(cells[factor], 1) for factor in factors])
    best = {way: next(row for row in table if row.startswith(f"{way}, best of")) for way in ("captions", "sounds")}
    for row, text in (
        ("sounds", "sounds give {} for the thing, {} for the size, {} for the count,"),
        (best["sounds"], "the best of four {}, {} and {}; captions"),
        ("captions (ceiling)", "captions {}, {} and {}; the best of"),
        (best["captions"], "four {}, {} and {}. The captions'"),
    ):
        yield Place("README.md", text, tuple(spoken(heldout[row][factor], 1) for factor in factors))
    kept = (bare(table["real pictures, through the VAE"]["thing"]), f"{load('audiotoken_mini_test')['vae_psnr_db']:.1f}")
    yield Place("docs/miniature.md", "It leaves {} % of the things of 256 real pictures recognisable, at {} dB PSNR", kept)
    captions, sounds = (spoken(table[best[way]]["thing"], 1) for way in ("captions", "sounds"))
    row = "| sound | picture | `audiotoken-mini` | {} | the painter told a caption (ceiling) | {} |"
    yield Place("docs/any_to_any.md", row, (sounds, captions))
    row = '| text ("a photo of two large bells") | picture | `stable-diffusion-mini` | {} | real pictures | {} |'
    yield Place("docs/any_to_any.md", row, (captions, spoken(table["real pictures"]["thing"], 1)))
    share = tuple(bare(table[best["sounds"]][factor], 3, 0.01) for factor in factors)
    yield Place(f"{CARDS}/audiotoken-mini/README.md", "chance 0.056): {}; size {}, count {} (chance", share)
    placed = load("position_mini")["rows"]
    for label, names in {
        "stereo, with `position`": ("stereo, position: on the heard side", "stereo, position: the thing"),
        "stereo, without": ("stereo, no position: on the heard side", "stereo, no position: the thing"),
        "mono, with `position`": ("mono, position: in the centre",),
    }.items():
        yield gaps("docs/audio2image.md", label, [spoken(placed[name], 1) for name in names], 2)


def real() -> Iterator[Place]:
    """Recordings that nobody here made."""
    found, before = load("real_sounds"), load("real_sounds_before")["ear"]["real"]
    heard, rendered, painted = found["ear"]["real"], found["ear"]["rendered"], found["way"]["real"]
    count = str(painted["count"])
    yield Place("README.md", "**Real recordings** are understood less often: of {} that nobody", (count,))
    yield Place("README.md", "the right thing is painted for {} % [{}, {}], where chance", apart(painted))
    yield Place("docs/miniature.md", "(card `mini`) knows {} % of the {} of the test", (apart(before)[0], count))
    yield Place("docs/miniature.md", "(95 % interval {} to {}; chance 5.6 %)", apart(before)[1:])
    yield Place("docs/miniature.md", "Its card `wild` knows {} % ({} to {})", apart(heard))
    names = (*apart(rendered), str(rendered["count"]))
    yield Place("docs/miniature.md", "names {} % ({} to {}) of {} of the world's own", names)
    yield Place("docs/miniature.md", "the right thing for {} % ({} to {}) of the real ones", apart(painted))
    text = "- the thing of {} real recordings (benchmarks/real_sounds.py measure --way): {}\n"
    yield Place(f"{CARDS}/audiotoken-mini/README.md", text, (count, bare(painted, 3, 0.01)))


# Sounds

MAPPED = {
    "real sounds": "real sounds",
    "real, through AudioLDM's autoencoder and Griffin-Lim": "real, autoencoder and vocoder",
    "real, through the miniature HiFi-GAN": "real, HiFi-GAN",
    "AudioLDM, CLAP of the very sound (ceiling)": "CLAP of the sound (ceiling)",
    "AudioLDM, CLAP of a sentence about it": "CLAP of a sentence",
    "diffusion mapper (`v2a-mini`)": "diffusion mapper, seed 0",
    "regression mapper (`v2a-regression-mini`)": "regression mapper, seed 0",
    "regression mapper, best of 3 sounds by CLAP": "regression, best of 3",
    "diffusion mapper, best of 3 sounds by CLAP": "diffusion, best of 3",
    "linear mapper": "linear mapper",
    "mean shift": "mean shift",
    "CLIP's vector as it is (floor)": "CLIP as it is (floor)",
    "diffusion mapper, other pictures (floor)": "diffusion, other pictures (floor)",
}  # as the document calls a row, and as the benchmark does


def mapped() -> Iterator[Place]:
    """V2A-Mapper and the AudioLDM below it."""
    rows, page = load("v2a_mini")["rows"], "docs/vision2audio.md"

    def named(row: str) -> str:
        return spoken(rows[MAPPED[row]]["scores"]["tag_top1"], 1, 100)

    for label, name in MAPPED.items():
        scores = rows[name]["scores"]
        values = [named(label), *(bare(scores[key], digits) for key, digits in DIGITS)]
        if "cosine" in rows[name]:
            values += [f"{rows[name]['cosine']:.3f}", f"{rows[name]['spread']:.2f}", f"{100 * rows[name]['readable']:.1f}"]
        yield gaps(page, label, values, 8)
    for label, key, digits in (
        ("thing named, share", "tag_top1", 3),
        ("FD", "FD", 3),
        ("FAD", "FAD", 2),
        ("CS", "CS", 2),
        ("KL", "KL", 2),
    ):
        over = rows["over seeds"][key]
        yield gaps(page, label, [spoken(over[kind], digits) for kind in ("regression", "diffusion", "diffusion - regression")])
    floor = rows["CLIP as it is (floor)"]["scores"]
    unmapped = tuple(bare(floor[key], digits) for key, digits in (("FD", 3), ("CS", 1)))
    yield Place(page, "the unmapped vector (FD {}, CS {} over the 256 pictures", unmapped)
    drawn, ceiling = named("diffusion mapper (`v2a-mini`)"), named("AudioLDM, CLAP of the very sound (ceiling)")
    yield Place("README.md", "the tagger of sounds names the thing in {} percent of `v2a-mini`'s", (drawn,))
    yield Place("README.md", "where AudioLDM itself reaches {} with the very sound's embedding", (ceiling,))
    start = "| picture | sound | `v2a-"
    row = start + "mini` | {} | AudioLDM told the sound's own embedding (ceiling) | {} |"
    yield Place("docs/any_to_any.md", row, (drawn, ceiling))
    values = (named("regression mapper (`v2a-regression-mini`)"), named("CLIP's vector as it is (floor)"))
    yield Place("docs/any_to_any.md", start + "regression-mini` | {} | CLIP's vector as it is (floor) | {} |", values)
    for kind, card in (("diffusion", "v2a-mini"), ("regression", "v2a-regression-mini")):
        scores = rows[f"{kind} mapper, seed 0"]["scores"]
        text = "(benchmarks/v2a_mini.py, chance 0.056): {}\n- FD in the space of the miniature CLAP, same run: {}\n"
        values = (bare(scores["tag_top1"], 3), bare(scores["FD"], 3))
        yield Place(f"{CARDS}/{card}/README.md", text, values)


DIGITS = (("FD", 3), ("FAD", 1), ("CS", 1), ("KL", 2))


def ambiguous() -> Iterator[Place]:
    """Mappers whose pictures leave the sound open."""
    columns = (("FD", 4), ("cosine", 3), ("spread", 2), ("FD of sounds", 3), ("CS of sounds", 1))
    found = load("mapper_ambiguity")
    for name, scores in found["over seeds"].items():
        yield gaps("docs/vision2audio.md", name, [spoken(scores[key], digits) for key, digits in columns])
    for column, digits, text in (
        ("FD of sounds", 3, "and the FD of its sounds is {} higher;"),
        ("CS of sounds", 1, "its CLIP-score is higher by {}. Both"),
    ):
        one, other = (found["rows"][f"thing only, {kind}"][column] for kind in ("regression", "diffusion"))
        more = over_seeds([regressed - drawn for regressed, drawn in zip(one, other, strict=True)])
        yield Place("docs/vision2audio.md", text, (spoken_score(more, digits),))


def panned() -> Iterator[Place]:
    """Where a mapper's head puts the sound."""
    page, table = "docs/vision2audio.md", load("stereo_mini")["table"]
    for label, split, row in (
        ("split `test`", "test", "guessed"),
        ("split `heldout`: things of a size at a place never trained", "heldout", "guessed"),
        ("pictures of `test` in another order", "test", "shuffled pictures"),
    ):
        seeds = [table[split][name] for name in table[split] if name.startswith(f"{row}, seed")]
        columns = (("error", 3), ("correlation", 2), ("side", 1))
        yield gaps(page, label, [lowest_to_highest([each[key] for each in seeds], digits) for key, digits in columns])
    mean = table["test"]["always the mean"]
    yield Place(page, "\n| always the mean, `test` | {} | | {} |\n", (f"{mean['error']:.3f}", f"{mean['side']:.1f}"))


def lowest_to_highest(values: list[float], digits: int) -> str:
    """The ends of several numbers: "0.108 to 0.111", or the one that both are."""
    ends = [f"{end:.{digits}f}" for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


ASKED = {
    "IQ, by the picture": "IQ",
    "ZS, by the caption as it is": "ZS",
    "PD, by the caption through the prior of captions": "PD",
    "SD, by the name through the prior of names": "SD",
    "MS, by the caption moved by the difference of means": "MS",
    "RB, by the known pictures nearest to the caption": "RB",
    "CLIP-TTA, supervised": "CLIP-TTA",
    "CLAP-TTA, supervised": "CLAP-TTA",
}
TEXTS = {
    "as they are": "ZS",
    "moved by the difference of means": "MS",
    "through the prior of captions, guidance 2": "PD",
    "the same without guidance": "PD unguided",
    "names through the prior of names": "SD",
    "captions through it": "SD by captions",
}


def asked() -> Iterator[Place]:
    """CLIPSonic."""
    found, page = load("clipsonic_mini"), "docs/text2audio.md"
    own = found["real sounds"]
    values = [bare(own["tag_top1"], 1, 100), bare(own["FAD"], 1), bare(own["CLAP"], 3)]
    yield gaps(page, "real sounds", values, 4)
    for label, name in ASKED.items():
        scores, readable = found["over seeds"][name], found["readable"].get(name)
        values = [spoken(scores["tag_top1"], 1, 100), spoken(scores["FAD"], 1), spoken(scores["CLAP"], 3)]
        yield gaps(page, label, values + ([] if readable is None else [f"{100 * readable:.1f}"]), 4)
    for label, name in TEXTS.items():
        gap, readable = found["modality gap"][name], f"{100 * found['readable'][name]:.1f} %"
        values = [f"{gap[key]:.3f}" for key in ("gap", "paired_cosine", "unpaired_cosine")]
        yield gaps(page, label, [*values, f"{100 * gap['separable']:.0f} %", readable])
    pictures, captions = (spoken(found["over seeds"][name]["tag_top1"], 1, 100) for name in ("IQ", "PD"))
    yield Place("README.md", "captions in {} of `clipsonic-mini`'s, which has", (captions,))
    told = spoken(load("v2a_mini")["rows"]["CLAP of a sentence"]["scores"]["tag_top1"], 1, 100)
    row = "| text | sound | `clipsonic-mini` | {} | CLAP's text tower and AudioLDM, `audioldm-mini` | {} |"
    yield Place("docs/any_to_any.md", row, (captions, told))
    real_ones = bare(own["tag_top1"], 1, 100)
    yield Place("docs/any_to_any.md", "| picture | sound | `clipsonic-mini` | {} | real sounds | {} |", (pictures, real_ones))
    text = "(benchmarks/clipsonic_mini.py, chance 0.056): {}\n- tag_top1 of 256 unseen pictures, same run: {}\n"
    shares = (bare(found["over seeds"][name]["tag_top1"], 3) for name in ("PD", "IQ"))
    yield Place(f"{CARDS}/clipsonic-mini/README.md", text, tuple(shares))
    for key, text in {
        "PD FAD": "**The prior closes part of the gap**: {} of it in FAD,",
        "MS FAD": "are little nearer to the pictures' ({} of the gap in FAD);",
        "RB FAD": "(`Retrieval`) closes {} of it",
    }.items():
        share = score_of(found["gap closed"][key], 100)
        yield Place(page, text, (f"{share.value:.0f} % [{share.low:.0f}, {share.high:.0f}]",))


SAMPLERS = {
    "DPMSolverMultistepScheduler": "DPM-Solver++",
    "UniPCMultistepScheduler": "UniPC",
    "DDIMScheduler": "DDIM",
}


def sampled() -> Iterator[Place]:
    """CLIPSonic by sampler and number of steps."""
    for row in load("clipsonic_samplers")["rows"]:
        values = [f"{row['FAD']:.2f}", f"{row['of 200']:.2f}", f"{100 * row['tag_top1']:.1f}", f"{row['seconds']:.2f}"]
        yield gaps("docs/text2audio.md", f"{SAMPLERS[row['scheduler']]} | {row['steps']}", values)


# All of it


def chains() -> Iterator[Place]:
    """There and back."""
    ways = load("any_to_any")["ways"]
    first = "{} → {} (first step of the next row)"
    for label, name in {
        first.format("sound", "picture"): "audio to image",
        "sound → picture → sound": "audio to image to audio",
        first.format("picture", "sound"): "image to audio",
        "picture → sound → picture": "image to audio to image",
    }.items():
        way = ways[name]
        adapters = ", ".join(f"`{adapter}`" for adapter in way["adapter"].split(", "))
        values = [str(way["named"]), *(f"{way[key]:.3f}" for key in ("cycle", "others") if key in way)]
        yield gaps("docs/any_to_any.md", f"{label} | {adapters}", values, 3)
    own = {str(ways[f"the clips' own, {kind}"]["named"]) for kind in ("image", "audio")}
    yield Place("docs/any_to_any.md", "The clips' own files are named in {} of 32.", (" and ".join(sorted(own)),))


def cost() -> Iterator[Place]:
    """What the miniature takes to train, and weighs."""
    found = load("retrain")
    for name, part in found["parts"].items():
        values = [f"{part['steps']:,}", f"{part['core_seconds_per_step']:.2f}", f"{part['core_hours']:.2f}"]
        yield gaps("docs/miniature.md", name, values)
    yield Place("docs/miniature.md", "| all | | | {} |", (f"{found['core_hours']:.1f}",))
    weights = sum(path.stat().st_size for path in (ROOT / "xmodal/miniature/weights").rglob("*") if path.is_file())
    yield Place("docs/design.md", "**The shipped weights weigh {} MB**", (f"{weights / 1e6:.0f}",))


def quantized() -> Iterator[Place]:
    """Eight and four bits."""
    for kind, row in load("quantized")["rows"].items():
        right = [spoken(row[f"{asked}_thing"]) for asked in ("captions", "sounds")]
        numbers = [f"{row[name]:.4f}" for name in ("captions_difference", "gradient_cosine_median", "gradient_cosine_all")]
        values = [f"{row['frozen_bytes'] / 1e6:.1f}", *right, *numbers]
        yield gaps("docs/small-gpus.md", kind, values)


SUBJECTS = (seen, real, mapped, ambiguous, panned, asked, sampled, chains, cost, quantized)


def told(text: str, place: Place) -> str:
    """The document's text with a place's values; raises ValueError where it is not there once."""
    found = list(place.pattern().finditer(text))
    if len(found) != 1:
        raise ValueError(
            f"{place.document} has {len(found)} places like {place.text!r}, but expected one: mend benchmarks/documents.py"
        )
    pieces = list(found[0].groups())
    for index, value in enumerate(place.values):
        if pieces[2 * index + 1].split() != value.split():
            pieces[2 * index + 1] = value
    return text[: found[0].start()] + "".join(pieces) + text[found[0].end() :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a document says something else")
    options = parser.parse_args()
    texts: dict[str, str] = {}
    stale = []
    for subject in SUBJECTS:
        for place in subject():
            before = texts.setdefault(place.document, (ROOT / place.document).read_text("utf-8"))
            after = texts[place.document] = told(before, place)
            if after != before:
                stale.append(f"{place.document}: {place.text.format(*place.values)}")
    print("\n".join(stale) or "every number is what the results say")
    if options.check:
        sys.exit(1 if stale else 0)
    for document, text in texts.items():
        (ROOT / document).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
