"""`xmodal demo` as programs and people use it: every endpoint, its limits, what cannot be read, and a real browser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from gradio_client import Client, handle_file
from PIL import Image

from tests.browser import PROGRAM, browser
from tests.demo.serving import EXAMPLES, STEPS, Server, served
from xmodal.miniature.render import render_videos

BELL, DOG = EXAMPLES / "sounds" / "bell.wav", EXAMPLES / "pictures" / "dog.png"
TEXT: dict[str, Any] = {"words": "two bells", "adapter": "clipsonic-mini", "seed": 0, "count": 1, "steps": STEPS, "guidance": 0}
SOUND: dict[str, Any] = {"second": None, "share": 0.5, "adapter": "audiotoken-mini", "prompt": "", "seed": 0, "count": 1}
SOUND |= {"steps": STEPS, "guidance": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("demo")) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return server.client()


def refused(client: Client, name: str, **values: Any) -> str:
    """The sentence that an endpoint answers with."""
    with pytest.raises(Exception) as error:  # noqa: PT011  gradio_client's own kinds
        client.predict(**values, api_name=f"/{name}")
    said = str(error.value)
    assert "Traceback" not in said
    assert "xmodal-demo-" not in said, "a folder of the server is told"
    return said


def test_a_sound_is_painted_and_the_same_again(client: Client) -> None:
    given = {**SOUND, "sound": handle_file(str(BELL)), "count": 2}
    pictures, heard = client.predict(**given, api_name="/sound_to_picture")
    assert [Image.open(each["image"]).size for each in pictures] == [(64, 64)] * 2
    assert Image.open(heard).size > (400, 150)
    again, _ = client.predict(**given, api_name="/sound_to_picture")
    assert [Path(each["image"]).read_bytes() for each in again] == [Path(each["image"]).read_bytes() for each in pictures]
    mixture = {**given, "second": handle_file(str(EXAMPLES / "sounds" / "dog.wav")), "share": 1.0, "prompt": "a photo of {}, red"}
    other, _ = client.predict(**mixture, api_name="/sound_to_picture")
    assert Path(other[0]["image"]).read_bytes() != Path(pictures[0]["image"]).read_bytes()


def test_pictures_videos_and_texts_sound(client: Client, tmp_path: Path) -> None:
    film = render_videos(tmp_path, "test", 1)[0]
    asked = {"adapter": "v2a-mini", "seed": 1, "count": 2, "steps": STEPS, "guidance": 0}
    for made in (
        client.predict(picture=handle_file(str(DOG)), **asked, api_name="/picture_to_sound"),
        client.predict(video=handle_file(str(film)), **asked, api_name="/video_to_sound"),
        client.predict(**{**TEXT, "count": 2}, api_name="/text_to_sound"),
    ):
        *sounds, drawn = made
        assert [each is not None for each in sounds] == [True, True, False, False]
        assert all(soundfile.info(each).duration > 2 for each in sounds[:2])
        assert len(drawn) == 2


def test_chains(client: Client) -> None:
    heard, picture, sound, drawn = client.predict(
        sound=handle_file(str(BELL)), first="audiotoken-mini", second="v2a-mini", seed=0, steps=STEPS,
        api_name="/sound_to_picture_to_sound",
    )  # fmt: skip
    assert soundfile.info(sound).duration > 2
    assert all(Image.open(each).size > (60, 60) for each in (heard, picture, drawn))
    sound, _, picture = client.predict(
        picture=handle_file(str(DOG)), first="v2a-mini", second="audiotoken-mini", seed=0, steps=STEPS,
        api_name="/picture_to_sound_to_picture",
    )  # fmt: skip
    assert soundfile.info(sound).duration > 2
    assert Image.open(picture).size == (64, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 5}, "count must be a whole number from 1 to 4, not '5'"),
        ({"count": 1.5}, "whole number"),
        ({"count": True}, "whole number"),
        ({"steps": 51}, "from 0 to 50"),
        ({"guidance": 1e9}, "guidance must be a number from 0 to 20"),
        ({"guidance": "3"}, "guidance must be a number"),
        ({"seed": -1}, "seed must be"),
        ({"words": "x" * 301}, "has 301 letters: at most 300"),
        ({"words": "  "}, "empty"),
        ({"words": {"a": 1}}, "empty"),
        ({"adapter": "owner/name"}, "there is no adapter 'owner/name' here"),
        ({"adapter": "v2a-mini"}, "choose from clipsonic-mini"),
        ({"adapter": ["x"]}, "there is no adapter"),
    ],
)
def test_limits_hold_behind_the_widgets(client: Client, change: dict[str, Any], words: str) -> None:
    assert words in refused(client, "text_to_sound", **{**TEXT, **change})


def test_a_text_that_names_a_file_is_a_text(server: Server, client: Client) -> None:
    (server.folder / "bell.png").write_text("reading this as a picture fails")
    made = client.predict(**{**TEXT, "words": "bell.png"}, api_name="/text_to_sound")
    assert soundfile.info(made[0]).duration > 2


def test_bad_files_are_told_in_a_sentence(server: Server, client: Client) -> None:
    said = refused(client, "sound_to_picture", **SOUND, sound=server.upload("song.wav", b"no sound at all"))
    assert "song.wav" in said
    assert "there is no sound yet" in refused(client, "sound_to_picture", **SOUND, sound=None)
    text = refused(client, "sound_to_picture", **{**SOUND, "prompt": "no place"}, sound=handle_file(str(BELL)))
    assert "must hold exactly one {}" in text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "log", "http://127.0.0.1"]
)
def test_nothing_else_can_be_read(server: Server, client: Client, path: str) -> None:
    own = str(server.folder / "log") if path == "log" else path
    for kind in ("file=", "file/", "proxy=", "custom_component/../"):
        answer = httpx.get(f"{server.address}gradio_api/{kind}{own}", follow_redirects=False)
        assert answer.status_code in (400, 403, 404), answer.text
    given = {"path": own, "meta": {"_type": "gradio.FileData"}}
    assert "root:" not in refused(client, "sound_to_picture", **SOUND, sound=given)
    assert "root:" not in refused(client, "video_to_sound", **{key: TEXT[key] for key in TEXT if key != "words"}, video=given)


def test_addresses_and_large_bodies_are_refused(server: Server) -> None:
    call = f"{server.address}gradio_api/queue/join"
    named = {
        "data": [{"path": "https://example.org/x.wav", "meta": {"_type": "gradio.FileData"}}],
        "fn_index": 0,
        "session_hash": "a",
    }
    answer = httpx.post(call, json=named)
    assert (answer.status_code, answer.json()["detail"]) == (403, "give the file itself, not its address")
    tool = {"method": "tools/call", "params": {"name": "sound_to_picture", "arguments": {"sound": "https://example.org/x.wav"}}}
    assert httpx.post(f"{server.address}gradio_api/mcp/", json=tool).status_code == 403
    assert httpx.post(call, content=b"[" + b"1," * 600_000 + b"1]").status_code == 413
    with pytest.raises(httpx.HTTPStatusError):
        server.upload("large.wav", bytes(26 * 1024 * 1024))
    policy = httpx.get(server.address).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


def test_only_that_command_imports_gradio() -> None:
    code = "import sys; import xmodal.commands.demo; sys.exit('gradio' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here")
def test_in_a_browser(server: Server, tmp_path: Path) -> None:
    picture = "[...document.querySelectorAll('img')].find(i => i.src.includes('bell-1.png') && i.naturalWidth == 64)"
    given = "[...document.querySelectorAll('button')].some(b => b.offsetParent && b.ariaLabel == 'Clear')"
    with browser(tmp_path / "profile") as tab:
        tab.open(server.address)
        tab.wait("document.querySelectorAll('input[type=file]').length > 0")
        tab.upload("input[type=file]", BELL)
        tab.wait(given)
        tab.press("^Paint it$")
        assert tab.wait(f"{picture}?.src")
        # The sound of the examples' first text, and it plays.
        tab.press("^Text → sound$")
        tab.press(" background$")
        address = tab.wait("[...document.querySelectorAll('a')].map(a => a.href).find(h => h.includes('-1.wav'))")
        played = f"const one = new Audio('{address}'); one.ontimeupdate = () => done([one.duration, one.paused]); one.play()"
        seconds, paused = tab.run(f"new Promise(done => {{ {played} }})")
        assert seconds > 2
        assert not paused
        assert [each for each in tab.asked() if not each.startswith((server.address, "data:", "blob:"))] == []
        # Another file, which is none.
        (tmp_path / "broken.wav").write_bytes(b"RIFF")
        tab.open(server.address)
        tab.wait(f"document.querySelectorAll('input[type=file]').length > 0 && !{given}")
        tab.upload("input[type=file]", tmp_path / "broken.wav")
        tab.wait(given)
        tab.press("^Paint it$")
        tab.wait("document.body.innerText.includes('broken.wav')")
        assert "Traceback" not in tab.run("document.body.innerText")


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with served(tmp_path) as one:
        assert list(tmp_path.glob("xmodal-demo-*"))
        one.process.terminate()
        assert one.process.wait(60) == 0
    assert list(tmp_path.glob("xmodal-demo-*")) == []
