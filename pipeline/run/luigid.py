"""What differs when processes on several machines share luigi's central scheduler.

The scheduler only says who does what: whether something is done is asked of the cache, and locks on files of the cache
keep two processes off the same shard even where the scheduler is wrong. So nothing that it forgets or mistakes can harm
a result: a round that ends before the wanted stage is fresh is followed by another, which registers every open task
again. That also revives tasks of a worker that died: the scheduler calls them failed some time after the last sign of
life (its `worker_disconnect_delay`, one minute by default, looked at every minute).
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import luigi.configuration
import luigi.parameter
import luigi.rpc

from split_matching.configs.runtime_settings import RuntimeConfig
from split_matching.errors import ConfigError, UserError

IDLE_SECONDS = 5  # how long a worker without work asks for some before its round ends
PAUSE_SECONDS = 2.0  # between two rounds
RPC = {"rpc-connect-timeout": "10", "rpc-retry-attempts": "7", "rpc-retry-wait": "5"}  # a scheduler may restart


def scheduler_of(runtime: RuntimeConfig) -> dict[str, Any]:
    """Set up luigi for the scheduler that a config names, and return the arguments for `luigi.build`.

    Raises:
        ConfigError: no scheduler answers there.
    """
    if not runtime.scheduler:
        return {"local_scheduler": True}
    settings = luigi.configuration.get_config()
    url = f"http://{runtime.scheduler}"
    settings.set("core", "rpc-retry-attempts", "1")
    found: Any = luigi.rpc.RemoteScheduler(url, connect_timeout=5)
    try:
        found.is_paused()
    except (luigi.rpc.RPCError, json.JSONDecodeError, KeyError, TypeError):
        port = runtime.scheduler.rpartition(":")[2]
        raise ConfigError(
            f"no luigi scheduler answers at {runtime.scheduler}: start one there with `luigid --port {port}`, "
            "or leave --scheduler out"
        ) from None
    # luigi reads these settings, and then warns that it did not
    warnings.filterwarnings("ignore", category=luigi.parameter.UnconsumedParameterWarning)
    for name, value in RPC.items():
        settings.set("core", name, value)
    settings.set("worker", "keep_alive", "true")
    settings.set("worker", "max_keep_alive_idle_duration", str(IDLE_SECONDS))
    return {"scheduler_url": url}


@contextlib.contextmanager
def loss_named(runtime: RuntimeConfig) -> Iterator[None]:
    """Turn the loss of the scheduler inside the block into one line."""
    try:
        yield
    except luigi.rpc.RPCError:
        raise UserError(
            f"the scheduler {runtime.scheduler} does not answer any more; finished stages and shards are kept: "
            "start it, and this command, again"
        ) from None
