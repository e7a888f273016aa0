"""Frames of meters, built here byte by byte from the standards; the decoders are tested with them."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastcrc import crc16

KEY = bytes(range(16))
AUTH_KEY = bytes(range(0xD0, 0xE0))
SYSTEM_TITLE = b"KFM\x10\x20\x03\x02\x01"


# -- DLMS/COSEM ---------------------------------------------------------------------------------------------------


def octets(data: bytes) -> bytes:
    return b"\x09" + bytes([len(data)]) + data


def array(*items: bytes, tag: int = 1) -> bytes:
    return bytes([tag, len(items)]) + b"".join(items)


def structure(*items: bytes) -> bytes:
    return array(*items, tag=2)


def u8(n: int) -> bytes:
    return b"\x11" + bytes([n])


def u16(n: int) -> bytes:
    return b"\x12" + struct.pack(">H", n)


def u32(n: int) -> bytes:
    return b"\x06" + struct.pack(">I", n)


def scaler_unit(scaler: int, unit: int) -> bytes:
    return structure(b"\x0f" + struct.pack("b", scaler), b"\x16" + bytes([unit]))


def obis(text: str) -> bytes:
    a, b, c, d, e = (int(part) for part in text.replace("-", ".").replace(":", ".").split("."))
    return bytes((a, b, c, d, e, 255))


def clock(year: int, month: int, day: int, hour: int, minute: int, second: int, deviation: int = -60) -> bytes:
    return struct.pack(">HBBBBBBBhB", year, month, day, 255, hour, minute, second, 0, deviation, 0)


def defined(class_id: int, name: str, attribute: int = 2) -> bytes:
    return structure(u16(class_id), octets(obis(name)), b"\x0f" + bytes([attribute]), u16(0))


def notification(body: bytes, time: bytes = b"", tag: bytes = b"") -> bytes:
    return b"\x0f\x40\x00\x00\x00" + tag + bytes([len(time)]) + time + body


PUSH_LIST = notification(
    structure(
        array(
            defined(40, "0-0:25.9.0"), defined(8, "0-0:1.0.0"), defined(1, "0-0:96.1.0"), defined(3, "1-0:1.8.0"),
            defined(3, "1-0:1.8.0", 3), defined(3, "1-0:32.7.0"), defined(3, "1-0:32.7.0", 3),
        ),
        octets(clock(2026, 1, 2, 13, 15, 0)), octets(b"ELS0000042"), u32(1_234_567), scaler_unit(0, 30), u16(2301),
        scaler_unit(-1, 35),
    ),
    clock(2026, 1, 2, 13, 15, 7),
)  # fmt: skip
"""A push list that counts itself, registers with their scalers."""

PAIRS = notification(
    array(
        structure(octets(obis("0-0:96.1.0")), octets(b"M-2")),
        structure(octets(obis("1-0:1.7.0")), u32(1250), scaler_unit(0, 27)),
        structure(octets(obis("1-0:2.8.0")), u32(77), scaler_unit(1, 30)),
    ),
    clock(2026, 7, 1, 12, 0, 0, -120),
)  # fmt: skip
"""Structures of name, value, scaler and unit."""


def gcm(apdu: bytes, counter: int = 1, control: int = 0x30, key: bytes = KEY, title: bytes = SYSTEM_TITLE) -> bytes:
    """general-glo-ciphering of an APDU, encrypted and authenticated."""
    count = counter.to_bytes(4, "big")
    sealed = AESGCM(key).encrypt(title + count, apdu, bytes([control]) + AUTH_KEY)
    sealed = sealed[:-4]  # a tag of 12 bytes
    if not control & 0x10:
        sealed = sealed[:-12]
    content = bytes([control]) + count + sealed
    head = b"\x82" + struct.pack(">H", len(content)) if len(content) > 127 else bytes([len(content)])
    return b"\xdb\x08" + title + head + content


def hdlc(message: bytes, segmented: bool = False) -> bytes:
    size = len(message) + 10
    head = bytes((0xA0 | (8 if segmented else 0) | size >> 8, size & 255)) + b"\x01\x02\x01\x10"
    body = head + crc16.ibm_sdlc(head).to_bytes(2, "little") + message
    return b"\x7e" + body + crc16.ibm_sdlc(body).to_bytes(2, "little") + b"\x7e"


AUSTRIAN = notification(
    structure(
        octets(clock(2026, 1, 2, 13, 15, 0)),
        octets(obis("1-0:1.8.0")), u32(12_937), scaler_unit(0, 30),
        octets(obis("1-0:32.7.0")), u16(2337), scaler_unit(-1, 35),
        octets(b"181220000009"),
    ),
    clock(2026, 1, 2, 13, 15, 0),
)  # fmt: skip
"""Names, values and scalers in turn, between a time and the meter's number without names."""


NETZ_NOE = bytes.fromhex(
    "68FAFA6853FF000167DB084B464D675000000981F8200000002388D5AB4F97515AAFC6B88D2F85DAA7A0E3C0C40D004535C397C9D037AB7D"
    "BDA329107615444894A1A0DD7E85F02D496CECD3FF46AF5FB3C9229CFE8F3EE4606AB2E1F409F36AAD2E50900A4396FC6C2E083F373233A6"
    "9616950758BFC7D63A9E9B6E99E21B2CBC2B934772CA51FD4D69830711CAB1F8CFF25F0A329337CBA51904F0CAED88D61968743C8454BA92"
    "2EB00038182C22FE316D16F2A9F544D6F75D51A4E92A1C4EF8AB19A2B7FEAA32D0726C0ED80229AE6C0F7621A4209251ACE2B2BC66FF0327"
    "A653BB686C756BE033C7A281F1D2A7E1FA31C3983E15F8FD16CC5787E6F517166814146853FF110167419A3CFDA44BE438C96F0E38BF83D9"
    "8316"
)
NETZ_NOE_KEY = "36C66639E48A8CA4D6BC8B282A793BBB"
"""An encrypted push of a Kaifa MA309M in two M-Bus frames. Source: Netz NÖ, description of the customer interface."""


def mbus_segments(message: bytes, part_bytes: int = 245) -> list[bytes]:
    """A DLMS message in numbered M-Bus frames."""
    parts = [message[at : at + part_bytes] for at in range(0, len(message), part_bytes)]
    found = []
    for number, part in enumerate(parts):
        content = bytes((0x53, 0xFF, number & 15 | (0x10 if number == len(parts) - 1 else 0), 1, 0x67)) + part
        found.append(b"\x68" + bytes([len(content)]) * 2 + b"\x68" + content + bytes([sum(content) & 255, 0x16]))
    return found


def wrapper(message: bytes) -> bytes:
    return b"\x00\x01\x00\x01\x00\x66" + struct.pack(">H", len(message)) + message


# -- SML ----------------------------------------------------------------------------------------------------------


def sml(value: object) -> bytes:
    """One SML value; a tuple (size, number) is an unsigned number of that size, (-size, number) a signed one."""
    match value:
        case None:
            return b"\x01"
        case bytes():
            size = len(value) + 1
            return (bytes([size]) if size < 16 else bytes([0x80 | (size + 1) >> 4, (size + 1) & 15])) + value
        case list():
            return bytes([0x70 | len(value)]) + b"".join(map(sml, value))
        case (int(size), int(number)):
            kind = 0x50 if size < 0 else 0x60
            return bytes([kind | abs(size) + 1]) + number.to_bytes(abs(size), "big", signed=size < 0)
    raise TypeError(value)


def sml_message(choice: int, body: object, crc=crc16.ibm_sdlc) -> bytes:
    head = b"\x76" + sml(b"\x01\x02") + sml((1, 0)) + sml((1, 0)) + sml([(4, choice), body])
    return head + b"\x63" + crc(head).to_bytes(2, "little") + b"\x00"


def sml_entry(name: str, value: object, unit: int | None = None, scaler: int | None = None) -> list:
    return [
        obis(name), None, None, (1, unit) if unit else None, (-1, scaler) if scaler is not None else None, value, None
    ]  # fmt: skip


SML_VALUES = [
    sml_entry("1-0:96.50.1", b"EMH"),
    sml_entry("1-0:1.8.0", (8, 12_345_678), 30, -1),
    sml_entry("1-0:2.8.0", (5, 90), 30, -1),
    sml_entry("1-0:16.7.0", (-4, -1234), 27, -1),
    sml_entry("1-0:32.7.0", (2, 2304), 35, -1),
]
SML_SERVER = bytes.fromhex("0a01454d480000a1b2c3")
SML_TIME = [(1, 2), (4, 1_780_000_000)]


def sml_file(crc=crc16.ibm_sdlc, values=SML_VALUES, time=SML_TIME, bare: bool = False) -> bytes:
    messages = (
        sml_message(0x0101, [None, None, b"\x00\x01", SML_SERVER, None, None], crc)
        + sml_message(0x0701, [None, SML_SERVER, obis("1-0:98.10.0"), time, values, None, None], crc)
        + sml_message(0x0201, [None], crc)
    )
    if bare:
        return messages
    fill = -len(messages) % 4
    data = b"\x1b" * 4 + b"\x01" * 4 + messages.replace(b"\x1b" * 4, b"\x1b" * 8) + bytes(fill)
    data += b"\x1b" * 4 + bytes((0x1A, fill))
    return data + crc(data).to_bytes(2, "little")


# -- M-Bus --------------------------------------------------------------------------------------------------------


def mbus(
    records: bytes, medium: int = 2, meter: str = "12345678", ci: int = 0x72, config: bytes = b"\x00\x00",
    maker: bytes = b"\x2d\x2c",
) -> bytes:  # fmt: skip
    content = b"\x08\x01" + bytes([ci]) + bytes.fromhex(meter)[::-1] + maker + bytes([1, medium, 5, 0])
    content += config + records
    size = bytes([len(content)])
    return b"\x68" + size * 2 + b"\x68" + content + bytes([sum(content) & 255, 0x16])


MBUS_TIME = b"\x04\x6d" + bytes((15, 13, 0x42, 0x31))  # 2026-01-02 13:15
MBUS_ELECTRICITY = mbus(
    MBUS_TIME
    + b"\x0c\x03" + bytes.fromhex("78563412")  # 12345678 Wh in BCD
    + b"\x04\x83\x3c" + (500).to_bytes(4, "little")  # 500 Wh fed in
    + b"\x02\x2b" + (1500).to_bytes(2, "little")  # 1500 W
    + b"\x02\xfd\x48" + (2305).to_bytes(2, "little")  # 230.5 V
    + b"\x2f\x2f\x0f\x01\x02"
)  # fmt: skip
MBUS_HEAT = mbus(
    MBUS_TIME + b"\x0c\x06" + bytes.fromhex("15000000") + b"\x0c\x14" + bytes.fromhex("87020000")
    + b"\x0a\x5a" + bytes.fromhex("1706") + b"\x42\x6c\x5f\x3c" + b"\x4c\x06" + bytes.fromhex("11000000"),
    medium=4,
)  # fmt: skip


# -- text formats -------------------------------------------------------------------------------------------------

NEM12 = b"\n".join(
    [
        b"100,NEM12,202601020000,MDP1,Retailer1",
        b"200,6102000001,E1B1,1,E1,N1,SER123,kWh,30,20260201",
        b"300,20260101," + b",".join(b"%d.%03d" % (n, n) for n in range(48)) + b",V,,,20260102010101,",
        b"400,1,40,A,,",
        b"400,41,47,E14,,",
        b"400,48,48,N,,",
        b"200,6102000001,E1B1,1,B1,N2,SER123,Wh,30,20260201",
        b"300,20260101," + b",".join(b"%d" % n for n in range(48)) + b",A,,,20260102010101,",
        b"900",
        b"",
    ]
)  # fmt: skip

ESPI = b"""<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
<entry><link rel="self" href="RetailCustomer/9b/UsagePoint/01"/>
<link rel="related" href="RetailCustomer/9b/UsagePoint/01/MeterReading"/><content><UsagePoint xmlns="http://naesb.org/espi">
<ServiceCategory><kind>0</kind></ServiceCategory></UsagePoint></content></entry>
<entry><link rel="self" href="RetailCustomer/9b/UsagePoint/01/MeterReading/01"/>
<link rel="up" href="RetailCustomer/9b/UsagePoint/01/MeterReading"/><link rel="related" href="ReadingType/07"/>
<link rel="related" href="RetailCustomer/9b/UsagePoint/01/MeterReading/01/IntervalBlock"/>
<content><MeterReading xmlns="http://naesb.org/espi"/></content></entry>
<entry><link rel="self" href="ReadingType/07"/><content><espi:ReadingType xmlns:espi="http://naesb.org/espi">
<espi:accumulationBehaviour>4</espi:accumulationBehaviour><espi:commodity>1</espi:commodity>
<espi:flowDirection>1</espi:flowDirection><espi:intervalLength>900</espi:intervalLength><espi:kind>12</espi:kind>
<espi:powerOfTenMultiplier>0</espi:powerOfTenMultiplier><espi:uom>72</espi:uom></espi:ReadingType></content></entry>
<entry><link rel="up" href="RetailCustomer/9b/UsagePoint/01/MeterReading/01/IntervalBlock"/><content>
<IntervalBlock xmlns="http://naesb.org/espi"><interval><duration>86400</duration><start>1330578000</start></interval>
<IntervalReading><timePeriod><duration>900</duration><start>1330578000</start></timePeriod><value>282</value>
</IntervalReading>
<IntervalReading><ReadingQuality><quality>8</quality></ReadingQuality><timePeriod><duration>90000</duration>
<start>1330578900.0</start></timePeriod><value>323</value></IntervalReading>
</IntervalBlock></content></entry>
</feed>
"""

CIM = b"""<?xml version="1.0"?>
<m:MeterReadings xmlns:m="http://iec.ch/TC57/2011/MeterReadings#">
<m:MeterReading><m:Meter><m:mRID>M-1</m:mRID></m:Meter>
<m:Readings><m:timeStamp>2026-01-01T00:00:00Z</m:timeStamp><m:value>120.50</m:value>
<m:ReadingType ref="0.0.0.1.1.1.12.0.0.0.0.0.0.0.0.0.72.0"/></m:Readings>
<m:IntervalBlocks><m:IntervalReadings><m:timeStamp>2026-01-01T01:15:00+01:00</m:timeStamp><m:value>0.25</m:value>
<m:ReadingQualities><m:ReadingQualityType ref="1.5.257"/></m:ReadingQualities></m:IntervalReadings>
<m:ReadingType ref="0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0"/></m:IntervalBlocks>
<m:UsagePoint><m:mRID>U-1</m:mRID></m:UsagePoint></m:MeterReading>
<m:EndDeviceEvent><m:mRID>e-1</m:mRID><m:createdDateTime>2026-01-01T00:00:30Z</m:createdDateTime>
<m:severity>high</m:severity><m:Assets><m:mRID>M-1</m:mRID></m:Assets>
<m:EndDeviceEventType ref="3.26.0.47"/></m:EndDeviceEvent>
</m:MeterReadings>
"""

CIM_JSON = b"""{"MeterReadings": {"MeterReading": [{"Meter": {"mRID": "M-1"}, "UsagePoint": {"mRID": "U-1"},
"Readings": [{"timeStamp": "2026-01-01T00:00:00Z", "value": 120.50,
 "ReadingType": {"ref": "0.0.0.1.1.1.12.0.0.0.0.0.0.0.0.0.72.0"}}],
"IntervalBlocks": {"IntervalReadings": [{"timeStamp": "2026-01-01T01:15:00+01:00", "value": "0.25",
 "ReadingQualities": [{"ReadingQualityType": {"@ref": "1.5.257"}}]}],
 "ReadingType": {"ref": "0.0.2.4.1.1.12.0.0.0.0.0.0.0.0.3.72.0"}}}],
"EndDeviceEvent": {"mRID": "e-1", "createdDateTime": "2026-01-01T00:00:30Z", "severity": "high",
 "Assets": {"mRID": "M-1"}, "EndDeviceEventType": {"ref": "3.26.0.47"}}}}
"""

SENML = (
    b'[{"bn":"urn:dev:meter-7/","bt":1.32e9,"bu":"Wh"},{"n":"1-0:1.8.0","v":1234.50},'
    b'{"n":"voltage_l1_v","u":"V","v":230.1,"t":1},{"n":"note","vs":"a]b"}]\n'
)


def sparkplug_lines() -> dict[str, str]:
    """Messages of one edge node and its meter by verb, encoded by pysparkplug, as `mosquitto_sub -F '%t %x'` shows."""
    from pysparkplug import DataType, DBirth, DData, Metric, NBirth, NData

    at = 1_700_000_000_000

    def metric(name, datatype, value, alias=None, timestamp=at):
        return Metric(timestamp=timestamp, name=name, datatype=datatype, value=value, alias=alias)

    born = (
        metric("Properties/Model", DataType.STRING, "X1"),
        metric("Energy/import_register_kwh", DataType.DOUBLE, 1234.5, 1),
        metric("Volts/voltage_l1_v", DataType.FLOAT, 230.1, 2),
        metric("power_kw", DataType.INT16, -3, 3),
    )
    data = (metric(None, DataType.FLOAT, 229.9, 2, at + 1000), metric(None, DataType.INT16, -7, 3, at + 1000))
    birth = (metric("bdSeq", DataType.INT64, 0), metric("frequency_hz", DataType.FLOAT, 49.98, 9))
    found = {
        "NBIRTH": NBirth(timestamp=at, seq=0, metrics=birth),
        "DBIRTH": DBirth(timestamp=at, seq=1, metrics=born),
        "DDATA": DData(timestamp=at + 2000, seq=2, metrics=data),
        "NDATA": NData(timestamp=at + 2000, seq=3, metrics=(metric("frequency_hz", DataType.FLOAT, 50.02, 9),)),
    }
    device = {"D": "/meter-7", "N": ""}
    return {
        verb: f"spBv1.0/plant/{verb}/edge{device[verb[0]]} {message.encode().hex()}" for verb, message in found.items()
    }


EPW = (
    b"LOCATION,Berlin,-,DEU,SRC-TMYx,103840,52.47,13.4,1.0,49.0\r\n"
    b"DESIGN CONDITIONS,0\r\nTYPICAL/EXTREME PERIODS,0\r\nGROUND TEMPERATURES,0\r\n"
    b"HOLIDAYS/DAYLIGHT SAVINGS,No,0,0,0\r\nCOMMENTS 1,made for a test\r\nCOMMENTS 2,\r\n"
    b"DATA PERIODS,1,1,Data,Friday,1/1,12/31\r\n"
    + b"".join(
        b"2016,1,1,%d,0,?9?9,%s,-2.0,85,100500,0,0,280,%s,0,0,0,0,0,0,220,4.1,7,7,9999,99999,9,999999999,0,0.05,0,88,0,0,1\r\n"
        % (hour, temperature, radiation)
        for hour, temperature, radiation in ((1, b"-0.5", b"0"), (13, b"3.5", b"120"), (24, b"99.9", b"9999"))
    )
)
"""Three hours of a made-up year, the last without temperature and radiation. Layout: EnergyPlus' data dictionary."""
