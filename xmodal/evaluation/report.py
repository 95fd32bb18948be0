"""Tables and the HTML report of an evaluation: one file that opens without a network, with pictures and sound players."""

from __future__ import annotations

import base64
import html as escape
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from xmodal.evaluation.evaluate import Evaluation
    from xmodal.evaluation.judges import Item
    from xmodal.metrics.protocol import Score

CASES = 12
LOWER = {"FID", "FAD", "FD", "KID", "KAD", "CMMD", "KL"}
HIGHER = {
    "tag_top1", "IS", "precision", "recall", "density", "coverage", "AIS", "IIS", "AIS_cosine", "IIS_cosine", "AIC_top1",
    "AIC_top5", "CS", "CLAP",
}  # fmt: skip
NAMES = {
    "tag_top1": "tag accuracy",
    "AIC_top1": "AIC",
    "AIC_top5": "AIC top 5",
    "AIS_cosine": "AIS cosine",
    "IIS_cosine": "IIS cosine",
    "CLAP": "CLAP score",
}
PERCENT = {"tag_top1", "AIC_top1", "AIC_top5", "AIS", "IIS"}  # shares
RANKED = ("KL", "CLAP", "CS", "AIS_cosine", "IIS_cosine")  # by which cases are worst or best, the first that is there
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.35rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th{white-space:nowrap}td:first-child{white-space:nowrap}
table.all{max-width:46rem}.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:1rem}
.case{border:1px solid #ddd;border-radius:6px;padding:.7rem}.case h3{font-size:1rem;margin:.1rem 0 .5rem;overflow-wrap:anywhere}
.pair{display:flex;gap:.6rem}.pair figure{margin:0;flex:1}figcaption{font-size:.85rem;color:#555}
img{width:100%;image-rendering:pixelated;border-radius:3px}audio{width:100%}.wrong{color:#b00020}.right{color:#0a6b2d}
.note{color:#555;font-size:.9rem;margin:.2rem 0}.given{width:45%}.given figure{margin:0 0 .5rem}.wide{overflow-x:auto}
"""


def markdown(found: Evaluation, columns: Sequence[str]) -> str:
    """One line a system, with the suite's columns and their intervals."""
    head, body = _table(found, columns)
    rule = "---|" * (len(head) + 1)
    lines = [f"| {' | '.join(['', *(_title(name) for name in head)]).strip()} |", f"|{rule}"]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cells)} |" for row, cells in body)]) + "\n"


def latex(found: Evaluation, columns: Sequence[str]) -> str:
    """The same as a booktabs table."""
    head, body = _table(found, columns)
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "%": r"\%", "_": r"\_"}
    titles = [_plain(_title(name), arrows) for name in head]
    rows = [rf"{_plain(row, arrows)} & {' & '.join(_plain(cell, arrows) for cell in cells)} \\" for row, cells in body]
    start = rf"\begin{{tabular}}{{l{'l' * len(head)}}}", r"\toprule", rf" & {' & '.join(titles)} \\", r"\midrule"
    return "\n".join([*start, *rows, r"\bottomrule", r"\end{tabular}"]) + "\n"


def html(found: Evaluation, columns: Sequence[str]) -> str:
    """The whole report as one page; media are embedded, for the worst, the best and some other cases."""
    title = escape.escape(f"{found.suite}: {len(found.made)} made against {len(found.real)} real")
    body = [f"<h1>{title}</h1>", _overview(found, columns), _scores(found), *_cases(found), _protocols(found)]
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _table(found: Evaluation, columns: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns that anything is in, and the cells of every row."""
    by_row = {row: found.scores(row) for row in found.rows}
    head = [name for name in columns if any(name in scores for scores in by_row.values())]
    return head, [(row, [_cell(name, scores.get(name)) for name in head]) for row, scores in by_row.items()]


def _title(name: str) -> str:
    arrow = "↓" if name in LOWER else "↑" if name in HIGHER else ""
    unit = " %" if name in PERCENT else ""
    return f"{NAMES.get(name, name)}{unit} {arrow}".strip()


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return "–"
    factor = 100 if name in PERCENT else 1
    value, low, high = (None if part is None else factor * part for part in (score.value, score.low, score.high))
    return f"{value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")


def _plain(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(letter, letter) for letter in text)


def _overview(found: Evaluation, columns: Sequence[str]) -> str:
    head, body = _table(found, columns)
    titles = "".join(f"<th>{escape.escape(_title(name))}</th>" for name in head)
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
    return (
        f"<div class='wide'><table><tr><th></th>{titles}</tr>{rows}</table></div><p class='note'>{notes} 95 % intervals.{few}</p>"
    )


def _scores(found: Evaluation) -> str:
    rows = []
    for result in found.results.values():
        small = " *" if result.protocol.small_sample else ""
        for name, score in result.scores.items():
            interval = "" if score.low is None else f"{score.low:.4g} to {score.high:.4g}"
            label = f"{escape.escape(name)} {'↓' if name in LOWER else '↑' if name in HIGHER else ''}"
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
    from xmodal.metrics.features import key_of

    scores = found.scores()
    chosen = next((name for name in RANKED if name in scores and scores[name].values), None)
    if chosen is None:
        yield "<h2>Some cases</h2>" + _grid(found, found.made[:CASES], {}, "")
        return
    items = {str(key_of(item.id)): item for item in found.made}
    ranked = sorted((value, items[key].id) for key, value in (scores[chosen].values or {}).items())
    if chosen in LOWER:
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
        figures = _figure(found.modality, item.path, "made")
        if item.id in real:
            figures += _figure(found.modality, real[item.id].path, f"real {item.label}".strip())
        value = f" · {score} {values[item.id]:.3g}" if item.id in values else ""
        head = f"<h3>{escape.escape(item.id)}{value}</h3>"
        cards.append(f"<div class='case'>{head}{_input(found, item)}<div class='pair'>{figures}</div>{verdict}</div>")
    return f"<div class='cases'>{''.join(cards)}</div>"


def _input(found: Evaluation, item: Item) -> str:
    """What the item was made from, where that is known."""
    if found.suite == "text2audio":
        return f"<p class='note'>{escape.escape(item.text or item.label)}</p>"
    if found.suite == "vision2audio" and item.image is not None:
        return f"<div class='given'>{_figure('image', item.image, 'from this picture')}</div>"
    if found.suite == "audio2image" and item.audio is not None:
        return f"<audio controls preload='metadata' src='{_sound(item.audio)[1]}'></audio><p class='note'>from this sound</p>"
    return ""


def _figure(modality: str, path: Path, caption: str) -> str:
    if modality == "image":
        content = f"<img alt='{escape.escape(caption, quote=True)}' src='{_picture(path)}'>"
    else:
        spectrogram, wav = _sound(path)
        content = f"<img alt='spectrogram' src='{spectrogram}'><audio controls preload='metadata' src='{wav}'></audio>"
    return f"<figure>{content}<figcaption>{escape.escape(caption)}</figcaption></figure>"


def _picture(path: Path, size: int = 192) -> str:
    from PIL import Image as images

    with images.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((size, size))
        return _data("image/png", _png(small))


def _sound(path: Path, seconds: float = 10.0) -> tuple[str, str]:
    """Spectrogram and 16-bit wav of a file's first seconds, as data addresses."""
    import soundfile

    from xmodal.data.audio import load_audio

    rate = 16000
    waveform = load_audio(path, rate)[: round(seconds * rate)]
    content = io.BytesIO()
    soundfile.write(content, waveform.clamp(-1, 1).numpy(), rate, format="WAV", subtype="PCM_16")
    return _data("image/png", _png(spectrogram(waveform.numpy()))), _data("audio/wav", content.getvalue())


def spectrogram(waveform: np.ndarray, height: int = 96, width: int = 240) -> Image.Image:
    """Log power over time (left to right) and frequency (bottom to top), 70 dB deep."""
    import torch
    from PIL import Image as images

    spectrum = torch.stft(torch.from_numpy(waveform), 512, 160, window=torch.hann_window(512), return_complex=True)
    decibels = (10 * (spectrum.abs().square() + 1e-10).log10()).flip(0)
    shade = ((decibels - decibels.max() + 70) / 70).clamp(0, 1).numpy()
    colours = np.stack([shade**0.6, shade**1.6, 0.35 + 0.5 * shade - 0.6 * shade**3], -1).clip(0, 1)
    return images.fromarray((colours * 255).astype(np.uint8)).resize((width, height), images.Resampling.LANCZOS)


def _png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
