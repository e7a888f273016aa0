"""DSMR telegrams: real ones, dialects, streams cut anywhere, and what becomes of rubbish."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from dsmr_parser import telegram_specifications
from dsmr_parser.parsers import TelegramParser

from gridwire.demo.utility import frame_files
from gridwire.grid import reading_types
from gridwire.grid.formats import keys
from gridwire.grid.formats.base import BadFrame, Context, Decoded
from gridwire.grid.formats.dsmr import FORMAT, TELEGRAM_BYTES_MAX
from gridwire.grid.reading import rfc3339, timestamp_us

FRAMES = {file.name: file.data for file in frame_files()}
V5 = FRAMES["dsmr-v5-iskra.txt"]
V42 = FRAMES["dsmr-v4.2-kaifa.txt"]
V22 = FRAMES["dsmr-v2.2-iskra.txt"]
RECEIVED_US = timestamp_us(datetime(2026, 5, 1, tzinfo=UTC))


def sealed(*lines):
    """A telegram with the right checksum."""
    text = "/TST5\\253 test\r\n\r\n" + "".join(f"{line}\r\n" for line in lines) + "!"
    return f"{text}{TelegramParser.crc16(text):04X}\r\n".encode()


def decode(data, **context):
    return list(FORMAT.decode(data, "file", Context(source="file", **context)))


def table(item):
    """{alias: (value, time)} of a good frame."""
    assert isinstance(item, Decoded), item
    return {
        reading_types.BY_ID[r.reading_type].alias: (Decimal(r.value).scaleb(r.scale), rfc3339(r.ts_end_us)[:-1])
        for r in item.readings
    }


KEY, OWN_AUTHENTICATION = bytes(range(16)), bytes(range(16, 32))
PUBLIC_AUTHENTICATION = bytes.fromhex("00112233445566778899aabbccddeeff")
TITLE = b"SAG12345"


def encrypted(telegram, authentication=PUBLIC_AUTHENTICATION, counter=7):
    """As Luxembourg's meters send it, with a tag of 12 bytes."""
    count = counter.to_bytes(4, "big")
    text = AESGCM(KEY).encrypt(TITLE + count, telegram, b"\x30" + authentication)[:-4]
    content = b"\x30" + count + text
    return b"\xdb\x08" + TITLE + b"\x82" + len(content).to_bytes(2, "big") + content


def keys_with(authentication=None):
    more = f'authentication = "{authentication.hex()}"' if authentication else ""
    return keys.parse(f'[meters."{TITLE.hex()}"]\nencryption = "{KEY.hex()}"\n{more}\n')


@pytest.mark.parametrize("authentication", [None, OWN_AUTHENTICATION])
def test_encrypted_telegrams(authentication):
    data = encrypted(V5, authentication or PUBLIC_AUTHENTICATION)
    (plain,) = decode(V5)
    (item,) = decode(data, keys=keys_with(authentication))
    assert item == plain
    theirs = TelegramParser({**telegram_specifications.LUXEMBOURG_SMARTY, "general_global_cipher": True}).parse(
        data.hex(), KEY.hex(), (authentication or PUBLIC_AUTHENTICATION).hex()
    )
    assert table(item)["power_import_kw"][0] == theirs.CURRENT_ELECTRICITY_USAGE.value


@pytest.mark.parametrize("size", [1, 2, 13, 1000])
def test_encrypted_telegrams_in_a_stream_cut_anywhere(size):
    bad = bytearray(encrypted(V5, counter=8))
    bad[500] ^= 1
    good, last = encrypted(V5), encrypted(V42, counter=9)
    data = good + bad + b"noise" + last + last[:-1]
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    items = list(FORMAT.stream(chunks, Context(keys=keys_with())))
    assert [table(item) for item in (items[0], items[-2])] == [table(*decode(V5)), table(*decode(V42))]
    left = [item for item in items if isinstance(item, BadFrame)]
    assert left[0].reason == "CRC-16 of the telegram does not match its bytes"
    assert {item.reason for item in left[1:]} == {"no encrypted telegram, or it ends early"}
    assert b"".join(item.raw for item in left) == bytes(bad) + b"noise" + last[:-1]


def test_encrypted_telegrams_whose_key_of_authentication_nobody_knows_are_checked_by_their_crc():
    data = encrypted(V5, OWN_AUTHENTICATION)
    assert decode(data, keys=keys_with()) == decode(V5)
    changed = bytearray(data)
    changed[500] ^= 1
    (item,) = decode(bytes(changed), keys=keys_with())
    assert item.reason == "CRC-16 of the telegram does not match its bytes"


def test_an_encrypted_telegram_that_names_no_meter_is_known_by_its_system_title():
    telegram = sealed("1-3:0.2.8(50)", "0-0:1.0.0(230817152425S)", "1-0:1.8.0(007112944*Wh)", "1-0:2.7.0(000001060*W)")
    (item,) = decode(encrypted(telegram), keys=keys_with())
    assert table(item) == {
        "import_register_kwh": (Decimal("7112.944"), "2023-08-17T13:24:25"),
        "power_export_kw": (Decimal("1.06"), "2023-08-17T13:24:25"),
    }
    assert {reading.meter for reading in item.readings} == {TITLE.hex()}
    (item,) = decode(encrypted(telegram), keys=keys_with(), meter="M1")
    assert {reading.meter for reading in item.readings} == {"M1"}


def test_encrypted_telegrams_without_their_key():
    (item,) = decode(encrypted(V5))
    assert item.reason == f"no key for system title {TITLE.hex()}: add it to the key file"
    other = keys.parse(f'[default]\nencryption = "{"11" * 16}"\n')
    (item,) = decode(encrypted(V5), keys=other)
    assert "does not open this frame" in item.reason
    (item,) = decode(encrypted(V5), keys=keys_with(OWN_AUTHENTICATION))
    assert "does not open this frame" in item.reason, "who has a key wants it to fit"
    (item,) = decode(encrypted(b"no telegram"), keys=keys_with())
    assert isinstance(item, BadFrame)


def test_a_real_v5_telegram():
    (item,) = decode(V5)
    now = "2017-01-02T18:20:02"  # 19:20:02 W
    assert table(item) == {
        alias: (Decimal(value), ts)
        for alias, value, ts in [
            ("import_register_t1_kwh", "4.426", now), ("import_register_t2_kwh", "2.399", now),
            ("export_register_t1_kwh", "2.444", now), ("export_register_t2_kwh", "0", now),
            ("power_import_kw", "0.244", now), ("power_export_kw", "0", now),
            ("voltage_l1_v", "230", now), ("voltage_l2_v", "230", now), ("voltage_l3_v", "229", now),
            ("current_l1_a", "0.48", now), ("current_l2_a", "0.44", now), ("current_l3_a", "0.86", now),
            ("power_import_l1_kw", "0.07", now), ("power_import_l2_kw", "0.032", now),
            ("power_import_l3_kw", "0.142", now), ("power_export_l1_kw", "0", now),
            ("power_export_l2_kw", "0", now), ("power_export_l3_kw", "0", now),
            ("gas_register_m3", "0.107", "2017-01-02T15:10:05"),
        ]
    }  # fmt: skip
    meters = {reading.meter for reading in item.readings}
    assert meters == {"K8EG004046395507", "2222ABCD123456789"}
    assert {reading.source for reading in item.readings} == {"file"}


def test_a_real_v4_telegram():
    (item,) = decode(V42)
    got = table(item)
    assert got["import_register_t1_kwh"] == (Decimal("1581.123"), "2016-11-13T19:57:57")
    assert got["gas_register_m3"] == (Decimal("981.443"), "2016-11-29T19:00:00")
    assert got["current_l2_a"][0] == 6
    assert item.readings[0].meter == "3960221976967177082151037881335713"  # no ASCII in it: stays as sent


def test_a_telegram_without_a_clock_needs_the_time_of_receipt():
    (bad,) = decode(V22)
    assert isinstance(bad, BadFrame)
    assert "no clock" in bad.reason
    (item,) = decode(V22, received_at_us=RECEIVED_US)
    assert table(item)["import_register_t1_kwh"] == (Decimal("1.001"), "2026-05-01T00:00:00")
    assert table(item)["gas_register_m3"] == (Decimal("1.001"), "2016-11-07T18:00:00")


def test_the_damaged_telegram_of_the_demo():
    (bad,) = decode(FRAMES["dsmr-damaged.txt"])
    assert (bad.raw, bad.position) == (FRAMES["dsmr-damaged.txt"], 0)
    assert "CRC-16" in bad.reason


@pytest.mark.parametrize("position", range(0, len(V5) - 8, 37))
def test_any_flipped_bit_is_noticed(position):
    damaged = bytearray(V5)
    damaged[position] ^= 0x02
    assert not [item for item in decode(bytes(damaged)) if isinstance(item, Decoded)]


@pytest.mark.parametrize(
    ("stamp", "utc"),
    [
        ("160327015959W", "2016-03-27T00:59:59"),
        ("160327030000S", "2016-03-27T01:00:00"),
        ("161030023000S", "2016-10-30T00:30:00"),
        ("161030023000W", "2016-10-30T01:30:00"),
        ("160701120000W", "2016-07-01T11:00:00"),  # a meter without summer time says so, and is believed
    ],
)
def test_the_summer_time_flag_decides(stamp, utc):
    (item,) = decode(sealed("1-3:0.2.8(50)", f"0-0:1.0.0({stamp})", "0-0:96.1.1(4D31)", "1-0:1.8.1(1*kWh)"))
    assert table(item)["import_register_t1_kwh"][1] == utc


BELGIUM = sealed(
    "0-0:96.1.4(50217)", "0-0:96.1.1(3153414733313030303030303031)", "0-0:1.0.0(200512135409S)",
    "1-0:1.8.1(000000.034*kWh)", "1-0:2.8.2(000013.000*kWh)", "1-0:1.7.0(00.100*kW)", "1-0:32.7.0(234.7*V)",
    "0-1:24.1.0(003)", "0-1:96.1.1(37464C4F32313139303333373333)", "0-1:24.2.3(200512134558S)(00112.384*m3)",
    "0-2:24.1.0(007)", "0-2:96.1.1(3853414731323334)", "0-2:24.2.1(200512134558S)(00872.234*m3)",
)  # fmt: skip
LUXEMBOURG = sealed(
    "1-3:0.2.8(42)", "0-0:1.0.0(160905115959S)", "0-0:42.0.0(4D45544552)", "1-0:1.8.0(000037.000*kWh)",
)  # fmt: skip
WATTS = sealed(
    "1-3:0.2.8(50)", "0-0:1.0.0(221006155014S)", "0-0:96.1.1(4D31)", "1-0:1.8.0(006545766*Wh)", "1-0:1.7.0(286*W)",
    "1-0:3.8.0(747*varh)", "1-0:4.7.0(166*var)",
)  # fmt: skip
SWEDEN = sealed(
    "0-0:1.0.0(210217184019W)", "1-0:1.8.0(00006678.394*kWh)", "1-0:3.8.0(00000021.988*kvarh)",
    "1-0:21.7.0(0001.023*kW)", "1-0:23.7.0(0000.000*kVAr)", "1-0:32.7.0(240.3*V)",
)  # fmt: skip


def test_belgium():
    (item,) = decode(BELGIUM)
    got = table(item)
    assert got["export_register_t2_kwh"] == (Decimal(13), "2020-05-12T11:54:09")
    assert got["gas_register_m3"] == (Decimal("112.384"), "2020-05-12T11:45:58")
    assert got["water_register_m3"][0] == Decimal("872.234")
    assert {r.meter for r in item.readings} == {"1SAG3100000001", "7FLO2119033733", "8SAG1234"}


def test_watts_become_kilowatts_exactly():
    got = table(decode(WATTS)[0])
    assert got["import_register_kwh"][0] == Decimal("6545.766")
    assert got["power_import_kw"][0] == Decimal("0.286")
    assert got["import_register_kvarh"][0] == Decimal("0.747")
    assert got["reactive_export_kvar"][0] == Decimal("0.166")


def test_a_telegram_that_names_no_meter():
    (bad,) = decode(SWEDEN)
    assert "names no meter" in bad.reason
    (item,) = decode(SWEDEN, meter="735999")
    got = table(item)
    assert got["import_register_kwh"] == (Decimal("6678.394"), "2021-02-17T17:40:19")
    assert got["voltage_l1_v"][0] == Decimal("240.3")
    assert {r.meter for r in item.readings} == {"735999"}


def test_line_ends_of_another_system():
    (item,) = decode(V5.replace(b"\r\n", b"\n"))
    assert table(item) == table(decode(V5)[0])


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_chunks_cut_anywhere(size):
    data = V5 + V42 + FRAMES["dsmr-damaged.txt"] + V5
    whole = decode(data)
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    assert list(FORMAT.stream(chunks, Context(source="file"))) == whole
    assert [item.position for item in whole] == [0, len(V5), len(V5 + V42), len(data) - len(V5)]
    assert [type(item) for item in whole] == [Decoded, Decoded, BadFrame, Decoded]


def test_rubbish_around_telegrams_is_kept():
    data = b"1-0:1.8.1(half)\r\n" + V5 + b"\x00\r\n" + b"noise" + V42 + V5[:100] + b"\r\n" + V5 + V42[:50]
    items = decode(data)
    assert [type(item) for item in items] == [BadFrame, Decoded, BadFrame, Decoded, BadFrame, Decoded, BadFrame]
    assert [item.raw for item in items if isinstance(item, BadFrame)] == [
        b"1-0:1.8.1(half)\r\n", b"\x00\r\nnoise", V5[:100] + b"\r\n", V42[:50],
    ]  # fmt: skip
    for item in items:
        if isinstance(item, BadFrame):
            assert data[item.position : item.position + len(item.raw)] == item.raw


def test_a_telegram_without_an_end_does_not_eat_the_file():
    data = b"/" + b"x" * (3 * TELEGRAM_BYTES_MAX) + b"\r\n" + V5
    items = decode(data)
    assert isinstance(items[-1], Decoded)
    assert b"".join(item.raw for item in items[:-1]) == data[: -len(V5)]


def test_the_last_telegram_may_lack_its_line_end():
    assert table(decode(V5.rstrip())[0]) == table(decode(V5)[0])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (V5.replace(b"!6EEE", b"!"), "no CRC-16"),
        (V5.replace(b"!6EEE", b"!ZZZZ"), "no CRC-16"),
        (sealed("1-3:0.2.8(50)", "0-0:1.0.0(170199192002W)", "0-0:96.1.1(4D31)"), "which is no time"),
        (sealed("1-3:0.2.8(50)", "0-0:1.0.0(170102192002W)", "0-0:96.1.1(4D31)"), "no reading"),
        (sealed("1-3:0.2.8(50)", "0-0:1.0.0(170102192002W)", "0-0:96.1.1(4D31)", "1-0:1.8.1(1*m3)"), "no reading"),
    ],
)
def test_reasons(data, says):
    (bad,) = decode(data)
    assert isinstance(bad, BadFrame)
    assert says in bad.reason
    assert bad.raw == data
