"""What the three papers claim, and what the miniature says of it.  python benchmarks/claims.py

Reads what audiotoken_table.py, v2a_mini.py, mapper_ambiguity.py, clipsonic_mini.py and sweeps.py wrote under benchmarks/results
(`make claims` runs them all), computes a verdict for each claim, and writes docs/claims.md with its plots.

A part of a claim compares two rows in one score. It *holds* where the 95 % intervals (Student's t over seeds; over clips where
a row has no seeds) lie apart in the claimed direction, does *not hold* where they lie apart in the other, and is *not decided*
where they overlap; "at least as good" holds, too, where they overlap and the mean is not behind. A claim holds if all of its
parts do, and does not hold if one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trial import load, over_seeds, score_of

from xmodal.files import write_beside
from xmodal.metrics.protocol import Score

ROOT = Path(__file__).parent.parent
RESULTS, PAGE, PLOTS = ROOT / "benchmarks" / "results", ROOT / "docs" / "claims.md", ROOT / "docs" / "images"
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
LOWER = {"FID", "FD", "FAD", "KL", "trained numbers"}
PERCENT = {"AIC", "AIS", "IIS", "thing named"}
Rows = dict[str, dict[str, Score]]  # by row and score


@dataclass(frozen=True)
class Part:
    """``better`` is claimed to be better than ``worse`` in ``score``, or with ``at_least`` not to be worse."""

    better: str
    worse: str
    score: str
    at_least: bool = False

    def verdict(self, rows: Rows) -> str:
        """By intervals that lie apart; not decided where a row was not measured."""
        if any(self.score not in rows.get(name, {}) for name in (self.better, self.worse)):
            return OPEN
        sign = -1 if self.score in LOWER else 1
        ends = []
        for name in (self.better, self.worse):
            found = rows[name][self.score]
            low, high = (found.value if end is None else end for end in (found.low, found.high))
            ends.append((*sorted((sign * low, sign * high)), sign * found.value))
        (low, high, value), (others_low, others_high, other) = ends
        if low > others_high:
            return HOLDS
        if high < others_low:
            return FAILS
        return HOLDS if self.at_least and value >= other else OPEN

    @property
    def sentence(self) -> str:
        """What is claimed."""
        return f"{self.better} {'at least as good as' if self.at_least else 'better than'} {self.worse} in {self.score}"


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, the rows and scores that bear on it, and what they cannot say."""

    name: str
    sentence: str
    limits: str
    command: str
    rows: Rows = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    @property
    def verdict(self) -> str:
        """Of all parts together."""
        found = {part.verdict(self.rows) for part in self.parts}
        if FAILS in found:
            return FAILS
        return HOLDS if found == {HOLDS} else OPEN


def parts(better: str, worse: Sequence[str], scores: Sequence[str], at_least: bool = False) -> tuple[Part, ...]:
    """One part for each other row and score."""
    return tuple(Part(better, other, score, at_least) for other in worse for score in scores)


def audiotoken_rows() -> Rows:
    """AudioToken's table, by seeds; numbers trained beside it."""
    report, shown_as = load("audiotoken_table"), {"AIC_top1": "AIC", "tag_top1": "thing named"}
    rows: Rows = {}
    for row, seeds in report["rows"].items():
        names = list(next(iter(seeds.values())))
        rows[row] = {shown_as.get(name, name): over_seeds([each[name] for each in seeds.values()]) for name in names}
        if row in report["trained"]:
            rows[row]["trained numbers"] = Score(report["trained"][row])
    return rows


def chosen(rows: Rows, names: Mapping[str, str], but: Sequence[str] = ()) -> Rows:
    """Rows that were measured, under other names, without some scores."""
    known = {name: told for name, told in names.items() if name in rows}
    return {told: {key: score for key, score in rows[name].items() if key not in but} for name, told in known.items()}


def mapper_rows() -> Rows:
    """The mappers over their seeds, and what stands beside them, by clips."""
    found, rows = load("v2a_mini")["rows"], {}
    for mapper in ("regression", "diffusion"):
        seeds = [row["scores"] for name, row in found.items() if name.startswith(f"{mapper} mapper, seed")]
        rows[f"{mapper} mapper"] = {
            told: over_seeds([each[name]["value"] for each in seeds])
            for name, told in (("tag_top1", "thing named"), ("FD", "FD"))
        }
    for name in ("linear mapper", "mean shift", "CLIP as it is (floor)"):
        scores = found[name]["scores"]
        rows[name] = {"thing named": score_of(scores["tag_top1"]), "FD": score_of(scores["FD"])}
    return rows


def ambiguity_rows() -> Rows:
    """Both mappers where a picture tells its sound, and where it leaves it open."""
    found = load("mapper_ambiguity")["rows"]
    names = {"FD of sounds": "FD", "CS of sounds": "CS"}
    return {row: {told: over_seeds(cells[name]) for name, told in names.items()} for row, cells in found.items()}


def clipsonic_rows() -> Rows:
    """CLIPSonic's queries and bridges, by seeds of the noise."""
    names = {"tag_top1": "thing named", "FAD": "FAD", "CLAP": "CLAP"}
    return {
        path: {told: over_seeds([each[name]["value"] for each in seeds]) for name, told in names.items()}
        for path, seeds in load("clipsonic_mini")["paths"].items()
    }


def claims() -> list[Claim]:
    """All eleven."""
    table, mapped, queries = audiotoken_rows(), mapper_rows(), clipsonic_rows()
    scores = ("AIC", "FID", "AIS", "IIS")
    heard = {"label": "label, in words", "wav2clip": "Wav2CLIP", "imagebind": "ImageBind-like", "audiotoken": "AudioToken",
             "classified": "AudioToken, classified", "tokens": "AudioToken, 3 tokens"}  # fmt: skip
    moved = {"wav2clip moments": "Wav2CLIP, moved", "imagebind moments": "ImageBind-like, moved"}
    few = {"short": "embedder", "small": "embedder, narrow", "whole": "embedder and painter", "scratch": "both from nothing"}
    ears = {"short": "BEATs", "ear clap": "CLAP", "ear wav2clip": "Wav2CLIP", "ear imagebind": "ImageBind-like"}
    trained = load("audiotoken_table")
    asked = {
        "IQ": "picture (IQ)",
        "ZS": "text (ZS)",
        "PD": "prior (PD)",
        "MS": "mean shift",
        "RB": "retrieval",
        "NI": "noise injection",
    }
    queries = {asked.get(name, name): cells for name, cells in queries.items()}
    size = {"DiffusionMapper at paper size": {"trained numbers": Score(paper_size())},
            "Im2Wav, as the paper counts it": {"trained numbers": Score(360_400_000)}}  # fmt: skip
    train = "xmodal fit --config audiotoken --data.manifest MANIFEST"
    return [
        Claim(
            "A1", "AudioToken paints better than Wav2CLIP and at least as well as ImageBind, both into Stable unCLIP, and "
            "less well than the "
            "label in words.",
            f"AudioToken was trained for {trained['plain_steps']} steps, {trained['steps']} with the classification loss; its "
            f"painter "
            "knows eighteen things. The miniature unCLIP, Wav2CLIP and ImageBind-like ear were trained on this world for "
            "1,000 to 1,200 "
            "steps: how strong a baseline is depends on that. At this length AudioToken's own loss differs much between seeds.",
            f"{train}; xmodal test --config wav2clip-unclip; xmodal test --config imagebind-unclip; xmodal test --config "
            f"label-text",
            chosen(table, heard | moved, ["trained numbers"]),
            parts("AudioToken", ["Wav2CLIP"], scores) + parts("AudioToken", ["ImageBind-like"], scores, True)
            + parts("label, in words", ["AudioToken"], ["AIC"]),
        ),
        Claim(
            "A2", "The classification loss raises AIC and costs FID.",
            f"The loss alone was trained for {trained['plain_steps']} steps, with the classification loss {trained['steps']}; "
            f"the denoising "
            "loss by itself is slow at this size, so what is seen is the speed of learning more than where it ends.",
            "xmodal ablate audiotoken --overlay classification -- --data.manifest MANIFEST",
            chosen(table, {"audiotoken": "AudioToken", "classified": "AudioToken, classified", "tokens": "AudioToken, 3 tokens"},
                   ["trained numbers"]),
            (Part("AudioToken, classified", "AudioToken", "AIC"), Part("AudioToken", "AudioToken, classified", "FID")),
        ),
        Claim(
            "A3", "Few trained parameters suffice.",
            f"Each row had {trained['short_steps']} steps: from nothing, a painter needs tens of thousands.",
            f"{train}; the whole painter: benchmarks/whole_painter.py has the task",
            chosen(table, few),
            parts("embedder", ["embedder and painter"], ("AIC", "FID"), True)
            + parts("embedder", ["both from nothing"], ("AIC", "FID")),
        ),
        Claim(
            "A4", "Voices carry cues of identity or gender into the picture.",
            "Nobody speaks in the miniature world: this is not for it to decide.",
            "xmodal generate VOICE.wav --to image --adapter RUN -n 8 (a trained full-size AudioToken), judged by people: "
            "xmodal study make",
        ),
        Claim(
            "A5", "It does not hang on one audio encoder: another ear does about as well.",
            f"{trained['short_steps']} steps with the classification loss, one seed of clips; all ears were trained on this "
            f"world.",
            "xmodal ablate audiotoken --overlay clap,imagebind,wav2clip,panns,vggish -- --data.manifest MANIFEST",
            chosen(table, ears, ["trained numbers"]),
            tuple(Part(ear, "BEATs", "AIC", True) for ear in ("CLAP", "Wav2CLIP", "ImageBind-like")),
        ),
        Claim(
            "V1", "A mapper that draws is better in fidelity, one that regresses slightly better in relevance: where a "
            "picture leaves its sound "
            "open.",
            "Where the picture tells all (as seen), nothing is left to draw. FD of 128 sounds is biased upwards alike for all "
            "rows.",
            "xmodal test --config v2a-regression; xmodal test --config v2a-diffusion, both after xmodal fit with "
            "--data.manifest MANIFEST",
            ambiguity_rows(),
            (Part("thing only, diffusion", "thing only, regression", "FD"), Part("thing only, regression", "thing only, "
            "diffusion", "CS")),
        ),
        Claim(
            "V2", "The gap between CLIP and CLAP must be bridged by a learned mapper.",
            "The rows without a mapper and the linear one have one run: their intervals are over 256 clips.",
            "xmodal ablate v2a-regression --overlay linear,mean-shift -- --data.manifest MANIFEST",
            mapped,
            parts("regression mapper", ["CLIP as it is (floor)", "mean shift", "linear mapper"], ("thing named", "FD")),
        ),
        Claim(
            "V3", "86 % fewer trained parameters than the best system before it.",
            "A count, not a training: the mapper at the size that gives the paper's number, against the paper's own number of "
            "Im2Wav. That "
            "it sounds better than Im2Wav is not for the miniature to decide.",
            "xmodal fit --config v2a-diffusion --data.manifest MANIFEST",
            size, parts("DiffusionMapper at paper size", ["Im2Wav, as the paper counts it"], ["trained numbers"]),
        ),
        Claim(
            "C1", "Texts that were never trained do clearly worse than pictures.",
            "How wide the gap is depends on CLIP: under a younger miniature CLIP, which missed some of the things in "
            "pictures, texts were ahead in naming them.",
            "xmodal test --config clipsonic+iq; xmodal test --config clipsonic+zs",
            {name: queries[name] for name in ("picture (IQ)", "text (ZS)")},
            parts("picture (IQ)", ["text (ZS)"], ["FAD", "CLAP"]),
        ),
        Claim(
            "C2", "A pretrained diffusion prior reduces that gap.",
            "The free bridges (mean shift, the nearest known pictures, noise on the conditions in training) are ours, to see "
            "what a prior adds.",
            "xmodal ablate clipsonic --overlay zs,pd,mean-shift,noise -- --data.manifest MANIFEST",
            {name: queries[name] for name in asked.values() if name in queries},
            parts("prior (PD)", ["text (ZS)"], ["FAD"]),
        ),
        Claim(
            "C3", "Asked by pictures, it competes with the state of the art in a listening test.",
            "There is no Im2Wav in the miniature, and nobody has listened: this is not for it to decide.",
            "xmodal predict --config clipsonic+iq+predict-pictures --data.manifest MANIFEST, then xmodal study make over both "
            "systems' sounds",
        ),
    ]  # fmt: skip


def paper_size() -> int:
    """Numbers of the mapper that stands in the paper: dalle2-pytorch's prior of 12 layers, 512 wide."""
    import torch

    from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork

    with torch.device("meta"):
        network = PriorNetwork(PriorConfig(dim=512, depth=12, heads=12, dim_head=64, text_tokens=77))
    return sum(part.numel() for part in network.parameters())


def in_unit(found: Score, name: str) -> Score:
    """As it is shown: in percent, whose intervals end at 0 and 100, or as it is."""
    if name not in PERCENT:
        return found
    low, high = (end if end is None else 100 * min(1.0, max(0.0, end)) for end in (found.low, found.high))
    return Score(100 * found.value, low, high)


def shown(found: Score, name: str) -> str:
    """A mean with its interval."""
    form = ".1f" if name in PERCENT else ",.0f" if name == "trained numbers" else ".3g"
    found = in_unit(found, name)
    value = format(found.value, form)
    return value if found.low is None or found.high is None else f"{value} [{found.low:{form}}, {found.high:{form}}]"


def table(rows: Rows) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    head = [f"{name} {'↓' if name in LOWER else '↑'}{' %' if name in PERCENT else ''}" for name in columns]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(columns) + 1) + "|"]
    for row, cells in rows.items():
        lines.append(f"| {row} | " + " | ".join(shown(cells[name], name) if name in cells else "–" for name in columns) + " |")
    return "\n".join(lines)


def plot(rows: Rows, names: Sequence[str]) -> str:
    """Dots and intervals, one panel a score, as an SVG."""
    drawn, left, wide, gap = [], 190, 170, 40
    height = 22 * len(rows) + 70
    for column, name in enumerate(names):
        found = {index: in_unit(cells[name], name) for index, cells in enumerate(rows.values()) if name in cells}
        ends = [end for each in found.values() for end in (each.value, each.low, each.high) if end is not None]
        low, high, start = min(ends), max(ends), left + column * (wide + gap)
        span = (high - low) or 1.0
        better = "lower" if name in LOWER else "higher"
        drawn.append(f'<text x="{start + wide / 2}" y="18" text-anchor="middle" font-weight="bold">{name}</text>')
        drawn.append(f'<text x="{start + wide / 2}" y="{height - 6}" text-anchor="middle" fill="#666">{better} is better</text>')
        for index, each in found.items():
            y = 22 * index + 38
            x, one, two = (
                start + wide * ((each.value if end is None else end) - low) / span for end in (each.value, each.low, each.high)
            )
            drawn.append(f'<line x1="{one:.1f}" x2="{two:.1f}" y1="{y}" y2="{y}" stroke="#245" stroke-width="2"/>')
            drawn.append(f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="#0a6b2d"/>')
        y = height - 38
        drawn.append(f'<line x1="{start}" x2="{start + wide}" y1="{y}" y2="{y}" stroke="#999"/>')
        for x, end, anchor in ((start, low, "start"), (start + wide, high, "end")):
            drawn.append(f'<text x="{x}" y="{y + 15}" text-anchor="{anchor}">{end:.3g}</text>')
    drawn += [f'<text x="{left - 14}" y="{22 * index + 42}" text-anchor="end">{row}</text>' for index, row in enumerate(rows)]
    return svg(left + len(names) * (wide + gap), height, drawn)


def curve(points: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> str:
    """Lines over a logarithmic axis, one for each name, as an SVG."""
    from math import log

    every = [point for line in points.values() for point in line]
    xs, ys = [log(x) for x, _ in every], [y for _, y in every]
    wide, high, left, top = 300, 180, 60, 24
    spread, tall = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + wide * (log(x) - min(xs)) / spread, top + high * (1 - (y - min(ys)) / tall)

    drawn = [f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#999"/>']
    for index, (name, line) in enumerate(points.items()):
        colour = ("#0a6b2d", "#a33", "#245", "#a70")[index % 4]
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += ['<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(*at(*point), colour) for point in line]
        drawn.append(f'<text x="{left + wide + 10}" y="{top + 16 + 18 * index}" fill="{colour}">{name}</text>')
    for x in sorted({x for x, _ in every}):
        drawn.append(f'<text x="{at(x, min(ys))[0]:.1f}" y="{top + high + 16}" text-anchor="middle">{x:g}</text>')
    for y in (min(ys), max(ys)):
        drawn.append(f'<text x="{left - 6}" y="{at(every[0][0], y)[1] + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    drawn.append(f'<text x="{left + wide / 2}" y="{top + high + 36}" text-anchor="middle">{across}</text>')
    drawn.append(f'<text x="{left}" y="16">{up}</text>')
    return svg(left + wide + 150, top + high + 46, drawn)


def svg(width: float, height: float, drawn: Sequence[str]) -> str:
    """A picture with a white ground."""
    size = f'width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return f'{head}<rect width="100%" height="100%" fill="white"/>{"".join(drawn)}</svg>\n'


def section(claim: Claim) -> str:
    """A claim on the page."""
    lines = [f"## {claim.name}: {claim.verdict}", "", claim.sentence, ""]
    if claim.name == "A1" and (PLOTS / "audiotoken_table.png").is_file():
        lines += ["![The first sounds of the test: real pictures, and what each row paints](images/audiotoken_table.png)", ""]
    if claim.rows:
        lines += [table(claim.rows), ""]
        names = list(dict.fromkeys(part.score for part in claim.parts))
        if any(cells[name].low is not None for cells in claim.rows.values() for name in names if name in cells):
            write(PLOTS / f"claim_{claim.name}.svg", plot(claim.rows, names))
            lines += [f"![{claim.name}: {', '.join(names)} of each row, with intervals](images/claim_{claim.name}.svg)", ""]
        lines += [f"- {part.sentence}: **{part.verdict(claim.rows)}**" for part in claim.parts] + [""]
    return "\n".join([*lines, f"What this cannot say: {claim.limits}", "", f"At full size: `{claim.command}`", ""])


def sweeps() -> str:
    """Plots of guidance, steps and the size of the data."""
    report = load("sweeps")
    guided = {f"{name} %": [(each["guidance"], 100 * each[key]) for each in report["guidance"]] for name, key in NAMED}
    stepped = {f"{name} %": [(each["steps"], 100 * each[key]) for each in report["steps"]] for name, key in NAMED}
    sized = {name: [(each["pairs"], each[name]) for each in report["data"]] for name in ("FD", "1 - cosine")}
    lines = ["## Guidance, steps, size of the data", "", report["about"], ""]
    for name, points, across, up in (
        ("guidance", guided, "guidance scale", "AudioToken's pictures"), ("steps", stepped, "sampling steps", "AudioToken's "
        "pictures"),
        ("data", sized, "training pairs", "regression mapper's embeddings, lower is better"),
    ):  # fmt: skip
        write(PLOTS / f"sweep_{name}.svg", curve(points, across, up))
        lines += [f"![{up} over {across}](images/sweep_{name}.svg)", ""]
    return "\n".join(lines)


NAMED = (("AIC", "AIC_top1"), ("thing named", "tag_top1"), ("IIS", "IIS"))


def write(path: Path, text: str) -> None:
    """Write a file whole."""
    write_beside(path, lambda place: place.write_text(text, "utf-8"))


def main() -> None:
    every = claims()
    summary = [
        "| claim | verdict | |",
        "|---|---|---|",
        *(f"| {each.name} | **{each.verdict}** | {each.sentence} |" for each in every),
    ]
    about = (
        "What [AudioToken](https://arxiv.org/abs/2305.13050) (A), [V2A-Mapper](https://arxiv.org/abs/2308.09300) (V) and "
        "[CLIPSonic](https://arxiv.org/abs/2306.09635) (C) claim, tried in the miniature world: statements about the methods "
        "in a world that "
        "is known to the last pixel, not about the papers' numbers. `make claims` trains, measures and writes this page; a "
        "verdict is "
        "computed: a part *holds* where the 95 % intervals over three seeds (over clips for a row without seeds) lie apart in "
        "the claimed "
        'direction, does *not hold* where they lie apart in the other, and is *not decided* where they overlap. "At least as '
        'good" holds '
        "where they overlap and the mean is not behind, too. A claim that fails is reported, not tuned away."
    )
    write(PAGE, "\n".join(["# Do the claims hold?", "", about, "", *summary, "", *map(section, every), sweeps()]))
    for each in every:
        print(f"{each.name}  {each.verdict:<14} {each.sentence}")


if __name__ == "__main__":
    main()
