"""The data set that a row of the table spoils, and what a row says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from split_matching.pipeline.cli import main
from tests.conftest import VocTree
from tests.pipeline.test_command_line import TINY

WEIGHTS = Path(__file__).parents[3] / "model" / "weights" / "shapes-vit.safetensors"


@dataclass
class Place:
    """A small data set in VOC's layout and a cache, both empty of trouble until a row spoils something.

    Training images t0 and t1, validation image v0, all 32x24 pixels.
    """

    folder: Path
    tree: VocTree
    dataset: str = "voc_cached"
    settings: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def image(self, picture: Image.Image, image_id: str = "t0", kind: str = "JPEG", **how: Any) -> None:
        """Put another image in place of one; a PNG under a name that ends in .png."""
        self.tree.image(image_id).unlink()
        ending = ".jpg" if kind == "JPEG" else ".png"
        picture.save(self.tree.image(image_id).with_suffix(ending), kind, **how)

    def mask(self, values: np.ndarray, image_id: str = "t0", mode: str | None = None) -> None:
        """Put another mask in place of one."""
        Image.fromarray(values).convert(mode).save(self.tree.mask(image_id))

    def list(self, text: str | bytes, name: str = "trainaug") -> None:
        self.tree.listing(name).write_bytes(text.encode() if isinstance(text, str) else text)

    def set(self, *settings: str) -> None:
        self.settings += settings

    def file(self, text: str | bytes, name: str = "extra.yaml") -> Path:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def set_file(self, text: str | bytes) -> None:
        self.arguments += ["--set-file", str(self.file(text))]

    def tensors(self, change: Callable[[dict[str, torch.Tensor]], Any], name: str = "w.safetensors") -> None:
        """Use weights that differ from the bundled ones."""
        tensors = load_file(WEIGHTS)
        change(tensors)
        save_file(tensors, self.folder / name)
        self.set(f"clip.weights={self.folder / name}")

    def weights(self, data: bytes, name: str = "w.safetensors") -> None:
        self.set(f"clip.weights={self.file(data, name)}")

    def saved(self, value: Any, name: str = "w.pt") -> None:
        torch.save(value, self.folder / name)
        self.set(f"clip.weights={self.folder / name}")

    def names(self) -> dict[str, Any]:
        """What the messages of the table may name."""
        tree = self.tree
        return {
            "folder": self.folder,
            "root": tree.root,
            "base": tree.base,
            "image": tree.image("t0"),
            "mask": tree.mask("t0"),
            "list": tree.listing("trainaug"),
            "val": tree.listing("val"),
            "extra": self.folder / "extra.yaml",
            "weights": self.folder / "w.safetensors",
            "pt": self.folder / "w.pt",
        }


Spoil = Callable[[Place], Any]


@dataclass(frozen=True)
class Row:
    """One kind of input.

    Args:
        name: of the row.
        spoil: changes the data set, the settings or the arguments.
        code: the exit code.
        message: what the one line holds; for code 0 nothing.
        verb: the stage or verb that is run.
        holds: for code 0: checks what came out.
    """

    name: str
    spoil: Spoil
    code: int = 3
    message: str = ""
    verb: str = "PrepareDataset"
    holds: Callable[[Place], bool] = lambda place: True


def run(place: Place, verb: str) -> int:
    settings = [*TINY, f"data.root={place.tree.root}", *place.settings]
    arguments = ["--dataset", place.dataset, "--artifacts", str(place.cache), "--quiet", *place.arguments]
    return main([verb, *arguments, "--set", *settings])
