"""A replay whose hub is killed, and that is itself started again, sends every reading exactly once."""

import json
import threading
from collections import Counter
from datetime import UTC, datetime

import numpy as np

from gridwire.demo.plan import Plan
from gridwire.demo.replay import newest_events, run_replay
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.profiles import QuarterHours
from gridwire.grid.reading import rfc3339, timestamp_us

UNITS = 60
START = 100
SHARE = 0.1
NETWORK = Network(
    name="Test",
    transformers=tuple(Transformer(id=f"T{n}") for n in range(5)),
    feeders=tuple(Feeder(id=f"F{n}", transformer=f"T{n}") for n in range(5)),
    usage_points=tuple(UsagePoint(id=f"U{n}", transformer=f"T{n % 5}", feeder=f"F{n % 5}") for n in range(UNITS)),
)
PROFILES = QuarterHours(
    timestamp_us(datetime(2015, 12, 31, 23, 15, tzinfo=UTC)),
    np.ones((1000, 1)),
    np.zeros(UNITS, np.int32),
    np.ones(UNITS),
)


class Replayed:
    """A replay in a thread, and how far it got."""

    def __init__(self, hub):
        self.stop = threading.Event()
        self.moved = threading.Condition()
        self.step = -1
        self.troubles = []
        self.thread = threading.Thread(target=self._run, args=(hub.kafka, hub.http))
        self.thread.start()

    def _run(self, kafka, http):
        run_replay(
            kafka, http, NETWORK, PROFILES, pace_s=0.02, start_interval=START, stop=self.stop, report=self._report,
            trouble=self.troubles.append, late_share=SHARE,
        )  # fmt: skip

    def _report(self, progress):
        with self.moved:
            self.step = progress.step
            self.moved.notify_all()

    def reach(self, step):
        with self.moved:
            assert self.moved.wait_for(lambda: self.step >= step, 60), (self.step, self.troubles)

    def end(self):
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


def in_hub(hub):
    rows = map(json.loads, newest_events(hub.kafka, "readings", 10**9, threading.Event()))
    return Counter((row["usage_point"], row["ts_end"]) for row in rows if row["interval_s"] == 900)


def due_until(step):
    plan = Plan(UNITS, SHARE)
    return {
        (f"U{unit}", rfc3339(PROFILES.ts_end_us(interval)))
        for interval in range(START, step + 1)
        for unit, delay in enumerate(plan.delays(interval))
        if interval + delay <= step
    }


def test_every_reading_once_through_kills(start_hub):
    hub = start_hub()
    first = Replayed(hub)
    first.reach(START + 15)
    kafka_port, http_port = hub.kafka.rpartition(":")[2], hub.http.rpartition(":")[2]
    hub.kill()
    hub = start_hub(data=hub.data, kafka_port=kafka_port, http_port=http_port)
    first.reach(START + 30)
    first.end()
    second = Replayed(hub)
    second.reach(START + 45)
    second.end()
    found = in_hub(hub)
    assert set(found.values()) == {1}
    # The last step may have been under way when the replay was stopped.
    assert due_until(second.step) <= set(found) <= due_until(second.step + 1)
    networks = hub.get("/v1/hubs/grid.network/events?partition=0&offset=earliest&limit=10")["events"]
    assert [event["value"]["name"] for event in networks] == ["Test"]  # published once, not at every start
