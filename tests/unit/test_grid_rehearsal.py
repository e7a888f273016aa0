"""After its rehearsal a worker compiles nothing any more: an event must not wait for that."""

from __future__ import annotations

import gc
import json

import pytest
from numba.core.registry import CPUDispatcher

from gridwire.broker.port import ColumnBatch
from gridwire.columnar.decode import decode
from gridwire.core.batch import Event, encode
from gridwire.core.hubs import READINGS
from gridwire.grid.lane import Stage
from gridwire.grid.loads import LoadsSettings
from gridwire.grid.models.stage import forecast_stage
from gridwire.grid.network import Feeder, Network, Transformer, UsagePoint
from gridwire.grid.network_parts import Assembly, to_events
from gridwire.grid.rehearsal import NETWORK, SAID, rehearse
from gridwire.grid.vee.stage import VEE_WHOLE
from gridwire.grid.watch.worker import watch_stage
from gridwire.grid.worker import FEEDERS, LOADS

NOW_MS = 1_767_398_400_000  # 2026-01-03T00:00:00Z
TOWN = Network(
    name="town",
    transformers=(Transformer(id="T1", rated_kva=400.0), Transformer(id="T2", substation="S")),
    feeders=(Feeder(id="F1"), Feeder(id="F2", transformer="T2")),
    usage_points=tuple(
        UsagePoint(id=f"P{n}", transformer=f"T{1 + n % 2}", feeder=f"F{1 + n % 2}", expects=("import_kwh", "voltage_v"))
        for n in range(40)
    ),
)


def compiled() -> dict[str, int]:
    """Signatures of every kernel there is code of."""
    kernels = [each for each in gc.get_objects() if isinstance(each, CPUDispatcher)]
    return {f"{each.py_func.__module__}.{each.py_func.__qualname__}": len(each.signatures) for each in kernels}


def told(hub: str) -> ColumnBatch:
    """What the rehearsal has the hub say, of other units and more of them."""
    values = [
        value.replace('"U', '"P').replace('"T"', '"T1"').replace('"F"', '"F1"') for value in SAID[hub] for _ in range(9)
    ]
    if hub == READINGS:
        reading = {"interval_s": 900, "reading_type": "import_kwh", "value": 12}
        ends = (f"2026-01-02T{hour:02}:00:00Z" for hour in range(24))
        values += [json.dumps({"usage_point": f"P{n}", "ts_end": end} | reading) for end in ends for n in range(40)]
    data = bytes(encode([Event(value.encode(), None, (), NOW_MS) for value in values]))
    (columns,) = decode(data, 0, len(data), from_offset=0).columns
    return ColumnBatch(hub, 0, columns, len(values))


def in_parts(network: Network) -> Network:
    """The model as a worker has it that came in several events."""
    assembly, found = Assembly(), None
    events = list(to_events(network, 2_000))
    assert len(events) > 1
    for event in events:
        found = assembly.take(event)
    assert found is not None
    return found


@pytest.mark.parametrize("network", [TOWN, in_parts(TOWN)], ids=["whole", "in parts"])
@pytest.mark.parametrize(
    "stage", [LOADS, FEEDERS, watch_stage(), VEE_WHOLE, forecast_stage()], ids=lambda stage: stage.name
)
def test_nothing_is_compiled_after_it(stage: Stage, network: Network) -> None:
    rehearse(stage, LoadsSettings())
    batches = [told(hub) for hub in stage.hubs if hub in SAID]
    before = compiled()
    pipeline = stage.make(network, LoadsSettings(), 0, None)
    for _ in range(2):
        pipeline.take(batches)
        pipeline.idle(NOW_MS)
        pipeline.outputs(NOW_MS, lambda hub: 2)
    assert compiled() == before


def test_what_is_said_is_understood() -> None:
    """A turn that is refused at the door would compile half of it."""
    pipeline = LOADS.make(NETWORK, LoadsSettings(), 0, None)
    data = bytes(encode([Event(value.encode(), None, (), NOW_MS) for value in SAID[READINGS]]))
    (columns,) = decode(data, 0, len(data), from_offset=0).columns
    pipeline.take([ColumnBatch(READINGS, 0, columns, len(SAID[READINGS]))])
    counted = pipeline.counters()
    assert counted["readings_new"] == 128
    assert counted["readings_not_summed"] == 64
    assert not any(count for name, count in counted.items() if name.startswith("rejected_"))
