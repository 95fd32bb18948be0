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

    from xmodal.evaluation import Evaluation, Item
    from xmodal.metrics.protocol import Score

CASES = 12
BETTER = {
    "tag_top1": "↑", "FID": "↓", "FAD": "↓", "KID": "↓", "KAD": "↓", "KernelDistance": "↓", "KL": "↓", "IS": "↑",
    "precision": "↑", "recall": "↑", "density": "↑", "coverage": "↑",
}  # fmt: skip
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.35rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:1rem}
.case{border:1px solid #ddd;border-radius:6px;padding:.7rem}.case h3{font-size:1rem;margin:.1rem 0 .5rem;overflow-wrap:anywhere}
.pair{display:flex;gap:.6rem}.pair figure{margin:0;flex:1}figcaption{font-size:.85rem;color:#555}
img{width:100%;image-rendering:pixelated;border-radius:3px}audio{width:100%}.wrong{color:#b00020}.right{color:#0a6b2d}
.note{color:#555;font-size:.9rem}
"""


def markdown(found: Evaluation, columns: Sequence[str]) -> str:
    """One row of the suite's columns with intervals."""
    scores = {name: score for name, score in found.scores().items() if name in columns}
    head = " | ".join(f"{name} {BETTER.get(name, '')}".strip() for name in scores)
    cells = " | ".join(_cell(score) for score in scores.values())
    return f"| made | {head} |\n|---|{'---|' * len(scores)}\n| {len(found.made)} | {cells} |\n"


def latex(found: Evaluation, columns: Sequence[str]) -> str:
    """The same as a booktabs table."""
    scores = {name: score for name, score in found.scores().items() if name in columns}
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "": ""}
    head = " & ".join(f"{name.replace('_', ' ')} {arrows[BETTER.get(name, '')]}".strip() for name in scores)
    cells = " & ".join(_cell(score) for score in scores.values())
    rows = rf"\begin{{tabular}}{{{'l' * len(scores)}}}", r"\toprule", rf"{head} \\", r"\midrule", rf"{cells} \\", r"\bottomrule"
    return "\n".join([*rows, r"\end{tabular}"]) + "\n"


def html(found: Evaluation) -> str:
    """The whole report as one page; media are embedded, for the worst, the best and some other cases."""
    title = escape.escape(f"{found.suite}: {len(found.made)} made against {len(found.real)} real")
    body = [f"<h1>{title}</h1>", _scores(found), *_cases(found), _protocols(found)]
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title><style>{STYLE}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _cell(score: Score) -> str:
    value, low, high = score.value, score.low, score.high
    return f"{value:.3g}" + ("" if low is None else f" [{low:.3g}, {high:.3g}]")


def _scores(found: Evaluation) -> str:
    rows = []
    for name, result in found.results.items():
        small = " *" if result.protocol.small_sample else ""
        for score_name, score in result.scores.items():
            interval = "" if score.low is None else f"{score.low:.4g} to {score.high:.4g}"
            label = f"{escape.escape(score_name)} {BETTER.get(score_name, BETTER.get(name, ''))}"
            rows.append(f"<tr><td>{label}{small}</td><td class='n'>{score.value:.4g}</td><td class='n'>{interval}</td></tr>")
    absent = [
        f"<tr><td>{escape.escape(name)}</td><td colspan='2'>{escape.escape(why)}</td></tr>" for name, why in found.absent.items()
    ]
    table = "<table><tr><th>metric</th><th>value</th><th>95 % interval</th></tr>" + "".join(rows + absent) + "</table>"
    return table + "<p class='note'>* from too few items to be quoted. Arrows point to better values.</p>"


def _protocols(found: Evaluation) -> str:
    parts = []
    for name, result in found.results.items():
        lines = [f"{key}: {value}" for key, value in vars(result.protocol).items()]
        parts.append(
            f"<details><summary>{escape.escape(name)}</summary><pre>{escape.escape(chr(10).join(lines))}</pre></details>"
        )
    return "<h2>Protocol</h2>" + "".join(parts)


def _cases(found: Evaluation) -> Iterable[str]:
    """Worst and best cases by the paired divergence, or the first items where nothing pairs."""
    from xmodal.metrics.features import key_of

    values = next((dict(result.scores["KL"].values or {}) for result in found.results.values() if "KL" in result.scores), {})
    items = {str(key_of(item.id)): item for item in found.made} | {item.id: item for item in found.made}
    ranked = sorted((value, name) for name, value in values.items() if name in items)
    if not ranked:
        yield "<h2>Some cases</h2>" + _grid(found, found.made[:CASES], {})
        return
    known = {items[name].id: value for value, name in ranked}
    yield "<h2>Worst cases</h2>" + _grid(found, [items[name] for _, name in reversed(ranked[-CASES:])], known)
    yield "<h2>Best cases</h2>" + _grid(found, [items[name] for _, name in ranked[:CASES]], known)


def _grid(found: Evaluation, items: Sequence[Item], values: dict[str, float]) -> str:
    real = {item.id: item for item in found.real}
    cards = []
    for item in items:
        said = found.judged.get(item.id, "")
        verdict = ""
        if said:
            kind = "right" if item.label == said else "wrong" if item.label else "note"
            verdict = f"<p class='{kind}'>heard or seen as {escape.escape(said)}</p>"
        figures = _figure(found.modality, item, "made")
        if item.id in real:
            figures += _figure(found.modality, real[item.id], f"real {real[item.id].label}")
        value = f" · KL {values[item.id]:.3g}" if item.id in values else ""
        cards.append(
            f"<div class='case'><h3>{escape.escape(item.id)}{value}</h3><div class='pair'>{figures}</div>{verdict}</div>"
        )
    return f"<div class='cases'>{''.join(cards)}</div>"


def _figure(modality: str, item: Item, caption: str) -> str:
    if modality == "image":
        content = f"<img alt='{escape.escape(caption, quote=True)}' src='{_picture(item.path)}'>"
    else:
        spectrogram, wav = _sound(item.path)
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
