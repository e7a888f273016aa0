"""Any bytes give readings or bad frames, nothing else, and no byte that matters goes missing."""

import json

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meter_frames as frames
from gridwire.demo.utility import frame_files
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import BAD_FRAME_BYTES_MAX, BadFrame, Context, Decoded
from gridwire.grid.formats.keys import Keys, MeterKey
from gridwire.grid.reading import reading_json

FILES = list(frame_files())
SEEDS = {
    "dsmr": [file.data for file in FILES if file.format == "dsmr"],
    "han": [
        *(file.data for file in FILES if file.format == "han"),
        *(bytes.fromhex(line) for file in FILES if file.format == "han" for line in file.data.decode().splitlines()
          if not line.startswith("#")),
    ],
    "json": [
        b'{"usage_point":"U","ts_end":"2016-01-01T00:15:00Z","interval_s":900,"reading_type":"import_kwh","value":1}\n',
    ],
    "csv": [b"usage_point,ts_end,reading_type,value,interval_s\nU,2016-01-01T00:15:00Z,import_kwh,1,900\n"],
    "dlms": [frames.hdlc(frames.PUSH_LIST), frames.wrapper(frames.PAIRS), frames.PAIRS,
             frames.hdlc(frames.gcm(frames.PAIRS))],
    "sml": [frames.sml_file(), frames.sml_file(bare=True)],
    "mapped": [b"serial;at;kwh\nM1;31.12.2025 23:45;1,25\n"],
    "senml": [frames.SENML],
    "senml-cbor": [cbor2.dumps(json.loads(frames.SENML))],
    "nem12": [frames.NEM12],
    "espi": [frames.ESPI],
    "cim": [frames.CIM],
    "cim-json": [frames.CIM_JSON],
    "sparkplug": [line.encode() + b"\n" for line in frames.sparkplug_lines().values()],
    "weather-csv": [b"station,ts,temperature_c,wind_gust_ms\nS,2016-01-01T00:15:00Z,-3.5,12\n"],
    "weather-json": [b'{"station":"S","ts":"2016-01-01T00:15:00Z","temperature_c":-3.5}\n'],
    "weather-epw": [frames.EPW],
    "mbus": [frames.MBUS_ELECTRICITY, frames.MBUS_HEAT],
}  # fmt: skip
MAPPING = """delimiter = ";"
decimal = ","
meter = "serial"
time = "at"
time_format = "%d.%m.%Y %H:%M"
interval_s = 900
[[values]]
column = "kwh"
reading_type = "import_kwh"
"""
KEYS = Keys(default=MeterKey(frames.KEY, frames.AUTH_KEY))
CONTEXT = Context(source="s", meter="m", received_at_us=1_700_000_000_000_000, keys=KEYS, mapping=MAPPING)


@st.composite
def mutated(draw, name):
    """Real frames cut, joined, and with bytes changed, removed and put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(SEEDS[name]), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 8))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 40))]
            case 2:
                data[at:at] = draw(st.binary(max_size=20))
            case _:
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def check(name, data, size):
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    items = list(registry.get(name).stream(iter(chunks), CONTEXT))
    positions = [item.position for item in items]
    assert positions == sorted(positions)
    for item in items:
        assert 0 <= item.position < len(data)
        if isinstance(item, BadFrame):
            assert item.reason
            assert 0 < len(item.raw) <= BAD_FRAME_BYTES_MAX
        else:
            assert isinstance(item, Decoded)
            assert item.readings or item.events or item.weather
            for reading in item.readings:
                assert reading.meter or reading.usage_point
                reading_json(reading)
    return items


@pytest.mark.parametrize("name", registry.NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes(name, data):
    check(name, data.draw(st.binary(max_size=3000)), data.draw(st.sampled_from([1, 13, 4096])))


@pytest.mark.parametrize("name", registry.NAMES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_frames(name, data):
    check(name, data.draw(mutated(name)), data.draw(st.sampled_from([7, 4096])))


@settings(max_examples=100, deadline=None)
@given(mutated("dsmr"))
def test_every_byte_of_a_telegram_stream_is_accounted_for(data):
    """Pieces that are neither blank nor telegrams come out whole and in order."""
    items = check("dsmr", data, 4096)
    for item in items:
        if isinstance(item, BadFrame):
            assert data[item.position : item.position + len(item.raw)] == item.raw
    ends = [*(item.position for item in items[1:]), len(data)]
    for item, end in zip(items, ends, strict=True):
        if isinstance(item, BadFrame):
            assert not data[item.position + len(item.raw) : end].strip(b" \t\r\n\x00")
    assert items or not data.strip(b" \t\r\n\x00")
