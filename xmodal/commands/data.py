"""`xmodal data prepare | audit`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from xmodal.commands.terminal import printable, progress, refuse_rows
from xmodal.data.sets import kinds

SHARE = 0.1  # of the clips, for validation and for test each
APART = (
    "clips of several folders have one stem and are clips of their own (files meet in one folder, or in folders named audio, "
    "frames, video and the like)"
)


def main(arguments: Sequence[str]) -> None:
    """Parse and run; raises SystemExit with status 2 for bad usage, and what the commands raise."""
    parser = ArgumentParser("xmodal data", description="Manifests: made from data sets as they lie on disk, and audited.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    prepare = commands.add_parser("prepare", help="write the manifest of a folder or a public data set")
    prepare.add_argument(
        "kind", nargs="?", choices=kinds(), metavar="KIND", default="folder", help=f"{', '.join(kinds())} (default: folder)"
    )
    prepare.add_argument("source", type=Path, metavar="FOLDER", help="where the data set lies")
    prepare.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: FOLDER/manifest.jsonl")
    for split in ("validation", "test"):
        text = f"share of the clips without a split that are for {split}, at least one of few (default: {SHARE}; 0: none)"
        prepare.add_argument(f"--{split}", type=float, default=SHARE, metavar="SHARE", help=text)
    text = "webdataset: leave the clips in their tars, which are then read in place (default: unpack them)"
    prepare.add_argument("--in-place", action="store_true", help=text)
    prepare.add_argument("--strict", action="store_true", help="stop at the first thing that is wrong, and write nothing")
    prepare.set_defaults(run=_prepare, refuse=prepare.error)
    audit = commands.add_parser("audit", help="decode every clip and say what is wrong with it")
    audit.add_argument("manifest", type=Path, metavar="MANIFEST")
    audit.add_argument("--json", type=Path, metavar="FILE", help="write the whole report")
    audit.add_argument("--clean", type=Path, metavar="FILE", help="write a manifest of the usable clips")
    audit.add_argument("--journal", type=Path, metavar="FILE", help="what is known already (default: MANIFEST.journal)")
    audit.add_argument("--shortest", type=float, default=1.0, metavar="S", help="seconds of sound a clip must have (default: 1)")
    audit.add_argument("--limit", type=float, default=10.0, metavar="S", help="seconds that a file may take (default: 10)")
    audit.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="default: one for each core")
    audit.add_argument("--strict", action="store_true", help="stop at the first row that is not valid")
    audit.set_defaults(run=_audit)
    options = parser.parse_args(arguments)
    options.run(options)


def _prepare(options: Namespace) -> None:
    from xmodal.data.clips import Found
    from xmodal.data.prepare import prepare
    from xmodal.files import passed_over

    if options.in_place and options.kind != "webdataset":
        options.refuse(f"--in-place is for webdataset: {options.kind} copies nothing anyhow")
    manifest = options.output or options.source / "manifest.jsonl"
    found = Found(manifest.parent.resolve(), strict=options.strict, in_place=options.in_place)
    count, missing = prepare(options.kind, options.source, manifest, options.validation, options.test, found)
    print(f"{manifest}: {count} clips")
    splits, labels, kinds_of = _content(manifest)
    print(f"  {', '.join(f'{number} {name}' for name, number in splits.items())}; {kinds_of}")
    if labels:
        first = ", ".join(f"{name} {number}" for name, number in labels.most_common(6))
        print(printable(f"  {len(labels)} labels: {first}{', ...' if len(labels) > 6 else ''}"))
    if not splits["validation"] and splits["train"]:
        print("no clip is for validation, and a training needs one: give its rows that split", file=sys.stderr)
    if missing:
        first = ", ".join(missing[:3])
        print(printable(f"{len(missing)} clips are listed but not there, first {first}"), file=sys.stderr)
    if found.passed_over:
        print(printable(f"passed over, since they are no media: {passed_over(found.passed_over)}"), file=sys.stderr)
    if found.apart:
        print(printable(f"{len(found.apart)} {APART}, first {found.apart[0]}"), file=sys.stderr)
    if found.errors:
        refuse_rows(found.errors)
    print(f"next: xmodal fit --config RECIPE --data.manifest {shlex.quote(str(manifest))}", file=sys.stderr)
    print("`xmodal recipes` lists recipes; audiotoken+mini and v2a-regression+mini run anywhere", file=sys.stderr)


def _content(manifest: Path) -> tuple[Counter[str], Counter[str], str]:
    """Clips of each split and label of a manifest, and what they have."""
    from xmodal.data.manifest import read_manifest

    splits, labels, has = Counter(train=0, validation=0, test=0), Counter[str](), Counter[str]()
    for row in read_manifest(manifest):
        splits.update([row.split] if row.split else splits.keys())
        labels.update([row.label] if row.label else [])
        has.update(name for name in ("audio", "image", "video") if getattr(row, name) is not None)
    return splits, labels, ", ".join(f"{number} with {name}" for name, number in has.items())


def _audit(options: Namespace) -> None:
    from xmodal.data.audit import audit, report, write_clean
    from xmodal.data.manifest import valid_rows
    from xmodal.files import write_whole

    if options.processes < 1:
        raise ValueError(f"--processes must be at least 1, not {options.processes}")
    wrong = valid_rows(options.manifest)[1]
    if wrong and options.strict:
        raise ValueError(wrong[0])
    journal = options.journal or options.manifest.with_name(options.manifest.name + ".journal")
    findings = audit(options.manifest, journal, options.shortest, options.processes, options.limit, progress("clips"))
    content = report(findings, options.manifest)
    print(f"{content['clips']} clips, {content['usable']} usable")
    for name, fault in content["faults"].items():
        if fault["clips"]:
            print(f"  {fault['clips']:>8}  {name:<10} {fault['meaning']}")
    for name, split in content["splits"].items():
        print(f"  split {name}: {split['usable']} of {split['clips']} usable")
    if options.json:
        write_whole(options.json, [(json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()])
        print(options.json)
    if options.clean:
        print(f"{options.clean}: {write_clean(options.manifest, findings, options.clean)} clips")
    if wrong:
        refuse_rows(wrong)
