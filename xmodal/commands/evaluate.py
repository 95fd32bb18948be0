"""`xmodal evaluate | compare`: what was made, against what is real."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from xmodal.commands.runs import config_of, run_of
from xmodal.commands.terminal import count, named, progress, seconds
from xmodal.evaluation import NAMES
from xmodal.registry import renamed

OUTPUT, JUDGED, PREDICTIONS = Path("outputs/evaluate"), "evaluation", "predictions"


def evaluate(arguments: Sequence[str]) -> None:
    """Compare what was made with what is real."""
    parser = ArgumentParser("xmodal evaluate", description="A suite of metrics over two folders, with intervals and a report.")
    suites = f"{', '.join(NAMES)}, or module.NAME of your own"
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run's folder: its predictions, its data, its suite")
    parser.add_argument("--suite", metavar="SUITE", help=suites)
    parser.add_argument("--fake", type=Path, metavar="FOLDER", help="what was made, or a manifest of it")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="what is real; a manifest gives labels, too")
    parser.add_argument(
        "--also", action="append", default=[], type=named, metavar="NAME=FOLDER", help="one more row of the table"
    )
    parser.add_argument("--extractor", metavar="MODEL:CARD", help="an encoder of `xmodal models` (default: the miniature's)")
    for name, what in (("clip", "pictures"), ("clap", "sounds")):
        text = f"encoder of {what} for scores across modalities; none leaves them out (default: %(default)s)"
        parser.add_argument(f"--{name}", default=f"{name}:mini", metavar="MODEL:CARD", help=text)
    text = "one more judge of --suite av-benchmark, or in place of one: passt, panns, vggish, imagebind, sync; none leaves it out"
    parser.add_argument("--judge", action="append", default=[], type=named, metavar="NAME=MODEL:CARD", help=text)
    parser.add_argument("--split", metavar="NAME", help="of --real, where that is a manifest (default: all its rows)")
    longest = "the most of each sound that is judged, shorter ones are judged whole (default: 10; av-benchmark: 8)"
    parser.add_argument("--seconds", type=seconds, metavar="S", help=longest)
    parser.add_argument("--allow-bias", action="store_true", help="give the Fréchet distance of too few items, too")
    parser.add_argument("--allow-missing", action="store_true", help="judge although made items lack real partners")
    parser.add_argument("--draws", type=count, metavar="N", help="of the bootstrap; 0: no intervals (default: 1000, sets 200)")
    text = f"default: {OUTPUT}; of a run its folder {JUDGED}"
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help=text)
    options = vars(parser.parse_args(arguments))
    if (run := options.pop("run")) is not None:
        for name, value in of_run(run).items():
            options[name] = value if options[name] is None else options[name]
    if lacking := [f"--{name}" for name in ("suite", "fake", "real") if options[name] is None]:
        parser.error(f"give {', '.join(lacking)}" + (f": the run {run} does not tell" if run else ", or the folder of a run"))
    options["output"] = options["output"] or OUTPUT
    output, options["also"] = options.pop("output"), dict(options["also"])
    options["judge"] = {name: str(judge) for name, judge in options["judge"]}
    options |= {name: None for name in ("clip", "clap") if options[name] == "none"}
    sys.path.append(os.getcwd())  # last, so that a suite of the user's own is found and nothing is shadowed
    from xmodal.evaluation.evaluate import evaluate as judge
    from xmodal.evaluation.report import write
    from xmodal.evaluation.result import lines

    found = judge(**options, progress=progress("files"))
    print("\n".join(lines(found)))
    print(write(found, output))


def of_run(run: Path) -> dict[str, Any]:
    """What an evaluation of a run needs: its predictions, what they were made of, its task's suite, and where results go.

    Raises FileNotFoundError for another folder, and for a run that has made nothing yet.
    """
    import yaml

    run, config = run_of(run), config_of(run)
    made = run / PREDICTIONS
    if config is None:
        raise FileNotFoundError(f"{run} is no folder of a run: give one that `xmodal fit` wrote, or --suite, --fake and --real")
    if not made.is_dir():
        raise FileNotFoundError(f"{run} has made nothing yet: `xmodal predict {shlex.quote(str(run))}` makes {made}")
    content = yaml.safe_load(config.read_text("utf-8"))
    manifest = ((content.get("data") or {}).get("init_args") or {}).get("manifest")
    module, _, name = renamed.class_path(content["model"]["class_path"]).rpartition(".")
    suite = getattr(getattr(import_module(module), name), "suite", None)
    return {"suite": suite, "fake": made, "real": manifest and Path(manifest), "output": run / JUDGED}


def compare(arguments: Sequence[str]) -> None:
    """Compare two evaluations."""
    parser = ArgumentParser("xmodal compare", description="Paired differences (first minus second) of two evaluations.")
    parser.add_argument(
        "first", type=Path, metavar="A", help="what `xmodal evaluate -o` wrote: the folder, one of its results/*.json, or its run"
    )
    parser.add_argument("second", type=Path, metavar="B")
    options = parser.parse_args(arguments)
    from xmodal.evaluation.comparison import differences

    found_all = differences(*(_judged(path) for path in (options.first, options.second)))
    for name, found in found_all.items():
        if isinstance(found, str):
            print(f"{name:<12}not comparable: {found}")
        else:
            verdict = "apart" if found.apart else "not told apart"
            print(f"{name:<12}{found.value:>+12.4g}  [{found.low:+.4g}, {found.high:+.4g}]  {verdict}")
    if all(isinstance(found, str) for found in found_all.values()):
        raise SystemExit(1)


def _judged(path: Path) -> Path:
    """The results of a run: of `xmodal evaluate`, or else of `xmodal test`."""
    inside = (run_of(path) / JUDGED, run_of(path) / "suite")
    return path if (path / "results").is_dir() else next((each for each in inside if each.is_dir()), path)
