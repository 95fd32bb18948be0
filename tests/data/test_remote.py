"""Manifests and media at URLs: in fsspec's memory, and at a server of this machine that knows ranges."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.data.test_in_place import pack
from tests.data.test_video import write_video
from xmodal.commands.data import main
from xmodal.data import opening
from xmodal.data.audio import load_audio
from xmodal.data.image import load_image
from xmodal.data.manifest import Manifest, valid_rows
from xmodal.data.module import PairedMedia
from xmodal.data.opening import Remote, located, state_of
from xmodal.data.video import load_frames

RATE = 16000


class Server(SimpleHTTPRequestHandler):
    """Files of a folder, with ranges; notes what is asked for. ``/flaky`` fails twice, ``/broken`` always."""

    asked: list[str]
    failing: dict[str, int]

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        self.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        if self.failing.get(self.path, 0) > 0:
            self.failing[self.path] -= 1
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        size, begin, end = len(content), 0, len(content)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(size, int(last) + 1 if last else size)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[begin:end])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, suffix in enumerate(("wav", "flac", "mp3")):
        sound = 0.3 * np.sin(np.arange(RATE) * (0.05 + 0.02 * number)).astype(np.float32)
        soundfile.write(folder / f"{number}.{suffix}", sound, RATE)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(folder / "a b#1.png")
    write_video(folder / "film.mp4", 1.0, sound=True)
    return folder


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "own"))
    monkeypatch.delenv("XMODAL_REMOTE", raising=False)
    monkeypatch.setattr(opening, "PAUSE", 0.01)
    for kept in (opening._info, opening._whole, opening._members):
        kept.cache_clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, type[Server]]]:
    kind = type("Fresh", (Server,), {"asked": [], "failing": {}})
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(folder))) as running:  # type: ignore[arg-type]
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder, kind
        running.shutdown()


def served(folder: Path, clips: Path) -> None:
    for path in clips.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def same_as_here(clips: Path, urls: str) -> None:
    for name in ("0.wav", "1.flac", "2.mp3", "film.mp4"):
        assert torch.equal(load_audio(f"{urls}/{name}", RATE), load_audio(clips / name, RATE))
    assert torch.equal(load_frames(f"{urls}/film.mp4", 3), load_frames(clips / "film.mp4", 3))


@pytest.mark.parametrize("whole", [1 << 25, 0])
def test_memory(clips: Path, whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "WHOLE", whole)
    files = fsspec.filesystem("memory")
    for path in clips.iterdir():
        files.pipe_file(f"/set/{path.name}", path.read_bytes())
    same_as_here(clips, "memory://set")
    rows = [
        {"id": "0", "audio": "0.wav", "image": "a b#1.png"},
        {"id": "1", "audio": "../0.wav"},
        {"id": "2", "video": "film.mp4"},
    ]
    files.pipe_file("/set/m.jsonl", "\n".join(map(json.dumps, rows)).encode())
    kept, wrong = valid_rows("memory://set/m.jsonl")
    assert [row.id for row in kept] == ["0", "2"]
    assert "memory://set/m.jsonl:2: '../0.wav' lies outside the manifest's folder memory://set" in wrong[0]
    assert torch.equal(load_image(kept[0].image), load_image(clips / "a b#1.png"))  # type: ignore[arg-type]
    files.pipe_file("/set/m.jsonl", b'{"id": "new", "audio": "1.flac"}')
    opening._info.cache_clear()
    assert [row.id for row in Manifest("memory://set/m.jsonl")] == ["new"]


@pytest.mark.parametrize("whole", [1 << 25, 0])
def test_http(clips: Path, server: tuple[str, Path, type[Server]], whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "WHOLE", whole)
    url, folder, kind = server
    served(folder, clips)
    same_as_here(clips, url)
    assert any("bytes=" in each for each in kind.asked) == (whole == 0)
    with pytest.raises(FileNotFoundError, match=f"there is no file {url}/none.wav"):
        load_audio(f"{url}/none.wav", RATE)


def test_a_training_over_urls(clips: Path, server: tuple[str, Path, type[Server]], tmp_path: Path) -> None:
    url, folder, _ = server
    served(folder, clips)
    rows = [{"id": str(n), "audio": name} for n, name in enumerate(("0.wav", "1.flac", "2.mp3"))]
    options: dict[str, Any] = {"sample_rate": RATE, "seconds": 0.5, "batch_size": 3, "num_workers": 2, "inputs": ["waveform"]}
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (clips / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (far,), (near,) = (PairedMedia(path, **options).val_dataloader() for path in (f"{url}/m.jsonl", clips / "m.jsonl"))
    assert far["id"] == near["id"] == ["0", "1", "2"]
    assert torch.equal(far["waveform"], near["waveform"])
    data = PairedMedia(f"{url}/m.jsonl", **options)
    first = data.clip_names(Manifest(data.manifest), ["waveform"])[:]
    assert first[0].startswith("0|0.wav|")
    (folder / "0.wav").write_bytes((clips / "1.flac").read_bytes())
    opening._info.cache_clear()
    again = data.clip_names(Manifest(data.manifest), ["waveform"])[:]
    assert [one == other for one, other in zip(first, again, strict=True)] == [False, True, True]


def test_nothing_is_fetched_unasked(clips: Path, server: tuple[str, Path, type[Server]], tmp_path: Path) -> None:
    url, folder, kind = server
    served(folder, clips)
    path = tmp_path / "m.jsonl"
    rows = [
        {"id": "0", "audio": f"{url}/0.wav"},
        {"id": "1", "audio": "near.wav"},
        {"id": "2", "audio": f"{url}/a.tar#1+2:0.wav"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    kept, wrong = valid_rows(path)
    assert [row.id for row in kept] == ["1"]
    assert f"{path}:1: {url}/0.wav would be fetched from the network: allow it with --data.remote true" in wrong[0]
    assert len(wrong) == 2
    assert kind.asked == []
    assert len(valid_rows(path, remote=True)[0]) == 3
    assert kind.asked == []
    data = PairedMedia(path, RATE, 0.5, num_workers=0, batch_size=1, inputs=["waveform"], remote=True)
    assert next(iter(data.val_dataloader()))["id"] == ["0"]
    assert kind.asked != []


def test_a_remote_manifest_allows_its_own_folder_alone(server: tuple[str, Path, type[Server]]) -> None:
    url, folder, _ = server
    (folder / "set").mkdir()
    names = [
        "a.wav",
        f"{url}/set/b.wav",
        f"{url}/other/c.wav",
        f"{url}/set/../d.wav",
        f"{url}/set/%2e%2e/d.wav",
        "http://elsewhere.invalid/e.wav",
        "/f.wav",
    ]
    (folder / "set" / "m.jsonl").write_text("\n".join(json.dumps({"id": str(n), "audio": name}) for n, name in enumerate(names)))
    kept, wrong = valid_rows(f"{url}/set/m.jsonl")
    assert [str(row.audio) for row in kept] == [f"{url}/set/a.wav", f"{url}/set/b.wav"]
    assert len(wrong) == 5


@pytest.mark.parametrize(
    "name", ["file:///etc/hostname", "local:///etc/hostname", "simplecache::file:///etc/hostname", "s3:/a/b.wav"]
)
def test_urls_of_this_machine_are_no_urls(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"id": "0", "audio": name}))
    (row,) = Manifest(path, remote=True)
    assert isinstance(row.audio, Path)
    assert row.audio.is_relative_to(tmp_path.resolve())
    chained = "memory://a::file:///etc/hostname"
    assert not isinstance(located(chained), Remote)


def test_failing_servers(clips: Path, server: tuple[str, Path, type[Server]]) -> None:
    url, folder, kind = server
    served(folder, clips)
    kind.failing |= {"/0.wav": 2, "/1.flac": 99}
    assert torch.equal(load_audio(f"{url}/0.wav", RATE), load_audio(clips / "0.wav", RATE))
    with pytest.raises(OSError, match=rf"{url}/1\.flac cannot be read \(.*503.*\): is the network there"):
        load_audio(f"{url}/1.flac", RATE)


@pytest.mark.parametrize("whole", [1 << 25, 0])
def test_tars_at_a_url(
    clips: Path, server: tuple[str, Path, type[Server]], tmp_path: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "WHOLE", whole)
    url, folder, kind = server
    pack(folder / "train-000.tar", clips)
    main(["prepare", "webdataset", str(folder), "--in-place"])
    for row in Manifest(f"{url}/manifest.jsonl"):
        kind.asked.clear()
        if row.audio is not None:
            assert torch.equal(load_audio(row.audio, RATE), load_audio(clips / row.audio.member, RATE))  # type: ignore[attr-defined]
            assert all("bytes=" in each or each.startswith("HEAD") for each in kind.asked)  # never the whole tar
    member = located(f"{url}/train-000.tar#0.wav")
    assert torch.equal(load_audio(member, RATE), load_audio(clips / "0.wav", RATE))
    assert state_of(member) == state_of(Remote(f"{url}/train-000.tar"))
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("other.wav"))
    opening._info.cache_clear()
    with pytest.raises(ValueError, match="it is another tar than the manifest's"):
        load_audio(located(f"{url}/train-000.tar#51200+99:0.wav"), RATE)


def test_what_must_lie_here(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the cache of features must lie in a folder of this machine, not at s3:/bucket/cache"):
        PairedMedia(tmp_path / "m.jsonl", cache=Path("s3://bucket/cache"))


def test_s3(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a server of this machine that speaks like S3 (pip install s3fs "moto[server]")."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import s3fs

    running = moto.ThreadedMotoServer(port=0)
    running.start()
    try:
        host, port = running.get_host_and_port()
        for name, value in {"KEY_ID": "key", "SECRET": "secret", "ENDPOINT_URL": f"http://{host}:{port}"}.items():
            fsspec.config.conf.setdefault("s3", {})[name.lower().replace("key_id", "key")] = value
        files = s3fs.S3FileSystem()
        files.mkdir("clips")
        for path in clips.iterdir():
            files.pipe_file(f"clips/set/{path.name}", path.read_bytes())
        same_as_here(clips, "s3://clips/set")
        rows = [{"id": "0", "audio": "0.wav", "image": "a b#1.png"}, {"id": "1", "audio": "none.wav"}]
        files.pipe_file("clips/set/m.jsonl", "\n".join(map(json.dumps, rows)).encode())
        data = PairedMedia("s3://clips/set/m.jsonl", RATE, 0.5, num_workers=0, batch_size=1, width=30, height=20)
        (first, second) = data.clip_names(Manifest(data.manifest), ["waveform"])[:]
        assert first.startswith("0|0.wav|32044|")
        assert second == "1|none.wav|gone"
        assert torch.equal(next(iter(data.val_dataloader()))["pixels"][0], load_image(clips / "a b#1.png"))
    finally:
        running.stop()
        fsspec.config.conf.pop("s3", None)
