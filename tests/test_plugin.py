"""The example of a third party's encoder: installed as a package, found, listed, built, named in a recipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "examples" / "plugin", folder / "source")  # building leaves files beside the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(folder / "site"), str(source)], check=True)
    return folder / "site"


def python(installed: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_listed_without_being_imported(installed: Path) -> None:
    code = "import sys\nfrom xmodal.__main__ import run\nrun(['models', 'acme-ear', '--json'])\n"
    code += "print('torch' in sys.modules, 'acme_ear' in sys.modules)"
    *text, last = python(installed, code).splitlines()
    (record,) = json.loads("\n".join(text))
    assert (record["model"], record["card"], record["towers"], record["dim"]) == ("acme-ear", "octaves", ["Ear"], 10)
    assert last == "False False"


def test_built_and_named_in_a_recipe(installed: Path) -> None:
    code = """
import torch, xmodal
from xmodal.registry import licences
from xmodal.registry import recipe as parts
ear = xmodal.load("acme-ear")
waveform = torch.randn(3, 8000)
print(tuple(ear.embed(waveform).shape), tuple(ear.tokens(waveform).shape), ear.state_dict())
recipe = {"model": {"init_args": {"encoder": {"class_path": "acme_ear.Ear"}}}}
print(licences.strictest(parts.parts(recipe)))
parts.check_weights(parts.parts(recipe))
try:
    xmodal.load("acme-ear", card="thirds")
except ValueError as error:
    print(error)
"""
    shapes, terms, error = python(installed, code).splitlines()
    assert shapes == "(3, 10) (3, 14, 10) {}"
    assert terms == "permissive (Apache-2.0: acme-ear:octaves)"
    assert error == "acme-ear has no card 'thirds' and no such path exists; its cards are: octaves"


def test_a_name_that_is_taken_is_refused(installed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(installed, tmp_path / "site"))
    (entry,) = copy.glob("*.dist-info/entry_points.txt")
    entry.write_text("[xmodal.foundation]\nbeats = acme_ear\n")
    code = "import xmodal\ntry:\n    xmodal.available()\nexcept ValueError as error:\n    print(error)"
    assert "'beats' of acme_ear is already provided by xmodal.foundation.beats" in python(copy, code)
