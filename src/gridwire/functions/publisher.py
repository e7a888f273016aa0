"""Outputs of functions that read no hub: HTTP, timers, Event Grid. Durable before the caller is answered."""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future

from gridwire.broker.port import EventSource, Output, Place
from gridwire.core.batch import Event
from gridwire.core.errors import FencedEpoch, GridwireError, Unavailable, UnknownHub
from gridwire.functions.model import Published
from gridwire.functions.stream import OpenSource, spread


class Publisher:
    """One thread with a source that reads nothing; what waits together is committed together.

    It subscribes to a hub of its group's name that nobody makes: a source without a subscription takes no group, and
    without a group nothing fences the host before this one.
    """

    def __init__(self, group: str, open_source: OpenSource) -> None:
        self.fenced = False
        self._group, self._open = group, open_source
        self._asked: queue.SimpleQueue[tuple[Sequence[Published], Future[None]] | None] = queue.SimpleQueue()
        self._source: EventSource | None = None
        self._turn = 0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def publish(self, published: Sequence[Published]) -> Future[None]:
        """Done once the events are as durable as the hub promises. Raises (through the future) GridwireError."""
        future: Future[None] = Future()
        if published:
            self._asked.put((published, future))
        else:
            future.set_result(None)
        return future

    def close(self) -> None:
        """Publish what was asked for, then let go."""
        self._asked.put(None)
        self._thread.join(30)

    def _run(self) -> None:
        while (first := self._asked.get()) is not None:
            asked = [first]
            last = False
            while not self._asked.empty():
                more = self._asked.get()
                if more is None:
                    last = True
                    break
                asked.append(more)
            self._commit(asked)
            if last:
                break
        if self._source is not None:
            self._source.close()

    def _commit(self, asked: list[tuple[Sequence[Published], Future[None]]]) -> None:
        asked = [each for each in asked if each[1].set_running_or_notify_cancel()]  # nobody waits for the others
        try:
            self._attempt([published for each, _ in asked for published in each])
        except GridwireError as error:
            self.fenced = self.fenced or isinstance(error, FencedEpoch)
            self._drop()
            for _, future in asked:
                future.set_exception(error)
        else:
            for _, future in asked:
                future.set_result(None)

    def _attempt(self, published: list[Published]) -> None:
        """Commit; once more over a new source when the old one was lost before anything was sent."""
        if self._source is None:
            self._source = self._open(self._group, [self._group])
        self._turn += len(published)
        try:
            outputs = outputs_of(self._source, published, self._turn)
        except Unavailable:  # the hub was restarted since
            self._drop()
            self._source = self._open(self._group, [self._group])
            outputs = outputs_of(self._source, published, self._turn)
        self._source.commit({}, outputs)

    def _drop(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


def outputs_of(source: EventSource, published: Sequence[Published], turn: int) -> list[Output]:
    """Outputs by hub and partition; hubs that are not there are made. Events without a key go to partitions in turn."""
    found: dict[Place, list[Event]] = defaultdict(list)
    for number, each in enumerate(published):
        try:
            count = source.partitions(each.hub)
        except UnknownHub:
            source.create_hub(each.hub)
            count = source.partitions(each.hub)
        for place, events in spread(each, turn + number, count).items():
            found[place] += events
    return [Output(hub, partition, events) for (hub, partition), events in found.items()]
