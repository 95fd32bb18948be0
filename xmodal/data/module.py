"""Pairs of sound and picture from a manifest, with cached features in place of what frozen models would compute again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import DataLoader

from xmodal.data.codec import check_backend, codec_name
from xmodal.data.features import FeatureStore, Key, Rows, remembered
from xmodal.data.loading import Loader, Resident, free_bytes, stored_bytes
from xmodal.data.manifest import Manifest, Row
from xmodal.data.media import INPUTS, MEDIA, PairedMediaSet, bucket_lengths
from xmodal.data.opening import check_here, located, state_of
from xmodal.frozen import Later

DTYPES = {"float16": torch.float16, "float32": torch.float32}
CROPS = ("random", "loudest", "augmented")
DOOR = 2  # raised whenever the same file gives other numbers: what was cached before is not used then
RESIDENT_SHARE = {"cuda": 0.5, "cpu": 0.25}  # of the free memory that `device_resident: auto` takes


class PairedMedia(LightningDataModule):
    """Sound and picture pairs for training; for ``predict`` what the task makes its results of.

    With ``cache``, features that ``xmodal cache`` has stored under the same settings take the place of their media,
    which are then not even read; what is not stored is computed as usual, and gives the same numbers.

    Args:
        manifest: JSON lines or CSV with ``id``, ``audio`` and ``image`` or ``video``, ``label``, ``split`` (docs/data.md).
        sample_rate: Hz; must be what the recipe's audio encoder hears.
        seconds: length of the training crops; ``predict`` gives ``predict_seconds``.
        predict_seconds: length of the window that a prediction is made from.
        short: what shorter sounds get: ``loop`` or ``pad``.
        width, height: pictures are resized to this, in pixels.
        crop: of longer sounds in training: ``random`` (a new second of start each time: nothing heard can be cached) or
            ``loudest`` (the same window each time). ``augmented`` is random, and pictures are cut and mirrored, sounds moved
            and quieter, anew at each reading: for few clips. Validation and test always hear the loudest and change nothing.
        batch_size: clips per step.
        num_workers: reading processes.
        cache: folder of feature stores; None computes everything, unless a training stores it, see ``auto_cache``.
        auto_cache: without ``cache``, let `xmodal fit` store in outputs/cache what each reading of a clip would compute again.
        cache_dtype: float16 or float32, of the floating-point features in the stores.
        cache_limit: gigabytes that one feature of a split may take in the store; what is larger (tokens of long data sets)
            is only stored when this is raised.
        inputs: what tasks without stored features read: a list without pixels spares a sound-only manifest its pictures.
            With ``pan``, also where the file's two channels place the very sound that is heard (see `PairedMediaSet`); a
            task whose features read it gets it unasked.
        seed: of the order of the clips and of random crops, whatever the number of workers; default: the trainer's
            ``seed_everything``, or 0.
        device_resident: keep all features in the memory of the device, so that a step reads nothing: ``auto`` where no
            media are read and they take less than half of a GPU's free memory, or a quarter of the machine's.
        bucket_seconds: extend sounds only to the next multiple of this (at most ``seconds``), and put sounds of one such
            length together; for data whose lengths vary. Nothing heard can be cached then.
        backend: what decodes: ``default`` or ``torchcodec``.
        frames: of a video, evenly spaced over the clip's stretch of it: ``pixels`` (B, F, 3, H, W) for a task that reads
            several (a picture file is given as F equal frames). 1 gives the middle one, (B, 3, H, W).
        predict_inputs: what ``predict`` reads of each clip, ``waveform`` or ``pixels``; default: what the task says, or sounds.
        remote: also read media that the manifest names by URLs elsewhere (`http://`, `s3://`); those beside a manifest that is
            itself given by its URL are read anyhow.
        rows_per_shard: clips in one file of the store, the piece that `xmodal cache` computes and loses at most; take a few
            thousand for millions of clips with small features.

    Raises ValueError for options that cannot work.
    """

    def __init__(
        self,
        manifest: str | Path,
        sample_rate: int = 16000,
        seconds: float = 5.0,
        predict_seconds: float = 10.0,
        short: str = "loop",
        width: int = 512,
        height: int = 512,
        crop: str = "random",
        batch_size: int = 16,
        num_workers: int = 4,
        cache: Path | None = None,
        auto_cache: bool = True,
        cache_dtype: str = "float16",
        cache_limit: float = 50.0,
        inputs: Sequence[str] = MEDIA,
        seed: int | None = None,
        device_resident: bool | Literal["auto"] = "auto",
        bucket_seconds: float | None = None,
        backend: str = "default",
        frames: int = 1,
        predict_inputs: Sequence[str] | None = None,
        rows_per_shard: int = 256,
        remote: bool = False,
    ) -> None:
        super().__init__()
        if cache is not None:
            check_here(cache, "the cache of features")
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard must be at least 1, not {rows_per_shard}")
        _check_choice("crop", crop, CROPS)
        _check_choice("cache_dtype", cache_dtype, tuple(DTYPES))
        check_backend(backend)
        for name in inputs:
            _check_choice("inputs", name, INPUTS)
        for name in predict_inputs or ():
            _check_choice("predict_inputs", name, MEDIA)
        if frames < 1:
            raise ValueError(f"frames must be at least 1, not {frames}")
        if bucket_seconds is not None and not 0 < bucket_seconds <= seconds:
            raise ValueError(f"bucket_seconds must lie between 0 and seconds ({seconds}), not {bucket_seconds}")
        self.manifest, self.sample_rate, self.short = located(manifest), sample_rate, short
        self.seconds, self.predict_seconds = seconds, predict_seconds
        self.size, self.crop, self.inputs = (width, height), crop, tuple(inputs)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.cache, self.cache_dtype = None if cache is None else Path(cache), DTYPES[cache_dtype]
        self.auto_cache, self.cache_limit = auto_cache, cache_limit
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.device_resident, self.bucket_seconds, self.backend = device_resident, bucket_seconds, backend
        self.frames, self.predict_inputs = frames, predict_inputs
        self.rows_per_shard, self.remote = rows_per_shard, remote or None
        self.steps = 1  # batches whose gradients are accumulated, see Loader
        self._prints: dict[Any, str] = {}

    def train_dataloader(self) -> Loader:
        """Split ``train``, in a new order each epoch; a checkpoint keeps the position."""
        return self._loader("train", crop=self.crop)

    def val_dataloader(self) -> Loader:
        """Split ``validation``."""
        return self._loader("validation")

    def test_dataloader(self) -> Loader:
        """Split ``test``."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """All rows, with what results are made of alone; Lightning deals them to its processes."""
        inputs = self.predict_inputs
        if inputs is None:
            inputs = getattr(self._task(), "predict_inputs", ("waveform",))
        dataset = self.media(Manifest(self.manifest, remote=self.remote), inputs)
        dataset.seconds = self.predict_seconds
        return DataLoader(
            dataset=dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def media(self, rows: Sequence[Row], inputs: Sequence[str], crop: str = "loudest") -> PairedMediaSet:
        """The rows with the media named by ``inputs``."""
        options: dict[str, Any] = {"seed": self.seed, "backend": self.backend, "frames": self.frames}
        return PairedMediaSet(rows, self.sample_rate, self.seconds, self.short, self.size, crop, inputs, **options)

    def store(self, feature: Any, crop: str = "loudest", precision: Any = "32-true") -> FeatureStore | None:
        """Where a task's feature belongs under these settings; None if its inputs change at every reading.

        ``feature`` is a :class:`xmodal.frozen.Feature`, ``precision`` the trainer's, in which its parts run.
        Raises ValueError without a ``cache`` folder.
        """
        if self.cache is None:
            raise ValueError("the data has no cache folder: give --data.cache FOLDER")
        heard = {"waveform", "pan"} & set(feature.inputs)
        if not set(feature.inputs) <= set(INPUTS) or (heard and not self.same_sounds(crop)) or crop == "augmented":
            return None
        sound = {"sample_rate": self.sample_rate, "seconds": self.seconds, "short": self.short, "crop": crop}
        picture = {"size": list(self.size), "resize": "bicubic", "frames": self.frames}
        settings = {"waveform": sound, "pixels": picture, "pan": sound}
        key = Key(
            model=f"{'+'.join(kind.__qualname__ for kind in feature.kinds)}.{'+'.join(feature.outputs)}".lstrip("."),
            weights="+".join(self._print(part) for part in feature.parts),
            preprocessing={
                **{name: settings[name] for name in feature.inputs},
                "options": dict(feature.options),
                "precision": str(precision),
                "dtype": str(self.cache_dtype).removeprefix("torch."),
            },
            decoder=decoders(self.backend),
        )
        return FeatureStore(self.cache, key)

    def same_sounds(self, crop: str) -> bool:
        """Whether a clip's sound is the same, and as long as others, at every reading: only then what it makes is stored."""
        return crop == "loudest" and self.bucket_seconds is None

    def clip_names(self, rows: Sequence[Row], inputs: Sequence[str]) -> Sequence[str]:
        """Name each row, when it is asked for, by what its files are then: a file that is replaced is another clip."""
        return ClipNames(rows, tuple(inputs), self.manifest.parent.resolve())

    def _loader(self, split: str, crop: str = "loudest") -> Loader:
        rows = Manifest(self.manifest, split, self.remote)
        if self.cache is None:
            asked = ("pan",) if any("pan" in feature.inputs for feature in self._features().values()) else ()
            dataset = self.media(rows, tuple(dict.fromkeys((*self.inputs, *asked))), crop)
        else:
            dataset = self._cached(rows, crop)
        groups = None
        if self.bucket_seconds is not None and "waveform" in dataset.inputs:
            groups = dataset.lengths = bucket_lengths(dataset.rows, self.bucket_seconds, self.seconds, self.sample_rate)
        trainer = self.trainer
        overfitting = bool(getattr(trainer, "overfit_batches", 0))
        return Loader(
            self._resident(dataset),
            self.batch_size,
            shuffle=split == "train" and not overfitting,
            seed=self.seed,
            epoch=trainer.current_epoch if trainer is not None else 0,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
            groups=groups,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            steps=self.steps,
        )

    def _resident(self, dataset: PairedMediaSet) -> PairedMediaSet | Resident:
        """The set with its features in the device's memory, where the option says so."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if self.device_resident == "auto":
            room = RESIDENT_SHARE.get(device.type, 0.0) * free_bytes(device)
            if dataset.inputs or not dataset.stored or stored_bytes(dataset) > room:
                return dataset
        elif not self.device_resident:
            return dataset
        return Resident(dataset, device)

    def _cached(self, rows: Manifest, crop: str) -> PairedMediaSet:
        task, features = self._task(), self._features()
        if task is not None:
            task.feature_dtype = self.cache_dtype
        found: list[Rows] = []
        needed = set(self.inputs) if not features else {"pan"} & set(self.inputs)
        needed -= {name for feature in features.values() for name in feature.inputs}
        bad = np.zeros(len(rows), bool)
        for name, feature in features.items():
            store = self.store(feature, crop, getattr(self.trainer, "precision", "32-true"))
            if store is not None:
                places, failed = store.places(self.clip_names(rows, feature.inputs))
            if store is None or not ((places.shard >= 0) | failed).all():
                needed |= set(feature.inputs)
                changing = "what is heard changes from clip to clip or epoch to epoch: crop, bucket_seconds"
                why = changing if store is None else "not all are stored: run `xmodal cache` with this recipe"
                rank_zero_warn(f"the {name} are computed anew in every epoch ({why})")
                continue
            bad |= failed
            found.append(places)
        if bad.any():
            rank_zero_warn(f"{bad.sum()} of {len(rows)} clips are left out: the cache records them as unreadable")
            kept = np.flatnonzero(~bad)
            rows, found = rows.chosen(kept), [places.chosen(kept) for places in found]
        dataset = self.media(rows, sorted(needed), crop)
        dataset.stored = tuple(found)
        return dataset

    def _task(self) -> Any:
        """What this data is for, or None."""
        return self.trainer.lightning_module if self.trainer is not None else None

    def _features(self) -> dict[str, Any]:
        return getattr(self._task(), "frozen_features", dict)()

    def _print(self, part: Any) -> str:
        """Fingerprint of a part. Of one that is not built it is remembered beside the stores."""
        name: Any = part.identity if isinstance(part, Later) else id(part)
        if name not in self._prints:
            self._prints[name] = remembered(self.cache, part) if isinstance(part, Later) and self.cache else part.fingerprint()
        return self._prints[name]


def decoders(backend: str = "default") -> str:
    """Names and versions of what turns files into numbers."""
    import av
    import PIL
    import soundfile

    media = f"av {av.__version__}, libsndfile {soundfile.__libsndfile_version__}" if backend == "default" else codec_name()
    return f"{media}, pillow {PIL.__version__}, door {DOOR}"


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def _as_is(batch: Any) -> Any:
    """``__getitems__`` collates by itself."""
    return batch


class ClipNames(Sequence[str]):
    """Names of rows by the state of their files, made when they are asked for; a slice is a list."""

    def __init__(self, rows: Sequence[Row], inputs: tuple[str, ...], root: Path) -> None:
        self.rows, self.inputs, self.root = rows, inputs, root

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._name(row) for row in self.rows[index]]
        return self._name(self.rows[index])

    def _name(self, row: Row) -> str:
        return "|".join([row.id, *(_file_state(row, name, self.root) for name in self.inputs)])


def _file_state(row: Row, name: str, root: Path) -> str:
    path = (row.image if name == "pixels" else row.audio) or row.video
    if path is None:
        return f"no {name}"
    try:
        state = state_of(path)
    except OSError:
        return f"{path.relative_to(root)}|gone"
    part = f"|{row.start}+{row.duration}" if name != "pixels" or path == row.video else ""
    return f"{path.relative_to(root)}|{state}{part}"
