"""The same bytes for any number of workers and threads and any size of shards: real stages, where kernels differ.

With the bundled weights an image has 257 tokens and some tens of regions: at these sizes the matrix kernels of common
libraries do round otherwise with two threads than with one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("shapes.train_scenes=20", "shapes.val_scenes=5", "train.steps=4", "train.batch=4"),
    *("report.quality_images=0", "report.examples=1", "report.worst=1"),
)
# the last stage, workers, threads a process, images a shard
ONE_WORKER = ("Evaluate", 1, 1, 128)
OTHERS = {
    "threads": ("EmbedRegions", 1, 2, 7),  # training adds up gradients by threads, so its last bits depend on them
    "more workers than cores": ("Evaluate", 4, 1, 5),
}


def contents(folder: Path, stage: str, workers: int, threads: int, shard_size: int) -> dict[str, dict[str, str]]:
    """Run a stage in a process of its own, and return the content digests of all stages on the way."""
    runtime = (f"runtime.threads={threads}", f"runtime.shard_size={shard_size}", f"runtime.workers={workers}")
    command = [sys.executable, "run_pipeline.py", stage, "--artifacts", str(folder), "--set", *SETTINGS, *runtime]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifests = [json.loads(path.read_text()) for path in folder.glob("shapes/*/*/manifest.json")]
    return {manifest["stage"]: manifest["content"] for manifest in manifests}


@pytest.mark.long
def test_workers_threads_and_shards_change_no_byte(tmp_path: Path) -> None:
    first = contents(tmp_path / "one", *ONE_WORKER)
    for name, way in OTHERS.items():
        found = contents(tmp_path / name, *way)
        assert len(found) >= 5 and found == {stage: first[stage] for stage in found}, name
