"""DLMS push, SML and M-Bus: every framing, both CRC, encryption, times, and the libraries they are checked against."""

from decimal import Decimal

import meterbus
import pytest
from dlms_cosem import security
from dlms_cosem.protocol.xdlms import DataNotification
from fastcrc import crc16
from sml import SmlBase, SmlGetListResponse

import meter_frames as frames
from gridwire.demo.utility import frame_files
from gridwire.grid import reading_types
from gridwire.grid.formats import cosem, dlms, keys, registry
from gridwire.grid.formats.base import BadFrame, Context, Decoded
from gridwire.grid.reading import rfc3339

KEYS = keys.parse(
    f'[meters."{frames.SYSTEM_TITLE.hex()}"]\nencryption = "{frames.KEY.hex()}"\n'
    f'authentication = "{frames.AUTH_KEY.hex()}"\n'
)
RECEIVED_US = 1_777_000_000_000_000


def decode(name, data, **context):
    return list(registry.get(name).decode(data, "f", Context(source="f", **context)))


def table(item):
    assert isinstance(item, Decoded), item
    return {reading_types.BY_ID[r.reading_type].alias: Decimal(r.value).scaleb(r.scale) for r in item.readings}


def times(item):
    return {rfc3339(r.ts_end_us) for r in item.readings}


def meters(item):
    return {r.meter for r in item.readings}


PUSHED = {"import_register_kwh": Decimal("1234.567"), "voltage_l1_v": Decimal("230.1")}


@pytest.mark.parametrize("frame", [frames.hdlc, frames.wrapper, bytes, lambda m: frames.hdlc(b"\xe6\xe7\x00" + m)])
@pytest.mark.parametrize("seal", [bytes, frames.gcm, lambda m: frames.gcm(m, control=0x20)])
def test_a_push_in_every_wrapping(frame, seal):
    (item,) = decode("dlms", frame(seal(frames.PUSH_LIST)), keys=KEYS)
    assert table(item) == PUSHED
    assert times(item) == {"2026-01-02T12:15:00Z"}
    assert meters(item) == {"ELS0000042"}


def test_structures_of_name_value_and_unit():
    (item,) = decode("dlms", frames.PAIRS)
    assert table(item) == {"power_import_kw": Decimal("1.25"), "export_register_kwh": Decimal("0.77")}
    assert times(item) == {"2026-07-01T10:00:00Z"}


@pytest.mark.parametrize("tag", [b"\x09", b""])
def test_a_date_time_with_and_without_a_tag(tag):
    body = frames.array(
        frames.structure(frames.octets(frames.obis("1-0:1.7.0")), frames.u32(5), frames.scaler_unit(0, 27))
    )
    (item,) = decode("dlms", frames.notification(body, frames.clock(2026, 1, 1, 1, 0, 0), tag), meter="m")
    assert times(item) == {"2026-01-01T00:00:00Z"}
    (item,) = decode("dlms", frames.notification(body), meter="m", received_at_us=RECEIVED_US)
    assert item.readings[0].ts_end_us == RECEIVED_US
    (bad,) = decode("dlms", frames.notification(body), meter="m")
    assert "time of receipt" in bad.reason
    local = frames.clock(2026, 7, 1, 2, 0, 0, -0x8000)
    (item,) = decode("dlms", frames.notification(body, local), meter="m", zone="Europe/Berlin")
    assert times(item) == {"2026-07-01T00:00:00Z"}


def test_a_profile_buffer_with_its_columns():
    rows = frames.array(
        frames.structure(frames.octets(frames.clock(2026, 1, 1, 0, 15, 0)), frames.u32(100)),
        frames.structure(b"\x00", frames.u32(150)),
    )
    body = frames.structure(
        frames.array(
            frames.defined(7, "1-0:99.1.0", 2), frames.defined(7, "1-0:99.1.0", 3), frames.defined(7, "1-0:99.1.0", 4),
            frames.defined(3, "1-0:1.8.0", 3),
        ),
        rows, frames.array(frames.defined(8, "0-0:1.0.0"), frames.defined(3, "1-0:1.8.0")), frames.u32(900),
        frames.scaler_unit(0, 30),
    )  # fmt: skip
    (item,) = decode("dlms", frames.notification(body), meter="m")
    assert [(rfc3339(r.ts_end_us), r.value) for r in item.readings] == [
        ("2025-12-31T23:15:00Z", 100), ("2025-12-31T23:30:00Z", 150),
    ]  # fmt: skip


def test_a_missing_key_is_named_and_a_wrong_one_is_noticed():
    (bad,) = decode("dlms", frames.hdlc(frames.gcm(frames.PUSH_LIST)))
    assert f"no key for system title {frames.SYSTEM_TITLE.hex()}" in bad.reason
    other = keys.parse(f'[default]\nencryption = "{"11" * 16}"\nauthentication = "{"22" * 16}"\n')
    (bad,) = decode("dlms", frames.hdlc(frames.gcm(frames.PUSH_LIST)), keys=other)
    assert "does not open this frame" in bad.reason
    assert "11" * 16 not in bad.reason + repr(other)


def test_a_message_in_two_segments():
    message = frames.PUSH_LIST
    data = frames.hdlc(message[:40], segmented=True) + frames.hdlc(message[40:])
    (item,) = decode("dlms", data)
    assert table(item) == PUSHED
    items = decode("dlms", frames.hdlc(message[:40], segmented=True))
    assert [type(item) for item in items] == [BadFrame]


AUSTRIAN = {"import_register_kwh": Decimal("12.937"), "voltage_l1_v": Decimal("233.7")}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_messages_in_numbered_mbus_frames(size):
    sealed = frames.gcm(frames.AUSTRIAN, control=0x20)
    data = b"".join(frames.mbus_segments(sealed, 40) + frames.mbus_segments(frames.AUSTRIAN))
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    found = list(registry.get("dlms").stream(chunks, Context(keys=KEYS)))
    assert [table(item) for item in found] == [AUSTRIAN, AUSTRIAN]
    assert meters(found[0]) == {"181220000009"}
    assert times(found[0]) == {"2026-01-02T12:15:00Z"}
    assert [table(item) for item in decode("dlms", data.hex().encode())[1:]] == [AUSTRIAN]


def block(number, part, last):
    head = bytes([0xC0 if last else 0x40]) + number.to_bytes(2, "big") + bytes(2)
    size = bytes([len(part)]) if len(part) < 128 else bytes([0x81, len(part)])
    return b"\xe0" + head + size + part


def test_a_message_in_blocks():
    message = frames.gcm(frames.PUSH_LIST)
    parts = [message[at : at + 60] for at in range(0, len(message), 60)]
    blocks = [block(n, part, n == len(parts)) for n, part in enumerate(parts, 1)]
    sent = [frames.hdlc((b"\xe6\xe7\x00" if n == 0 else b"") + each) for n, each in enumerate(blocks)]
    for data in (b"".join(sent), b"".join(map(frames.wrapper, blocks))):
        (item,) = decode("dlms", data, keys=KEYS)
        assert table(item) == PUSHED
    items = decode("dlms", sent[0] + b"".join(sent[2:]) + frames.hdlc(frames.PUSH_LIST), keys=KEYS)
    assert [isinstance(item, Decoded) for item in items] == [False] * (len(items) - 1) + [True]
    (bad,) = decode("dlms", frames.hdlc(b"\xe0\x40\x00"))
    assert isinstance(bad, BadFrame)


def test_frames_without_end_and_content_take_no_memory():
    empty = frames.hdlc(b"", segmented=True)
    items = decode("dlms", empty * (3 * dlms.RAW_BYTES_MAX // len(empty)))
    assert {type(item) for item in items} == {BadFrame}
    assert sum(not item.more for item in items) >= 3, "each ends somewhere"


def test_the_push_of_viennas_meters_without_names():
    numbers = [frames.u32(number) for number in (9_534_290, 2_896_624, 726_595, 2_561_341, 738, 0)]
    head = [
        frames.octets(bytes((0, 6, 25, 9, 0, 255))), frames.octets(b"1121273201353"),
        frames.octets(bytes((19, 1, 14, 0))), frames.octets(bytes.fromhex("07e5031904")),
    ]  # fmt: skip
    body = frames.structure(*head, *numbers, frames.octets(b""), frames.octets(b""))
    (item,) = decode("dlms", frames.hdlc(frames.notification(body, frames.clock(2021, 3, 25, 19, 1, 14))))
    assert table(item) == {
        "import_register_kwh": Decimal("9534.29"), "export_register_kwh": Decimal("2896.624"),
        "import_register_kvarh": Decimal("726.595"), "export_register_kvarh": Decimal("2561.341"),
        "power_import_kw": Decimal("0.738"), "power_export_kw": Decimal("0"),
    }  # fmt: skip
    assert meters(item) == {"1121273201353"}
    assert times(item) == {"2021-03-25T18:01:14Z"}
    for other in ([*head[:3], *numbers], [*head, *numbers[:5]], [*head[1:], *numbers]):
        (bad,) = decode("dlms", frames.notification(frames.structure(*other), frames.clock(2021, 3, 25, 19, 1, 14)))
        assert isinstance(bad, BadFrame)


def test_the_format_mbus_sends_dlms_where_it_belongs():
    (bad,) = decode("mbus", frames.mbus_segments(frames.AUSTRIAN)[0])
    assert bad.reason == "frame carries a part of a DLMS message: it is of the format dlms"


def test_a_published_push_of_an_austrian_meter():
    known = keys.parse(f'[meters."4b464d6750000009"]\nencryption = "{frames.NETZ_NOE_KEY}"\n')
    (item,) = decode("dlms", frames.NETZ_NOE, keys=known, zone="Europe/Vienna")
    zeros = ("export_register_kwh", "power_import_kw", "power_export_kw", "voltage_l2_v", "voltage_l3_v")
    assert table(item) == {
        "import_register_kwh": Decimal("12.937"), "voltage_l1_v": Decimal("233.7"), "power_factor": Decimal("1"),
        **dict.fromkeys((*zeros, "current_l1_a", "current_l2_a", "current_l3_a"), Decimal(0)),
    }  # fmt: skip
    assert meters(item) == {"181220000009"}
    assert times(item) == {"2021-09-27T07:47:15Z"}


def test_mbus_frames_of_a_message_that_are_lost():
    one, two, three = frames.mbus_segments(frames.AUSTRIAN, 30)
    whole = one + two + three
    for data, reasons in (
        (two + three + whole, ["beginning", "beginning"]), (one + three + whole, ["end", "beginning"]),
        (one + two + whole, ["end"]), (whole + one, ["end"]), (frames.MBUS_ELECTRICITY + whole, ["format mbus"]),
    ):  # fmt: skip
        items = decode("dlms", data)
        assert [table(item) for item in items if isinstance(item, Decoded)] == [AUSTRIAN]
        bad = [item for item in items if isinstance(item, BadFrame)]
        assert [item.reason.endswith(reason) for item, reason in zip(bad, reasons, strict=True)] == [True] * len(bad)
        assert len(whole) + sum(len(item.raw) for item in bad) == len(data)


def test_a_value_without_its_scaler_is_refused():
    body = frames.structure(frames.octets(frames.obis("1-0:1.8.0")), frames.u32(5))
    (bad,) = decode("dlms", frames.notification(body, frames.clock(2026, 1, 1, 1, 0, 0)), meter="m")
    assert "no scaler and unit for 1-0:1.8.0" in bad.reason


def test_aidon_frames_decode_as_the_han_format_does():
    text = next(file.data for file in frame_files() if file.name == "han-aidon-no.hex")
    ours = decode("dlms", text, received_at_us=RECEIVED_US, meter="7359992892587665")
    han = decode("han", text, received_at_us=RECEIVED_US)
    for mine, theirs in zip(ours, han, strict=True):
        assert table(theirs) == table(mine)


@pytest.mark.parametrize("message", [frames.PUSH_LIST, frames.PAIRS])
def test_values_are_those_of_dlms_cosem(message):
    theirs = DataNotification.from_bytes(message)
    decoder = cosem.Decoder(message, 5)
    decoder.take(decoder.length())
    assert decoder.position == len(message) - len(theirs.body)
    assert decoder.value() is not None
    assert decoder.position == len(message)


def test_ciphering_is_that_of_dlms_cosem():
    control = security.SecurityControlField(security_suite=0, authenticated=True, encrypted=True)
    sealed = security.encrypt(control, frames.SYSTEM_TITLE, 1, frames.KEY, frames.PUSH_LIST, frames.AUTH_KEY)
    assert frames.gcm(frames.PUSH_LIST).endswith(sealed)


SML_EXPECTED = {
    "import_register_kwh": Decimal("1234.5678"), "export_register_kwh": Decimal("0.009"),
    "power_kw": Decimal("-0.1234"), "voltage_l1_v": Decimal("230.4"),
}  # fmt: skip


@pytest.mark.parametrize("crc", [crc16.ibm_sdlc, crc16.kermit])
@pytest.mark.parametrize("bare", [False, True])
def test_sml_with_either_crc_and_with_or_without_transport(crc, bare):
    items = decode("sml", frames.sml_file(crc, bare=bare))
    (item,) = items
    assert table(item) == SML_EXPECTED
    assert times(item) == {"2026-05-28T20:26:40Z"}
    assert meters(item) == {frames.SML_SERVER.hex()}


def test_sml_second_indexes_and_escapes():
    data = frames.sml_file(
        time=[(1, 1), (4, 5000)], values=[*frames.SML_VALUES, frames.sml_entry("1-0:96.1.0", b"\x1b" * 4)]
    )
    (bad,) = decode("sml", data)
    assert "time of receipt" in bad.reason
    (item,) = decode("sml", data, received_at_us=RECEIVED_US)
    assert item.readings[0].ts_end_us == RECEIVED_US


def test_sml_is_what_pysml_reads():
    _, frame = SmlBase.find_frame(frames.sml_file())
    listed = next(m["messageBody"] for m in frame if isinstance(m["messageBody"], SmlGetListResponse))
    theirs = {e["objName"]: Decimal(str(e["value"])) for e in listed["valList"] if "unit" in e}
    (item,) = decode("sml", frames.sml_file())
    ours = {reading_types.BY_ID[r.reading_type]: Decimal(r.value).scaleb(r.scale) for r in item.readings}
    assert len(theirs) == len(ours)
    for type, value in ours.items():
        shift = 3 if type.unit.startswith("k") else 0
        assert theirs[type.obis[0] + "*255"] == value.scaleb(shift)


@pytest.mark.parametrize("position", range(8, len(frames.sml_file()) - 1, 7))
def test_sml_any_flipped_bit_is_noticed(position):
    damaged = bytearray(frames.sml_file())
    damaged[position] ^= 4
    assert not [i for i in decode("sml", bytes(damaged), received_at_us=1) if isinstance(i, Decoded)]


def test_mbus_electricity():
    (item,) = decode("mbus", b"\xe5" + frames.MBUS_ELECTRICITY)
    assert table(item) == {
        "import_register_kwh": Decimal("12345.678"), "export_register_kwh": Decimal("0.5"),
        "power_import_kw": Decimal("1.5"), "voltage_v": Decimal("230.5"),
    }  # fmt: skip
    assert times(item) == {"2026-01-02T12:15:00Z"}
    assert meters(item) == {"12345678"}


def test_mbus_heat_and_its_stored_value():
    (item,) = decode("mbus", frames.MBUS_HEAT)
    assert [
        (reading_types.BY_ID[r.reading_type].alias, Decimal(r.value).scaleb(r.scale), rfc3339(r.ts_end_us))
        for r in item.readings
    ] == [
        ("heat_register_gj", Decimal("0.054"), "2026-01-02T12:15:00Z"),
        ("heat_volume_m3", Decimal("2.87"), "2026-01-02T12:15:00Z"),
        ("flow_temperature_c", Decimal("61.7"), "2026-01-02T12:15:00Z"),
        ("heat_register_gj", Decimal("0.0396"), "2026-12-30T23:00:00Z"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("maker", "known"), [(b"\xb5\x15", True), (b"\x43\x4c", True), (b"\x2e\x19", True), (b"\x2d\x2c", False)]
)
def test_mbus_phases_of_makers_who_number_them(maker, known):
    records = frames.MBUS_TIME + b"\x02\x2b" + (1500).to_bytes(2, "little")
    records += b"\x02\xfd\xc8\xff\x01" + (2257).to_bytes(2, "little")
    records += b"\x03\xfd\xd9\xff\x02" + (-66).to_bytes(3, "little", signed=True)
    records += b"\x02\xac\xff\x03" + (9).to_bytes(2, "little")
    records += b"\x02\xac\xff\x00" + (151).to_bytes(2, "little")  # all phases, a second time
    records += (
        b"\x02\xfd\xc8\xff\x04" + (1).to_bytes(2, "little") + b"\x04\x83\xff\x01" + bytes(4)
    )  # no phases of these
    phases = {
        "voltage_l1_v": Decimal("225.7"), "current_l2_a": Decimal("-0.066"), "power_import_l3_kw": Decimal("0.09"),
    }  # fmt: skip
    (item,) = decode("mbus", frames.mbus(records, maker=maker))
    assert table(item) == {"power_import_kw": Decimal("1.5")} | (phases if known else {})


def test_mbus_values_that_are_told_to_be_sound():
    """As ABB's meters send them: a VIFE 00 behind every unit, and behind the number of a phase."""
    records = frames.MBUS_TIME + b"\x0e\x84\x00" + bytes.fromhex("563412000000")
    records += b"\x8e\x10\x84\x00" + bytes.fromhex("120000000000")
    records += b"\x02\xfd\xc8\xff\x81\x00" + (2304).to_bytes(2, "little")
    records += b"\x02\xab\x15" + (7).to_bytes(2, "little")  # an error told with the value
    (item,) = decode("mbus", frames.mbus(records, maker=b"\x42\x04"))
    assert table(item) == {
        "import_register_kwh": Decimal("1234.56"), "import_register_t1_kwh": Decimal("0.12"),
        "voltage_l1_v": Decimal("230.4"),
    }  # fmt: skip


def test_mbus_units_in_words_and_a_signature_of_old():
    """The words stand behind the VIF or behind its VIFEs: both is sent."""
    records = frames.MBUS_TIME + b"\x02\xfc\x03HR%\x74" + b"\x34\x12" + b"\x02\x7c\x04hcaE\x01\x00"
    records += b"\x03\xfc\x20\x03CBA\x15\x31\x00"
    records += b"\x0c\x13" + bytes.fromhex("67452301")
    (item,) = decode("mbus", frames.mbus(records, medium=7, config=b"\xff\xff"))
    assert table(item) == {"water_register_m3": Decimal("1234.567")}
    for cut in (b"\x02\xfc\x03HR", b"\x02\xfc\x03HR%", b"\x02\xfc"):
        (bad,) = decode("mbus", frames.mbus(cut, medium=7))
        assert bad.reason == "records end in the middle of one"
    (bad,) = decode("mbus", frames.mbus(b"\x02" + b"\xff" * 12, medium=7))
    assert bad.reason == "more than ten VIFE"


@pytest.mark.parametrize(
    ("time", "instant"),
    [
        ("000008162700", "2016-07-22T06:00:00Z"), ("1e2d175f3c00", "2026-12-31T22:45:30Z"),
        ("4000025f2a00", "2018-10-31T01:00:00Z"), ("3d0008162700", None), ("008008162700", None),
    ],
)  # fmt: skip
def test_mbus_times_with_seconds(time, instant):
    value = b"\x4c\x13" + bytes.fromhex("92408310")
    found = decode("mbus", frames.mbus(value + b"\x46\x6d" + bytes.fromhex(time), medium=3), zone="Europe/Berlin")
    assert [times(item) for item in found if isinstance(item, Decoded)] == ([{instant}] if instant else [])


def test_mbus_encrypted():
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    plain = b"\x2f\x2f" + frames.MBUS_TIME + b"\x0c\x03" + bytes.fromhex("78563412")
    plain += b"\x2f" * (-len(plain) % 16)
    vector = b"\x2d\x2c" + bytes.fromhex("78563412") + b"\x01\x02" + b"\x05" * 8
    cipher = Cipher(algorithms.AES(frames.KEY), modes.CBC(vector)).encryptor()
    data = frames.mbus(cipher.update(plain) + cipher.finalize(), config=bytes((len(plain) // 16 << 4, 5)))
    (bad,) = decode("mbus", data)
    assert "no key for meter 12345678" in bad.reason
    (item,) = decode("mbus", data, keys=keys.parse(f'[meters."12345678"]\nencryption = "{frames.KEY.hex()}"'))
    assert table(item) == {"import_register_kwh": Decimal("12345.678")}


@pytest.mark.parametrize("data", [frames.MBUS_ELECTRICITY, frames.MBUS_HEAT])
def test_mbus_is_what_pymeterbus_reads(data):
    theirs = sorted(
        Decimal(str(round(record.parsed_value, 6))) for record in meterbus.load(data).records
        if isinstance(record.parsed_value, int | float | Decimal)
    )  # fmt: skip
    base = {"kWh": 1000, "kW": 1000, "GJ": Decimal(10**9) / 3600}
    (item,) = decode("mbus", data)
    ours = sorted(
        Decimal(r.value).scaleb(r.scale) * base.get(reading_types.BY_ID[r.reading_type].unit, 1) for r in item.readings
    )
    assert ours == theirs


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_wrapper_frame_after_noise_is_found_wherever_the_stream_is_cut(size):
    data = frames.wrapper(frames.PAIRS) + b"noise" + frames.wrapper(frames.PUSH_LIST)
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    found = list(registry.get("dlms").stream(chunks, Context()))
    assert [table(item) for item in found if isinstance(item, Decoded)] == [
        table(*decode("dlms", frames.PAIRS)), table(*decode("dlms", frames.PUSH_LIST)),
    ]  # fmt: skip
    assert b"".join(item.raw for item in found if isinstance(item, BadFrame)) == b"noise"


@pytest.mark.parametrize("name", ["dlms", "sml", "mbus"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_cut_anywhere(name, size):
    data = {
        "dlms": frames.hdlc(frames.PUSH_LIST) + b"xx" + frames.hdlc(frames.PAIRS)[:30] + frames.hdlc(frames.PAIRS),
        "sml": frames.sml_file() + b"noise" + frames.sml_file()[:99] + frames.sml_file(crc16.kermit),
        "mbus": frames.MBUS_HEAT + b"noise" + frames.MBUS_HEAT[:33] + frames.MBUS_ELECTRICITY,
    }[name]
    whole = decode(name, data)
    chunks = (data[i : i + size] for i in range(0, len(data), size))
    cut = list(registry.get(name).stream(chunks, Context(source="f")))
    assert [item for item in cut if isinstance(item, Decoded)] == [item for item in whole if isinstance(item, Decoded)]
    assert len([item for item in whole if isinstance(item, Decoded)]) == 2
    for item in whole:
        if isinstance(item, BadFrame):
            assert data[item.position : item.position + len(item.raw)] == item.raw
