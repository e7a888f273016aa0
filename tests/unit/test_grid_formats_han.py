"""Nordic HAN frames: real ones of three makers, framing, clocks, and what becomes of rubbish."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from gridwire.demo.utility import frame_files
from gridwire.grid import reading_types
from gridwire.grid.formats.base import BadFrame, Context, Decoded
from gridwire.grid.formats.han import FORMAT, FRAME_BYTES_MAX
from gridwire.grid.reading import timestamp_us

FILES = {file.name: file.data for file in frame_files()}
RECEIVED_US = timestamp_us(datetime(2026, 5, 1, tzinfo=UTC))


def lines(name):
    return [bytes.fromhex(line) for line in FILES[name].decode().splitlines() if not line.startswith("#")]


KAIFA_2, KAIFA_3, KAIFA_1 = lines("han-kaifa-no.hex")  # the last one in its HDLC frame
(KAIFA_SE,) = lines("han-kaifa-se.hex")
AIDON_3, AIDON_1 = lines("han-aidon-no.hex")
(KAMSTRUP,) = lines("han-kamstrup-no.hex")


def fcs(data):
    """Frame check sequence of RFC 1662, bit by bit."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x8408 if value & 1 else 0)
    return (value ^ 0xFFFF).to_bytes(2, "little")


def framed(message):
    """A message in an HDLC frame as the meters send it."""
    head = (0xA000 | len(message) + 10).to_bytes(2, "big") + b"\x01\x02\x01\x10"
    body = head + fcs(head) + message
    return b"\x7e" + body + fcs(body) + b"\x7e"


def decode(data, **context):
    return list(FORMAT.decode(data, "file", Context(source="file", **context)))


def table(item):
    assert isinstance(item, Decoded), item
    return {reading_types.BY_ID[r.reading_type].alias: Decimal(r.value).scaleb(r.scale) for r in item.readings}


def times(item):
    return {datetime.fromtimestamp(r.ts_end_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S") for r in item.readings}


def test_framing_of_this_test_is_that_of_real_frames():
    assert framed(KAIFA_1[9:-3])[1:3] == KAIFA_1[1:3]
    assert framed(KAIFA_1[9:-3]) == KAIFA_1


def test_kaifa_norway():
    first, second, third = decode(FILES["han-kaifa-no.hex"])
    assert table(first) == {
        "power_import_kw": Decimal("9.745"), "power_export_kw": 0, "reactive_import_kvar": 0,
        "reactive_export_kvar": Decimal("0.435"), "current_l1_a": Decimal("33.813"), "current_l2_a": Decimal("28.103"),
        "current_l3_a": Decimal("18.178"), "voltage_l1_v": Decimal("216.8"), "voltage_l2_v": 0,
        "voltage_l3_v": Decimal("218.8"),
    }  # fmt: skip
    assert times(first) == {"2020-01-25T12:09:30"}  # 13:09:30 local time
    assert table(second)["import_register_kwh"] == Decimal("79591.144")
    assert table(second)["export_register_kvarh"] == Decimal("3210.932")
    assert table(third) == {"power_import_kw": Decimal("5.502")}
    assert {r.meter for item in (first, second, third) for r in item.readings} == {"6970631402614476"}


def test_kaifa_sweden_says_its_offset():
    (item,) = decode(FILES["han-kaifa-se.hex"])
    assert times(item) == {"2021-09-22T16:35:30"}  # 17:35:30, one hour ahead of UTC though it is September
    assert table(item)["current_l2_a"] == Decimal("0.79")
    assert table(item)["import_register_kwh"] == Decimal("4786.979")


def test_aidon():
    long, short = decode(FILES["han-aidon-no.hex"], received_at_us=RECEIVED_US)
    assert table(long) == {
        "power_import_kw": Decimal("0.28"), "power_export_kw": 0, "reactive_import_kvar": 0,
        "reactive_export_kvar": Decimal("0.128"), "current_l1_a": Decimal("1.3"), "current_l3_a": Decimal("0.9"),
        "voltage_l1_v": Decimal("227.6"), "voltage_l2_v": Decimal("230.3"), "voltage_l3_v": Decimal("230.9"),
        "import_register_kwh": Decimal("22721.38"), "export_register_kwh": 0,
        "import_register_kvarh": Decimal("582.43"), "export_register_kvarh": Decimal("1708.43"),
    }  # fmt: skip
    assert times(long) == {"2020-01-21T15:00:00"}  # 16:00 local time: an offset of zero is not believed
    assert times(short) == {"2026-05-01T00:00:00"}
    assert {r.meter for item in (long, short) for r in item.readings} == {"7359992892587665"}


def test_kamstrup():
    (item,) = decode(FILES["han-kamstrup-no.hex"])
    assert times(item) == {"2017-08-16T14:00:05"}  # 16:00:05 local summer time
    assert len(item.readings) == 14
    assert item.readings[0].meter == "5706567000000000"


def test_kamstrup_scales():
    """Centiamperes and tens of watt-hours; milliamperes where the meter's type says it measures by transformers."""
    current = bytes.fromhex("090601011f0700ff0600000000")
    energy = bytes.fromhex("09060101010800ff0600000000")
    message = KAMSTRUP.replace(current, current[:-4] + (57).to_bytes(4, "big"))
    message = message.replace(energy, energy[:-4] + (123).to_bytes(4, "big"))
    (item,) = decode(message)
    assert table(item)["current_l1_a"] == Decimal("0.57")
    assert table(item)["import_register_kwh"] == Decimal("1.23")
    (item,) = decode(message.replace(b"000000000000000000", b"685000000000000000"))
    assert table(item)["current_l1_a"] == Decimal("0.057")


@pytest.mark.parametrize("message", [KAIFA_2, KAIFA_3, KAIFA_SE, AIDON_3, KAMSTRUP])
def test_every_framing_gives_the_same(message):
    (bare,) = decode(message)
    (apdu,) = decode(message[3:])
    (frame,) = decode(framed(message))
    (text,) = decode(framed(message).hex(" ").encode())
    assert bare.readings == frame.readings == text.readings == apdu.readings


@pytest.mark.parametrize("size", [1, 2, 3, 11, 100])
def test_chunks_cut_anywhere(size):
    data = b"\xc3\x06" + framed(KAIFA_2) + KAIFA_1[1:] + framed(KAIFA_3) + b"\x7e\x7e" + framed(KAIFA_2)[:40]
    whole = decode(data)
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    assert list(FORMAT.stream(chunks, Context(source="file"))) == whole
    assert [type(item) for item in whole] == [BadFrame, Decoded, Decoded, Decoded, BadFrame]
    for item in whole:
        if isinstance(item, BadFrame):
            assert data[item.position : item.position + len(item.raw)] == item.raw


def test_a_flag_inside_a_frame_is_content():
    assert 0x7E in KAIFA_1[1:-1]
    (item,) = decode(KAIFA_1, meter="m")
    assert table(item) == {"power_import_kw": Decimal("5.502")}


@pytest.mark.parametrize("bit", range(8, (len(KAIFA_1) - 1) * 8, 5))
def test_any_flipped_bit_is_noticed_and_the_next_frame_read(bit):
    damaged = bytearray(KAIFA_1)
    damaged[bit // 8] ^= 1 << bit % 8
    items = decode(bytes(damaged) + framed(KAIFA_3), meter="m")
    assert [len(item.readings) for item in items if isinstance(item, Decoded)] == [14]
    assert any(isinstance(item, BadFrame) for item in items)


def test_the_damaged_frame_of_the_demo():
    (bad,) = decode(FILES["han-damaged.hex"])
    assert "FCS" in bad.reason


def test_what_a_frame_leaves_out():
    (bad,) = decode(KAIFA_1)
    assert "names a meter" in bad.reason
    (bad,) = decode(AIDON_1, meter="m")
    assert "no clock" in bad.reason
    (good,) = decode(AIDON_1, meter="m", received_at_us=RECEIVED_US)
    assert {(r.meter, r.ts_end_us) for r in good.readings} == {("m", RECEIVED_US)}


def test_local_time_in_summer_and_elsewhere():
    summer = KAIFA_2.replace(bytes.fromhex("07e40119060d091e"), bytes.fromhex("07e40719060d091e"))
    assert times(decode(summer)[0]) == {"2020-07-25T11:09:30"}
    assert times(decode(summer, zone="Europe/Helsinki")[0]) == {"2020-07-25T10:09:30"}


def test_a_time_that_is_none():
    bad = KAIFA_2.replace(bytes.fromhex("07e40119060d091e"), bytes.fromhex("07e40d19060d091e"))
    assert isinstance(decode(bad)[0], BadFrame)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x0f\x01\x02", "no known list layout"),
        (b"hello", "no known list layout"),
        (b"x" * (3 * FRAME_BYTES_MAX), "neither HDLC frames nor one message"),
        (framed(b"\xe6\xe7\x00\x0f\x40\x00\x00\x00\x00\x01\x00"), "names a meter"),
        (b"7e7e zz\n", "not hexadecimal"),
        (b"7ea0\n", "frame ends early"),
    ],
)
def test_reasons(data, says):
    items = decode(data)
    assert items
    assert all(isinstance(item, BadFrame) for item in items)
    assert says in items[-1].reason


def test_empty_input_and_comments():
    assert decode(b"") == []
    assert decode(b"# nothing\n\n") == []
    assert decode(b"\x7e\x7e\x7e") == []
