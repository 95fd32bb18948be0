"""`xmodal ablate`: a grid of recipes, overlays, options and seeds; each run is `fit`, then `test`, and is never made twice."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xmodal
from xmodal.commands.runs import run_hash
from xmodal.commands.terminal import check, positive, printable
from xmodal.files import write_beside
from xmodal.registry.recipe import in_training, of_command, read

if TYPE_CHECKING:
    from xmodal.evaluation.ablation import Table

LENGTH = ("max_steps", "max_epochs", "min_steps", "min_epochs", "max_time")
RUN = "run.json"


@dataclass(frozen=True)
class Run:
    """One training and its test: a row of the table, its seed, the words of its command line, and where it lies."""

    row: str
    seed: int
    words: tuple[str, ...]
    folder: Path

    @property
    def commands(self) -> list[list[str]]:
        """The command lines, of which the first goes on where it was stopped."""
        mine = [*self.words, "--seed_everything", str(self.seed), "--trainer.default_root_dir", str(self.folder)]
        going_on = ["--ckpt_path", "last"] if any(self.folder.glob("**/*.ckpt")) else []
        return [["fit", *mine, *going_on], ["test", *mine, "--ckpt_path", "last"]]


def ablate(arguments: Sequence[str]) -> None:
    """Run a grid, and print its table."""
    parser = ArgumentParser(
        "xmodal ablate",
        description="Recipes x overlays x options x seeds: each run is fit, then test, and is never made twice.",
        epilog="What stands behind -- goes to every run: xmodal ablate audiotoken-mini --set vars.lr=1e-3,2e-3 -- --vars.steps 9",
    )
    own, shared = _split(arguments)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="names or paths, overlays behind + (see xmodal recipes)")
    several = "overlays, by commas: one level each, beside none; further --overlay options are crossed with these"
    parser.add_argument("--overlay", action="append", default=[], type=_words, metavar="A,B", help=several)
    parser.add_argument("--set", action="append", default=[], type=_option, metavar="KEY=V1,V2", help="values of an option")
    parser.add_argument("--one-at-a-time", action="store_true", help="change one thing of the first row only (default: crossed)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at once on this machine (default: 1)")
    parser.add_argument("--launcher", choices=["local", "submitit"], default="local", help="submitit: on a SLURM cluster")
    parser.add_argument("--slurm", action="append", default=[], type=_option, metavar="KEY=VALUE", help="of submitit's executor")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, and which have ended")
    parser.add_argument(
        "--print-commands", action="store_true", help="one line for each run that is left, for a scheduler's array job"
    )
    parser.add_argument("--table", action="store_true", help="of finished runs alone")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("outputs/ablate"), metavar="FOLDER", help="default: %(default)s"
    )
    options = parser.parse_args(own)
    if not options.recipes:
        parser.error("name at least one recipe: xmodal recipes lists them")
    if len(set(options.seeds)) < len(options.seeds):
        parser.error("a seed stands there twice")
    runs = list(plan(options.recipes, options.overlay, options.set, options.seeds, shared, options.output, options.one_at_a_time))
    left = [run for run in runs if not _ended(run)]
    if options.dry_run or options.print_commands:
        for run in left if options.print_commands else runs:
            steps = " && ".join(shlex.join([sys.executable, "-m", "xmodal", *words]) for words in run.commands)
            state = "left" if run in left else "ended"
            print(steps if options.print_commands else printable(f"{state:<5}  {run.folder.name}  seed {run.seed}  {run.row}"))
        return
    for run in {} if options.table else {run.row: run for run in left}.values():
        words = ["fit", *run.words]
        check(of_command(words), False, in_training(words))
    failed = [] if options.table else execute(left, options.jobs, options.launcher, dict(options.slurm), options.output)
    print(_table(runs, options.output))
    if failed:
        raise ValueError(f"{len(failed)} of {len(left)} runs failed, first {failed[0][0].folder}: {failed[0][1]}")


def plan(
    recipes: Sequence[str],
    overlays: Sequence[Sequence[str]],
    options: Sequence[tuple[str, Sequence[str]]],
    seeds: Sequence[int],
    shared: Sequence[str],
    output: Path,
    one_at_a_time: bool = False,
) -> Iterator[Run]:
    """The runs of a grid, row by row, the base first; raises what reading a recipe does, before anything runs."""
    factors: list[Sequence[Any]] = [recipes, *(["", *names] for names in overlays)]
    factors += [[(key, value) for value in values] for key, values in options]
    grid = list(product(*factors))
    if one_at_a_time:
        grid = [row for row in grid if sum(own != factor[0] for own, factor in zip(row, factors, strict=True)) < 2]
    seen: set[Path] = set()
    for row in grid:
        names = [each for each in row if isinstance(each, str) and each]
        given = [each for each in row if not isinstance(each, str)]
        recipe = "+".join(names)
        title = " ".join([recipe, *(f"{key}={value}" for key, value in given)])
        words = ["--config", recipe, *(word for key, value in given for word in (f"--{key}", value)), *shared]
        for seed in seeds:
            folder = output / "runs" / identity(recipe, [*given, *_pairs(shared)], seed)
            if folder in seen:
                raise ValueError(f"two rows of the grid are the same run, the second is {title}: leave one out")
            seen.add(folder)
            yield Run(title, seed, tuple(words), folder)


def identity(recipe: str, overrides: Sequence[tuple[str, str]], seed: int) -> str:
    """Twelve hexadecimal digits of what decides a run's results: its resolved configuration (a manifest by its content; without
    paths of results, workers, logger, device), how long it trains, and the package's version.
    """
    from omegaconf import OmegaConf

    document = read([recipe], [*overrides, ("seed_everything", str(seed))])
    resolved: Any = OmegaConf.to_container(OmegaConf.create(document), resolve=True)
    trainer = resolved.get("trainer") or {}
    counted = [run_hash(resolved), *(str(trainer.get(name)) for name in LENGTH), xmodal.__version__]
    return hashlib.sha256(json.dumps(counted).encode()).hexdigest()[:12]


def execute(
    runs: Sequence[Run], jobs: int, launcher: str, slurm: Mapping[str, Sequence[str]], output: Path
) -> list[tuple[Run, str]]:
    """Make the runs, tell of each as it ends, and return those that failed, with the reason."""
    failed: list[tuple[Run, str]] = []
    done = 0

    def tell(run: Run, reason: str) -> None:
        nonlocal done
        done += 1
        if reason:
            failed.append((run, reason))
        said = f"failed: {reason}" if reason else "ended"
        print(printable(f"[{done}/{len(runs)}] {run.row}, seed {run.seed}: {said}"), file=sys.stderr, flush=True)

    if launcher == "submitit":
        for run, job in _submitted(runs, slurm, output):
            tell(run, _outcome(job))
        return failed
    with ThreadPoolExecutor(jobs) as pool:
        futures: dict[Future[str], Run] = {pool.submit(make, run): run for run in runs}
        try:
            for future in as_completed(futures):
                tell(futures[future], future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            raise
    return failed


def make(run: Run) -> str:
    """Train and test one run, if nobody else has or does; return why it failed, or "".

    A lock on its folder, which ends with the process that holds it, keeps another grid from making it at the same time.
    """
    import fcntl

    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _ended(run):
            return ""
        about = {"row": run.row, "seed": run.seed, "words": run.words, "version": xmodal.__version__}
        write_beside(run.folder / RUN, lambda path: path.write_text(json.dumps(about, indent=1) + "\n", "utf-8"))
        for words in run.commands:
            with (run.folder / f"{words[0]}.log").open("a") as log:
                command = [sys.executable, "-m", "xmodal", *words]
                status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False, env=_environment()).returncode
            if status:
                return f"{words[0]} ended with status {status}, see {run.folder / words[0]}.log"
    return "" if _ended(run) else f"test gave no scores: has the task a suite? See {run.folder / 'test'}.log"


def _table(runs: Sequence[Run], output: Path) -> str:
    from xmodal.evaluation import ablation

    found: dict[str, dict[int, Any]] = {}
    for run in runs:
        found.setdefault(run.row, {})[run.seed] = ablation.scores_of(run.folder)
    table: Table = ablation.tabulate(found)
    return f"{ablation.text(table)}{ablation.write(table, output)}"


def _ended(run: Run) -> bool:
    from xmodal.evaluation.ablation import scores_of

    return scores_of(run.folder) is not None


def _submitted(runs: Sequence[Run], slurm: Mapping[str, Sequence[str]], output: Path) -> Iterator[tuple[Run, Any]]:
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--launcher submitit needs the package submitit: pip install 'xmodal[slurm]'") from error
    given = {key: ",".join(values) for key, values in slurm.items()}
    executor = submitit.AutoExecutor(folder=output / "submitit", cluster=given.pop("cluster", None))
    executor.update_parameters(**{key: int(value) if value.isdigit() else value for key, value in given.items()})
    jobs = executor.map_array(make, runs)
    by_job = dict(zip(jobs, runs, strict=True))
    for job in submitit.helpers.as_completed(jobs):
        yield by_job[job], job


def _outcome(job: Any) -> str:
    try:
        return str(job.result())
    except Exception as error:  # of the cluster: a job that was cancelled, or ran out of time
        return " ".join(str(error).split())[:300]


def _environment() -> dict[str, str]:
    """The package that runs here runs there, and the working folder's own modules are found as by ``xmodal fit``."""
    root = str(Path(xmodal.__file__).parent.parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "PYTHONSAFEPATH": "1",
    }


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """``--key value`` and ``--key=value``, as options of a recipe."""
    left = iter(words)
    for word in left:
        key, given, value = word.lstrip("-").partition("=")
        if not word.startswith("--") or not key:
            raise ValueError(f"behind -- stand options of the runs, as --key value, but {word!r} is none")
        yield key, value if given else next(left, "")


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _option(text: str) -> tuple[str, list[str]]:
    from argparse import ArgumentTypeError

    key, _, values = text.partition("=")
    found = [value for value in values.split(",") if value]
    if not key or not found:
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE,VALUE")
    return key.lstrip("-"), found
