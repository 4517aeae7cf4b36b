"""Every stage's module has what the pipeline calls, with the parameters of the protocol."""

import importlib
import inspect

import pytest

from split_matching.pipeline.plan import FUSED, STAGES
from split_matching.stages.ground.protocol import ShardedStageModule, StageModule

MODULES = {stage.module: bool(stage.sharded) for stage in STAGES} | {str(FUSED["pseudo_masks"]["module"]): True}


@pytest.mark.parametrize("name", MODULES)
def test_a_stage_module_keeps_the_protocol(name: str) -> None:
    module = importlib.import_module(name)
    protocol = ShardedStageModule if MODULES[name] else StageModule
    assert isinstance(module, protocol)
    for function in ("fields", "run_shard") if MODULES[name] else ("run",):
        wanted = list(inspect.signature(getattr(protocol, function)).parameters)[1:]  # without self
        assert list(inspect.signature(getattr(module, function)).parameters) == wanted
