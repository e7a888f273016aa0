"""Who keeps an app's timers: of all hosts the one that has the only partition of a hub without events.

    host 1  <- lease: partition 0 of timers.APP -+   group timers.APP; its position never moves, its note says
    host 2  <- nothing, until host 1 is gone    -+   when each timer fired last and fires next

A firing's outputs and the new note are one commit. A host that lost the lease meanwhile cannot commit: the group
refuses it, and whoever has the lease now fires that time again. So a time has its effects once, whichever host dies.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import structlog

from gridwire.broker.port import EventSource, Place
from gridwire.core.errors import FencedEpoch, GridwireError, Rebalanced
from gridwire.functions.model import Published
from gridwire.functions.publisher import outputs_of
from gridwire.functions.stream import RETRY_S, OpenSource

LOOK_S: Final = 0.2
"""How soon it is noticed that the lease came or went, and how long a commit may wait."""

_Asked = tuple[int, Sequence[Published], str, "Future[None]"]

log = structlog.get_logger("gridwire.functions")


class Lease:
    """One thread with one source. `close` lets go of the lease at once; a host that is killed loses it in time.

    `term` is 0 while another host has the lease, else a number that is another one whenever it was taken anew; `note`
    is what the holder before left. Both are for any thread to read: `note` is set before `term`.
    """

    def __init__(self, name: str, open_source: OpenSource) -> None:
        self.term = 0
        self.note = ""
        self.fenced = False
        self._place: Place = (name, 0)
        self._open = open_source
        self._taken = 0
        self._number = -1
        self._turn = 0
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def save(self, term: int, published: Sequence[Published], note: str) -> Future[None]:
        """Outputs and note become durable together. Raises (through the future) Rebalanced: the lease is gone."""
        future: Future[None] = Future()
        self._asked.put((term, published, note, future))
        return future

    def close(self) -> None:
        """Save what was asked for, then let go."""
        self._closing.set()
        self._thread.join(30)

    def _run(self) -> None:
        failures = 0
        while not (self._closing.is_set() or self.fenced):
            source = None
            try:
                source = self._opened()
                while not self._closing.is_set():
                    source.poll(LOOK_S)
                    self._look(source)
                    self._answer(source)
                    failures = 0
                self._answer(source)
            except FencedEpoch:
                self.fenced = True
            except GridwireError as error:
                pause_s = RETRY_S[min(failures, len(RETRY_S) - 1)]
                failures += 1
                log.warning("lease of the timers lost", reason=str(error), retry_s=pause_s)
                self._closing.wait(pause_s)
            finally:
                self.term, self._number = 0, -1
                if source is not None:
                    source.close()
        self._refuse()

    def _opened(self) -> EventSource:
        """A member of the group, once the hub is there: a member of a hub that is made later notices late."""
        name = self._place[0]
        maker = self._open(name, [])
        try:
            maker.create_hub(name, 1)
        finally:
            maker.close()
        return self._open(name, [name])

    def _look(self, source: EventSource) -> None:
        number = source.assigned().get(self._place, -1)
        if number == self._number:
            return
        self._number, self.term = number, 0
        if number >= 0:
            known = source.committed().get(self._place)
            self.note = "" if known is None else known.metadata
            self._taken += 1
            self.term = self._taken

    def _answer(self, source: EventSource) -> None:
        while not self._asked.empty():
            term, published, note, future = self._asked.get()
            if not future.set_running_or_notify_cancel():
                continue  # the host stops: whoever keeps the timers next fires that time again
            try:
                if term != self.term:
                    raise Rebalanced("another host keeps the timers now")
                self._turn += len(published)
                outputs = outputs_of(source, published, self._turn)
                source.commit({self._place: source.positions()[self._place]}, outputs, note)
            except GridwireError as error:
                self.term = 0  # what was committed is not known: the next holder, who may be we, reads it
                future.set_exception(error)
                raise
            future.set_result(None)

    def _refuse(self) -> None:
        while not self._asked.empty():
            future = self._asked.get()[3]
            if future.set_running_or_notify_cancel():
                future.set_exception(Rebalanced("this host keeps no timers any more"))
