"""The licence ledger: under which terms the parts of a recipe may be used, and which of them are the strictest.

It repeats what the publishers say of their weights; it is no legal advice.
"""

from __future__ import annotations

from collections.abc import Sequence

from xmodal.registry.cards import Card
from xmodal.registry.recipe import Part

# From the mildest to the strictest; what nobody has verified may hold anything, so it is used as if it forbade everything.
KINDS = ("permissive", "attribution", "use-restricted", "non-commercial", "unclear")


def kind(card: Card) -> str:
    """Return which of `KINDS` a card's terms are."""
    licence = card.licence.lower()
    if not card.commercial:
        return "unclear" if licence in ("", "unknown", "unverified", "-") else "non-commercial"
    if "rail" in licence:
        return "use-restricted"
    return "attribution" if licence.startswith(("cc-by", "cc by")) else "permissive"


def strictest(parts: Sequence[Part]) -> str:
    """Return the strictest terms in one phrase, with the parts that bring them; what is unclear is named beside them."""
    if not parts:
        return "no foundation weights"
    kinds = {each: [part for part in parts if kind(part.card) == each] for each in KINDS}
    known = next((each for each in reversed(KINDS[:-1]) if kinds[each]), None)
    return "; ".join(_phrase(each, kinds[each]) for each in (known, "unclear") if each and kinds[each])


def refuse_non_commercial(parts: Sequence[Part]) -> None:
    """Raise ValueError that names every part whose terms do not allow commercial use, or are not known to."""
    refused = [part for part in parts if not part.card.commercial]
    if refused:
        names = ", ".join(f"{part.name} ({part.card.licence}) as {part.place}" for part in refused)
        raise ValueError(
            f"--commercial refuses {names}: choose other parts (`xmodal models` shows which), or leave the flag out if their "
            "publishers allow you more"
        )


def _phrase(terms: str, parts: Sequence[Part]) -> str:
    return f"{terms} ({', '.join(dict.fromkeys(f'{part.card.licence}: {part.name}' for part in parts))})"
