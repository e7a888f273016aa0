"""Replays the demo utility's year through the Kafka endpoint, one quarter hour after the other, at a visible pace.

    step:  meter events, weather, some voltages ----------> hubs meter.events, weather, readings
           readings due now (a seeded share is late) --+-> hub readings, key = transformer
           now and then a file of meter frames --------+
                                     damaged ones -----> hub quarantine
           wait until the hub has acknowledged everything, tell the truth, wait for the next step

The client is an unmodified confluent-kafka, idempotent. A replay that was killed, or whose hub was, reads the end of
the hub, sends what its predecessor still owed and goes on with the next interval; no reading is sent twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import count
from typing import Any, Final, Protocol

import httpx
import msgspec
import numpy as np
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from numpy.typing import NDArray

from gridwire.core.errors import Unavailable
from gridwire.core.hubs import METER_EVENTS, WEATHER
from gridwire.demo import utility
from gridwire.demo.plan import LATE_INTERVALS_MAX, Due, Plan
from gridwire.demo.storm import Storm
from gridwire.demo.truth import IntervalTruth, Truth
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BadFrame, Context
from gridwire.grid.ingest import quarantine_event, reading_events, usage_point_of_meter
from gridwire.grid.network import NETWORK_HUB, Network, to_json
from gridwire.grid.profiles import INTERVAL_S, QuarterHours
from gridwire.grid.reading import QUARANTINE_HUB, READINGS_HUB, decimal_text, rfc3339, timestamp_us

FRAMES_EVERY: Final = 4
"""Steps between two files of meter frames."""

REOPEN_S: Final = 1.0
"""Pause before the connection is opened anew after a fatal error."""

_READ_TIMEOUT_S: Final = 30.0
_WATT_HOUR: Final = -3  # power of ten in kWh

_HUBS: Final = ((READINGS_HUB, None), (METER_EVENTS, None), (QUARANTINE_HUB, 1), (NETWORK_HUB, 1), (WEATHER, 1))

LAST_S: Final = 5.0
"""How long one who is told to stop waits for what is on its way: the hub may have it, so the truth must know."""

Headers = list[tuple[str, str | bytes | None]]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What one step did and what was done so far. `truth`: the newest interval of which every reading is in the hub."""

    step: int
    ts_end: str
    sent: int
    sent_total: int
    late_total: int
    frames_total: int
    frame_readings_total: int
    quarantined_total: int
    truth: IntervalTruth | None = None


class Sink(Protocol):
    """Where a replay's events go."""

    def send(self, hub: str, key: bytes, value: bytes, headers: Headers | None = None) -> None:
        """Queue one event. Raises Unavailable when the connection is of no more use."""
        ...

    def flush(self, stop: threading.Event) -> bool:
        """Wait until everything queued is acknowledged; False when stopped, and it is not soon afterwards."""
        ...


class Replay:
    """The replay itself: no connection, no clock but `now_us`, so that it can be tested step by step."""

    def __init__(
        self, network: Network, profiles: QuarterHours, plan: Plan, *, meters: Mapping[str, str] | None = None,
        storm: Storm | None = None,
    ) -> None:  # fmt: skip
        self.plan = plan
        self._storm = storm
        self.truth = Truth(network, profiles)
        self._profiles = profiles
        self._transformer_of_point = {unit.id: unit.transformer for unit in network.usage_points}
        self._keys = [unit.transformer.encode() for unit in network.usage_points]
        self._heads = [f'{{"usage_point":{orjson.dumps(u.id).decode()},"ts_end":"' for u in network.usage_points]
        self._tails = [
            f'","interval_s":{INTERVAL_S},"reading_type":"{u.expects[0]}","value":' for u in network.usage_points
        ]
        self._usage_point = usage_point_of_meter(utility.METERS if meters is None else meters)
        self._frame_files = list(utility.frame_files())
        self._totals = dict.fromkeys(("sent", "late", "frames", "frame_readings", "quarantined"), 0)
        self._present: dict[int, NDArray[np.bool_]] = {}
        self._first: int | None = None

    def resume(self, events: Iterable[bytes | None]) -> int | None:
        """Learn from the newest events of the hub what is there; the last step that was begun, if any."""
        place = {unit: i for i, unit in enumerate(self._transformer_of_point)}
        self._present = {}
        for value in events:
            found = _reading_of(value)
            unit = place.get(found[0]) if found else None
            if found is None or unit is None:
                continue
            interval = self._profiles.interval_at(found[1])
            if self._profiles.ts_end_us(interval) == found[1]:
                self._present.setdefault(interval, np.zeros(self.plan.units, bool))[unit] = True
        if not self._present:
            return None
        last = max(self._present)
        self._present = {i: mask for i, mask in self._present.items() if i >= last - LATE_INTERVALS_MAX}
        for interval, mask in self._present.items():
            self.truth.add(interval, np.flatnonzero(mask))
        self._first = min(self._present)
        return last

    def owed(self, last: int) -> Due:
        """What is missing of the steps up to `last`, after `resume`."""
        return self.plan.owed(last, self._present)

    def due(self, step: int) -> Due:
        """What to send at `step`; the first step ever asked for is where the replay begins."""
        self._first = step if self._first is None else self._first
        return self.plan.due(step, self._first, self._present)

    def send(self, due: Due, sink: Sink) -> int:
        """Queue readings; the number of them."""
        total = 0
        for interval, units in due:
            ts_end = rfc3339(self._profiles.ts_end_us(interval))
            energy_wh = self._profiles.energy_wh(interval)
            for unit in units.tolist():
                value = decimal_text(int(energy_wh[unit]), _WATT_HOUR)
                event = f"{self._heads[unit]}{ts_end}{self._tails[unit]}{value}}}"
                sink.send(READINGS_HUB, self._keys[unit], event.encode())
            total += len(units)
        return total

    def send_happenings(self, step: int, sink: Sink) -> None:
        """Queue the meter events, weather and voltages of a step."""
        for hub, event in self._storm.events(step) if self._storm is not None else ():
            sink.send(hub, event.key or b"", event.value or b"")

    def send_frames(self, step: int, now_us: int, sink: Sink) -> None:
        """Decode the file of meter frames that is due at `step`, if any, and queue what comes out."""
        if step % FRAMES_EVERY:
            return
        file = self._frame_files[step // FRAMES_EVERY % len(self._frame_files)]
        context = Context(source=file.name, received_at_us=now_us)
        for item in registry.get(file.format).decode(file.data, context=context):
            self._totals["frames"] += 1
            if isinstance(item, BadFrame):
                self._totals["quarantined"] += 1
                event = quarantine_event(item, file.format, file.name)
                sink.send(QUARANTINE_HUB, event.key or b"", event.value or b"", list(event.headers))
                continue
            for event in reading_events(item, self._usage_point, lambda unit: self._transformer_of_point.get(unit, "")):
                self._totals["frame_readings"] += 1
                sink.send(READINGS_HUB, event.key or b"", event.value or b"")

    def acknowledged(self, step: int, due: Due) -> Progress:
        """The hub has everything of a step: count it, and tell the truth about the newest complete interval."""
        for interval, units in due:
            self.truth.add(interval, units)
            self._totals["sent"] += len(units)
            self._totals["late"] += len(units) if interval < step else 0
        return Progress(
            step=step,
            ts_end=rfc3339(self._profiles.ts_end_us(step)),
            sent=sum(len(units) for _, units in due),
            truth=self.truth.sums(step - LATE_INTERVALS_MAX),
            **{f"{name}_total": total for name, total in self._totals.items()},
        )


def _reading_of(value: bytes | None) -> tuple[str, int] | None:
    """(usage point, end of interval) of an event that looks like one of ours."""
    try:
        event = orjson.loads(value or b"")
        if event["interval_s"] != INTERVAL_S:
            return None
        return str(event["usage_point"]), timestamp_us(msgspec.convert(event["ts_end"], datetime))
    except (orjson.JSONDecodeError, msgspec.ValidationError, KeyError, TypeError, ValueError):
        return None


class KafkaSink:
    """An unmodified confluent-kafka producer, idempotent, that waits for a hub that is away as long as it takes."""

    def __init__(self, bootstrap: str) -> None:
        self._fatal: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "gridwire-demo",
                "enable.idempotence": True,
                "partitioner": "murmur2",
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "metadata.recovery.strategy": "none",  # see `KafkaAddress.confluent`
                "log_level": 0,
                "error_cb": self._on_error,
            }
        )

    def send(self, hub: str, key: bytes, value: bytes, headers: Headers | None = None) -> None:
        """See `Sink.send`."""
        while True:
            try:
                self._producer.produce(hub, value, key, headers=headers, on_delivery=self._on_delivery)
                break
            except BufferError:
                self._producer.poll(0.1)
                self._check()
            except KafkaException as error:
                raise Unavailable(f"the producer gave up: {error}") from error

    def flush(self, stop: threading.Event) -> bool:
        """See `Sink.flush`."""
        stopped_s: float | None = None
        while self._producer.flush(0.2):
            self._check()
            if stop.is_set():
                now_s = time.monotonic()
                stopped_s = now_s if stopped_s is None else stopped_s
                if now_s - stopped_s > LAST_S:
                    return False
        self._check()
        return True

    def close(self) -> None:
        """Let go; what is not acknowledged is given up."""
        self._producer.purge()
        self._producer.flush(1.0)

    def _check(self) -> None:
        if self._fatal is not None:
            raise Unavailable(f"the producer gave up: {self._fatal}")

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error

    def _on_delivery(self, error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._fatal = error


def newest_events(bootstrap: str, hub: str, per_partition: int, stop: threading.Event) -> Iterator[bytes | None]:
    """Values of the last `per_partition` events of every partition of a hub.

    Raises:
        Unavailable: the hub does not answer.
    """
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "gridwire-demo", "enable.auto.commit": False, "log_level": 0,
         "metadata.recovery.strategy": "none"}
    )  # fmt: skip
    try:
        ends: dict[int, int] = {}
        places = []
        for partition in sorted(consumer.list_topics(hub, timeout=_READ_TIMEOUT_S).topics[hub].partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(hub, partition), timeout=_READ_TIMEOUT_S)
            if high > low:
                ends[partition] = high
                places.append(TopicPartition(hub, partition, max(low, high - per_partition)))
        consumer.assign(places)
        deadline = time.monotonic() + _READ_TIMEOUT_S
        while ends and not stop.is_set():
            if time.monotonic() > deadline:
                raise Unavailable(f"the end of hub {hub!r} could not be read within {_READ_TIMEOUT_S:.0f} s")
            for message in consumer.consume(10_000, timeout=0.2):
                partition, offset = message.partition(), message.offset()
                if message.error() or partition is None or offset is None:
                    continue
                yield message.value()
                if offset + 1 == ends.get(partition):
                    del ends[partition]
    except KafkaException as error:
        raise Unavailable(f"hub {hub!r} does not answer: {error}") from error
    finally:
        consumer.close()


def publish_network(http_url: str, network: Network) -> None:
    """Create the demo's hubs where they are missing, and publish the network model unless the newest one is the same.

    Raises:
        Unavailable: the hub does not answer or refuses.
    """
    model = to_json(network)
    try:
        with httpx.Client(base_url=http_url, timeout=_READ_TIMEOUT_S, trust_env=False) as client:
            for name, partitions in _HUBS:
                body = {"name": name} if partitions is None else {"name": name, "partitions": partitions}
                answer = client.post("/v1/hubs", json=body)
                if answer.status_code != httpx.codes.CONFLICT:
                    answer.raise_for_status()
            newest = client.get(f"/v1/hubs/{NETWORK_HUB}/events", params={"offset": "-1", "limit": 1})
            events = newest.raise_for_status().json()["events"]
            if not events or orjson.dumps(events[-1]["value"]) != orjson.dumps(orjson.loads(model)):
                headers = {"content-type": "application/json"}
                client.post(f"/v1/hubs/{NETWORK_HUB}/events", content=model, headers=headers).raise_for_status()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise Unavailable(f"the hub at {http_url} does not answer as expected: {error}") from error


def run_replay(
    bootstrap: str,
    http_url: str,
    network: Network,
    profiles: QuarterHours,
    *,
    pace_s: float = 1.0,
    start_interval: int = utility.START_INTERVAL,
    seconds: float | None = None,
    stop: threading.Event | None = None,
    report: Callable[[Progress], None] | None = None,
    trouble: Callable[[str], None] | None = None,
    late_share: float = 0.01,
    seed: int = 2016,
    storm: Storm | None = None,
) -> Truth:
    """Replay until stopped, in this thread.

    Args:
        bootstrap: Kafka endpoint, `host:port`. http_url: the hub's HTTP address; "" leaves hubs and network alone.
        pace_s: seconds from one interval to the next; 0 sends as fast as they are acknowledged.
        start_interval: where to begin in a hub without readings; otherwise the replay goes on where it was.
        seconds: how long; None is until `stop` is set.
        report: called after every step, in this thread.
        trouble: called with a reason each time the hub was away and the replay starts over.
        storm: what happens to the utility meanwhile; `profiles` are those of `storm.stormy` then.

    Returns:
        What the sums must be. It grows while the replay runs; `report` gets its newest complete interval.
    """
    stop = stop or threading.Event()
    deadline = None if seconds is None else time.monotonic() + seconds
    plan = Plan(len(network.usage_points), late_share, seed, None if storm is None else storm.held)
    replay = Replay(network, profiles, plan, storm=storm)
    while not _over(stop, deadline):
        sink: KafkaSink | None = None
        try:
            if http_url:
                publish_network(http_url, network)
            per_partition = plan.units * (LATE_INTERVALS_MAX + 3)
            last = replay.resume(newest_events(bootstrap, READINGS_HUB, per_partition, stop))
            sink = KafkaSink(bootstrap)
            if last is not None and not _step(replay, last, replay.owed(last), sink, stop, report, frames=False):
                break
            _steps(replay, start_interval if last is None else last + 1, sink, pace_s, deadline, stop, report)
        except Unavailable as error:
            if trouble is not None:
                trouble(str(error))
            stop.wait(REOPEN_S)
        finally:
            if sink is not None:
                sink.close()
    return replay.truth


def _over(stop: threading.Event, deadline: float | None) -> bool:
    return stop.is_set() or (deadline is not None and time.monotonic() >= deadline)


def _steps(
    replay: Replay, first: int, sink: Sink, pace_s: float, deadline: float | None, stop: threading.Event,
    report: Callable[[Progress], None] | None,
) -> None:  # fmt: skip
    """Step after step until stopped. A step that took too long delays the next ones: they do not bunch up."""
    for step in count(first):
        begun = time.monotonic()
        if not _step(replay, step, replay.due(step), sink, stop, report):
            return
        if stop.wait(max(0.0, pace_s - (time.monotonic() - begun))) or _over(stop, deadline):
            return


def _step(
    replay: Replay, step: int, due: Due, sink: Sink, stop: threading.Event,
    report: Callable[[Progress], None] | None, frames: bool = True,
) -> bool:  # fmt: skip
    """Send one step and wait until it is acknowledged; False when stopped before."""
    replay.send(due, sink)
    if frames:
        replay.send_happenings(step, sink)
        replay.send_frames(step, time.time_ns() // 1000, sink)
    if not sink.flush(stop):
        return False
    progress = replay.acknowledged(step, due)
    if report is not None:
        report(progress)
    return True
