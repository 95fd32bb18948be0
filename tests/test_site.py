"""The site: its pages and links, on GitHub as in the browser; the licence ledger is that of the cards."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.scripts import script
from tests.test_packaging import ROOT

PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "integrations" / "comfyui" / "README.md",
]  # fmt: skip
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_on_github(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), link
        assert not anchor or anchor in anchors(to), link


def test_the_licence_ledger_is_that_of_the_cards() -> None:
    ledger = script("benchmarks/licences.py")
    assert (ROOT / "docs" / "licences.md").read_text() == ledger.page(), "python benchmarks/licences.py writes it anew"


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda form: form.name)
def test_forms_for_issues(form: Path) -> None:
    """What GitHub requires of a form; it shows none that lacks it."""
    content = yaml.safe_load(form.read_text())
    if form.name == "config.yml":
        assert set(content) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(content)
    ids = [item["id"] for item in content["body"]]
    assert len(set(ids)) == len(ids)
    for item in content["body"]:
        assert item["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert item["attributes"]["label"]
        if item["type"] in ("dropdown", "checkboxes"):
            assert item["attributes"]["options"]


class _Loaded(HTMLParser):
    """What a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "link", "source"):
            self.found.add(values.get("src") or values.get("href") or "")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "tutorial.html", "licences.html", "pipelines.html"} <= {page.name for page in pages}
    loaded = _Loaded()
    for page in pages:
        loaded.feed(page.read_text())
    assert not [each for each in loaded.found if re.match(r"(https?:)?//", each)]
    played = re.findall(r'<audio[^>]* src="([^"]+)"', (tmp_path / "listen.html").read_text())
    assert len(played) >= 20
    assert all((tmp_path / each).stat().st_size for each in played)
    reference = (tmp_path / "reference" / "pipelines.html").read_text()
    assert 'id="xmodal.pipelines.Pipeline"' in reference
    assert 'href="docs/' not in (tmp_path / "index.html").read_text()
