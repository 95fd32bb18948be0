"""Wild kinds of the world's sounds are well formed and seeded; what is not known of them teaches nothing; recordings."""

from __future__ import annotations

import csv
import gzip
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from tests.scripts import script
from xmodal.foundation.beats import BEATsConfig, BEATsModel
from xmodal.foundation.beats import save as save_beats
from xmodal.miniature import wild, world
from xmodal.miniature.data import LABELS, Clips
from xmodal.miniature.training import TrainHearing
from xmodal.miniature.wild import field
from xmodal.miniature.wild.data import WildClips, WildWorld, read_recordings

ROOT = Path(__file__).parents[2]
SIZES = {
    "embed_dim": 8, "encoder_layers": 1, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_attention_heads": 2,
    "conv_pos": 8, "conv_pos_groups": 4, "dropout": 0.0, "attention_dropout": 0.0, "predictor_dropout": 0.0,
}  # fmt: skip
KINDS = [(thing, kind) for thing, kinds in wild.KINDS.items() for kind in dict.fromkeys(kinds)]


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_thing_has_kinds() -> None:
    assert tuple(wild.KINDS) == world.THINGS
    functions = [kind for _, kind in KINDS]
    assert len(functions) == len(set(functions))  # no kind is two things


@pytest.mark.parametrize(("thing", "kind"), KINDS, ids=[kind.__name__ for _, kind in KINDS])
def test_a_kind_is_finite_audible_and_seeded(thing: str, kind: wild.Kind) -> None:
    for seconds in (0.35, 1.1, 2.8):
        event = kind(seconds, rng(1, 2))
        assert event.ndim == 1
        assert np.isfinite(event).all()
        assert np.abs(event).max() > 1e-4
        assert 0.02 < len(event) / 16_000 < max(seconds, 1.0) + 1.5  # a cock's crow and a howl have a length of their own
        assert np.array_equal(event, kind(seconds, rng(1, 2)))
    assert not np.array_equal(kind(1.1, rng(1, 2)), kind(1.1, rng(1, 3)))


@pytest.mark.parametrize("thing", world.THINGS)
def test_render_is_well_formed_and_repeatable(thing: str) -> None:
    for seed in range(4):
        sound = wild.render(thing, rng(seed))
        assert (sound.shape, sound.dtype) == ((40_000,), np.float32)
        assert np.isfinite(sound).all()
        assert 0.005 < np.abs(sound).max() < 1
        assert np.array_equal(sound, wild.render(thing, rng(seed)))
    assert not np.array_equal(wild.render(thing, rng(0)), wild.render(thing, rng(1)))


def test_unknown_thing() -> None:
    with pytest.raises(ValueError, match="unknown thing 'lion': expected one of bell, drum"):
        wild.render("lion", rng(0))


def test_capture_keeps_length_and_never_clips() -> None:
    tone = np.sin(np.arange(12_345, dtype=np.float32) * 0.3)
    made = [field.capture(tone, rng(seed)) for seed in range(40)]
    assert all(wave.shape == tone.shape and wave.dtype == np.float32 and np.isfinite(wave).all() for wave in made)
    assert max(np.abs(wave).max() for wave in made) < 1
    assert np.isfinite(field.capture(np.zeros(4000, np.float32), rng(0))).all()


def test_a_codec_leaves_holes_and_keeps_the_loudest() -> None:
    times = np.arange(16_384, dtype=np.float32) / 16_000
    sound = np.sin(2 * np.pi * 1000 * times) + 1e-4 * np.sin(2 * np.pi * 6000 * times)
    before, after = (np.abs(np.fft.rfft(wave * np.hanning(16_384))) for wave in (sound, field._codec(sound, rng(3))))
    assert after[1024] == pytest.approx(before[1024], rel=0.02)
    assert after[6144] < 0.3 * before[6144]


def test_framing() -> None:
    long, short = np.ones(50_000, np.float32), np.ones(1000, np.float32)
    assert field.framed(long, rng(0)).tolist() == [1.0] * 40_000
    placed = [np.flatnonzero(field.framed(short, rng(seed))) for seed in range(20)]
    assert all(len(place) == 1000 and place[-1] - place[0] == 999 for place in placed)
    assert 5 < sum(place[0] == 0 for place in placed) < 20  # mostly at the start, as listeners pad


def test_a_recording_is_never_recorded_twice_alike() -> None:
    recording = wild.render("dog", rng(5))
    first, second = (wild.again(recording, rng(seed)) for seed in (1, 2))
    assert first.shape == second.shape == (40_000,)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, wild.again(recording, rng(1)))
    assert np.isfinite(wild.again(recording[:3300], rng(3))).all()


def test_shares_of_the_mixture() -> None:
    clips = Clips("train", 60, ("waveform", "attributes"), seed=3)
    recordings = {thing: [np.ones(4000, np.float32)] for thing in world.THINGS}
    own = WildClips(clips, 0.0, 0.0, {})
    assert torch.equal(own[7]["waveform"], clips[7]["waveform"])
    assert not own[7]["attributes"].isnan().any()
    mixed = WildClips(clips, 0.4, 0.3, recordings)
    rows = [mixed[index] for index in range(60)]
    unknown = [row["attributes"].isnan() for row in rows]
    assert 30 <= sum(bool(row.any()) for row in unknown) <= 54  # 70 % of 60
    for row, hidden in zip(rows, unknown, strict=True):
        assert row["waveform"].shape == (40_000,)
        assert row["attributes"].shape == (len(LABELS),)
        assert row["attributes"][: len(world.THINGS)].sum() == 1
        assert hidden.sum() in (0, len(LABELS) - len(world.THINGS))
    assert torch.equal(mixed[5]["waveform"], rows[5]["waveform"])


def test_shorter_clips() -> None:
    """Of an own clip that is cut, thing and size are still known, but not how often it would have sounded."""
    clips = Clips("train", 12, ("waveform", "attributes"), seed=3)
    short = WildClips(clips, 0.5, 0.0, {}, seconds=1.3)
    rows = [short[index] for index in range(12)]
    assert {row["waveform"].shape for row in rows} == {(20_800,)}
    assert {int(row["attributes"].isnan().sum()) for row in rows} == {3, 6}
    own = next(row for row in rows if row["attributes"].isnan().sum() == 3)
    assert torch.equal(own["attributes"][:21], clips[own["clip"]]["attributes"][:21])


def test_only_training_is_wild() -> None:
    data = WildWorld(strange=1.0, train_count=8, val_count=8, batch_size=8)
    assert next(iter(data.train_dataloader()))["attributes"].isnan().any(1).all()
    assert not next(iter(data.val_dataloader()))["attributes"].isnan().any()


def test_recordings_are_read(tmp_path: Path) -> None:
    import soundfile

    with pytest.raises(FileNotFoundError, match="holds no recordings THING/NAME.wav: fetch them with"):
        read_recordings(tmp_path)
    (tmp_path / "dog").mkdir()
    soundfile.write(tmp_path / "dog" / "a.wav", np.full(8000, 0.25, np.float32), 16_000, subtype="FLOAT")
    found = read_recordings(tmp_path)
    assert [len(waves) for thing, waves in found.items() if waves] == [1]
    assert found["dog"][0].tolist() == [0.25] * 8000


def test_what_is_unknown_teaches_nothing(tmp_path: Path) -> None:
    task = TrainHearing(tmp_path, SIZES, masked=0.2, choice_weight=0.1).train()
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    data = WildClips(Clips("train", 4, ("waveform", "attributes")), 1.0, 0.0, {})
    batch = torch.utils.data.default_collate([data[index] for index in range(4)])
    terms = task.losses(batch)
    assert set(terms) == {"tags", "choice"}
    sum(terms.values()).backward()
    slope = task.net.predictor.weight.grad
    assert slope.isfinite().all()
    assert (slope[: len(world.THINGS)] != 0).any(1).all()
    assert (slope[len(world.THINGS) :] == 0).all()


def test_stripes_hide_a_part(tmp_path: Path) -> None:
    bank = torch.ones(64, 248, 128)
    hidden = 1 - TrainHearing(tmp_path, SIZES, masked=0.2)._striped(bank).mean((1, 2))
    assert 0.1 < hidden.mean() < 0.5
    assert hidden.max() < 0.8
    assert len(hidden.unique()) > 30
    assert torch.equal(bank, torch.ones_like(bank))


def test_training_starts_from_weights(tmp_path: Path) -> None:
    model = BEATsModel(BEATsConfig(**SIZES, finetuned_model=True, predictor_class=len(LABELS)))
    save_beats(model, list(LABELS), tmp_path, dtype=None)
    task = TrainHearing(tmp_path / "new", SIZES, weights=tmp_path)
    for network in (task.net, task.published):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(network.parameters(), model.parameters(), strict=True))


@pytest.fixture(scope="module")
def real_sounds() -> ModuleType:
    return script("benchmarks/real_sounds.py")


def test_the_list_of_recordings() -> None:
    """Every line is whole, no package or recording is in both splits, and training takes permissive licences alone."""
    with (ROOT / "benchmarks" / "real_sounds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["thing"] in world.THINGS and len(row["sha256"]) == 64 and row["author"] and row["version"] for row in rows)
    parts = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
    assert len(parts["train"]) + len(parts["test"]) == len(rows)
    assert 40 <= len(parts["test"]) <= 100
    assert not {row["package"] for row in parts["train"]} & {row["package"] for row in parts["test"]}
    assert not {row["sha256"] for row in parts["train"]} & {row["sha256"] for row in parts["test"]}
    assert {row["licence"] for row in parts["train"]} == {"MIT", "CC0-1.0", "CC-BY-3.0", "public domain"}
    assert {row["thing"] for row in parts["test"]} == set(world.THINGS)


def test_containers_are_read(real_sounds: ModuleType) -> None:
    wave = np.arange(-50, 50, dtype="<i2")
    header = struct.pack("<20sIIIIIBbHH", b"Dog Bark", 10, 60, 10, 60, 22_050, 60, 0, 0, 1)
    lists = [
        b"sdta" + b"smpl" + struct.pack("<I", wave.nbytes) + wave.tobytes(),
        b"pdta" + b"shdr" + struct.pack("<I", 46) + header,
    ]
    body = b"sfbk" + b"".join(b"LIST" + struct.pack("<I", len(part)) + part for part in lists)
    samples, rate = real_sounds.soundfont_entry(b"RIFF" + struct.pack("<I", len(body)) + body, "Dog Bark")
    assert samples.tolist() == wave[10:60].tolist()
    assert rate == 22_050
    with pytest.raises(ValueError, match="no sample named 'Cat'"):
        real_sounds.soundfont_entry(b"RIFF" + struct.pack("<I", len(body)) + body, "Cat")
    first, second = b"RIFF-one", b"RIFF-other"
    table = struct.pack("<IIII", 16, 8, 16 + 6 + 8, 10)
    assert real_sounds.cat_entry(table + b"\x05name:" + first + b"\x05name:" + second, 0) == first
    assert real_sounds.cat_entry(table + b"\x05name:" + first + b"\x05name:" + second, 1) == second


def test_one_recording_under_two_names_is_found(real_sounds: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut, softer, and with some noise: it is still the same, and other things' sounds are not."""
    clips = [world.sample("test", index, 3) for index in range(40)]
    sounds = {clip.thing: torch.from_numpy(world.sound(clip).mean(0)) for clip in clips if clip.thing in ("dog", "rain", "fire")}
    torch.manual_seed(0)
    rows = []
    for split, thing, sound in (
        ("test", "dog", sounds["dog"]), ("test", "rain", sounds["rain"]), ("train", "fire", sounds["fire"]),
        ("train", "wave", 0.4 * torch.nn.functional.pad(sounds["rain"], (5_000, 0))[:-9_000] + 1e-3 * torch.randn(36_000)),
    ):  # fmt: skip
        row = {
            "split": split,
            "thing": thing,
            "package": f"{split}-sounds",
            "file": f"{thing}.wav",
            "entry": "",
            "sha256": "0" * 64,
        }
        target = tmp_path / split / thing / real_sounds.name_of(row)
        target.parent.mkdir(parents=True)
        soundfile.write(target, sound.numpy(), 16_000)
        rows.append(row)
    monkeypatch.setattr(real_sounds, "rows", lambda split: [row for row in rows if row["split"] == split])
    assert not real_sounds.compare(tmp_path)
    rows.pop()
    assert real_sounds.compare(tmp_path)
    rows.pop()
    with pytest.raises(SystemExit, match="both splits"):  # nothing to compare is no pass
        real_sounds.compare(tmp_path)


def test_packed_groups_are_read(real_sounds: ModuleType) -> None:
    def group(files: dict[str, bytes]) -> bytes:
        header = bytearray(struct.pack("<24s12xi164x", b"RedWolf Design GrpFolder", len(files)))
        for k in range(0, 202, 3):
            header[k], header[k + 2] = header[k + 2], header[k]
        table, place = b"", 0
        for name, content in files.items():
            table += struct.pack("<260siiiii36x", name.encode(), 1, 0, len(content), 0, place)
            place += len(content)
        packed = gzip.compress(bytes(byte ^ 237 for byte in header) + table + b"".join(files.values()))
        return b"\x1e\x8c" + packed[2:]

    birds = group({"Owl.ogg": b"hoo", "Crow.ogg": b"caw caw"})
    sounds = group({"Rain.ogg": b"drip", "Birds.ocg": birds} | {f"{k}.wav": b"" for k in range(300)})
    assert real_sounds.group_entry(sounds, "Rain.ogg") == b"drip"
    assert real_sounds.group_entry(sounds, "Birds.ocg/Crow.ogg") == b"caw caw"
    with pytest.raises(ValueError, match="no entry named 'Cat.ogg'"):
        real_sounds.group_entry(sounds, "Birds.ocg/Cat.ogg")


def test_scores(real_sounds: ModuleType) -> None:
    found = real_sounds.score(["dog", "dog", "bell", "bell"], ["dog", "cat", "bell", "bell"])
    assert (found["right"], found["percent"], found["mean_over_things"]) == (3, 75.0, 75.0)
    assert found["confusion"] == {"bell": {"bell": 2}, "dog": {"dog": 1, "cat": 1}}
    low, high = found["interval"]
    assert low < 75 < high
    assert (low, high) == (30.1, 95.4)


def test_an_adapter_trains_on_strangers_sounds_of_its_pictures_things() -> None:
    data = WildWorld(strange=0.5, parts=["name", "phrase"], frozen_parts=["waveform", "pixels"], train_count=24, val_count=2)
    told, media = data.clips("train", ("name", "phrase")), data.clips("train", ("waveform", "pixels"))
    own, strange = Clips("train", 24, ("waveform", "pixels", "name", "phrase")), 0
    for index in range(24):
        item, plain = {**media[index], **told[index]}, own[index]
        assert item["name"] == plain["name"]
        assert torch.equal(item["pixels"], plain["pixels"])
        if torch.equal(item["waveform"], plain["waveform"]):
            assert item["phrase"] == plain["phrase"]
        else:
            strange += 1
            assert item["phrase"] == plain["name"], "of a stranger's sound neither size nor number is known"
    assert 6 <= strange <= 18
    assert isinstance(data.clips("validation", ("waveform",)), Clips)
