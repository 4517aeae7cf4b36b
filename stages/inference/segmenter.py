"""A trained decoder in use: label the pixels of any image with any class names.

    segmenter = Segmenter.load("decoder.safetensors")
    prediction = segmenter.predict(PIL.Image.open("street.jpg"), ["car", "traffic cone", "road"])
    prediction.labels  # (H, W) uint8, index into prediction.names

Every pixel gets one of the given names: there is no background class, here as in the protocol.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from split_matching.configs.class_list import MOST_CLASSES, ClassEntry
from split_matching.configs.class_names import as_clip_reads, find_alike, find_flaw
from split_matching.configs.load import restore
from split_matching.configs.schema import Config
from split_matching.configs.settings import ClipConfig
from split_matching.errors import ConfigError, DataError, first_line
from split_matching.model.clip import FrozenClip
from split_matching.model.label_choices import choose_labels
from split_matching.model.query_decoder import QueryDecoder
from split_matching.model.token_encoder import TokenEncoder
from split_matching.model.weights_identity import is_file_spec
from split_matching.stages.data.images import to_rgb
from split_matching.stages.data.photos import decode_photo, read_photo, upright
from split_matching.stages.data.resize import resize_labels
from split_matching.stages.ground.device import resolve_device
from split_matching.stages.inference.decoder_scores import DecoderScorer
from split_matching.stages.inference.exported_decoder import read_export, write_export
from split_matching.stages.inference.pixels import PixelScorer

Picture = Image.Image | NDArray[np.uint8] | str | os.PathLike[str] | bytes
"""A Pillow image, an RGB array (H, W, 3) uint8, a file, or the bytes of one."""

Array = NDArray[Any]
"""Of what a run keeps of an image."""

EXPORTED: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "features": (),
    "regions": (),
    "decoder": (),
    "evaluate": (),
    "train": ("matching", "features", "precision"),
}
"""Sections of the config that inference reads, or the fields of them; () for all."""


@dataclass(frozen=True)
class PredictedRegion:
    """The pixels of one name.

    Args:
        name: the class name.
        mask: Shape: (H, W), bool.
        pixels: how many they are.
        score: mean of the name's score over them.
    """

    name: str
    mask: NDArray[np.bool_]
    pixels: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """Labels of one image.

    Args:
        labels: index into `names` of every pixel. Shape: (H, W), uint8.
        names: the class names that were asked for.
        seen: whether each had masks in training.
        scores: of each name at the pixels of the resized image, as CLIP saw it, before `evaluate.gamma`; larger is
            likelier, and scores of one pixel compare. Shape: (C, H', W'), float32.
    """

    labels: NDArray[np.uint8]
    names: tuple[str, ...]
    seen: tuple[bool, ...]
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32), repr=False)

    @property
    def regions(self) -> list[PredictedRegion]:
        """What each name covers, the largest first; names without a pixel are left out."""
        cells = resize_labels(self.labels, (self.scores.shape[1], self.scores.shape[2]))
        found = []
        for index, count in enumerate(self.pixels()):
            if count:
                own = self.scores[index][cells == index]
                score = float(own.mean()) if len(own) else float(self.scores[index].max())
                found.append(PredictedRegion(self.names[index], self.labels == index, count, score))
        return sorted(found, key=lambda region: -region.pixels)

    def pixels(self) -> list[int]:
        """Return the number of pixels of each name."""
        return np.bincount(self.labels.ravel(), minlength=len(self.names)).tolist()


class Segmenter:
    """A trained decoder with the frozen CLIP that it was trained on.

    Args:
        config: of the run: sections of EXPORTED and `clip`.
        clip: the frozen CLIP.
        weights: of the decoder, by name.
        seen: names of the classes that had masks in training; `evaluate.gamma` is subtracted from these.
        run: name of the run, for records.
        prompts: words for CLIP of classes of the run's own list, by name; other names go through as they are.
        classes: names of the run's own list, in order; they decide nothing but colours.

    Raises:
        ConfigError: the run's predictor is not the decoder.
        DataError: the weights are not those of a decoder of this config.
    """

    def __init__(
        self,
        config: Config,
        clip: FrozenClip,
        weights: Mapping[str, Tensor],
        seen: Sequence[str],
        run: str = "",
        prompts: Mapping[str, Sequence[str]] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        if config.evaluate.predictor != "decoder":
            raise ConfigError(
                f"evaluate.predictor {config.evaluate.predictor} is a baseline without a decoder: leave it at decoder"
            )
        self.config, self.clip, self.seen, self.run = config, clip, tuple(seen), run
        self.classes = tuple(classes)
        self.prompts = {name: tuple(words) for name, words in (prompts or {}).items()}
        decoder = QueryDecoder(config.decoder, config.features.decoder_blocks, clip.width, clip.dim)
        try:
            decoder.load_state_dict(dict(weights))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"the decoder's weights do not fit its config and {config.clip.model}: {reason}") from error
        self.decoder = decoder.eval().to(clip.device)
        self._fingerprint = ""
        self._texts: tuple[tuple[tuple[str, tuple[str, ...]], ...], Tensor] | None = None

    @classmethod
    def load(cls, path: Path | str, clip_weights: str = "", device: str = "auto") -> Segmenter:
        """Load an exported decoder.

        Args:
            path: a file that `export` wrote.
            clip_weights: where CLIP's weights are: a file, or an open_clip tag; "" for what the export names. Whatever
                they come from, they must be the weights that the decoder was trained on.
            device: auto, cpu or cuda.

        Raises:
            DataError: no such file, no export, or CLIP weights other than in training.
        """
        about, weights = read_export(Path(path))
        clip_config, clip = _load_clip(path, about["clip"], clip_weights, device)
        try:
            config = restore({**about["config"], "dataset": about["dataset"], "clip": clip_config.model_dump()})
        except ConfigError as error:
            raise DataError(f"{path}: {error}; it was exported by another version") from error
        return cls(config, clip, weights, about["seen"], about["run"], about.get("prompts"), about.get("classes", ()))

    def save(self, path: Path) -> None:
        """Write the decoder and its config to one safetensors file, which appears in one step.

        CLIP's weights are not in it: their fingerprint is, and loading checks it.
        """
        clip = self.config.clip
        from_file = is_file_spec(clip.weights) or clip.weights == "pretrain"
        about = {
            "dataset": self.config.dataset,
            "run": self.run,
            "seen": self.seen,
            "prompts": self.prompts,
            "classes": self.classes,
            "clip": {
                "model": clip.model,
                "weights": "" if from_file else clip.weights,
                "seed": clip.seed,
                "quick_gelu": self.clip.quick_gelu,
                "precision": clip.precision,
                "fingerprint": self.clip.fingerprint(),
            },
            "config": self._settings(),
        }
        write_export(path, about, self.decoder.state_dict())

    def add_prompts(self, entries: Sequence[ClassEntry]) -> tuple[str, ...]:
        """Take over the prompts of classes, in place of those of the run's own list.

        Returns:
            The names, see `check_names`.

        Raises:
            ConfigError: the names are wrong.
        """
        prompts = self.prompts | {" ".join(e.name.split()): e.prompts for e in entries if e.prompts}
        names = check_names([entry.name for entry in entries], prompts)
        self.prompts, self._fingerprint = prompts, ""
        return names

    @property
    def identity(self) -> str:
        """Digest of everything that a prediction depends on but the image and the names. 64 hex digits."""
        if not self._fingerprint:
            digest = hashlib.sha256(self.clip.fingerprint().encode())
            for name, value in sorted(self.decoder.state_dict().items()):
                digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
            digest.update(json.dumps([self._settings(), self.seen, self.prompts], sort_keys=True).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def _settings(self) -> dict[str, dict[str, Any]]:
        """The settings that inference reads, as JSON values."""
        dumped = self.config.model_dump(mode="json")
        return {
            section: {name: dumped[section][name] for name in (names or dumped[section])}
            for section, names in EXPORTED.items()
        }

    @torch.inference_mode()
    def predict(self, image: Picture, names: Iterable[str]) -> Prediction:
        """Label every pixel of an image.

        Args:
            image: a Pillow image, an RGB array (H, W, 3) uint8, or a file.
            names: class names, seen in training or not; one of the run's own class list stands for its prompts.

        Returns:
            The labels, at the image's own size.

        Raises:
            ConfigError: no names, too many, or one twice.
            DataError: the image cannot be read.
        """
        clean = _clean(names)
        names = check_names(clean, self._prompts_of(clean))
        pixels = to_pixels(image)
        known = {as_clip_reads(name) for name in self.seen}
        seen = tuple(as_clip_reads(name) in known for name in names)
        marks = torch.tensor(seen, device=self.clip.device)
        decoder = DecoderScorer(self.decoder, self._text(names), self.config, self.clip)
        batch = 1 if self.clip.device.type == "cpu" else self.config.runtime.batch
        encoder = TokenEncoder(self.clip, self.config.features.decoder_blocks)
        scores = PixelScorer(self.config, encoder, decoder.score, self.decoder.prompts, batch).score(pixels)
        choices = choose_labels(scores, marks, [self.config.evaluate.gamma], *pixels.shape[:2])
        return Prediction(choices.labels(0), names, seen, scores.float().cpu().numpy())

    def _prompts_of(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Prompts of the names that are among the run's own, in any spelling that is the same text to CLIP."""
        own = {as_clip_reads(name): tuple(prompts) for name, prompts in self.prompts.items()}
        return {name: own[as_clip_reads(name)] for name in names if as_clip_reads(name) in own}

    def _text(self, names: tuple[str, ...]) -> Tensor:
        """Text embeddings of the names; those of the last call are kept. (C, D)."""
        prompts = self._prompts_of(names)
        key = tuple((name, prompts.get(name, ())) for name in names)
        if self._texts is None or self._texts[0] != key:
            embedded = self.clip.encode_classes(names, self.config.text.templates, prompts).to(self.clip.device)
            self._texts = (key, embedded)
        return self._texts[1]


def _clean(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names without outer spaces, and with single ones within.

    Raises:
        ConfigError: it is no list of texts.
    """
    if not isinstance(names, Iterable) or isinstance(names, str | Mapping | AbstractSet):  # a set has no order
        raise ConfigError(f"class names {names!r}: expected a list of names")
    given = tuple(names)
    for place, name in enumerate(given):
        if not isinstance(name, str):
            raise ConfigError(f"class name {place + 1} is {name!r}: expected text")
    return tuple(" ".join(name.split()) for name in given)


def check_names(names: Iterable[str], prompts: Mapping[str, Sequence[str]] = MappingProxyType({})) -> tuple[str, ...]:
    """Return class names without outer spaces.

    Args:
        names: the names.
        prompts: words that CLIP reads in place of a name, by name.

    Raises:
        ConfigError: none, too many, an empty one, one twice, or one that CLIP cannot read or tell from another.
    """
    clean = _clean(names)
    if not clean:
        raise ConfigError("no class names: give at least one")
    if len(clean) > MOST_CLASSES:
        raise ConfigError(f"{len(clean)} class names: a label map holds at most {MOST_CLASSES}")
    for place, name in enumerate(clean):
        if not name or not name.isprintable():
            raise ConfigError(f"class name {place + 1} is {name!r}: expected printable text")
        if name in clean[:place]:
            raise ConfigError(f"class name {name!r} was given twice: expected each once")
        if flaw := find_flaw(name):
            raise ConfigError(f"class name {flaw}")
    for first, second in find_alike([prompts.get(name) or (name,) for name in clean]):
        raise ConfigError(f"class names {clean[first]!r} and {clean[second]!r} are the same text to CLIP: rename one")
    return clean


def to_pixels(image: Picture) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file cannot be read, or the array is none of an image.
    """
    if isinstance(image, str | os.PathLike):
        return read_photo(Path(image))
    if isinstance(image, bytes):
        return decode_photo(image, Path("the image"))
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise DataError(f"the image is {image.width}x{image.height}: expected one with pixels")
        try:
            return to_rgb(upright(image), "the image")
        except (ValueError, OSError) as error:  # Pillow reads a file when its pixels are asked for
            raise DataError(f"the image cannot be read ({first_line(error)}): expected an open Pillow image") from None
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"the image is a {type(image).__name__}: expected a Pillow image, an array, a file or its bytes"
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise DataError(f"the image is {image.dtype} of shape {image.shape}: expected uint8 of shape (H, W, 3), RGB")
    return image


def _load_clip(
    path: Path | str, recorded: Mapping[str, Any], weights: str, device: str
) -> tuple[ClipConfig, FrozenClip]:
    """Load the CLIP that an export was trained on; see `Segmenter.load`."""
    hint = "(--set clip.weights=PATH, or clip_weights=PATH in Python)"
    source = weights or recorded["weights"]
    if not source:
        raise DataError(
            f"{path} was trained on CLIP weights from a file of {recorded['model']}: say where it is {hint}"
        )
    config = ClipConfig(
        model=recorded["model"],
        weights=source,
        seed=recorded["seed"],
        quick_gelu=recorded["quick_gelu"],
        precision=recorded["precision"],
    )
    clip = FrozenClip(config, resolve_device(device))
    if clip.fingerprint() != recorded["fingerprint"]:
        raise DataError(f"CLIP weights {source} are not those that {path} was trained on: give the same ones {hint}")
    return config, clip
