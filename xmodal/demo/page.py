"""The page of `xmodal demo`: widgets, and what stands between strangers and the workshop behind them.

Imported by that command alone, since it needs gradio. Every button that makes something is an endpoint of the HTTP API.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr

from xmodal.demo.endpoints import PLAYERS, Endpoints, Jobs, told
from xmodal.demo.guard import UPLOAD, Guard
from xmodal.demo.workshop import LETTERS, LONGEST, Settings, Workshop

MAKING: dict[str, Any] = {"concurrency_id": "making", "concurrency_limit": 1, "preprocess": False}
WAITING = 32  # calls in the queue
CLEANED = (600, 3600)  # every so many seconds, what is older than so many
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
CSS = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
.drawn img { margin-top: 30px; height: calc(100% - 30px) !important; }
.drawings .thumbnail-item { aspect-ratio: 2.6 !important; }
.small img { height: 100% !important; width: 100% !important; object-fit: contain !important; }
footer { opacity: 0.7; }
"""
TITLE = """# xmodal
Frozen foundation models, joined by small trained adapters: a sound becomes a picture; a picture, a video or a text becomes a
sound. The built-in models are miniatures that know eighteen things of a drawn world: bells, birds, dogs, trains and so on.
"""


class Examples:
    """Files of the miniature world, made when the page is built."""

    def __init__(self, folder: Path, count: int = 4) -> None:
        from xmodal.miniature.render import render, render_videos

        lines = render(folder / "clips", "test", count, seed=7).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        self.sounds, self.pictures = ([[str(folder / "clips" / row[kind])] for row in rows] for kind in ("audio", "image"))
        self.texts = [[row["text"]] for row in rows]
        self.labels = [str(row["label"]) for row in rows]
        self.videos = [[str(path)] for path in render_videos(folder / "films", "test", 2, seed=8)]
        self.films = [Path(path).parent.name for (path,) in self.videos]


class Layout:
    """The widgets."""

    def __init__(self, workshop: Workshop, examples: Examples) -> None:
        self.workshop, self.examples, self.jobs = workshop, examples, Jobs()
        self.calls = Endpoints(workshop, self.jobs)

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(title="xmodal", analytics_enabled=False, delete_cache=CLEANED) as blocks:
            gr.Markdown(TITLE)
            with gr.Tab("Sound → picture", id="sound"):
                self._sound_to_picture()
            with gr.Tab("Picture, video → sound", id="picture"):
                self._seen_to_sound()
            with gr.Tab("Text → sound", id="text"):
                self._text_to_sound()
            with gr.Tab("Chains", id="chains"):
                self._chains()
            blocks.unload(self.jobs.stop)
        return blocks

    def _run(self, button: gr.Button, stop: gr.Button, name: str, inputs: list[Any], outputs: list[Any], shown: Any) -> None:
        """Let a button, and programs by ``name``, call the endpoint of that name; a click on an example does, too."""
        call, options = getattr(self.calls, name), {**MAKING, "show_progress_on": outputs[0], "scroll_to_output": True}
        button.click(call, inputs, outputs, api_name=name, **options)
        shown.load_input_event.then(call, inputs, outputs, api_visibility="private", **options)
        stop.click(self.jobs.stop, None, None, api_visibility="private", queue=False)

    def _buttons(self, label: str) -> tuple[gr.Button, gr.Button]:
        with gr.Row():
            return gr.Button(label, variant="primary", scale=3), gr.Button("Stop", scale=1, min_width=80)

    def _settings(self, source: str, to: str, count: str) -> list[Any]:
        """Adapter, seed, count, steps and guidance."""
        names = self.workshop.adapters(source, to)
        limits = Settings.LIMITS
        adapter = gr.Dropdown(names, value=names[0], label="Adapter")
        with gr.Row():
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=limits["seed"][1], min_width=90)
            several = gr.Slider(*limits["count"], value=1, step=1, label=count, min_width=140)
        with gr.Row():
            steps = gr.Slider(*limits["steps"], value=0, step=1, label="Steps (0: the adapter's own)", min_width=140)
            guidance = gr.Slider(*limits["guidance"], value=0, step=0.5, label="Guidance (0: the adapter's own)", min_width=140)
        return [adapter, seed, several, steps, guidance]

    def _facts(self, adapter: gr.Dropdown, source: str, to: str) -> None:
        shown = gr.Markdown(self.workshop.facts(str(adapter.value), source, to))

        @told
        def facts(name: str) -> str:
            if name not in self.workshop.adapters(source, to):
                raise ValueError(f"there is no adapter {str(name)[:80]!r} here")
            return self.workshop.facts(name, source, to)

        adapter.change(facts, adapter, shown, api_visibility="private", queue=False, preprocess=False)

    def _sound_to_picture(self) -> None:
        with gr.Row():
            with gr.Column():
                sound = _sound("Sound")
                with gr.Accordion("Mix with a second sound", open=False):
                    second = _sound("Second sound")
                    share = gr.Slider(0, 1, value=0.5, step=0.05, label="Share of the second")
                    gr.Markdown("The waveforms are mixed, at equal loudness; the adapter hears their sum.")
                make, stop = self._buttons("Paint it")
                with gr.Accordion("Settings", open=False):
                    chosen = self._settings("audio", "image", "Pictures")
                    prompt = gr.Textbox(
                        label="Prompt, with {} for the sound", placeholder="a photo of {}", max_length=LETTERS, max_lines=2
                    )
                shown = gr.Examples(self.examples.sounds, [sound], label="Examples", example_labels=self.examples.labels)
            with gr.Column():
                pictures = gr.Gallery(
                    label="Pictures",
                    columns=2,
                    fit_columns=False,
                    object_fit="contain",
                    format="png",
                    height="auto",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                heard = _drawn("What was heard")
                self._facts(chosen[0], "audio", "image")
        inputs = [sound, chosen[0], prompt, *chosen[1:], second, share]
        self._run(make, stop, "sound_to_picture", inputs, [pictures, heard], shown)

    def _seen_to_sound(self) -> None:
        with gr.Row():
            with gr.Column():
                with gr.Tab("Picture"):
                    picture = _picture()
                    make, stop = self._buttons("Let it sound")
                    shown = gr.Examples(self.examples.pictures, [picture], label="Examples", example_labels=self.examples.labels)
                with gr.Tab("Video"):
                    video = gr.Video(label=f"Video, at most {LONGEST:.0f} s", sources=["upload"], height=300, buttons=[])
                    make_film, stop_film = self._buttons("Let it sound")
                    films = gr.Examples(self.examples.videos, [video], label="Examples", example_labels=self.examples.films)
                with gr.Accordion("Settings", open=False):
                    chosen = self._settings("image", "audio", "Sounds")
            with gr.Column():
                outputs = self._players(chosen[2])
                self._facts(chosen[0], "image", "audio")
        self._run(make, stop, "picture_to_sound", [picture, *chosen], outputs, shown)
        self._run(make_film, stop_film, "video_to_sound", [video, *chosen], outputs, films)

    def _text_to_sound(self) -> None:
        with gr.Row():
            with gr.Column():
                words = gr.Textbox(label="Text", placeholder="two large bells", max_length=LETTERS, lines=2)
                make, stop = self._buttons("Let it sound")
                with gr.Accordion("Settings", open=False):
                    chosen = self._settings("text", "audio", "Sounds")
                shown = gr.Examples(self.examples.texts, [words], label="Examples")
            with gr.Column():
                outputs = self._players(chosen[2])
                self._facts(chosen[0], "text", "audio")
        self._run(make, stop, "text_to_sound", [words, *chosen], outputs, shown)

    def _players(self, count: gr.Slider) -> list[Any]:
        """As many players as sounds are asked for, and their spectrograms."""
        players = [
            gr.Audio(label=f"Sound {number + 1}", interactive=False, visible=number == 0, buttons=["download"])
            for number in range(PLAYERS)
        ]

        def shown(asked: Any) -> list[Any]:
            many = asked if isinstance(asked, (int, float)) else 1
            return [gr.update(visible=number < max(1, many)) for number in range(PLAYERS)]

        count.change(shown, count, players, api_visibility="private", queue=False, preprocess=False)
        drawn = gr.Gallery(
            label="Spectrograms", columns=1, object_fit="contain", format="png", height="auto", interactive=False,
            buttons=["download", "fullscreen"], elem_classes="drawings",
        )  # fmt: skip
        return [*players, drawn]

    def _chains(self) -> None:
        paint, sound_out = self.workshop.adapters("audio", "image"), self.workshop.adapters("image", "audio")
        with gr.Tab("Sound → picture → sound"), gr.Row():
            with gr.Column():
                sound = _sound("Sound")
                make, stop = self._buttons("Go")
                chosen = _chain_settings(paint, sound_out)
                shown = gr.Examples(self.examples.sounds, [sound], label="Examples", example_labels=self.examples.labels)
            with gr.Column():
                heard, between = _drawn("What was heard"), _shown("Picture")
                outputs = [heard, between, _player("Sound of the picture"), _drawn("Its spectrogram")]
            self._run(make, stop, "sound_to_picture_to_sound", [sound, *chosen], outputs, shown)
        with gr.Tab("Picture → sound → picture"), gr.Row():
            with gr.Column():
                picture = _picture()
                make, stop = self._buttons("Go")
                chosen = _chain_settings(sound_out, paint)
                shown = gr.Examples(self.examples.pictures, [picture], label="Examples", example_labels=self.examples.labels)
            with gr.Column():
                outputs = [_player("Sound"), _drawn("Its spectrogram"), _shown("Picture of the sound")]
            self._run(make, stop, "picture_to_sound_to_picture", [picture, *chosen], outputs, shown)
        gr.Markdown("One adapter's result is handed to the next, with the same seed. Licences and scores: in the other tabs.")


def _picture() -> gr.Image:
    return gr.Image(
        label="Picture", type="filepath", sources=["upload", "clipboard"], height=300, buttons=[], elem_classes="small"
    )


def _sound(label: str) -> gr.Audio:
    options = gr.WaveformOptions(sample_rate=44_100, show_recording_waveform=True)
    label = f"{label}, at most {LONGEST:.0f} s"
    return gr.Audio(label=label, sources=["upload", "microphone"], type="filepath", waveform_options=options, buttons=[])


def _player(label: str, visible: bool = True) -> gr.Audio:
    return gr.Audio(label=label, interactive=False, visible=visible, buttons=["download"])


def _drawn(label: str) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, height=260, buttons=["download"], elem_classes="drawn")


def _shown(label: str) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, height=260, buttons=["download"], elem_classes="small")


def _chain_settings(first: list[str], second: list[str]) -> list[Any]:
    with gr.Accordion("Settings", open=False):
        limits = Settings.LIMITS
        return [
            gr.Dropdown(first, value=first[0], label="First adapter"),
            gr.Dropdown(second, value=second[0], label="Second adapter"),
            gr.Number(0, label="Seed", precision=0, minimum=0, maximum=limits["seed"][1]),
            gr.Slider(*limits["steps"], value=0, step=1, label="Steps (0: the adapters' own)"),
        ]


@contextmanager
def serving(workshop: Workshop, host: str = "127.0.0.1", port: int = 7860) -> Iterator[str]:
    """Serve the page while open; gives its address. Raises OSError where the port is not free.

    Nothing but what was handed in or made here can be read (no path is allowed), nothing is asked of the network.
    """
    from starlette.middleware import Middleware

    blocks = Layout(workshop, Examples(workshop.folder.parent / "examples")).build()
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    theme = gr.themes.Default(font=list(FONTS), font_mono=list(MONO))
    try:
        _, address, _ = blocks.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
            show_error=False, allowed_paths=[], max_file_size=UPLOAD, enable_monitoring=False, run_history=False, ssr_mode=False,
            pwa=False, mcp_server=find_spec("mcp") is not None, footer_links=["api"], theme=theme, css=CSS,
            app_kwargs={"middleware": [Middleware(Guard)], "docs_url": None, "redoc_url": None},
        )  # fmt: skip
        threading.Thread(target=_warm, args=(workshop,), daemon=True).start()
        yield address
    finally:
        blocks.close(verbose=False)


def _warm(workshop: Workshop) -> None:
    """Load what the first tab uses, while the first visitor still looks."""
    with workshop.lock:
        workshop.pipe(workshop.adapters("audio", "image")[0])
