"""`gridwire simulate`."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gridwire.cli.client import HubClient
from gridwire.cli.output import Common, print_json, say
from gridwire.core.errors import GridwireError
from gridwire.core.hubs import METER_EVENTS, NETWORK, READINGS, WEATHER

if TYPE_CHECKING:
    from gridwire.grid.simulate.run import Progress, Simulation
    from gridwire.grid.simulate.scenario import Scenario

STEP_S = 900


@Parameter(name="*")
@dataclass(frozen=True)
class Chosen:
    """What is simulated."""

    meters: Annotated[int, Parameter(help="usage points, up to 10 million")] = 1_000
    days: Annotated[int, Parameter(help="how long")] = 2
    start: Annotated[str, Parameter(help="first day, local")] = "2026-01-05"
    zone: Annotated[str, Parameter(help="IANA zone of the utility")] = "Europe/Berlin"
    seed: Annotated[int, Parameter(help="another seed is another utility with another fate")] = 1
    storm: Annotated[bool, Parameter(help="a storm front crosses it on the second day")] = False
    heat: Annotated[bool, Parameter(help="the second half is a heat wave")] = False
    outages: Annotated[float, Parameter(help="interruptions a day and 1,000 meters in fair weather")] = 0.1
    last_gasps: Annotated[float, Parameter(help="share of last gasps that arrive")] = 0.7
    voltages: Annotated[float, Parameter(help="share of meters that also send voltages")] = 0.1

    def scenario(self) -> Scenario:
        """As the simulation takes it. Raises InvalidSetting."""
        from gridwire.grid.simulate.scenario import Scenario

        try:
            day = date.fromisoformat(self.start)
        except ValueError:
            raise GridwireError(f"--start must be a day such as 2026-01-05, not {self.start!r}") from None
        return Scenario(
            self.meters, self.days, day, self.zone, self.seed, self.storm, self.heat, outages=self.outages,
            last_gasps=self.last_gasps, voltages=self.voltages,
        )  # fmt: skip


def simulate(
    *,
    chosen: Chosen = Chosen(),
    speed: str = "max",
    truth: Path = Path("truth"),
    network_only: Annotated[Path | None, Parameter(help="only write the network model to this file")] = None,
    common: Common = Common(),  # noqa: B008
) -> None:
    """Send what a utility's meters would: readings, last gasps, weather; and write down what really happened.

    Stopped or killed and started again with the same options it goes on. See docs/reference/simulate.md.

    Args:
        speed: 1 is real time, 60 a quarter hour in 15 seconds, max as fast as the hub takes it.
        truth: directory for the truth, and for how far it came.
    """
    from gridwire.grid.network import to_json
    from gridwire.grid.simulate.kafka_sink import KafkaSink
    from gridwire.grid.simulate.run import Simulation, Stream
    from gridwire.grid.simulate.truth import Truth

    pace_s = _pace_s(speed)
    simulation = Simulation(chosen.scenario())
    if network_only is not None:
        network_only.write_bytes(to_json(simulation.network()))
        return
    client = common.client()
    record = Truth(truth, simulation.scenario, simulation.town)
    first = record.begin(simulation.faults, simulation.arrivals.head_end_outages)
    address = _prepare(client, simulation, publish=first == 0)
    sink = KafkaSink(address)
    stop = threading.Event()
    begun_s = time.monotonic()
    stream = Stream(simulation, sink, record)
    try:
        stream.run(first=first, pace_s=pace_s, stop=stop, report=_report(common))
    finally:
        sink.close()
    took_s = time.monotonic() - begun_s
    done = {"readings": stream.readings, "meter events": stream.events, "seconds": round(took_s, 1)}
    if common.json:
        print_json(done)
    else:
        say(f"sent {stream.readings:,} readings and {stream.events:,} other events in {took_s:.1f} s; truth in {truth}")


def _pace_s(speed: str) -> float:
    if speed == "max":
        return 0.0
    try:
        number = float(speed)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise GridwireError(f"--speed must be max or a number above 0, not {speed!r}")
    return STEP_S / number


def _prepare(client: HubClient, simulation: Simulation, *, publish: bool) -> Any:
    """Make the hubs that are missing, publish the model; where the Kafka endpoint is."""
    from gridwire.broker.kafka_address import KafkaAddress
    from gridwire.cli.grid import publish as publish_network

    there = {hub["name"] for hub in client.get("/v1/hubs")["hubs"]}
    for name in (READINGS, METER_EVENTS, WEATHER, NETWORK):
        if name not in there:
            client.post("/v1/hubs", {"name": name})
    if publish:
        publish_network(client, simulation.network())
    endpoint = client.get("/v1/status")["endpoints"].get("kafka")
    if endpoint is None:
        raise GridwireError("the hub has no Kafka endpoint, which the simulation writes to: start it with --kafka-port")
    return KafkaAddress.parse(endpoint if "://" in endpoint else f"kafka://{endpoint}")


def _report(common: Common) -> Any:
    """A line that is written anew on a terminal, nothing elsewhere."""
    if common.json or not sys.stderr.isatty():
        return lambda progress: None

    def show(progress: Progress) -> None:
        sys.stderr.write(
            f"\r{progress.ts_end}  {progress.step}/{progress.steps}  {progress.readings:,} readings  "
            f"{progress.events:,} other events "
        )

    return show
