"""setup.cfg against the tree."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "xmodal").rglob("__init__.py")}
    assert set(setup_cfg()["options"]["packages"].split()) == found | {"xmodal.recipes"}


def test_version_is_the_same_everywhere() -> None:
    import xmodal

    assert setup_cfg()["metadata"]["version"] == xmodal.__version__


def test_constraints_hold_every_direct_dependency() -> None:
    held = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    options = setup_cfg()
    lines = options["options"]["install_requires"].split() + options["options.extras_require"]["dev"].split()
    names = {line.split(">")[0].split("[")[0].lower().replace("_", "-") for line in lines}
    assert names <= held
