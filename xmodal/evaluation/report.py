"""Tables and the HTML report of an evaluation: one file that opens without a network, with pictures and sound players."""

from __future__ import annotations

import base64
import html as escape
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.data.audio import load_audio
from xmodal.data.image import read_picture
from xmodal.evaluation.items import Item, middle_frame
from xmodal.evaluation.measures import LOWER
from xmodal.evaluation.result import MADE, Evaluation
from xmodal.evaluation.spectrogram import spectrogram
from xmodal.files import VIDEO, suffix_of, write_beside
from xmodal.metrics.features import key_of
from xmodal.metrics.protocol import Score

if TYPE_CHECKING:
    from PIL import Image

CASES = 12
SIGNS = {
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#",
}  # fmt: skip
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.35rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th{white-space:nowrap}td:first-child{white-space:nowrap}
table.all{max-width:46rem}.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:1rem}
.case{border:1px solid #ddd;border-radius:6px;padding:.7rem}.case h3{font-size:1rem;margin:.1rem 0 .5rem;overflow-wrap:anywhere}
.pair{display:flex;gap:.6rem}.pair figure{margin:0;flex:1}figcaption{font-size:.85rem;color:#555}
img{width:100%;image-rendering:pixelated;border-radius:3px}audio{width:100%}.wrong{color:#b00020}.right{color:#0a6b2d}
.warning{color:#b00020;font-weight:600;margin:.4rem 0}
.note{color:#555;font-size:.9rem;margin:.2rem 0}.given{width:45%}.given figure{margin:0 0 .5rem}.wide{overflow-x:auto}
"""


def write(found: Evaluation, folder: Path) -> Path:
    """Write ``results/METRIC.json``, ``summary.json``, ``table.md``, ``table.tex`` and ``report.html``; returns the last.

    Other rows of the table get their results into ``rows/NAME/results``.
    """
    for row, by_metric in found.rows.items():
        place = folder if row == MADE else folder / "rows" / row
        for name, result in by_metric.items():
            result.save(place / "results" / f"{name}.json")
    scores = {row: {name: [s.value, s.low, s.high] for name, s in found.scores(row).items()} for row in found.rows}
    counts = {"made": len(found.made), "real": len(found.real), "real_without_made": found.unmatched}
    said = {"absent": found.absent, "left_out": found.left, "warnings": found.warnings}
    content = {"suite": found.suite.name, **counts, "scores": scores, **said}
    replace(folder / "table.md", markdown(found))
    replace(folder / "table.tex", latex(found))
    replace(folder / "summary.json", json.dumps(content, indent=1) + "\n")
    return replace(folder / "report.html", html(found))


def markdown(found: Evaluation) -> str:
    """One line a system, with the suite's columns and their intervals."""
    head, body = _table(found)
    notes = [f"\n**{line}**" for line in (*found.warnings, *(f"left out: {each}" for each in found.left_out()))]
    return pipes([_title(found, name) for name in head], body) + "\n".join([*notes, ""] if notes else [])


def latex(found: Evaluation) -> str:
    """The same as a booktabs table."""
    head, body = _table(found)
    return booktabs([_title(found, name) for name in head], body)


def pipes(titles: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table in Markdown, of rows (name, cells)."""
    lines = [f"| {' | '.join(['', *titles]).strip()} |", f"|{'---|' * (len(titles) + 1)}"]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cells)} |" for row, cells in body)]) + "\n"


def booktabs(titles: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table in LaTeX, of rows (name, cells)."""
    rows = [rf"{' & '.join(map(_plain, [row, *cells]))} \\" for row, cells in body]
    start = rf"\begin{{tabular}}{{l{'l' * len(titles)}}}", r"\toprule", rf" & {' & '.join(map(_plain, titles))} \\", r"\midrule"
    return "\n".join([*start, *rows, r"\bottomrule", r"\end{tabular}"]) + "\n"


def html(found: Evaluation) -> str:
    """The whole report as one page; media are embedded, for the worst, the best and some other cases."""
    title = escape.escape(f"{found.suite.name}: {len(found.made)} made against {len(found.real)} real")
    body = [f"<h1>{title}</h1>", _overview(found), _scores(found), *_cases(found), _protocols(found)]
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _table(found: Evaluation) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns that anything is in, and the cells of every row."""
    by_row = {row: found.scores(row) for row in found.rows}
    head = [name for name in found.suite.columns if any(name in scores for scores in by_row.values())]
    return head, [(row, [_cell(found, name, scores.get(name)) for name in head]) for row, scores in by_row.items()]


def _title(found: Evaluation, name: str) -> str:
    row = found.suite.of(name)
    return name if row is None else row.title(name)


def _cell(found: Evaluation, name: str, score: Score | None) -> str:
    if score is None:
        return "–"
    row = found.suite.of(name)
    factor = 100 if row is not None and row.percent else 1
    value, low, high = (None if part is None else factor * part for part in (score.value, score.low, score.high))
    return f"{value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")


def _plain(text: str) -> str:
    return "".join(SIGNS.get(letter, letter) for letter in text)


def _overview(found: Evaluation) -> str:
    head, body = _table(found)
    titles = "".join(f"<th>{escape.escape(_title(found, name))}</th>" for name in head)
    rows = "".join(
        f"<tr><td>{escape.escape(row)}</td>{''.join(f'<td class=n>{escape.escape(cell)}</td>' for cell in cells)}</tr>"
        for row, cells in body
    )
    notes = (
        "<i>real</i>: the real files as if they had been made, the ceiling; <i>shuffled</i>: what was made, given to other "
        "inputs, the floor."
    )
    few = (
        " From few items: for training logs, not for tables."
        if any(r.protocol.small_sample for r in found.results.values())
        else ""
    )
    loud = "".join(f"<p class='warning'>{escape.escape(line)}</p>" for line in found.warnings)
    left = "".join(f"<p class='note'>Left out: {escape.escape(line)}</p>" for line in found.left_out())
    table = f"<div class='wide'><table><tr><th></th>{titles}</tr>{rows}</table></div>"
    return f"{loud}{table}<p class='note'>{notes} 95 % intervals.{few}</p>{left}"


def _scores(found: Evaluation) -> str:
    rows = []
    for result in found.results.values():
        small = " *" if result.protocol.small_sample else ""
        for name, score in result.scores.items():
            interval = "" if score.low is None else f"{score.low:.4g} to {score.high:.4g}"
            row = found.suite.of(name)
            label = f"{escape.escape(name)} {row.better if row else ''}"
            rows.append(f"<tr><td>{label}{small}</td><td class='n'>{score.value:.4g}</td><td class='n'>{interval}</td></tr>")
    absent = [
        f"<tr><td>{escape.escape(name)}</td><td colspan='2'>{escape.escape(why)}</td></tr>" for name, why in found.absent.items()
    ]
    table = "<table class='all'><tr><th>made</th><th>value</th><th>95 % interval</th></tr>" + "".join(rows + absent) + "</table>"
    note = "<p class='note'>* from too few items to be quoted. Arrows point to better values.</p>"
    return f"<h2>All scores</h2><div class='wide'>{table}</div>{note}"


def _protocols(found: Evaluation) -> str:
    parts = []
    for name, result in found.results.items():
        lines = [f"{key}: {value}" for key, value in vars(result.protocol).items()]
        parts.append(
            f"<details><summary>{escape.escape(name)}</summary><pre>{escape.escape(chr(10).join(lines))}</pre></details>"
        )
    return "<h2>Protocol</h2>" + "".join(parts)


def _cases(found: Evaluation) -> Iterable[str]:
    """Worst and best cases by the first paired score, or the first items where nothing pairs."""
    scores = found.scores()
    rows = sorted((row for row in found.suite.rows if row.ranked), key=lambda row: row.ranked)
    ranks = [(row, name) for row in rows for name in row.table if name in scores and scores[name].values]
    if not ranks:
        yield "<h2>Some cases</h2>" + _grid(found, found.made[:CASES], {}, "")
        return
    row, chosen = ranks[0]
    items = {str(key_of(item.id)): item for item in found.made}
    ranked = sorted((value, items[key].id) for key, value in (scores[chosen].values or {}).items())
    if row.better == LOWER:
        ranked.reverse()
    known, named = {name: value for value, name in ranked}, {item.id: item for item in found.made}
    half = min(CASES, len(ranked) // 2)
    yield f"<h2>Worst cases by {chosen}</h2>" + _grid(found, [named[name] for _, name in ranked[:half]], known, chosen)
    best = [named[name] for _, name in reversed(ranked[len(ranked) - half :])]
    yield f"<h2>Best cases by {chosen}</h2>" + _grid(found, best, known, chosen)


def _grid(found: Evaluation, items: Sequence[Item], values: dict[str, float], score: str) -> str:
    real = {item.id: item for item in found.real}
    cards = []
    for item in items:
        said = found.judged.get(item.id, "")
        verdict = ""
        if said:
            kind = "right" if item.label == said else "wrong" if item.label else "note"
            verdict = f"<p class='{kind}'>{'seen' if found.modality == 'image' else 'heard'} as {escape.escape(said)}</p>"
        figures = _figure(found.modality, item.path, "made", item)
        if item.id in real:
            figures += _figure(found.modality, real[item.id].path, f"real {item.label}".strip(), real[item.id])
        value = f" · {score} {values[item.id]:.3g}" if item.id in values else ""
        head = f"<h3>{escape.escape(item.id)}{value}</h3>"
        cards.append(f"<div class='case'>{head}{_input(found, item)}<div class='pair'>{figures}</div>{verdict}</div>")
    return f"<div class='cases'>{''.join(cards)}</div>"


def _input(found: Evaluation, item: Item) -> str:
    """What the item was made from, where that is known."""
    if found.suite.takes == "text":
        return f"<p class='note'>{escape.escape(item.text or item.label)}</p>"
    if found.suite.takes == "image" and item.image is not None:
        return f"<div class='given'>{_figure('image', item.image, 'from this picture', item)}</div>"
    if found.suite.takes == "audio" and item.audio is not None:
        player = _media("audio", item.audio, item)[-1]
        return f"<audio controls preload='metadata' src='{player}'></audio><p class='note'>from this sound</p>" if player else ""
    return ""


def _figure(modality: str, path: Path, caption: str, item: Item) -> str:
    """A file's picture, or its player with a spectrogram; a file that cannot be read is told."""
    shown = _media(modality, path, item)
    alt = escape.escape(caption if modality == "image" else "spectrogram", quote=True)
    content = f"<img alt='{alt}' src='{shown[0]}'>" if shown[0] else "<p class='wrong'>cannot be read</p>"
    if shown[-1] and modality == "audio":
        content += f"<audio controls preload='metadata' src='{shown[-1]}'></audio>"
    return f"<figure>{content}<figcaption>{escape.escape(caption)}</figcaption></figure>"


def _media(modality: str, path: Path, item: Item) -> tuple[str, ...]:
    """Data addresses of a picture, or of a spectrogram and a wav; empty ones for a file that cannot be read."""
    try:
        return (_picture(path, item),) if modality == "image" else _sound(path, item)
    except (ValueError, OSError):
        return ("",)


def _picture(path: Path, item: Item, size: int = 192) -> str:
    from PIL import Image as images

    if suffix_of(path) in VIDEO:
        frame = middle_frame(item, path)
        small = images.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
    else:
        small = read_picture(path)
    small.thumbnail((size, size))
    return _data("image/png", _png(small))


def _sound(path: Path, item: Item, seconds: float = 10.0) -> tuple[str, str]:
    """Spectrogram and 16-bit wav of a file's first seconds, as data addresses."""
    import soundfile

    rate = 16000
    start, duration = item.stretch(path)
    waveform = load_audio(path, rate, start=start, duration=duration)[: round(seconds * rate)]
    content = io.BytesIO()
    soundfile.write(content, waveform.clamp(-1, 1).numpy(), rate, format="WAV", subtype="PCM_16")
    return _data("image/png", _png(spectrogram(waveform.numpy(), rate))), _data("audio/wav", content.getvalue())


def replace(path: Path, text: str) -> Path:
    """Write a text in one move; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_beside(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
