"""What models learn from: newest versions, whole hours, the right station."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from gridwire.grid import lake
from gridwire.grid.models import dataset

START = datetime(2016, 1, 1, tzinfo=UTC)
FIRST = int(START.timestamp()) // 3600 + 1


def fact(unit, quarter, kw, version=0, count=10, expected=10):
    return {
        "transformer": unit, "ts_end": START + timedelta(minutes=15 * (quarter + 1)), "interval_s": 900,
        "load_kw": kw, "count": count, "expected": expected, "rated_kva": 160.0, "version": version,
    }  # fmt: skip


def observation(station, hour, temperature_c, offset, name="ts"):
    return {"station": station, name: START + timedelta(hours=hour), "temperature_c": temperature_c, "offset": offset}


@pytest.fixture
def root(tmp_path):
    rows = [fact("T0", q, 10.0 + q) for q in range(8)]
    rows += [fact("T1", q, 1.0) for q in range(8) if q != 5]  # the second hour has a gap
    rows += [fact("T1", 0, 5.0, version=2), fact("T1", 0, 99.0, version=1)]
    rows += [fact("T2", q, 3.0, count=8 if q == 6 else 10) for q in range(8)]  # and here too few readings
    write_deltalake(str(tmp_path / "grid.transformers"), pa.Table.from_pylist(rows, schema=lake.LOADS))
    weather = [observation("far", 1, -5.0, 7), observation("near", 1, 2.0, 3), observation("near", 2, 4.0, 9, "ts_end"),
               observation("near", 2, 1e9, 10)]  # fmt: skip
    schema = pa.schema([*lake.WEATHER, pa.field("offset", pa.int64())])
    write_deltalake(str(tmp_path / "weather"), pa.Table.from_pylist(weather, schema=schema))
    return tmp_path


def test_hours_of_the_newest_facts(root):
    found = dataset.load(root)
    loads = found.loads["transformer"]
    assert (loads.ids, loads.first_hour) == (("T0", "T1", "T2"), FIRST)
    assert np.allclose(loads.load_kw, [[11.5, 2.0, 3.0], [15.5, np.nan, np.nan]], equal_nan=True)
    assert loads.rated_kva.tolist() == [160.0] * 3
    assert found.versions == {"grid.transformers": 0, "weather": 0}
    assert "feeder" not in found.loads


def test_units_have_the_temperature_of_their_station(root):
    found = dataset.load(root, station_of={"transformer": {"T1": "far", "T2": "nowhere"}})
    assert found.stations == ("near", "far")  # the first one seen is first
    expected = [[2.0, -5.0, np.nan], [4.0, np.nan, np.nan]]
    assert np.allclose(found.temperature_of_units("transformer"), expected, equal_nan=True)


def test_a_range_of_time(root):
    found = dataset.load(root, begin=START + timedelta(hours=1))
    assert found.loads["transformer"].first_hour == FIRST + 1
    found = dataset.load(root, end=START + timedelta(hours=1))
    assert len(found.loads["transformer"].load_kw) == 1


def test_an_empty_lake_is_said(tmp_path):
    with pytest.raises(dataset.TooLittleData, match="has no facts"):
        dataset.load(tmp_path)
