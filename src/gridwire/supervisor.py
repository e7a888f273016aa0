"""Worker processes: started when wanted, restarted when they die, stopped when not wanted any more.

A worker holds the read end of a pipe as its standard input; when the hub dies, however it dies, the pipe closes and the
worker ends itself. So a killed hub leaves nobody behind who could fight with the next hub's workers. Each worker
leads a process group of its own; what is left of it when the worker ends is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

STOP_S: Final = 20.0
"""Time a worker has to finish its batch, commit and save its state."""

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
HEALTHY_S: Final = 60.0
"""A worker that ran this long starts over with the shortest back-off."""

Command = tuple[str | Sequence[str], Sequence[str]]
"""The group, or the groups, that a worker reads with, and its argv."""

log = structlog.get_logger("gridwire.supervisor")


@dataclass(slots=True)
class Worker:
    """One wanted worker and what became of it."""

    name: str
    command: tuple[str, ...]
    groups: tuple[str, ...]
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    state: str = "starting"
    task: asyncio.Task[None] | None = None

    def describe(self) -> dict[str, Any]:
        """For status pages."""
        pid = self.process.pid if self.process is not None and self.state == "running" else None
        told = {"name": self.name, "pid": pid, "state": self.state, "restarts": self.restarts}
        return {**told, "group": self.groups[0] if self.groups else "", "groups": self.groups}


class Supervisor:
    """Keeps exactly the wanted workers running."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}

    def describe(self) -> list[dict[str, Any]]:
        """All workers for status pages."""
        return [worker.describe() for worker in self._workers.values()]

    async def want(self, commands: Mapping[str, Command]) -> None:
        """Make the running workers those of `commands`; a changed argv restarts its worker: the old one ends first."""
        gone = [
            name
            for name, worker in self._workers.items()
            if name not in commands or tuple(commands[name][1]) != worker.command
        ]
        await asyncio.gather(*(self._stop(self._workers[name]) for name in gone))
        for name in gone:
            del self._workers[name]
        for name, (groups, argv) in commands.items():
            if name not in self._workers:
                worker = Worker(name, tuple(argv), (groups,) if isinstance(groups, str) else tuple(groups))
                worker.task = asyncio.create_task(self._run(worker))
                self._workers[name] = worker

    async def stop(self) -> None:
        """Stop all workers, together."""
        await asyncio.gather(*(self._stop(worker) for worker in self._workers.values()))
        self._workers.clear()

    async def _run(self, worker: Worker) -> None:
        backoff_s = BACKOFF_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            code = await self._run_once(worker)
            if loop.time() - started > HEALTHY_S:
                backoff_s = BACKOFF_FIRST_S
            worker.state = "restarting"
            worker.restarts += 1
            log.warning("worker ended, restarting", worker=worker.name, code=code, in_s=backoff_s)
            await asyncio.sleep(backoff_s)
            backoff_s = min(BACKOFF_MAX_S, backoff_s * 2)

    async def _run_once(self, worker: Worker) -> int | str:
        """Exit code, or why it could not be started."""
        try:
            worker.process = await asyncio.create_subprocess_exec(
                *worker.command, stdin=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            return str(error)
        worker.state = "running"
        log.info("worker started", worker=worker.name, pid=worker.process.pid)
        code = await worker.process.wait()
        _end_children(worker.process.pid)
        return code

    async def _stop(self, worker: Worker) -> None:
        if worker.task is not None:
            worker.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker.task
        process = worker.process
        if process is None or process.returncode is not None:
            return
        worker.state = "stopping"
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            log.error("worker did not stop in time, killed", worker=worker.name)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        _end_children(process.pid)


def _end_children(leader: int) -> None:
    """What a worker that ended has left behind: user code that is deaf to everything must not hold up the next one."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
