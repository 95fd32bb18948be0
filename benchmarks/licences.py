"""The licence ledger: writes docs/licences.md of what the models' cards say, as `xmodal models --json` gives it.

python benchmarks/licences.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xmodal.files import write_beside
from xmodal.registry import models
from xmodal.registry.licences import kind

ROOT = Path(__file__).parent.parent
PAGE, OWN = ROOT / "docs" / "licences.md", ROOT / "xmodal" / "foundation"
HEAD = """# Licence ledger

Every set of weights that has a card, under its publisher's terms; `python benchmarks/licences.py` writes this page of the cards.
They bind whoever uses the weights; this page repeats what publishers say and is no legal advice. *Unclear* is what nobody has
stated or we could not verify: `--commercial` refuses it as it does what is non-commercial. An adapter's card states the
strictest terms of the parts that it joins.

The code is Apache-2.0, and so are the weights that come with it (card `mini`, `wild`).
"""


def row(record: dict[str, Any], terms: str) -> str:
    """One line of the table."""
    source, origin = str(record["source"]), str(record["origin"])
    address, _, more = origin.partition(" ")
    where = f"[{source}]({address}) {more}".strip() if address.startswith("http") else origin or source
    return f"| `{record['model']}:{record['card']}` | {record['licence']} | {terms} | {where} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    names = [name for name in models.available() if (OWN / f"{name}.py").is_file()]  # none of installed plugins
    counts: dict[str, int] = {}
    rows = []
    for record in models.records(names):
        terms = kind(models.card(record["model"], record["card"]))
        counts[terms] = counts.get(terms, 0) + 1
        rows.append(row(record, terms))
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda each: -each[1]))
    parts += [f"{sum(counts.values())} cards: {told}.", "", "| card | licence | terms | from |", "|---|---|---|---|", *rows]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    write_beside(PAGE, lambda path: path.write_text(page(), encoding="utf-8"))
    print(PAGE)
