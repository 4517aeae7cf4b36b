"""luigi's worker, which starts a process for each task, with an end of our own when a run is interrupted."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import luigi.rpc
import luigi.scheduler
import luigi.worker

from split_matching.pipeline.run.ending import end_workers


class Worker(luigi.worker.Worker):
    """A worker that, when interrupted, gives its processes a limited time to end, and its tasks back at once.

    luigi's own can wait for a process without limit, and a central scheduler would have to find the worker dead.
    """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        if interrupted:
            end_workers()
        ended: bool = super().__exit__(kind, error, trace)
        if interrupted:
            with contextlib.suppress(luigi.rpc.RPCError):
                for task in self._running_tasks:
                    self._scheduler.add_task(worker=self._id, task_id=task, status=luigi.scheduler.FAILED)
        return ended


class WorkerFactory:
    """Makes what `luigi.build` asks for: its own schedulers, and our worker."""

    def create_local_scheduler(self) -> luigi.scheduler.Scheduler:
        """Return a scheduler of this process alone."""
        return luigi.scheduler.Scheduler(prune_on_get_work=True, record_task_history=False)

    def create_remote_scheduler(self, url: str) -> luigi.rpc.RemoteScheduler:
        """Return the central scheduler at an address."""
        return luigi.rpc.RemoteScheduler(url)

    def create_worker(self, scheduler: Any, worker_processes: int, assistant: bool = False) -> Worker:
        """Return a worker of a scheduler, of so many processes."""
        return Worker(scheduler=scheduler, worker_processes=worker_processes, assistant=assistant)
