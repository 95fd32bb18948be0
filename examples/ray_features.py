"""Features of a recipe's clips under Ray Data: decoded on whatever has processors, computed where the GPUs are.

    pip install "xmodal[ray]"
    python examples/ray_features.py --manifest clips.jsonl --cache outputs/cache --readers 8 --workers 2 --gpus 1

The stores are those of `xmodal cache`, byte by byte, so `xmodal fit --data.cache outputs/cache` finds them. Where `xmodal cache`
started on each machine is enough (docs/clusters.md), it is simpler; Ray pays where decoding is to run on other machines than
the models, or where a Ray cluster is there already. All machines must reach manifest, media and store under the same paths.
Change `parts` for other models; `xmodal recipes show v2a-regression-mini` shows the recipe that it is made of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from xmodal.data import PairedMedia
from xmodal.data.features import finite_rows
from xmodal.data.manifest import valid_rows
from xmodal.foundation.audioldm import AudioLDM
from xmodal.foundation.clap import AudioTower
from xmodal.foundation.clip import ImageTower
from xmodal.frozen import Feature
from xmodal.vision2audio import V2AMapper

Block = dict[str, Any]


def parts() -> tuple[dict[str, Feature], Mapping[str, Any]]:
    """A task's features, and how its clips are read."""
    task = V2AMapper(ImageTower("mini"), lambda: AudioTower("mini"), lambda: AudioLDM("mini"), seconds=2.5)
    return task.frozen_features(), {"seconds": 2.5, "width": 64, "height": 64, "crop": "loudest", "batch_size": 16}


class Stage:
    """What an actor needs to know of one feature; a group of clips is what travels."""

    def __init__(self, name: str, manifest: Path, cache: Path, size: int) -> None:
        features, options = parts()
        self.feature, self.size = features[name], size
        self.data = PairedMedia(manifest, cache=cache, num_workers=0, **options)
        rows = valid_rows(manifest)[0].of("train")
        self.media = self.data.media(rows, self.feature.inputs)
        self.clips = list(self.data.clip_names(rows, self.feature.inputs))
        self.store = self.data.store(self.feature)

    def group(self, number: int) -> range:
        """Positions of a group's clips."""
        return range(number * self.size, min((number + 1) * self.size, len(self.clips)))


class Read(Stage):
    """Decodes the clips of a group."""

    def __call__(self, block: Block) -> Block:
        """{group: (1,)} → media (1, n, ...) beside it, and as JSON the positions that they are of and why others have none."""
        number = int(block["group"][0])
        good, failed, media = [], {}, {name: [] for name in self.feature.inputs}
        for position in self.group(number):
            try:
                item = self.media[position]
            except (ValueError, OSError) as error:
                failed[position] = str(error)
                continue
            good.append(position)
            for name, values in media.items():
                values.append(item[name].numpy())
        found = {name: np.stack(values)[None] if values else np.zeros((1, 0)) for name, values in media.items()}
        return {"group": np.array([number]), "told": np.array([json.dumps([good, list(failed.items())])]), **found}


class Compute(Stage):
    """Computes a group's features and writes its shard."""

    def __init__(self, *place: Any) -> None:
        super().__init__(*place)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for part in self.feature.built():
            part.to(self.device)

    def __call__(self, block: Block) -> Block:
        """Media of a group → how many of its clips are stored, (1,)."""
        good, pairs = json.loads(str(block["told"][0]))
        failed, group = dict(pairs), self.group(int(block["group"][0]))
        made: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(group), self.data.batch_size):  # the batches of `xmodal cache`
            rows = [row for row, position in enumerate(good) if position in group[start : start + self.data.batch_size]]
            if not rows:
                continue
            batch = {name: torch.from_numpy(block[name][0][rows]).to(self.device) for name in self.feature.inputs}
            with torch.inference_mode():
                for name, value in self.feature.compute(batch).items():
                    made.setdefault(name, []).append(value.cpu().to(self.data.cache_dtype).numpy())
        arrays = {name: np.concatenate(values) for name, values in made.items()}
        if good:
            finite = np.logical_and.reduce([finite_rows(array) for array in arrays.values()])
            arrays = {name: array[finite] for name, array in arrays.items()}
            failed |= {good[row]: "its features are not finite" for row in np.flatnonzero(~finite)}
            good = [position for position in good if position not in failed]
        reasons = {self.clips[position]: reason for position, reason in failed.items()}
        self.store.write([self.clips[i] for i in group], [self.clips[i] for i in good], arrays, reasons)
        return {"stored": np.array([len(good)])}


def main() -> None:
    """Fill the store of each feature with what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("outputs/cache"))
    parser.add_argument("--rows-per-shard", type=int, default=256, help="clips of a group (default: %(default)s)")
    parser.add_argument("--readers", type=int, default=1, help="actors that decode, one processor each")
    parser.add_argument("--workers", type=int, default=1, help="actors that compute")
    parser.add_argument("--gpus", type=float, default=0, help="of each of these; 0: they compute on a processor")
    parser.add_argument("--address", help="of a Ray cluster; default: one on this machine")
    options = parser.parse_args()
    ray.init(address=options.address, log_to_driver=False)
    for name in parts()[0]:
        place = (name, options.manifest.resolve(), options.cache.resolve(), options.rows_per_shard)
        stage = Stage(*place)
        claims = stage.store.claims(stage.clips, options.rows_per_shard)  # only looked at: Ray deals the groups
        groups = [{"group": number} for number in sorted(claims.pending)]
        if groups:
            read = ray.data.from_items(groups, override_num_blocks=len(groups)).map_batches(
                Read, fn_constructor_args=place, batch_size=1, concurrency=options.readers, num_cpus=1
            )
            stored = read.map_batches(
                Compute, fn_constructor_args=place, batch_size=1, concurrency=options.workers, num_gpus=options.gpus
            )
            print(f"{name}: {sum(row['stored'] for row in stored.take_all())} clips computed")
        print(f"{name} of {len(stage.store)} clips in {stage.store.root}")


if __name__ == "__main__":
    main()
