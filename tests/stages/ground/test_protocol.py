"""Every stage's module has what the pipeline calls, with the parameters of the protocol."""

import importlib
import inspect

import pytest

from split_matching.configs.load import load_config
from split_matching.pipeline.stages import make_plan
from split_matching.stages.ground.protocol import ShardedStageModule, StageModule

PLANS = [
    make_plan(load_config("shapes", overrides=overrides))
    for overrides in ([], ["features.persist=false", "train.features=online"])
]
MODULES = {stage.module: bool(stage.splits) for plan in PLANS for stage in plan.stages.values()}


@pytest.mark.parametrize("name", MODULES)
def test_a_stage_module_keeps_the_protocol(name: str) -> None:
    module = importlib.import_module(name)
    protocol = ShardedStageModule if MODULES[name] else StageModule
    assert isinstance(module, protocol)
    for function in ("fields", "run_shard") if MODULES[name] else ("run",):
        wanted = list(inspect.signature(getattr(protocol, function)).parameters)[1:]  # without self
        assert list(inspect.signature(getattr(module, function)).parameters) == wanted
