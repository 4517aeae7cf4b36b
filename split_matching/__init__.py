"""Split Matching: zero-shot semantic segmentation from cached CLIP features.

    import split_matching as sm

    run = sm.load_run("shapes")  # the fresh run of a config; or a key or a name that `runs` lists
    prediction = run.predict("photo.jpg", ["white checked", "purple plain"])
    prediction.labels, prediction.scores, prediction.regions
    run.metrics, run.pseudo_masks("train_000012"), run.features("train_000012")
    for run in sm.runs(): ...

In a checkout the folders `cache`, `configs`, `model`, `stages` and `pipeline` lie at the top, and links beside this
file make them one package; an installed package holds them here. Importing it imports nothing else: each name below is
looked up when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from split_matching.pipeline.api import TrainedRun, config, load_run, runs

_API = "split_matching.pipeline.api"

__all__ = ["TrainedRun", "config", "load_run", "runs"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_API), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
