"""Listening and looking tests: a page that asks people, and what their answers say.

The page works from a file, without a server or a network. Systems are named by letters there and files by numbers; what they
stand for is in ``key.json``, which stays with whoever runs the study.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from xmodal.data.manifest import read_manifest
from xmodal.files import KINDS, stems, suffix_of, write_beside
from xmodal.metrics.human import Opinion, Preference, krippendorff_alpha, opinion, preference

SCALE = ("bad", "poor", "fair", "good", "excellent")  # ITU-T P.800
COLUMNS = ("study_id", "rater_id", "trial", "item_id", "system", "question", "answer", "swapped", "is_repeat", "is_check")
KEY, PAGE = "key.json", "page"
QUESTIONS = {
    "ratings": "How well does the result fit what it was made from?",
    "pairs": "Which result fits better what it was made from?",
}


@dataclass(frozen=True)
class Plan:
    """What is asked.

    Args:
        mode: ``ratings`` from 1 to 5 of one result, or ``pairs`` of which one is to be preferred.
        questions: asked of each trial; default: one of `QUESTIONS`.
        title, instructions, given: texts of the page; ``given`` names what results were made from.
        trials: for each rater; default: all items in all systems (or pairs).
        repeats: hidden ones, of the first half, at the end.
        checks: trials that say which answer to give.
        ties: whether "no difference" may be answered.
        seed: of the numbering of files.
    """

    mode: str = "ratings"
    questions: tuple[str, ...] = ()
    title: str = "Which results fit?"
    instructions: str = "You will see or hear what a result was made from, and the result. Please play every sound to its end."
    given: str = "made from"
    trials: int | None = None
    repeats: int = 2
    checks: int = 2
    ties: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in QUESTIONS:
            raise ValueError(f"a study asks for ratings or pairs, not {self.mode!r}")
        if not self.questions:
            object.__setattr__(self, "questions", (QUESTIONS[self.mode],))
        if not all(question.strip() for question in self.questions):
            raise ValueError("a question is empty: give its text with --question")
        if len(set(self.questions)) != len(self.questions):
            raise ValueError("a question stands there twice: its answers could not be told apart")
        if (self.trials is not None and self.trials < 1) or min(self.repeats, self.checks) < 0:
            counts = f"trials {self.trials}, repeats {self.repeats} and checks {self.checks}"
            raise ValueError(f"{counts} cannot be: trials are at least 1, the others at least 0")


def make(systems: Mapping[str, Path], output: Path, given: Path | None = None, plan: Plan | None = None) -> Path:
    """Write ``page/index.html`` with its media, and ``key.json``; returns the page.

    Args:
        systems: by name a folder of results, paired by their files' names.
        given: what they were made from: a folder of files of those names, or a manifest.
        output: a new or empty folder.

    Raises ValueError or OSError before anything is written where nothing is common to all systems.
    """
    plan = plan or Plan()
    if len(systems) < (2 if plan.mode == "pairs" else 1):
        raise ValueError("give at least two systems to be compared, each as NAME=FOLDER")
    found = {name: _media(folder) for name, folder in systems.items()}
    ids = sorted(set.intersection(*(set(each) for each in found.values())))
    sources = _sources(given) if given is not None else {}
    items = [name for name in ids if given is None or name in sources]
    if not items:
        places = [*systems.values(), *([given] if given is not None else [])]
        raise ValueError(f"no result has the same name in all of {', '.join(map(str, places))}")
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty: give another folder with --output")
    letters = dict(zip(systems, _letters(len(systems)), strict=True))
    numbers = Random(plan.seed).sample(range(10**6), len(items) * (len(systems) + 1))
    media: dict[str, Path] = {}

    def medium(path: Path) -> dict[str, str]:
        name = f"media/{numbers[len(media)]:06d}{path.suffix.lower()}"
        media[name] = path
        return {"src": name, "kind": KINDS[suffix_of(path)]}

    shown: list[dict[str, Any]] = []
    for index, name in enumerate(items):
        source = sources.get(name, "")
        about = {"given": medium(source)} if isinstance(source, Path) else {"text": source} if source else {}
        made = {letters[system]: medium(each[name]) for system, each in found.items()}
        shown.append({"id": f"i{index + 1}", "made": made, **about})
    pairs = [list(pair) for pair in combinations(letters.values(), 2)] if plan.mode == "pairs" else None
    most = len(items) * len(pairs if pairs is not None else letters)
    identity = f"s{Random(repr((plan, sorted(systems), items))).randrange(16**8):08x}"
    study = {
        "id": identity, "title": plan.title, "instructions": plan.instructions, "given": plan.given,
        "questions": list(plan.questions), "scale": list(SCALE), "systems": list(letters.values()), "pairs": pairs,
        "items": shown, "trials": min(plan.trials or most, most),
        "repeats": plan.repeats, "checks": plan.checks, "ties": plan.ties,
    }  # fmt: skip
    page = files("xmodal.evaluation").joinpath("study_page.html").read_text("utf-8")
    text = page.replace("__STUDY__", json.dumps(study).replace("<", "\\u003c"))
    target = output / PAGE / "index.html"
    (output / PAGE / "media").mkdir(parents=True, exist_ok=True)
    for name, path in media.items():
        write_beside(output / PAGE / name, partial(shutil.copyfile, path))
    key = {
        "id": identity, "mode": plan.mode, "questions": list(plan.questions), "systems": {v: k for k, v in letters.items()},
        "items": {each["id"]: name for each, name in zip(shown, items, strict=True)},
        "left_out": sorted(set.union(*(set(each) for each in found.values())) - set(items)),
    }  # fmt: skip
    write_beside(output / KEY, lambda path: path.write_text(json.dumps(key, indent=1) + "\n", "utf-8"))
    return write_beside(target, lambda path: path.write_text(text, "utf-8"))


@dataclass
class Answers:
    """What the answers say; raters who failed are left out, and named with the reason.

    ``opinions`` by (system, question), ``preferences`` and ``ties`` by (system, other, question), ``alpha`` by question.
    """

    raters: list[str]
    excluded: dict[str, str]
    opinions: dict[tuple[str, str], Opinion] = field(default_factory=dict)
    preferences: dict[tuple[str, str, str], Preference] = field(default_factory=dict)
    ties: dict[tuple[str, str, str], int] = field(default_factory=dict)
    alpha: dict[str, float] = field(default_factory=dict)


def analyse(key_file: Path, answers: Sequence[Path]) -> Answers:
    """Read the raters' files and sum them up.

    A rater is excluded who failed a check, or whose hidden repeats differ by more than one point on average (of pairs: more than
    half of them turned round). Raises FileNotFoundError where there is no study, and ValueError, by file and line, for a file of
    another study, or one that cannot be read.
    """
    if not key_file.is_file():
        raise FileNotFoundError(f"there is no study in {key_file.parent}: give the folder that `xmodal study make` wrote")
    key = json.loads(key_file.read_text("utf-8"))
    rows = _rows(key, answers)
    by_rater: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_rater[row["rater_id"]].append(row)
    pairs = key["mode"] == "pairs"
    excluded = {rater: why for rater, own in by_rater.items() if (why := _unreliable(own, pairs))}
    kept = [row for row in rows if row["rater_id"] not in excluded and row["is_repeat"] == "0" and not row["is_check"]]
    found = Answers(sorted(set(by_rater) - set(excluded)), excluded)
    names = key["systems"]
    for question in key["questions"]:
        asked = [row for row in kept if row["question"] == question]
        if pairs:
            for one, two in combinations(names, 2):
                given = [row["answer"] for row in asked if (row["system"], row["system_b"]) == (one, two)]
                place = (names[one], names[two], question)
                found.ties[place] = given.count("tie")
                if decided := len(given) - found.ties[place]:
                    found.preferences[place] = preference(given.count("left"), decided)
            continue
        table: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for row in asked:
            table[row["system"], row["item_id"]][row["rater_id"]] = float(row["answer"])
        for letter, name in names.items():
            rated = [list(each.values()) for (system, _), each in table.items() if system == letter]
            if len(rated) > 1:
                found.opinions[name, question] = opinion(rated)
        if found.raters and len({rater for each in table.values() for rater in each}) > 1:
            found.alpha[question] = krippendorff_alpha([list(each.values()) for each in table.values()])
    return found


def lines(found: Answers) -> list[str]:
    """What a person reads of it."""
    raters = f"{len(found.raters)} rater{'s' * (len(found.raters) != 1)}"
    told = [raters + (f", {len(found.excluded)} left out" if found.excluded else "")]
    told += [f"  {rater}: {why}" for rater, why in found.excluded.items()]
    for question in dict.fromkeys(question for *_, question in [*found.opinions, *found.preferences]):
        told += ["", question]
        width = max((len(name) for name, asked in found.opinions if asked == question), default=0)
        for (name, asked), score in found.opinions.items():
            if asked == question:
                interval = f"± {score.half_items:.2f} over items, {score.half_ratings:.2f} over ratings"
                told.append(f"  {name:<{width}}  {score.mean:.2f} {interval}")
        for (one, two, asked), won in found.preferences.items():
            if asked == question:
                share = f"{100 * won.rate:.1f} % [{100 * won.low:.1f}, {100 * won.high:.1f}], p = {won.p:.2g}"
                told.append(f"  {one} above {two}: {share}, {found.ties[one, two, asked]} ties left out")
        if question in found.alpha:
            told.append(f"  agreement of the raters (Krippendorff's alpha, interval): {found.alpha[question]:.2f}")
    return told


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + index) if count <= 26 else f"S{index + 1}" for index in range(count)]


def _media(folder: Path) -> dict[str, Path]:
    """Results by name; the pictures of sounds that `xmodal generate --spectrogram` puts beside them are none."""
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder of results")
    return {name: path for name, path in stems(folder, frozenset(KINDS)).items() if not name.endswith(".spectrogram")}


def _sources(given: Path) -> dict[str, Path | str]:
    """What results were made from, by name: files of a folder, or of a manifest its sound, its picture or its text."""
    if given.is_dir():
        return dict(_media(given))
    told: dict[str, Path | str] = {}
    for entry in read_manifest(given):
        first = entry.audio or entry.image or entry.video or entry.text or entry.label
        if first:
            told[entry.id] = first
    return told


def _rows(key: Mapping[str, Any], paths: Sequence[Path]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    wanted = {"left", "right", "tie"} if key["mode"] == "pairs" else {str(number + 1) for number in range(len(SCALE))}
    seen: dict[tuple[str, ...], Path] = {}
    for path in paths:
        with path.open(encoding="utf-8-sig", newline="") as file:
            read = csv.DictReader(file)
            if lacking := set(COLUMNS) - set(read.fieldnames or ()):
                raise ValueError(f"{path} has no columns {', '.join(sorted(lacking))}: it is not what the page saved")
            for number, row in enumerate(read, 2):
                if row["study_id"] != key["id"]:
                    raise ValueError(f"{path}, line {number} is of the study {row['study_id']!r}, not of {key['id']}")
                known = row["item_id"] in key["items"] and row["system"] in key["systems"] and row["question"] in key["questions"]
                if not known or row["answer"] not in wanted:
                    raise ValueError(f"{path}, line {number} answers {row['answer']!r} to what this study did not ask")
                place = (row["rater_id"], row["trial"], row["question"])
                if place in seen:
                    told = f"{path} and {seen[place]} both hold trial {row['trial']} of rater {row['rater_id']}"
                    raise ValueError(f"{told}: give each rater's file once")
                seen[place] = path
                rows.append(row)
    if not rows:
        raise ValueError("the files hold no answers")
    return rows


def _unreliable(rows: Sequence[Mapping[str, str]], pairs: bool) -> str:
    wrong = sum(row["answer"] != row["is_check"] for row in rows if row["is_check"])
    if wrong:
        return f"{wrong} checks failed"
    place = ("item_id", "system", "question", *(("system_b",) if pairs else ()))
    first = {tuple(row[name] for name in place): row["answer"] for row in rows if row["is_repeat"] == "0" and not row["is_check"]}
    again = [(first.get(tuple(row[name] for name in place)), row["answer"]) for row in rows if row["is_repeat"] == "1"]
    twice = [(one, two) for one, two in again if one is not None]
    if not twice:
        return ""
    if pairs:
        turned = sum({one, two} == {"left", "right"} for one, two in twice)
        return f"{turned} of {len(twice)} repeats turned round" if turned > len(twice) / 2 else ""
    error = sum(abs(float(one) - float(two)) for one, two in twice) / len(twice)
    return f"repeats differ by {error:.1f} points on average" if error > 1 else ""
