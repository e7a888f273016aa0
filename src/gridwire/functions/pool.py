"""The worker processes of one app: started when there is work, replaced when they die or hang, ended when idle.

    submit -> the process with the least to do -> its writer thread -> socket -> worker
    done   <- its reader thread                                     <- socket <-

A task ends in exactly one way: `done` with a result; `died` or `hung` when its process was lost while it ran; `lost`
when its process was lost before it began, which says nothing about the task.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import structlog

from gridwire.functions.frames import BATCH, DONE, READY, Channel
from gridwire.functions.model import App, Result

DEPTH: Final = 2
"""Batches a process is given at a time: the next one waits in its socket while it works on one."""

WATCH_S: Final = 0.05
"""How soon a call that takes too long is noticed."""

START_S: Final = 120.0
"""How long an app may take to load."""

BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before a process is started again that ended before it was ready; the last one repeats."""

Fate = Literal["done", "died", "hung", "lost"]

log = structlog.get_logger("gridwire.functions")


@dataclass(slots=True)
class Task:
    """A frame on its way. `ended` is called once, from any thread."""

    kind: int
    parts: list[Any]
    timeout_s: float
    ended: Callable[[Fate, Result], None]
    sent: bool = False
    began: float = 0.0


@dataclass(slots=True)
class Process:
    """One worker."""

    popen: subprocess.Popen[bytes]
    channel: Channel
    started: float
    outgoing: queue.SimpleQueue[tuple[int, Task] | None] = field(default_factory=queue.SimpleQueue)
    tasks: dict[int, Task] = field(default_factory=dict)
    ready: bool = False
    leaving: bool = False
    hung: int = -1
    idle_since: float = 0.0

    @property
    def batches(self) -> int:
        """Batches it has."""
        return sum(task.kind == BATCH for task in self.tasks.values())


class Pool:
    """See the module. Methods may be called from any thread.

    Args:
        command: what starts a worker, before its arguments. environment: of the workers.
        keep: descriptors that workers inherit.
        beneath: where a blob is read that is not among `blobs`; nothing is written there.
    """

    def __init__(
        self,
        directory: Path,
        blobs: Path,
        *,
        beneath: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: Any = None,
        command: tuple[str, ...] = (sys.executable, "-m", "gridwire.functions.worker"),
        keep: tuple[int, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app: App | None = None
        self.starts = self.deaths = self.timeouts = 0
        self.start_s: list[float] = []
        """How long the last starts took until the app was loaded."""
        self._directory = directory
        self._blobs = [str(blobs), *([] if beneath is None else [str(beneath)])]
        self._environment = dict(environment) if environment is not None else None
        self._output = output
        self._command, self._keep = command, keep
        self._clock = clock
        self._lock = threading.Condition()
        self._processes: list[Process] = []
        self._waiting: list[Task] = []
        self._number = 0
        self._wanted = 1
        self._failures = 0
        self._start_after = 0.0
        self._closed = False
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    # -- what the host asks ---------------------------------------------------------------------------------------

    def learn(self, timeout_s: float = START_S) -> App:
        """Load the app in a worker and tell what is in it. Raises TimeoutError."""
        with self._lock:
            self._start_if_none()
            if not self._lock.wait_for(lambda: self.app is not None, timeout_s):
                raise TimeoutError(f"the app was not loaded within {timeout_s:.0f} s")
            assert self.app is not None
            return self.app

    def room(self) -> int:
        """Batches that may be submitted now."""
        with self._lock:
            busy = sum(process.batches for process in self._processes) + len(self._waiting)
            return max(1, len(self._alive())) * DEPTH - busy

    def count(self) -> int:
        """Processes there are, those that start included."""
        with self._lock:
            return len(self._alive())

    def pids(self) -> list[int]:
        """Process ids, oldest first."""
        with self._lock:
            return [process.popen.pid for process in self._alive()]

    def idle_s(self) -> float:
        """How long nothing has been to do."""
        with self._lock:
            if self._waiting or any(process.tasks for process in self._processes):
                return 0.0
            now = self._clock()
            return min((now - process.idle_since for process in self._processes), default=0.0)

    def want(self, count: int) -> None:
        """Have so many processes; more are started, idle ones end."""
        with self._lock:
            self._wanted = count
            alive = self._alive()
            for process in alive[count:]:
                self._leave(process)
            while len(self._alive()) < count and self._may_start():
                self._start()

    def submit(self, kind: int, parts: list[Any], timeout_s: float, ended: Callable[[Fate, Result], None]) -> None:
        """Have a frame answered; starts a process when there is none."""
        task = Task(kind, parts, timeout_s, ended)
        with self._lock:
            closed = self._closed
            if not closed:
                self._waiting.append(task)
                self._start_if_none()
                self._hand_out()
        if closed:
            ended("lost", Result(error="the host is stopping"))

    def close(self, kill: bool = False) -> None:
        """End all processes: at once, or when they have done what they have."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            for process in self._processes:
                if kill:
                    process.popen.kill()
                else:
                    self._leave(process)
            self._lock.notify_all()
        for task in waiting:
            task.ended("lost", Result(error="the host is stopping"))
        for process in list(self._processes):
            try:
                process.popen.wait(10)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()

    # -- processes --------------------------------------------------------------------------------------------------

    def _alive(self) -> list[Process]:
        return [process for process in self._processes if not process.leaving]

    def _may_start(self) -> bool:
        return not self._closed and self._clock() >= self._start_after

    def _start_if_none(self) -> None:
        if not self._alive() and self._may_start():
            self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with contextlib.suppress(OSError):
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        number = theirs.fileno()
        popen = subprocess.Popen(
            [*self._command, str(number), str(self._directory), *self._blobs],
            stdin=subprocess.PIPE, stdout=self._output, stderr=self._output, pass_fds=(number, *self._keep),
            env=self._environment,
        )  # fmt: skip
        theirs.close()
        process = Process(popen, Channel(ours), self._clock(), idle_since=self._clock())
        self._processes.append(process)
        self.starts += 1
        threading.Thread(target=self._read, args=(process,), name="worker", daemon=True).start()
        threading.Thread(target=self._write, args=(process,), name="worker-out", daemon=True).start()

    def _leave(self, process: Process) -> None:
        """Let a process end once it has nothing to do."""
        process.leaving = True
        if not process.tasks:
            process.outgoing.put(None)

    def _hand_out(self) -> None:
        """Give waiting tasks to processes that are ready, the least busy first."""
        while self._waiting:
            able = [p for p in self._alive() if p.ready and (self._waiting[0].kind != BATCH or p.batches < DEPTH)]
            if not able:
                return
            process = min(able, key=lambda each: len(each.tasks))
            task = self._waiting.pop(0)
            self._number += 1
            if not any(other.kind == task.kind == BATCH for other in process.tasks.values()):
                task.began = self._clock()
            process.tasks[self._number] = task
            process.outgoing.put((self._number, task))

    def _write(self, process: Process) -> None:
        """Send what a process is given, until it ends."""
        while (item := process.outgoing.get()) is not None:
            number, task = item
            try:
                process.channel.send(task.kind, number, *task.parts)
            except OSError:
                return
        process.channel.close()

    def _read(self, process: Process) -> None:
        """Take answers until the process is gone."""
        try:
            while True:
                kind, number, body = process.channel.receive()
                if kind == READY:
                    self._on_ready(process, msgspec.msgpack.decode(body, type=App))
                elif kind == DONE:
                    self._on_done(process, number, msgspec.msgpack.decode(body, type=Result))
        except (OSError, msgspec.MsgspecError):
            pass
        self._on_end(process)

    def _on_ready(self, process: Process, app: App) -> None:
        with self._lock:
            self.app = app
            process.ready = not app.problems
            process.idle_since = self._clock()
            if process.ready:
                self._failures = 0
                self.start_s = [*self.start_s[-99:], self._clock() - process.started]
            self._hand_out()
            self._lock.notify_all()

    def _on_done(self, process: Process, number: int, result: Result) -> None:
        with self._lock:
            task = process.tasks.pop(number, None)
            now = self._clock()
            following = next((other for other in process.tasks.values() if other.kind == BATCH), None)
            if following is not None and not following.began:
                following.began = now
            if not process.tasks:
                process.idle_since = now
                if process.leaving:
                    process.outgoing.put(None)
            self._hand_out()
        if task is not None:
            task.ended("done", result)

    def _on_end(self, process: Process) -> None:
        """A process is gone: what it was doing failed, what waited in it did not."""
        process.channel.close()
        process.outgoing.put(None)
        try:
            code = process.popen.wait(5)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            code = process.popen.wait()
        if process.popen.stdin is not None:
            process.popen.stdin.close()
        with self._lock:
            if process in self._processes:
                self._processes.remove(process)
            tasks, process.tasks = process.tasks, {}
            if not process.ready:
                pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
                self._failures += 1
                self._start_after = self._clock() + pause_s
            if tasks or not (process.ready or process.leaving):
                self.deaths += 1
                if not self._closed:
                    log.warning(
                        "worker ended", code=code, hung=process.hung >= 0, calls=len(tasks), ready=process.ready
                    )
            if self._waiting or (tasks and not self._closed):
                self._start_if_none()
            self._lock.notify_all()
        for number, task in tasks.items():
            if number == process.hung:
                task.ended("hung", Result(error=f"TimeoutError: the call took longer than {task.timeout_s:g} s"))
            elif task.began:
                task.ended("died", Result(error=f"the worker process ended while it worked ({_exit_text(code)})"))
            else:
                task.ended("lost", Result(error="the worker process ended before the call began"))

    def _watch(self) -> None:
        """Kill processes whose call takes too long; start again what could not be started."""
        while True:
            with self._lock:
                self._lock.wait(WATCH_S)
                if self._closed:
                    return
                now = self._clock()
                for process in self._processes:
                    late = next((n for n, t in process.tasks.items() if t.began and now - t.began > t.timeout_s), None)
                    if late is not None and process.hung < 0:
                        process.hung = late
                        self.timeouts += 1
                        process.popen.kill()
                    elif not process.ready and now - process.started > START_S:
                        process.popen.kill()
                if self._waiting:
                    self._start_if_none()


def _exit_text(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
