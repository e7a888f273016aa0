"""`gridwire copy`, `gridwire replay`: events of a range to another hub, here or elsewhere.

Keys, headers and values stay as they were. Partition stays with partition where both hubs have as many; else the key
decides. An event may come twice when a copy is broken off and begun again; `gridwire move` is for what must not.
"""

from __future__ import annotations

import base64
import heapq
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

import msgspec
from cyclopts import Parameter

from gridwire.cli.client import HubClient, hub_path
from gridwire.cli.output import Common, print_json, say
from gridwire.core.batch import Event, encode
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import NOT_COPIED

PAGE_EVENTS: Final = 5_000
SENT_BYTES: Final = 4 * 1024 * 1024
"""Values of one request."""

TICK_S: Final = 0.05
"""Events of a replay that lie closer together are sent together."""


@Parameter(name="*")
@dataclass(frozen=True)
class Range:
    """Which events of a hub."""

    from_: Annotated[
        str, Parameter(name="--from", help="earliest, an offset, -N for the last N, or a time of each partition")
    ] = "earliest"
    to: Annotated[str, Parameter(help="where to stop: latest (as of now), an offset or a time")] = "latest"
    where: Annotated[str | None, Parameter(help="only events for which this holds, such as 'load_kw > 100'")] = None
    partition: Annotated[int | None, Parameter(help="only this one")] = None


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Offsets [first, end) of one partition."""

    partition: int
    first: int
    end: int


def copy(
    hub: str,
    to_hub: str,
    *,
    events: Range = Range(),
    to_url: str | None = None,
    to_connection_string: str | None = None,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Copy events of a range to another hub.

    Args:
        hub: where from.
        to_hub: where to; it is created if need be.
        to_url: the HTTP address of another gridwire.
        to_connection_string: policy and key to sign in with there.
    """
    _Copy(hub, to_hub, events, common, to_url, to_connection_string).run(_as_fast_as_possible)


def replay(
    hub: str,
    to_hub: str,
    *,
    speed: float = 1.0,
    events: Range = Range(),
    to_url: str | None = None,
    to_connection_string: str | None = None,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Send events of a range again at the pace they came in, stamped with the time of now.

    Args:
        hub: where from.
        to_hub: where to; it is created if need be.
        speed: 10 is ten times as fast.
        to_url: the HTTP address of another gridwire.
        to_connection_string: policy and key to sign in with there.
    """
    if not speed > 0:
        raise GridwireError("--speed must be more than 0")
    _Copy(hub, to_hub, events, common, to_url, to_connection_string).run(lambda found: _paced(found, speed))


Placed = tuple[int, Event]
"""A partition and an event of it."""


class _Pace(Protocol):
    def __call__(self, found: list[Iterator[Placed]]) -> Iterator[list[Placed]]:
        """Events of all partitions, in the groups in which they are to be sent."""
        ...


def _as_fast_as_possible(found: list[Iterator[Placed]]) -> Iterator[list[Placed]]:
    for partition in found:
        group: list[Placed] = []
        size = 0
        for placed in partition:
            group.append(placed)
            size += len(placed[1].value or b"")
            if len(group) >= PAGE_EVENTS or size >= SENT_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group


def _paced(found: list[Iterator[Placed]], speed: float) -> Iterator[list[Placed]]:
    begun_s, first_ms = time.monotonic(), None
    group: list[Placed] = []
    due_s = 0.0
    for placed in heapq.merge(*found, key=lambda each: each[1].timestamp):
        first_ms = placed[1].timestamp if first_ms is None else first_ms
        at_s = (placed[1].timestamp - first_ms) / 1000 / speed
        if group and (at_s > due_s + TICK_S or len(group) >= PAGE_EVENTS):
            time.sleep(max(0.0, due_s - (time.monotonic() - begun_s)))
            yield _now(group)
            group = []
        if not group:
            due_s = at_s
        group.append(placed)
    if group:
        time.sleep(max(0.0, due_s - (time.monotonic() - begun_s)))
        yield _now(group)


def _now(group: list[Placed]) -> list[Placed]:
    now_ms = int(time.time() * 1000)
    return [(partition, Event(event.value, event.key, event.headers, now_ms)) for partition, event in group]


class _Copy:
    """One range from one hub to another, with progress."""

    def __init__(
        self, hub: str, to_hub: str, events: Range, common: Common, to_url: str | None, to_key: str | None
    ) -> None:
        self._hub, self._to_hub, self._events, self._common = hub, to_hub, events, common
        self._source = common.client()
        self._target = HubClient(to_url, connection_string=to_key) if to_url else self._source
        if hub == to_hub and not to_url:
            raise GridwireError("a hub cannot be copied to itself")

    def run(self, pace: _Pace) -> None:
        """Copy. Raises GridwireError, naming how much was copied before."""
        hub = self._source.get(hub_path(self._hub))
        partitions = hub["partitions"]
        wanted = range(partitions) if self._events.partition is None else [self._events.partition]
        stretches = [self._stretch(partition) for partition in wanted]
        same = self._ensure(hub) == partitions
        total, sent = sum(stretch.end - stretch.first for stretch in stretches), 0
        with _progress(total) as advance:
            try:
                for group in pace([self._read(stretch, advance) for stretch in stretches]):
                    self._send(group, same)
                    sent += len(group)
            except GridwireError as error:
                raise GridwireError(f"{error} ({sent:,} events had been copied)") from None
        if self._common.json:
            print_json({"copied": sent, "from": self._hub, "to": self._to_hub})
        else:
            say(f"copied {sent:,} events from {self._hub} to {self._to_hub}")

    def _stretch(self, partition: int) -> _Stretch:
        first = self._offset(partition, self._events.from_)
        end = self._offset(partition, self._events.to)
        return _Stretch(partition, first, max(first, end))

    def _offset(self, partition: int, text: str) -> int:
        query = {"partition": partition, "offset": text, "limit": 1}
        page = self._source.get(f"{hub_path(self._hub)}/events", **query)
        return int(page["events"][0]["offset"] if page["events"] else page["next"])

    def _ensure(self, hub: dict[str, Any]) -> int:
        """Partitions of the other hub, which is made alike if it is not there: old events must not be too old there."""
        partitions = hub["partitions"]
        there = {hub["name"]: hub["partitions"] for hub in self._target.get("/v1/hubs")["hubs"]}
        if self._to_hub not in there:
            settings = {name: value for name, value in hub["settings"].items() if name not in NOT_COPIED}
            self._target.post("/v1/hubs", {"name": self._to_hub, "partitions": partitions, "settings": settings})
        return int(there.get(self._to_hub, partitions))

    def _read(self, stretch: _Stretch, advance: Any) -> Iterator[Placed]:
        offset = stretch.first
        while offset < stretch.end:
            query: dict[str, Any] = {"partition": stretch.partition, "offset": offset, "limit": PAGE_EVENTS}
            query["where"] = self._events.where
            page = _PAGE.decode(self._source.raw(f"{hub_path(self._hub)}/events", **query))
            for row in page.events:
                if row.offset < stretch.end:
                    yield stretch.partition, _event(row)
            following = min(page.next, stretch.end)
            if following <= offset:
                return
            advance(following - offset)
            offset = following

    def _send(self, group: list[Placed], same: bool) -> None:
        by_partition: dict[int | None, list[Event]] = {}
        for partition, event in group:
            by_partition.setdefault(partition if same else None, []).append(event)
        for place, events in by_partition.items():
            body = bytes(encode(events))
            self._target.send(self._to_hub, body, "application/vnd.gridwire.batch", {"partition": place})


class _Row(msgspec.Struct):
    offset: int
    timestamp: int
    key: Any
    value: msgspec.Raw
    format: str
    headers: dict[str, Any]


class _Page(msgspec.Struct):
    events: list[_Row]
    next: int


_PAGE: Final = msgspec.json.Decoder(_Page)


def _event(row: _Row) -> Event:
    """An event of a page with the bytes it had; JSON is not read, so its numbers stay as they were written."""
    value = bytes(row.value) if row.format == "json" else _bytes(msgspec.json.decode(row.value))
    headers = tuple(
        (name, _bytes(each) or b"")
        for name, found in row.headers.items()
        for each in (found if isinstance(found, list) else [found])
    )
    return Event(value, _bytes(row.key), headers, row.timestamp)


def _bytes(found: Any) -> bytes | None:
    if found is None:
        return None
    return found.encode() if isinstance(found, str) else base64.b64decode(found["base64"])


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere; yields what is told how many offsets are done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("copying", total=total)
        yield lambda count: bar.advance(task, count)
