"""`xmodal study make | analyse`: ask people."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from xmodal.commands.terminal import count, named, positive, printable


def study(arguments: Sequence[str]) -> None:
    """Make a listening or looking test, or sum its answers up."""
    parser = ArgumentParser("xmodal study", description="Listening and looking tests: a page that asks, and what was answered.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="make | analyse")
    made = actions.add_parser("make", help="a page that works from a file, over folders of results")
    made.add_argument("systems", nargs="+", type=named, metavar="NAME=FOLDER", help="results, paired by their files' names")
    made.add_argument(
        "--given", type=Path, metavar="FOLDER", help="what they were made from: files of those names, or a manifest"
    )
    made.add_argument("--mode", choices=["ratings", "pairs"], default="ratings", help="1 to 5 of one, or the better of two")
    made.add_argument("--question", action="append", metavar="TEXT", help="asked of each trial; may stand several times")
    made.add_argument("--title", metavar="TEXT", help="of the page")
    made.add_argument("--instructions", metavar="TEXT", help="what a rater reads first")
    made.add_argument("--trials", type=positive, metavar="N", help="for each rater (default: all)")
    made.add_argument("--repeats", type=count, default=2, metavar="N", help="hidden ones (default: 2)")
    made.add_argument("--checks", type=count, default=2, metavar="N", help="of attention (default: 2)")
    made.add_argument("--no-ties", dest="ties", action="store_false", help="pairs must be decided")
    made.add_argument("--seed", type=int, default=0, help="default: 0")
    made.add_argument("-o", "--output", type=Path, default=Path("outputs/study"), metavar="FOLDER", help="default: %(default)s")
    told = actions.add_parser("analyse", help="means, preferences and agreement, with 95 % intervals")
    told.add_argument("study", type=Path, metavar="FOLDER", help="what `study make` wrote")
    told.add_argument("answers", nargs="+", type=Path, metavar="CSV", help="what raters saved, one file each")
    options = vars(parser.parse_args(arguments))
    from xmodal.evaluation import study as asked

    if options.pop("action") == "make":
        systems, output, given = dict(options.pop("systems")), options.pop("output"), options.pop("given")
        question = options.pop("question")
        options |= {"questions": tuple(question)} if question else {}
        plan = asked.Plan(**{name: value for name, value in options.items() if value is not None})
        print(asked.make(systems, output, given, plan))
        return
    found = asked.analyse(options["study"] / asked.KEY, options["answers"])
    print("\n".join(printable(line) for line in asked.lines(found)))
