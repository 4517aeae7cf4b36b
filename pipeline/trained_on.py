"""`--trained-on`: evaluates a decoder on another data set than that of its training, with the settings of its run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from split_matching.configs.load import load_config
from split_matching.configs.user_path import user_path
from split_matching.errors import DataError
from split_matching.pipeline.stages import make_plan
from split_matching.pipeline.trained_run import segmenter_of

EXPORT_ENDING = ".safetensors"


def take_over(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the config values that evaluate a decoder on another data set.

    Args:
        name: an exported decoder (.safetensors); or a data set, as after --dataset, whose run is trained and fresh.
        overrides: `section.key=value` of the command line; of those the ones of `clip` and `runtime` choose the run.

    Returns:
        Sections of the config: where the exported decoder is, and its settings.

    Raises:
        UserError: no such export or data set, or its decoder is not trained.
    """
    from split_matching.stages.inference.exported_decoder import read_export

    own: dict[str, Any] = {}
    if name.endswith(EXPORT_ENDING):
        path = user_path(name).absolute()
    else:
        path, own["weights"] = _export(name, [text for text in overrides if text.startswith(("clip.", "runtime."))])
    about, _ = read_export(path)
    clip = {key: about["clip"][key] for key in ("model", "seed", "quick_gelu", "precision")}
    if about["clip"]["weights"]:
        own["weights"] = about["clip"]["weights"]
    values = {section: dict(settings) for section, settings in about["config"].items()}
    values["evaluate"]["trained_on"] = str(path)
    return {**values, "clip": {**clip, **own}}


def _export(dataset: str, overrides: Sequence[str]) -> tuple[Path, str]:
    """Export the trained decoder of a data set into the cache, unless it is there; also return its CLIP weights."""
    plan = make_plan(load_config(dataset, overrides=overrides))
    root = plan.config.data.root
    if plan.config.data.layout != "shapes" and not (root and root.is_dir()):
        where = f"its data are not at {root}" if root else "its data.root is not set"
        raise DataError(
            f"--trained-on {dataset}: {where}, so its key is unknown: `export` the decoder where its data are, and "
            f"give that file: --trained-on NAME{EXPORT_ENDING}"
        )
    segmenter = segmenter_of(plan, ["--dataset", dataset])
    # the file holds settings of inference too, so its name must change with them
    path = plan.root.absolute() / plan.config.dataset / "exports" / f"{segmenter.identity[:16]}{EXPORT_ENDING}"
    if not path.is_file():
        segmenter.save(path)
    return path, plan.config.clip.weights
