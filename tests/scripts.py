"""Scripts of the repository that are no package, as modules."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

from tests.test_packaging import ROOT


def script(name: str) -> ModuleType:
    """The script at a path below the repository's root, which finds what lies beside it, as when it is run."""
    path = ROOT / name
    spec = spec_from_file_location(Path(name).stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    with patch.object(sys, "path", [str(path.parent), *sys.path]):
        spec.loader.exec_module(made)
    return made
