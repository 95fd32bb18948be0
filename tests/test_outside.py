"""A package outside the tree adds an encoder, an adapter, a task from text to picture, its pipeline and suite, a metric, a data
set, and uses all of them from the command line, without one edited file of ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent

PACKAGE = {
    "acme_words/__init__.py": """
from acme_words.task import Paint
from acme_words.pipeline import PaintPipeline
PIPELINES = {"Paint": "PaintPipeline"}
""",
    # A foundation model: one file, found through its entry point.
    "acme_words/letters.py": """
import torch
from xmodal.foundation.base import Card, TextEncoder

class Letters(TextEncoder):
    def __init__(self, card: str = "latin") -> None:
        super().__init__()
        self.dim = 26

    def embed(self, inputs: list[str]) -> torch.Tensor:
        rows = [[text.lower().count(chr(97 + index)) / max(len(text), 1) for index in range(26)] for text in inputs]
        return torch.tensor(rows, dtype=torch.float32)

CARDS = {"latin": Card("package:", {}, "Apache-2.0", True, "acme", 0, dim=26)}
""",
    "acme_words/pipeline.py": """
from dataclasses import dataclass
from typing import Any
import torch
from PIL import Image
from xmodal.files import write_beside
from xmodal.foundation.base import Adapter, TextEncoder
from xmodal.pipelines import Output, Pipeline, join

class Paints(Adapter):
    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.net = torch.nn.Linear(in_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).sigmoid()

@dataclass
class Pictures(Output):
    images: Any

    def save(self, number, path):
        return write_beside(path, lambda partial: self.images[number].save(partial, format="PNG"))

class NoScheduler:
    config = {}

class PaintPipeline(Pipeline):
    takes, makes = ("text",), "image"
    PARTS = ("reader", "adapter")

    def __init__(self, reader, adapter):
        super().__init__(NoScheduler())
        self.reader, self.adapter = reader, adapter

    @classmethod
    def from_recipe(cls, options):
        reader = options.part("reader", TextEncoder)
        return cls(reader, join(options.factory("adapter", Adapter, Paints), reader.dim, 3))

    def __call__(self, prompt, *, num_images_per_prompt=1, generator=None, num_inference_steps=None, guidance_scale=None):
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        with self.evaluating():
            colours = (self.adapter(self.reader.embed(texts)) * 255).round().byte().tolist()
        return Pictures([Image.new("RGB", (16, 16), tuple(colour)) for colour in colours for _ in range(num_images_per_prompt)])
""",
    "acme_words/task.py": '''
from collections.abc import Callable
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from xmodal.adapter_task import AdapterTask
from xmodal.evaluation.measures import HIGHER, Measure
from xmodal.evaluation.suites import Suite
from xmodal.foundation.base import Adapter, TextEncoder
from xmodal.metrics.cosine import CosineScore
from acme_words.pipeline import PaintPipeline, Paints

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}

class Closeness(CosineScore):
    """A metric of our own: how near the made picture's mean colour is to the real one's."""

    def __init__(self) -> None:
        super().__init__("closeness", sync_on_compute=False)

def closeness(given):
    made, real, ids = given.pairs("tagger")
    metric = Closeness()
    metric.update(made, real, ids=ids)
    return metric, given.stamp("tagger")

SUITE = Suite("words", "image", "text", (Measure("closeness", closeness, HIGHER, paired=True),))

class Paint(AdapterTask):
    pipeline_class = PaintPipeline
    suite = SUITE

    def __init__(self, reader: TextEncoder, adapter: Callable[[int, int], Adapter] = Paints, **task) -> None:
        super().__init__(**task)
        self.reader = reader
        self.adopt(self.build_adapter(adapter, reader.dim, 3))

    def losses(self, batch):
        return {"error": (self.adapter(self.reader.embed(batch["text"])) - batch["colour"]).square().mean()}

    def make(self, batch, rows, generators):
        return self.pipeline()([batch["text"][row] for row in rows])

    def pipeline(self):
        return PaintPipeline(self.reader, self.published)

class Words(LightningDataModule):
    def train_dataloader(self):
        items = [{"text": name, "id": name, "colour": torch.tensor(rgb)} for name, rgb in COLOURS.items()]
        return DataLoader(items * 20, batch_size=6, shuffle=True)

    def predict_dataloader(self):
        return self.train_dataloader()
''',
    # A data set: one function, found through its entry point.
    "acme_words/colours.py": """
def colours(source, found):
    for path in sorted(source.glob("*.png")):
        yield {"id": path.stem, **found.media({"image": path}), "label": path.stem, "text": path.stem}
""",
    "acme_words-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-words\nVersion: 1\n",
    "acme_words-1.dist-info/entry_points.txt": (
        "[xmodal.foundation]\nletters = acme_words.letters\n[xmodal.datasets]\nacme-colours = acme_words.colours:colours\n"
    ),
}
RECIPE = {
    "seed_everything": 0,
    "model": {
        "class_path": "acme_words.Paint",
        "init_args": {
            "reader": {"class_path": "acme_words.letters.Letters"},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": "acme_words.task.Words"},
    "trainer": {"max_steps": 60, "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "log_every_n_steps": 1},
}
COMMANDS = """
import sys
from xmodal.__main__ import run
for words in sys.stdin.read().splitlines():
    run(words.split("|"))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    for name, text in PACKAGE.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "paint.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "real").mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (16, 16), name if name != "green" else (0, 255, 0)).save(folder / "real" / f"{name}.png")
    return folder


def commands(site: Path, *lines: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site / "site"), str(ROOT)]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", COMMANDS]
    done = subprocess.run(command, input="\n".join(lines), cwd=site, env=environment, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_all_of_it_from_the_command_line(site: Path) -> None:
    printed = commands(
        site,
        "models|letters|--names",
        "data|prepare|acme-colours|real|-o|manifest.jsonl",
        "fit|--config|paint.yaml",
        "export|outputs/paint|-o|published",
        "generate|red|green|blue|--to|image|--adapter|published|-o|made",
        "predict|--config|paint.yaml|--ckpt_path|last|--model.predictions|predicted",
        "evaluate|--suite|acme_words.task.SUITE|--fake|made|--real|manifest.jsonl|--clip|none|--clap|none|--draws|0|-o|judged",
    )
    assert "letters" in printed
    assert [json.loads(line)["label"] for line in (site / "manifest.jsonl").read_text().splitlines()] == ["blue", "green", "red"]
    assert yaml.safe_load((site / "published" / "recipe.yaml").read_text())["model"]["class_path"] == "acme_words.Paint"
    for folder in ("made", "predicted"):
        colours = {path.stem: Image.open(path).getpixel((0, 0)) for path in (site / folder).glob("*.png")}
        assert {name: max(range(3), key=lambda channel: rgb[channel]) for name, rgb in colours.items()} == {
            "red": 0, "green": 1, "blue": 2,
        }  # fmt: skip
    scores = json.loads((site / "judged" / "summary.json").read_text())["scores"]
    assert scores["made"]["closeness"][0] > scores["shuffled"]["closeness"][0]
