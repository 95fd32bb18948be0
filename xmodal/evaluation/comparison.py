"""`xmodal compare`: two evaluations, metric by metric. Free of torch."""

from __future__ import annotations

from pathlib import Path

from xmodal.metrics.protocol import Difference, compare


def differences(first: Path, second: Path) -> dict[str, Difference | str]:
    """Paired differences of all metrics that two evaluations share, or the reason why one cannot be compared.

    ``first`` and ``second`` are folders that `write` filled, their ``summary.json``, or two results (``results/KL.json``).
    Raises FileNotFoundError where there is no result, ValueError for two files of unlike protocols.
    """
    one, two = (path.parent if path.name == "summary.json" else path for path in (first, second))
    if ".json" in (one.suffix, two.suffix):
        return dict(compare(one, two))
    names = []
    for folder in (one, two):
        files = {path.name for path in (folder / "results").glob("*.json")}
        if not files:
            raise FileNotFoundError(
                f"{folder} holds no results: give what `xmodal evaluate` wrote, two folders or two files of their results/"
            )
        names.append(files)
    out: dict[str, Difference | str] = {}
    for name in sorted(names[0] & names[1]):
        try:
            out.update(compare(one / "results" / name, two / "results" / name))
        except ValueError as error:
            out[name.removesuffix(".json")] = str(error)
    for name in sorted(names[0] ^ names[1]):
        out[name.removesuffix(".json")] = f"{one if name in names[0] else two} alone holds it"
    return out
