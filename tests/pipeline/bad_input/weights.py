"""Rows of files that are no weights of CLIP, or not these."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.pipeline.bad_input.place import WEIGHTS, Place, Row


class Evil:
    """Runs a command if somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def pickled(place: Place) -> None:
    import pickle

    place.weights(pickle.dumps(Evil(place.folder / "pwned")), "w.pt")


def scripted(place: Place) -> None:
    """The form in which OpenAI publishes its weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to give the format up
        torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)).save(str(place.folder / "w.pt"))
    place.set(f"clip.weights={place.folder / 'w.pt'}")


UNREAD = "cannot be read ("
WHOLE = "give a whole .safetensors file, a state dict saved by torch, or OpenAI's archive; pickles that need code are"
WEIGHTS_ROWS = [
    Row(
        "of another architecture",
        lambda p: p.set(f"clip.weights={WEIGHTS}", "clip.model=ViT-B-32", "clip.quick_gelu=false"),
        message=f"CLIP weights {WEIGHTS} do not fit ViT-B-32: ",
        verb="EmbedText",
    ),
    Row(
        "a tensor is missing",
        lambda p: p.tensors(lambda tensors: tensors.pop("visual.proj")),
        message="{weights} do not fit shapes-vit: visual.proj is missing; give clip.model the architecture that they",
        verb="EmbedText",
    ),
    Row(
        "a tensor of another size",
        lambda p: p.tensors(lambda tensors: tensors.update({"visual.proj": torch.zeros(3, 3)})),
        message="{weights} do not fit shapes-vit: visual.proj is 3 x 3, not 128 x 128; give clip.model the",
        verb="EmbedText",
    ),
    Row(
        "NaN",
        lambda p: p.tensors(lambda tensors: tensors["visual.proj"].view(-1)[5:6].fill_(float("nan"))),
        message="{weights} are damaged: visual.proj has values that are not finite; fetch them again",
        verb="ExtractFeatures",
    ),
    Row(
        "truncated",
        lambda p: p.weights(WEIGHTS.read_bytes()[:100_000]),
        message=f"{{weights}} {UNREAD}",
        verb="EmbedText",
    ),
    Row("zero bytes", lambda p: p.weights(b""), message=f"{{weights}} {UNREAD}", verb="EmbedText"),
    Row("text", lambda p: p.weights(b"404 Not Found"), message=WHOLE, verb="EmbedText"),
    Row(
        "a web page",
        lambda p: p.weights(b"<html>404"),
        message="are a web page, not weights: the download failed; fetch the file again",
        verb="EmbedText",
    ),
    Row("a pickle", pickled, message=f"{{pt}} {UNREAD}", verb="EmbedText"),
    Row(
        "a pickle inside torch's own format",
        lambda p: p.saved({"state_dict": Evil(p.folder / "pwned")}),
        message="{pt} hold more than weights (posix system): save its state dict as safetensors",
        verb="EmbedText",
    ),
    Row(
        "TorchScript of something else",
        scripted,
        message="{pt} do not fit shapes-vit: they hold no image tower; give a file with both towers of one training",
        verb="EmbedText",
    ),
    Row(
        "no tensors", lambda p: p.saved({}), message="{pt} do not fit shapes-vit: they hold no image", verb="EmbedText"
    ),
    Row(
        "absent",
        lambda p: p.set("clip.weights=/no.pt"),
        message="CLIP weights /no.pt for shapes-vit not found",
        verb="EmbedText",
    ),
    Row(
        "a folder",
        lambda p: p.set("clip.weights=/etc"),
        message="CLIP weights /etc for shapes-vit not found",
        verb="EmbedText",
    ),
    Row(
        "unknown tag",
        lambda p: p.set("clip.weights=best"),
        2,
        "clip.weights 'best' is not a file, nor a pretrained tag of shapes-vit: it has no tags, so give a path",
        "EmbedText",
    ),
    Row(
        "unknown model",
        lambda p: p.set("clip.model=ViT-B-33"),
        2,
        "clip.model 'ViT-B-33' is neither an open_clip architecture nor a file in configs/clip/",
        "EmbedText",
    ),
    Row(
        "model without a ViT",
        lambda p: p.set("clip.model=RN50"),
        2,
        "clip.model 'RN50' has no plain ViT tower",
        "EmbedText",
    ),
    Row(
        "not bundled",
        lambda p: p.set("clip.model=ViT-B-32", "clip.weights=bundled"),
        3,
        "bundled weights are for shapes-vit",
        "EmbedText",
    ),
    Row(
        "blocks that the model lacks",
        lambda p: p.set("features.decoder_blocks=[2,40]"),
        2,
        "features.decoder_blocks [2, 40] does not fit shapes-vit: its blocks are 1 to 4",
        "ExtractFeatures",
    ),
    Row("tensors in torch's own format", lambda p: p.saved(load_file(WEIGHTS)), 0, "", "EmbedText"),
]
