"""Draws the mermaid diagrams of docs/*.md as docs/images/PAGE.HASH.svg, which the site shows in their places.

    npm pack mermaid && tar xzf mermaid-*.tgz package/dist/mermaid.min.js
    python docs/diagrams.py package/dist/mermaid.min.js        # needs chromium

HASH is that of the diagram's text: a changed diagram without a new picture ends `make docs`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = """<body><div id="out"></div><script src="{script}"></script><script>
mermaid.initialize({{startOnLoad: false, htmlLabels: false, theme: "neutral", flowchart: {{htmlLabels: false}}}});
mermaid.render("diagram", {text}).then(made => {{ document.getElementById("out").innerHTML = made.svg; }});
</script></body>"""


def draw(text: str, script: Path) -> str:
    """Return the diagram as SVG, with a white ground, so that it is read on dark pages, too."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(PAGE.format(script=script.resolve().as_uri(), text=json.dumps(text)))
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000", "--dump-dom"]
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<svg id=.*</svg>", done.stdout, re.DOTALL)
    if found is None:
        raise SystemExit(f"mermaid drew nothing of:\n{text}")
    short = re.sub(r"(\d\.\d)\d+", r"\1", re.sub(r' data-points="[^"]*"', "", found[0]))
    return short.replace('style="', 'style="background: white; ', 1).replace("<br>", "<br/>")


def main() -> None:
    """Draw all of them."""
    for page in sorted(DOCS.glob("*.md")):
        for text in re.findall(r"^```mermaid\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            for old in (DOCS / "images").glob(f"{page.stem}.*.svg"):
                old.unlink()
            target = DOCS / "images" / f"{page.stem}.{sha256(text.encode()).hexdigest()[:8]}.svg"
            target.write_text(draw(text, Path(sys.argv[1])) + "\n")
            print(target)


if __name__ == "__main__":
    main()
