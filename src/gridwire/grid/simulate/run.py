"""The simulation as a stream: readings at the end of every quarter hour, meter events and weather when they arrive.

    for every step:  meter events and weather of the quarter hour, in the order of their arrival
                     readings due at its end, as record batches by partition
                     wait until the hub has acknowledged everything, write the truth, wait for the next step

A simulation that was killed goes on with the step that was not acknowledged; what of it had arrived arrives again, as
repeated readings do in life.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
import orjson
from msgspec import structs
from numpy.typing import NDArray

from gridwire.columnar.encode import encode_batch
from gridwire.columnar.render import Rows
from gridwire.core.batch import Event, encode
from gridwire.core.hubs import METER_EVENTS, READINGS, WEATHER
from gridwire.grid.meter_event import KINDS, MeterEvent, event_json
from gridwire.grid.network import Network
from gridwire.grid.reading import rfc3339
from gridwire.grid.simulate import faults, load, sky, town
from gridwire.grid.simulate.arrivals import LATE_MAX, Arrivals, Due
from gridwire.grid.simulate.load import Loads, Measured
from gridwire.grid.simulate.scenario import INTERVAL_S, INTERVAL_US, Scenario
from gridwire.grid.simulate.sky import HOUR_US
from gridwire.grid.simulate.town import point_id, station_id, transformer_id
from gridwire.grid.simulate.truth import Truth
from gridwire.wire.http.partitioner import partition_of

BATCH_EVENTS: Final = 6_000
"""Readings of a batch: about 800 KB, below the megabyte that a Kafka cluster takes unless told otherwise."""

MEASURED_KEPT: Final = LATE_MAX + 2
"""Intervals whose measurements are remembered for late readings; older ones are computed again."""


class Sink(Protocol):
    """Where batches go."""

    def partitions(self, hub: str) -> int:
        """Number of partitions of a hub."""
        ...

    def send(self, hub: str, partition: int, batch: bytearray) -> None:
        """Queue one batch; may wait while too much is on its way. Raises Unavailable."""
        ...

    def flush(self) -> None:
        """Wait until everything queued is acknowledged. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """After a step: what was sent so far."""

    step: int
    steps: int
    ts_end: str
    readings: int
    events: int


class Simulation:
    """One scenario, ready to be streamed."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.town = town.build(scenario)
        self.sky = sky.build(scenario, int(self.town.substation.max()) + 1)
        self.faults = faults.build(scenario, self.town, self.sky)
        self.loads = Loads(scenario, self.town, self.sky, self.faults)
        self.arrivals = Arrivals(scenario, self.town, self.faults)
        self._measured: OrderedDict[int, Measured] = OrderedDict()
        self._rows = Rows([f'{{"usage_point":"{point_id(unit)}","ts_end":"'.encode() for unit in range(len(self.town))])
        self._with_voltage = self.town.sends_voltage
        self._generates = self.town.generation > 0

    def network(self) -> Network:
        """The model as the utility has it, from the first interval on."""
        return structs.replace(self.town.network(), valid_from=rfc3339(self.scenario.start_us))

    def measured(self, interval: int) -> Measured:
        """Measurements of an interval; the newest are remembered."""
        found = self._measured.get(interval)
        if found is None:
            found = self.loads.measure(interval)
            self._measured[interval] = found
            while len(self._measured) > MEASURED_KEPT:
                self._measured.popitem(last=False)
        return found

    def keys(self) -> Keys:
        """The key of every usage point: the transformer that it has in the model."""
        return Keys(self.town.believed, self.town.transformers)

    def readings(self, due: Due) -> Iterator[tuple[NDArray[np.int64], load.Measured, str, int, NDArray[np.int64]]]:
        """(usage points, interval, reading type, decimals, amounts) of everything due."""
        for interval, units in due:
            measured = self.measured(interval)
            yield units, measured, "import_kwh", 3, measured.imported[units]
            making = units[self._generates[units]]
            if len(making):
                yield making, measured, "export_kwh", 3, measured.exported[making]
            showing = units[self._with_voltage[units]]
            if len(showing):
                yield showing, measured, "voltage_l1_v", 1, self.loads.voltages(measured, showing)

    def rendered(
        self, units: NDArray[np.int64], measured: Measured, alias: str, digits: int, amounts: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
        """Readings as JSON events, spans of bytes."""
        interval = f'"interval_s":{INTERVAL_S},' if alias.endswith("_kwh") else ""
        middle = f'{rfc3339(measured.ts_end_us)}",{interval}"reading_type":"{alias}","value":'
        return self._rows.render(units, middle.encode(), amounts, b"}", digits)


class Keys:
    """Keys of usage points as spans, and the partitions they belong to."""

    def __init__(self, transformer: NDArray[np.int32], transformers: int) -> None:
        texts = [transformer_id(number).encode() for number in range(transformers)]
        self._data = np.frombuffer(b"".join(texts), np.uint8)
        size = len(texts[0])
        self._starts, self._size = transformer.astype(np.int64) * size, size
        self._transformer, self._texts = transformer, texts

    def spans(self, units: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
        """Keys of usage points."""
        return self._data, self._starts[units], np.full(len(units), self._size, np.int32)

    def partitions(self, count: int) -> NDArray[np.int32]:
        """The partition of every usage point in a hub of so many."""
        of_transformer = np.array([partition_of(text, count) for text in self._texts], np.int32)
        found: NDArray[np.int32] = of_transformer[self._transformer]
        return found

    def text(self, unit: int) -> bytes:
        """The key of one usage point."""
        return self._texts[int(self._transformer[unit])]


class Stream:
    """Sends a simulation to a sink."""

    def __init__(self, simulation: Simulation, sink: Sink, truth: Truth | None = None) -> None:
        self._simulation, self._sink, self._truth = simulation, sink, truth
        self._keys = simulation.keys()
        self._partition_of_unit = self._keys.partitions(sink.partitions(READINGS))
        self.readings = 0
        self.events = 0

    def run(
        self, *, first: int = 0, pace_s: float = 0.0, stop: threading.Event | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:  # fmt: skip
        """Send step after step until the end or until stopped.

        Args:
            first: the step to begin with. pace_s: seconds from one step to the next; 0 is as fast as it goes.

        Raises:
            Unavailable: the hub is away for too long.
        """
        stop = stop or threading.Event()
        steps = self._simulation.scenario.intervals
        for step in range(first, steps):
            begun_s = time.monotonic()
            self._happened(step, begun_s, pace_s, stop)
            if stop.is_set():
                return
            self.send_readings(self._simulation.arrivals.due(step))
            self._sink.flush()
            if self._truth is not None:
                self._truth.sums(self._simulation.measured(step), self._simulation.arrivals.delays(step))
                self._truth.done(step + 1)
            ts_end = rfc3339(self._simulation.loads.ts_end_us(step))
            report(Progress(step + 1, steps, ts_end, self.readings, self.events))
            if stop.wait(max(0.0, pace_s - (time.monotonic() - begun_s))):
                return

    def send_readings(self, due: Due) -> None:
        """Queue readings as batches by partition, stamped with now."""
        for units, measured, alias, digits, amounts in self._simulation.readings(due):
            order = np.argsort(self._partition_of_unit[units], kind="stable")
            units, amounts = units[order], amounts[order]
            partitions = self._partition_of_unit[units]
            spans = self._simulation.rendered(units, measured, alias, digits, amounts)
            keys = self._keys.spans(units)
            for begin, end in _runs(partitions):
                batch = encode_batch(_part(spans, begin, end), _part(keys, begin, end), time.time_ns() // 1_000_000)
                self._sink.send(READINGS, int(partitions[begin]), batch)
            self.readings += len(units)

    def _happened(self, step: int, begun_s: float, pace_s: float, stop: threading.Event) -> None:
        """Meter events and weather of the quarter hour that ends with a step, each at its time if there is a pace."""
        simulation = self._simulation
        end_us = simulation.loads.ts_end_us(step)
        begin_us = end_us - INTERVAL_US
        happened = simulation.faults.happened
        first, last = np.searchsorted(happened.arrives_us, [begin_us, end_us]).tolist()
        waiting: list[tuple[int, str, bytes, bytes]] = [
            (int(happened.arrives_us[row]), METER_EVENTS, *self._event(row)) for row in range(first, last)
        ]
        for at_us in range(-(-begin_us // HOUR_US) * HOUR_US, end_us, HOUR_US):
            waiting += [(at_us, WEATHER, *each) for each in self._weather(at_us)]
        waiting.sort(key=lambda each: each[0])
        sent = 0
        while sent < len(waiting) and not stop.is_set():
            share = (waiting[sent][0] - begin_us) / INTERVAL_US
            if stop.wait(max(0.0, begun_s + share * pace_s - time.monotonic())):
                return
            # What lies closer together than a twentieth of a second is sent together.
            near_us = INTERVAL_US * 0.05 / pace_s if pace_s else float("inf")
            now = sent + 1
            while now < len(waiting) and waiting[now][0] - waiting[sent][0] < near_us:
                now += 1
            self._send_events(waiting[sent:now])
            sent = now

    def _event(self, row: int) -> tuple[bytes, bytes]:
        happened = self._simulation.faults.happened
        unit = int(happened.units[row])
        event = MeterEvent(
            int(happened.ts_us[row]), KINDS[happened.kinds[row]], f"M{unit:07d}", point_id(unit), source="simulation"
        )
        return self._keys.text(unit), event_json(event)

    def _weather(self, at_us: int) -> Iterator[tuple[bytes, bytes]]:
        found = self._simulation.sky
        hour = (at_us - found.start_us) // HOUR_US
        for number in range(found.temperature_c.shape[1]):
            station = station_id(number)
            value = {
                "station": station, "ts": rfc3339(at_us), "interval_s": 3600,
                "temperature_c": round(float(found.temperature_c[hour, number]), 1),
                "wind_gust_ms": round(float(found.gust_ms[hour, number]), 1),
            }  # fmt: skip
            yield station.encode(), orjson.dumps(value)

    def _send_events(self, events: list[tuple[int, str, bytes, bytes]]) -> None:
        now_ms = time.time_ns() // 1_000_000
        places: dict[tuple[str, int], list[Event]] = {}
        for _, hub, key, value in events:
            partition = partition_of(key, self._sink.partitions(hub))
            places.setdefault((hub, partition), []).append(Event(value, key, (), now_ms))
        for (hub, partition), found in places.items():
            for begin in range(0, len(found), BATCH_EVENTS):
                self._sink.send(hub, partition, encode(found[begin : begin + BATCH_EVENTS]))
        self.events += len(events)


def _runs(partitions: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Rows of one partition, at most a batch at a time."""
    cuts = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(partitions)]
    for begin, end in pairwise(cuts):
        for start in range(begin, end, BATCH_EVENTS):
            yield start, min(start + BATCH_EVENTS, end)


def _part(
    spans: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]], begin: int, end: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int32]]:
    data, starts, lengths = spans
    return data, starts[begin:end], lengths[begin:end]
