"""Ordinary files that are odd in one way: read rightly, or refused by name. Every input is made here."""

from __future__ import annotations

import io
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.data.test_audio import RATE, tone
from tests.data.test_video import numbers, write_video
from xmodal.data.audio import load_audio, read_samples, sound_seconds
from xmodal.data.image import load_image
from xmodal.data.pictures import read_pictures
from xmodal.data.video import load_frames, video_duration, video_span, write_soundtrack

CORNERS = np.zeros((48, 64, 3), np.uint8)
CORNERS[:24, :32] = (255, 0, 0)  # top left
CORNERS[24:, 32:] = (0, 0, 255)  # bottom right


def film_with_sound(path: Path, late_pictures: float = 0.0, late_sound: float = 0.0, offset: float = 0.0) -> Path:
    """Three seconds at 25 pictures a second, white at their 0.5 s; a beep at the sound's 0.5 s."""
    with av.open(str(path), "w") as container:
        seen = container.add_stream("libx264", rate=25, options={"bf": "2", "threads": "1"})
        seen.width = seen.height = 64
        seen.pix_fmt = "yuv420p"
        heard = container.add_stream("aac", rate=RATE, layout="mono")
        packets: list[Any] = []
        for number in range(75):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 255 * (12 <= number < 15), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number + round(25 * (offset + late_pictures)), Fraction(1, 25)
            packets += seen.encode(frame)
        packets += seen.encode()
        samples = np.zeros((1, 3 * RATE), np.float32)
        samples[0, RATE // 2 : RATE // 2 + 1600] = tone(0.1)[:, 0]
        given = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        given.sample_rate, given.pts, given.time_base = RATE, round(RATE * (offset + late_sound)), Fraction(1, RATE)
        packets += [*heard.encode(given), *heard.encode()]
        for packet in sorted(packets, key=lambda each: float(each.dts * each.time_base)):
            container.mux(packet)
    return path


def flash(path: Path) -> float:
    times = [0.02 + 0.04 * number for number in range(int(video_span(path)[1] / 0.04) - 1)]
    bright = load_frames(path, times).mean((1, 2, 3))
    return times[int((bright > 0.5).float().argmax())] - 0.02


def beep(path: Path) -> float:
    samples, rate = read_samples(path)
    return int(np.argmax(np.abs(samples[:, 0]) > 0.2)) / rate


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_sound_and_pictures_share_one_clock(tmp_path: Path, suffix: str, offset: float) -> None:
    late_sound = film_with_sound(tmp_path / f"a.{suffix}", late_sound=2.0, offset=offset)
    assert flash(late_sound) == pytest.approx(0.48, abs=0.05)
    assert beep(late_sound) == pytest.approx(2.5, abs=0.07)
    assert float(load_audio(late_sound, RATE, start=2.3, duration=0.5).abs().max()) > 0.3
    assert video_duration(late_sound) == pytest.approx(3.0, abs=0.05)
    late_pictures = film_with_sound(tmp_path / f"b.{suffix}", late_pictures=2.0, offset=offset)
    assert flash(late_pictures) == pytest.approx(2.48, abs=0.1)  # AAC begins 64 ms early
    assert beep(late_pictures) == pytest.approx(0.5, abs=0.07)
    assert video_span(late_pictures) == pytest.approx((2.0, 5.0), abs=0.1)
    assert torch.equal(load_frames(late_pictures, [0.0]), load_frames(late_pictures, [2.01]))


@pytest.mark.parametrize(("source", "suffix"), [("mkv", "mkv"), ("mkv", "mp4"), ("mp4", "mp4"), ("ts", "mkv")])
@pytest.mark.parametrize("late", [0.0, 2.0])
def test_a_copy_keeps_every_packet_and_its_clock(tmp_path: Path, source: str, suffix: str, late: float) -> None:
    film = film_with_sound(tmp_path / f"film.{source}", late_pictures=late, offset=1.0)
    copy = write_soundtrack(film, torch.from_numpy(tone(9.0)[:, 0]), RATE, tmp_path / f"copy.{suffix}")
    with av.open(str(copy)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 75
        starts = [float(stream.start_time * stream.time_base) for stream in container.streams]
    assert starts[0] == pytest.approx(starts[1], abs=0.09)
    begin, end = video_span(copy)
    heard, rate = read_samples(copy)
    assert int(np.argmax(np.abs(heard[:, 0]) > 0.2)) / rate == pytest.approx(begin, abs=0.02)
    assert len(heard) / rate == pytest.approx(end, abs=0.1)
    assert end - begin == pytest.approx(3.0, abs=0.05)
    assert flash(copy) - begin == pytest.approx(0.48, abs=0.05)


def test_a_container_without_an_index_is_searched_backwards(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.ts"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=10, options={"bf": "0", "sc_threshold": "1000000000"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        stream.codec_context.gop_size = 60
        for number in range(150):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for policy, expected in {"at": [0, 5, 30, 59, 100, 149], "key": [0, 0, 0, 0, 60, 120]}.items():
        frames = load_frames(tmp_path / "film.ts", [0.05, 0.55, 3.05, 5.95, 10.05, 14.95], policy)
        assert [round(float(frame.mean()) * 255) - 20 for frame in frames] == pytest.approx(expected, abs=1)


def test_pictures_shorter_than_their_sound(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mkv", 2.0)
    with av.open(str(film)) as source, av.open(str(tmp_path / "long.mkv"), "w") as container:
        copied = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("flac", rate=RATE, layout="mono")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copied
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray((tone(5.0).T * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE, frame_size=4096)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(sound.encode(piece))
        container.mux(sound.encode())
    assert video_duration(tmp_path / "long.mkv") == pytest.approx(2.0, abs=0.01)
    assert numbers(load_frames(tmp_path / "long.mkv")) == [10]
    assert sound_seconds(tmp_path / "long.mkv") == pytest.approx(5.0, abs=0.01)


def test_joined_and_chained_sounds_are_whole(tmp_path: Path) -> None:
    for suffix, options in {"mp3": {}, "ogg": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}.items():
        rate = 48000 if suffix == "opus" else 44100
        soundfile.write(tmp_path / f"one.{suffix}", tone(3.0, rate), rate, **options)
        joined = tmp_path / f"three.{suffix}"
        joined.write_bytes((tmp_path / f"one.{suffix}").read_bytes() * 3)
        samples, found = read_samples(joined)
        assert len(samples) / found == pytest.approx(9.0, abs=0.15)
        assert sound_seconds(joined) == pytest.approx(len(samples) / found, abs=0.03)
        part, _ = read_samples(joined, 6.5, 1.0)
        assert np.array_equal(part, samples[round(6.5 * found) :][: len(part)])


def test_an_mp3_without_a_length_is_read_to_its_end(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp3"), "w", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=44100, layout="mono", options={"q": "9"})
        swept = np.concatenate([tone(7.0, 44100), 0.4 * np.random.default_rng(0).normal(size=(44100 * 8, 1))]).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(swept.T.copy(), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    samples, rate = read_samples(tmp_path / "a.mp3")
    assert len(samples) / rate == pytest.approx(15.0, abs=0.1)
    assert sound_seconds(tmp_path / "a.mp3") == pytest.approx(len(samples) / rate, abs=0.01)
    part, _ = read_samples(tmp_path / "a.mp3", 9.0, 0.5)
    assert float(np.abs(part - samples[9 * 44100 :][: len(part)]).max()) < 1e-3


def test_a_flac_without_a_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(3.0, 44100), 44100)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # the number of samples stands in 36 bits of the first block
    content[22:26] = bytes(4)
    (tmp_path / "pipe.flac").write_bytes(content)
    assert load_audio(tmp_path / "pipe.flac", RATE).shape == (3 * RATE,)
    assert sound_seconds(tmp_path / "pipe.flac") == pytest.approx(3.0)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 3 * 2 * RATE + 36, RATE])
def test_a_wav_whose_size_is_wrong_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(3.0), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    assert load_audio(tmp_path / "a.wav", RATE).shape == (3 * RATE,)
    assert sound_seconds(tmp_path / "a.wav") == pytest.approx(3.0)


def test_chunks_behind_the_data_are_no_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0), RATE)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content + b"LIST" + (2000).to_bytes(4, "little") + b"\x55" * 2000)
    assert load_audio(tmp_path / "a.wav", RATE).shape == (RATE,)


def test_readers_are_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.mp3", tone(2.0, 22050), 22050)
    capfd.readouterr()
    (tmp_path / "b.mp3").write_bytes((tmp_path / "a.mp3").read_bytes()[777:])
    for name in ("a.mp3", "b.mp3"):
        load_audio(tmp_path / name, RATE, start=1.0, duration=0.5)
    assert capfd.readouterr().err == ""


def orientations() -> dict[int, Any]:
    turn = Image.Transpose
    return {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE, 6: turn.ROTATE_90,
               7: turn.TRANSVERSE, 8: turn.ROTATE_270}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "tiff"])
def test_pictures_are_turned_as_their_metadata_say(tmp_path: Path, suffix: str) -> None:
    upright = Image.fromarray(CORNERS)
    for number, method in orientations().items():
        exif = Image.Exif()
        exif[0x0112] = number
        options = {"webp": {"lossless": True}, "jpg": {"quality": 100}}.get(suffix, {})
        upright.transpose(method).save(tmp_path / f"a.{suffix}", exif=exif, **options)
        found = load_image(tmp_path / f"a.{suffix}")
        assert found.shape == (3, 48, 64)
        assert float((found * 255 - torch.from_numpy(CORNERS).permute(2, 0, 1)).abs().mean()) < 2
        with Image.open(tmp_path / f"a.{suffix}") as picture:
            assert float((read_pictures(picture, 64)[0, :, 0, 0] - torch.tensor([1.0, 0, 0])).abs().max()) < 0.05


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_films_are_turned_as_their_matrix_says(tmp_path: Path, angle: int) -> None:
    turned = np.rot90(CORNERS, -angle // 90)
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = turned.shape[1], turned.shape[0], "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), format="rgb24")))
        container.mux(stream.encode())
    one = 1 << 16
    matrix = {0: (one, 0, 0, one), 90: (0, -one, one, 0), 180: (-one, 0, 0, -one), 270: (0, one, -one, 0)}[angle]
    content = path.read_bytes()
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value.to_bytes(4, "big", signed=True) for value in matrix)
    stored = a + b + bytes(4) + c + d + bytes(4) + content[at + 24 : at + 36]
    path.write_bytes(content[:at] + stored + content[at + 36 :])
    frame = load_frames(path, [0.2])[0]
    assert frame.shape == (3, 48, 64)
    assert float((frame[:, 4, 4] - torch.tensor([1.0, 0, 0])).abs().max()) < 0.1
    assert float((frame[:, 44, 60] - torch.tensor([0, 0, 1.0])).abs().max()) < 0.1
    copy = write_soundtrack(path, torch.from_numpy(tone(1.0)[:, 0]), RATE, tmp_path / "copy.mp4")
    assert torch.equal(load_frames(copy, [0.2]), frame[None])


def test_every_bit_of_a_picture_is_scaled_by_its_range(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8)[None].repeat(4, 0)
    Image.fromarray(grey).save(tmp_path / "8.png")
    twin = load_image(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.tiff")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tiff")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "32.tiff")
    for name in ("16.png", "16.tiff", "float.tiff", "32.tiff"):
        assert float((load_image(tmp_path / name) - twin).abs().max()) <= 1 / 255 + 1e-6, name
    for mode in ("I", "F"):
        with Image.open(tmp_path / "8.png") as picture:
            held = read_pictures(picture.convert(mode), 64)
            assert torch.equal(held, read_pictures(picture.convert("RGB"), 64)), mode


def test_transparent_pictures_lie_on_white(tmp_path: Path) -> None:
    hidden = np.full((8, 8, 4), (0, 255, 255, 0), np.uint8)
    hidden[:4, :4] = (255, 0, 0, 255)
    Image.fromarray(hidden).save(tmp_path / "a.png")
    Image.fromarray(hidden).save(tmp_path / "a.webp", lossless=True, exact=True)
    palette = Image.fromarray(hidden[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    clear = palette.getpixel((7, 7))
    palette.save(tmp_path / "palette.png", transparency=bytes(0 if index == clear else 255 for index in range(2)))
    palette.save(tmp_path / "a.gif", transparency=clear)
    Image.fromarray(hidden[..., :3]).save(tmp_path / "key.png", transparency=(0, 255, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "a.webp", "palette.png", "a.gif", "key.png"):
            found = load_image(tmp_path / name)
            assert found[:, 7, 7].tolist() == [1, 1, 1], name
            assert found[:, 0, 0].tolist() == [1, 0, 0], name


def test_only_named_formats_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    with pytest.raises(ValueError, match=r"a.png is not a readable picture"):
        load_image(tmp_path / "a.png")


def test_damage_of_any_kind_names_the_file(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("note", "x" * 70_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "bomb.png", pnginfo=info)
    buffer = io.BytesIO()
    Image.fromarray(CORNERS).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:90])
    broken = bytearray(buffer.getvalue())
    broken[12:16] = b"\0\0\0\0"
    (tmp_path / "broken.png").write_bytes(broken)
    for name in ("bomb.png", "cut.png", "broken.png"):
        with pytest.raises(ValueError, match=name):
            load_image(tmp_path / name)


def test_a_gif_gives_its_picture_or_its_pictures(tmp_path: Path) -> None:
    shades = [Image.new("RGB", (16, 16), (shade, shade, shade)) for shade in (0, 100, 200)]
    shades[2].save(tmp_path / "one.gif")
    shades[0].save(tmp_path / "three.gif", save_all=True, append_images=shades[1:], duration=100)
    assert read_pictures(tmp_path / "one.gif", 16, 4).shape == (1, 3, 16, 16)
    assert float(load_frames(tmp_path / "one.gif").mean()) == pytest.approx(200 / 255, abs=0.02)
    assert read_pictures(tmp_path / "three.gif", 16, 3).mean((1, 2, 3)).tolist() == pytest.approx([0, 0.39, 0.78], abs=0.02)
    assert float(load_image(tmp_path / "three.gif").max()) == 0


def test_a_cover_is_no_film(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.fromarray(CORNERS).save(cover, "JPEG")
    plain = tmp_path / "plain.flac"
    soundfile.write(plain, tone(2.0), RATE)
    picture = cover.getvalue()
    block = (3).to_bytes(4, "big") + (10).to_bytes(4, "big") + b"image/jpeg" + bytes(4)
    block += b"".join(each.to_bytes(4, "big") for each in (64, 48, 24, 0, len(picture))) + picture
    content = plain.read_bytes()
    header = bytes([6]) + len(block).to_bytes(3, "big")
    (tmp_path / "song.mp4").write_bytes(content[:42] + header + block + content[42:])
    with pytest.raises(ValueError, match=r"song.mp4 has no pictures: it is a sound with a cover"):
        load_frames(tmp_path / "song.mp4")
    assert load_audio(tmp_path / "song.mp4", RATE).shape == (2 * RATE,)


def test_a_header_cannot_ask_for_more_memory_than_there_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((10, 1)), 48000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    channels, seconds = 512, 60
    size = channels * 2 * 48000 * seconds
    content[22:24], content[32:34] = channels.to_bytes(2, "little"), (channels * 2).to_bytes(2, "little")
    content[28:32], content[40:44] = (channels * 96000).to_bytes(4, "little"), (size % 2**32).to_bytes(4, "little")
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(content)
        file.truncate(44 + size)  # a sparse file
    with pytest.raises(ValueError, match="of memory"):
        load_audio(tmp_path / "a.wav", RATE)


def test_hours_of_compressed_sound_are_refused_without_decoding_them(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", 8000, 1) as file:
        for _ in range(70):  # its encoder crashes on much at once
            file.write(tone(10.0, 8000))
    with pytest.raises(ValueError, match="would give 700 s of sound, more than the limit of 600 s"):
        load_audio(tmp_path / "a.ogg", RATE)
    assert load_audio(tmp_path / "a.ogg", RATE, start=650, duration=1.0).shape == (RATE,)
    with pytest.raises(ValueError, match=r"ends after 700.\d\d s"):
        load_audio(tmp_path / "a.ogg", RATE, start=701)
