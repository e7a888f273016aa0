"""How fast is the simulated utility: alone, into a hub with fsync, and beside what the hub takes of ready bytes?

    python bench/simulate.py [--quick] [--rounds N] [--meters N]

Three in turn, the same meters and eight quarter hours: the simulation made and thrown away (weather, faults, loads,
JSON, record batches); the same over the Kafka protocol into a hub without workers; and batches that were made before
the clock runs into the same kind of hub, which is what it could take at most. Building the utility is not counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import meters
import support
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.grid.simulate.kafka_sink import KafkaSink
from gridwire.grid.simulate.run import Simulation, Stream
from gridwire.grid.simulate.scenario import Scenario

PARTITIONS = 8
STEPS = 8
FIRST_S = 1_767_571_200  # 2026-01-05T00:00Z
HUBS = ("readings", "meter.events", "weather")


class Nowhere:
    """A sink that forgets what it is given."""

    def partitions(self, hub: str) -> int:
        return PARTITIONS

    def send(self, hub: str, partition: int, batch: bytearray) -> None:
        """Forget it."""

    def flush(self) -> None:
        """There is nothing to wait for."""


class Bounded:
    """A simulation of the first steps of a scenario."""

    def __init__(self, points: int) -> None:
        self._simulation = Simulation(Scenario(meters=points, days=1))

    def send(self, sink: Any) -> tuple[int, float, float]:
        """(readings, seconds, CPU seconds of this process)."""
        stream = Stream(self._simulation, sink)
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for step in range(STEPS):
            stream.send_readings(self._simulation.arrivals.due(step))
        sink.flush()
        return stream.readings, time.perf_counter() - begun_s, time.process_time() - begun_cpu_s


def hub_of(directory: Path) -> support.Hub:
    """A hub without workers that has the hubs of a simulation."""
    hub = support.Hub(directory, "--no-workers", "--partitions", str(PARTITIONS))
    for name in HUBS:
        hub.request("POST", "/v1/hubs", {"name": name, "partitions": PARTITIONS})
    return hub


def into_a_hub(utility: Bounded) -> tuple[int, float, float]:
    """The simulation over Kafka's protocol."""
    with support.scratch("simulate") as directory:
        hub = hub_of(directory)
        try:
            sink = KafkaSink(KafkaAddress.parse(f"kafka://{hub.kafka}"))
            try:
                return utility.send(sink)
            finally:
                sink.close()
        finally:
            hub.stop()


def prepared(points: int) -> float:
    """Readings a second of batches that are there already."""
    with support.scratch("simulate") as directory:
        hub = hub_of(directory)
        try:
            sender = meters.Sender(hub.kafka)
            frames = [
                frame for step in range(STEPS) for frame in meters.frames(points, FIRST_S + step * 900, PARTITIONS)
            ]
            begun_s = time.perf_counter()
            sender.send(frames)
            took_s = time.perf_counter() - begun_s
            sender.close()
            return sum(frame.count for frame in frames) / took_s
        finally:
            hub.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200,000 meters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--meters", type=int)
    options = parser.parse_args()
    about = support.heading("simulate")
    points = options.meters or (200_000 if options.quick else 500_000)
    utility = Bounded(points)
    utility.send(Nowhere())  # what compiles, compiles here
    alone, sent, given, cpu_us = [], [], [], []
    for _ in range(options.rounds):
        readings, took_s, cpu_s = utility.send(Nowhere())
        alone.append(readings / took_s)
        readings, took_s, cpu_s = into_a_hub(utility)
        sent.append(readings / took_s)
        cpu_us.append(cpu_s / readings * 1e6)
        given.append(prepared(points))
        print(
            f"alone {alone[-1]:,.0f}/s  into a hub {sent[-1]:,.0f}/s ({cpu_us[-1]:.2f} us of CPU a reading)  "
            f"prepared batches {given[-1]:,.0f}/s",
            flush=True,
        )
    rows = [
        support.row("simulated readings, made and thrown away, /s", alone, "sent into a hub with fsync", sent),
        support.row("simulated readings into a hub with fsync, /s", sent, "prepared batches", given),
    ]
    support.print_result(about | {"meters": points, "cpu_us": support.Spread.of(cpu_us).fields(), "rows": rows})


if __name__ == "__main__":
    main()
