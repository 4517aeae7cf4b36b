"""The settings of a run that change no result: where, how fast, by whom. See `configs.settings`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from split_matching.configs.section import RUNTIME, Section
from split_matching.configs.settings import NonNegative, Positive

SLURM_OPTION = re.compile(r"--[a-z][a-z-]*(=[^\n]+)?")
SLURM_OWN = ("array", "dependency", "job-name", "output", "error", "wrap")
"""Options of sbatch that the engine gives itself."""


class RuntimeConfig(Section):
    """Where and how fast: no field here may change a result."""

    artifacts: Path = Field(
        Path("artifacts"),
        description="Folder of the cache. Default: artifacts/ in the checkout; of an installed package, in the working "
        "folder.",
        json_schema_extra=RUNTIME,
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda when there.", json_schema_extra=RUNTIME
    )
    workers: Positive = Field(
        1, description="Processes for sharded stages; with Slurm, tasks of a job array.", json_schema_extra=RUNTIME
    )
    engine: Literal["processes", "slurm"] = Field(
        "processes",
        description="Who makes shards and stages: processes here, or jobs of Slurm, submitted through submitit.",
        json_schema_extra=RUNTIME,
    )
    slurm: str = Field(
        "",
        description="Options of sbatch for these jobs, --time among them: `--time=240 --gpus-per-node=1`.",
        json_schema_extra=RUNTIME,
    )
    scheduler: str | None = Field(
        None,
        description="HOST:PORT of a luigid that several machines share; null: this process schedules for itself.",
        json_schema_extra=RUNTIME,
    )
    remote: str | None = Field(
        None,
        description="Address of fsspec (s3://, gs://, ssh://, file://) with shared artifacts; runs read through it.",
        json_schema_extra=RUNTIME,
    )
    threads: NonNegative = Field(
        0,
        description="CPU threads a process; 0: cores / workers, all cores for training (its last bits depend on them).",
        json_schema_extra=RUNTIME,
    )
    shard_size: Positive = Field(128, description="Images a shard.", json_schema_extra=RUNTIME)
    batch: Positive = Field(16, description="Images a forward pass outside training.", json_schema_extra=RUNTIME)
    cache_mb: NonNegative = Field(
        2048,
        description="Memory for decoded training items, in MB; beyond it they are read again.",
        json_schema_extra=RUNTIME,
    )

    @field_validator("scheduler")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        if address is not None and not re.fullmatch(r"[^\s/:]+:\d{1,5}", address):
            raise ValueError(f"{address!r} is no address: expected HOST:PORT, e.g. node1:8082")
        return address

    @field_validator("remote")
    @classmethod
    def _is_given(cls, address: str | None) -> str | None:
        if address is not None and not address.strip():
            raise ValueError("is empty: expected an address, e.g. s3://bucket/path")
        return address

    @field_validator("slurm")
    @classmethod
    def _are_options(cls, text: str) -> str:
        for word in shlex.split(text):
            if not SLURM_OPTION.fullmatch(word):
                raise ValueError(f"{word!r} is no option of sbatch: expected --NAME=VALUE, e.g. --time=240")
            if word[2:].partition("=")[0] in SLURM_OWN:
                raise ValueError(f"{word!r} is given to sbatch already: leave it out")
        return text

    @model_validator(mode="after")
    def _jobs_have_a_time(self) -> RuntimeConfig:
        if self.engine == "slurm" and "time" not in self.slurm_options:
            raise ValueError("runtime.engine slurm needs the time limit of a job in runtime.slurm: e.g. --time=240")
        if self.engine == "slurm" and self.scheduler:
            raise ValueError("runtime.engine slurm needs no runtime.scheduler: leave one of them out")
        return self

    @property
    def slurm_options(self) -> dict[str, str | bool]:
        """`slurm` by name; True for an option without a value."""
        words = [word[2:].partition("=") for word in shlex.split(self.slurm)]
        return {name: value if equals else True for name, equals, value in words}
