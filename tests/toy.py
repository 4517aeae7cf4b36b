"""A small pipeline of toy stages, driven through the real command line: numbers -> list -> squares -> total -> page.

Its stage modules are written into a temporary folder, so that tests can edit their code. Every image that is made is
logged to a file, so that tests can count what ran.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from types import MappingProxyType

from split_matching.cache import code as code_module
from split_matching.cache.code import module_closure
from split_matching.configs.schema import Config
from split_matching.pipeline import stages
from split_matching.pipeline.plan import Stage

MODULES = {
    "__init__": "",
    "log": """
import json
import os
from pathlib import Path

def log(word):
    with open(Path(os.environ["TOY_FOLDER"]) / "log.txt", "a") as stream:
        stream.write(f"{word}\\n")

def trouble():
    path = Path(os.environ["TOY_FOLDER"]) / "trouble.txt"
    return path.read_text() if path.exists() else ""

def edit():  # a file here while the run goes on, once
    path = Path(os.environ["TOY_FOLDER"]) / "edit.json"
    if path.exists():
        name, old, new = json.loads(path.read_text())
        path.unlink()
        file = Path(__file__).with_name(name)
        file.write_text(file.read_text().replace(old, new))
""",
    "numbers": '''
"""Doc."""
import json
from toy_stages.log import edit, log

FIRST = 0

def run(ctx):
    """Doc."""
    log("numbers")
    edit()
    numbers = [f"{FIRST + i:04d}" for i in range(ctx.config.shapes.train_scenes)]
    (ctx.out / "numbers.json").write_text(json.dumps(numbers))
    return {"images": len(numbers)}
''',
    "listing": """
import json
from toy_stages.log import log

def run(ctx):
    log("listing")
    ids = [{"id": number} for number in ctx.inputs["shapes"].json("numbers.json")]
    (ctx.out / "images.json").write_text(json.dumps({"train": ids, "val": ids[:3]}))
    return {}
""",
    "squares": """
import os
import signal
import time

import numpy as np

from split_matching.cache.shard_format import Field
from split_matching.errors import DataError
from toy_stages.log import log, trouble

KIND = "squares"

def fields(config):
    return {"x": Field("int64", 1)}

def run_shard(ctx, shard, writer):
    for done, image_id in enumerate(shard.ids, 1):
        what, _, where = trouble().partition(" ")
        if where == image_id:
            if what == "data":
                raise DataError(f"image {image_id} is unreadable: mend it")
            if what == "bug":
                raise ZeroDivisionError("a bug\\nof two lines")
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "wait":
                log("waiting")
                time.sleep(60)
        writer.add(image_id, x=np.full(2, int(image_id) ** 2 * ctx.config.pseudo_masks.k))
        log(f"square {shard.split} {image_id}")
        ctx.progress(done, len(shard.ids))
""",
    "total": """
from toy_stages.log import log, trouble

def run(ctx):
    saved = ctx.out / "checkpoint.txt"
    log(f"total from {saved.read_text() if saved.exists() else 0}")
    saved.write_text("5")
    if trouble() == "total":
        raise RuntimeError("no total")
    from toy_stages.scale import SCALE
    squares = ctx.inputs["squares"].shards("train")
    total = SCALE * sum(int(squares.read(i, "x")[0]) for i in squares.ids)
    (ctx.out / "total.txt").write_text(str(total if ctx.config.train.steps else 0))
    return {"total": total}
""",
    "scale": """
SCALE = 1
""",
    "page": """
from toy_stages.log import log

def run(ctx):
    log("page")
    total = ctx.inputs["total"].file("total.txt").read_text()
    (ctx.out / "page.html").write_text(f"<p>{total}</p>")
    return {}
""",
}


class Numbers(Stage):
    """Toy."""

    name = "shapes"
    makes = "numbers"
    module = "toy_stages.numbers"
    reads = ("shapes",)

    @classmethod
    def exists(cls, config: Config) -> bool:
        """As RenderShapes: other data sets have raw files instead."""
        return config.data.layout == "shapes"


class Listing(Stage):
    """Toy."""

    name = "dataset"
    makes = "lists"
    module = "toy_stages.listing"
    builds_on = MappingProxyType({"shapes": ()})


class Squares(Stage):
    """Toy."""

    name = "squares"
    makes = "squares"
    module = "toy_stages.squares"
    reads = ("pseudo_masks",)
    builds_on = MappingProxyType({"dataset": ("images.json",)})
    splits = ("train", "val")


class Total(Stage):
    """Toy."""

    name = "total"
    makes = "the sum"
    module = "toy_stages.total"
    reads = ("train",)
    builds_on = MappingProxyType({"squares": ("train",)})
    resumes = True


class Page(Stage):
    """Toy."""

    name = "page"
    makes = "a page"
    module = "toy_stages.page"
    builds_on = MappingProxyType({"total": (), "dataset": ()})
    output = "page.html"


TABLE = (Numbers, Listing, Squares, Total, Page)


def write_modules(folder: Path) -> None:
    """Write the toy stages below a folder."""
    (folder / "toy_stages").mkdir(parents=True)
    for name, text in MODULES.items():
        (folder / "toy_stages" / f"{name}.py").write_text(text, encoding="utf-8")


def install(folder: Path) -> None:
    """Put the toy stages of a folder in place of the real ones, in this process."""
    importlib.import_module("split_matching.pipeline.run.tasks")  # makes the tasks of the real ones
    stages.STAGES = TABLE
    code_module.module_closure = functools.partial(module_closure, packages=("toy_stages",), root=folder)
    code_module.forget_code()
    for name in [name for name in sys.modules if name.startswith("toy_stages")]:
        del sys.modules[name]
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


if __name__ == "__main__":
    from split_matching.pipeline.cli import main
    from split_matching.streams import prepare_streams

    prepare_streams()

    install(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
