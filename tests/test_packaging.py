"""setup.cfg against the tree."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

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


def test_every_file_of_the_tree_is_in_the_wheel() -> None:
    options = setup_cfg()
    data = options["options.package_data"]
    folders = {
        name: ROOT / options["options"]["package_dir"].partition(f"{name} =")[2].split()[0] for name in ("xmodal.recipes",)
    }
    known: set[Path] = set()
    for package, patterns in data.items():
        folder = folders.get(package, ROOT.joinpath(*package.split(".")))
        known |= {path for pattern in patterns.split() for path in folder.glob(pattern)}
    found = {
        path
        for folder in (ROOT / "xmodal", ROOT / "recipes")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and ".partial" not in path.name
    }
    assert found - known == set()


def test_the_shipped_weights_are_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "xmodal").rglob("*.safetensors")]
    assert sum(sizes) <= 56_000_000
    assert max(sizes) <= 16_000_000


# The module that an extra is there for, and what uses it.
EXTRAS = {
    "clap": ("laion-clap", "xmodal/foundation/laion_clap.py"),
    "codec": ("torchcodec", "xmodal/data/codec.py"),
    "remote": ("s3fs", "tests/data/test_remote.py"),  # fsspec imports it for s3:// by itself
    "slurm": ("submitit", "xmodal/commands/ablate.py"),
    "ray": ("ray", "examples/ray_features.py"),
    "completion": ("shtab", "xmodal/commands/completion.py"),
    "demo": ("gradio", "xmodal/demo/page.py"),
    "tensorboard": ("tensorboard", "xmodal/commands/lightning.py"),
    "quantize": ("bitsandbytes", "xmodal/registry/quantized.py"),
    "docs": ("mkdocs", "docs/hooks.py"),
    "dev": ("pytest", "tests/test_packaging.py"),
}


def test_no_extra_without_code() -> None:
    assert set(setup_cfg()["options.extras_require"]) == {*EXTRAS, "all"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_has_code_behind_it(extra: str) -> None:
    package, user = EXTRAS[extra]
    assert package in setup_cfg()["options.extras_require"][extra]
    module = package.replace("-", "_")
    code = (ROOT / user).read_text()
    assert re.search(rf"^ *(import|from) {module}|find_spec\(\"{module}\"\)|^PACKAGE = \"{module}\"", code, re.MULTILINE)
