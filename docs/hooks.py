"""What mkdocs needs beside the pages of docs/: pages from elsewhere in the repository, the API's pages, and links for both.

A link in a Markdown file leads where it leads on GitHub, relative to the file. Here it is turned to the page that stands for
that file in the site; a file that has no page is copied into it.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LOG = logging.getLogger("mkdocs.hooks.xmodal")  # a warning ends a strict build
OUTSIDE = {
    "index.md": "README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "comfyui.md": "integrations/comfyui/README.md",
}
SOURCES = {source: page for page, source in OUTSIDE.items()}
# Written by longer runs, or by hand, and absent until then.
OPTIONAL = {"claims.md", "clusters.md"}
REFERENCE = {
    "xmodal": ("xmodal", ["xmodal.routes", "xmodal.registry.models"]),
    "pipelines": ("Pipelines", ["xmodal.pipelines"]),
    "tasks": ("Tasks", ["xmodal.frozen", "xmodal.task", "xmodal.adapter_task"]),
    "audio2image": ("Sound to picture", ["pipeline", "task", "embedder", "losses", "baselines", "baseline_tasks", "bridges"]),
    "vision2audio": ("Picture to sound", ["pipeline", "task", "mapper", "regression", "diffusion_mapper", "stereo", "frames"]),
    "text2audio": ("Text to sound", ["pipeline", "task", "network", "unet"]),
    "contracts": ("Contracts of models", ["xmodal.foundation.base", "xmodal.registry.cards"]),
    "foundation": ("Foundation models", []),  # every file with cards
    "metrics": ("Metrics", []),  # every file
    "evaluation": ("Evaluation", ["measures", "suites", "judges", "evaluate", "callback"]),
    "data": ("Data", ["module", "manifest", "features", "audio", "image", "video"]),
    "diffusion": ("Diffusion", ["sampling", "schedules", "training", "embedding_diffusion", "prior_network"]),
}
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def links(text: str) -> Iterator[str]:
    """Targets of a Markdown text's links and pictures, code left out."""
    for piece in FENCE.split(text)[::2]:
        yield from LINK.findall(re.sub(r"`[^`\n]*`", "", piece))


def inside(link: str) -> bool:
    """Whether a link leads to another file of the repository."""
    return not re.match(r"[a-z]+:|#", link)


def target(source: str, link: str) -> str:
    """Path in the repository that a link of the file ``source`` leads to; the part behind # is left out."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link.partition("#")[0]))


def place(path: str) -> str:
    """Where the site has a path of the repository."""
    if path in SOURCES:
        return SOURCES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"files/{path}.md" if (ROOT / path).is_dir() else f"files/{path}"


def modules(name: str) -> list[str]:
    """Modules whose docstrings make one page of the reference."""
    named = REFERENCE[name][1]
    if named:
        return [each if each.startswith("xmodal.") else f"xmodal.{name}.{each}" for each in named]
    files = sorted((ROOT / "xmodal" / name).glob("[a-z]*.py"))
    with_cards = [file for file in files if name != "foundation" or "\nCARDS" in file.read_text()]
    return [f"xmodal.{name}.{file.stem}" for file in with_cards]


def source_of(file: File) -> str:
    """Path in the repository of a page's source; "" for a page that was made here."""
    path = OUTSIDE.get(file.src_uri, f"docs/{file.src_uri}")
    return path if (ROOT / path).is_file() else ""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave pages out of the navigation that may be absent, and are."""
    absent = {page for page in OPTIONAL if not (ROOT / "docs" / page).exists()}

    def present(entries: list[Any]) -> list[Any]:
        kept = []
        for entry in entries:
            ((title, value),) = entry.items()
            if isinstance(value, list):
                kept.append({title: present(value)})
            elif value not in absent:
                kept.append(entry)
        return kept

    config.nav = present(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that do not lie in docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for name, (title, _) in REFERENCE.items():
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules(name))])
        files.append(File.generated(config, f"reference/{name}.md", content=text + "\n"))
    pages = [(source_of(file), file) for file in files.documentation_pages()]
    for source, file in pages:
        for link in filter(inside, links(file.content_string if source else "")):
            path = target(source, link)
            if place(path).startswith("files/") and (ROOT / path).exists() and not files.get_file_from_path(place(path)):
                files.append(_outside(config, path))
    return files


def _outside(config: MkDocsConfig, path: str) -> File:
    if (ROOT / path).is_file():
        return File.generated(config, place(path), abs_src_path=str(ROOT / path))
    parts = [f"# {path}"]
    for file in sorted(each for each in (ROOT / path).iterdir() if each.suffix in (".py", ".toml")):
        parts.append(f"## {file.name}\n\n```{file.suffix[1:].replace('py', 'python')}\n{file.read_text()}```")
    return File.generated(config, place(path), content="\n\n".join(parts) + "\n", inclusion=_unlisted())


def _unlisted() -> Any:
    from mkdocs.structure.files import InclusionLevel

    return InclusionLevel.NOT_IN_NAV


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to where the site has their files, and diagrams to the pictures of them."""
    source = source_of(page.file)
    if not source:
        return markdown
    folder = posixpath.dirname(page.file.src_uri)

    def turned(found: re.Match[str]) -> str:
        link = found[0]
        if not inside(link):
            return link
        to = place(target(source, link))
        if not files.get_file_from_path(to):
            LOG.warning("%s: the link %s leads to no file", source, link)
        return posixpath.relpath(to, folder or ".") + "".join(link.partition("#")[1:])

    markdown = MERMAID.sub(drawn, markdown)
    pieces = FENCE.split(markdown)
    pieces[::2] = [LINK.sub(turned, piece) for piece in pieces[::2]]
    return "".join(pieces)


def drawn(found: re.Match[str]) -> str:
    """Name the picture of a diagram: mermaid itself would be fetched from the network by the reader's browser."""
    name = sha256(found[1].encode()).hexdigest()[:8]
    pictures = list((ROOT / "docs" / "images").glob(f"*.{name}.svg"))
    if not pictures:
        LOG.warning("no picture docs/images/*.%s.svg of a diagram: `docs/diagram` draws it", name)
        return found[0]
    return f"![Diagram](images/{pictures[0].name})"
