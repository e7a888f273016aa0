"""JSON to typed columns: values, statuses and reasons, row by row."""

import numpy as np
import pytest

from gridwire.columnar.decode import as_bytes, decode
from gridwire.columnar.json_columns import JsonDecoder, JsonField, Status, rescale
from gridwire.columnar.json_fallback import timestamp_us
from gridwire.core import batch

FIELDS = [
    JsonField("id", "text", True),
    JsonField("at", "timestamp_us"),
    JsonField("value", "decimal"),
    JsonField("count", "int64"),
    JsonField("good", "bool"),
    JsonField("größe", "text"),
]

AT_TYPE = "field at has the wrong type: expected a string with a timestamp"
AT_BAD = "field at is not an RFC 3339 timestamp with a time zone"
LARGE = "has more digits or a larger exponent than can be kept exactly"


def decoded(*rows, fields=FIELDS):
    lengths = np.array([-1 if row is None else len(row) for row in rows], np.int32)
    starts = np.cumsum(np.maximum(lengths, 0), dtype=np.int64) - np.maximum(lengths, 0)
    data = as_bytes(b"".join(row or b"" for row in rows))
    return JsonDecoder(fields).decode_spans(data, starts, lengths)


def one(row):
    return decoded(row.encode() if isinstance(row, str) else row)


def test_a_reading_comes_out_typed():
    found = one('{"id":"LV1 Load 1","at":"2016-01-01T00:15:00Z","value":0.213,"count":900,"good":true,"größe":"ä"}')
    assert found.status.tolist() == [Status.OK]
    assert found.texts("id") == ["LV1 Load 1"]
    assert found.texts("größe") == ["ä"]
    assert found.timestamp_us("at").tolist() == [1_451_607_300_000_000]
    assert [part.tolist() for part in found.decimal("value")] == [[213], [-3]]
    assert found.decimal("value")[1].dtype == np.int8
    assert found.int64("count").tolist() == [900]
    assert found.bool("good").tolist() == [True]
    assert [found.valid(field.name).tolist() for field in FIELDS] == [[True]] * 6
    assert found.reason(0) == ""
    assert found.bad_rows().tolist() == []


def test_absent_and_null_are_the_same():
    for row in ('{"id":"a"}', '{"id":"a","at":null,"value":null,"count":null,"good":null,"größe":null}'):
        found = one(row)
        assert found.status.tolist() == [Status.OK]
        assert not any(found.valid(field.name)[0] for field in FIELDS[1:])
        assert (found.timestamp_us("at")[0], found.int64("count")[0], found.bool("good")[0]) == (0, 0, False)
        assert found.texts("größe") == [None]


@pytest.mark.parametrize(
    ("row", "status", "reason"),
    [
        (None, Status.NO_VALUE, "the event has no value"),
        (b"", Status.MALFORMED, "malformed JSON at byte 0"),
        (b'{"id":"a"', Status.MALFORMED, "malformed JSON at byte 9"),
        (b'{"id":"a"} x', Status.MALFORMED, "malformed JSON at byte 11"),
        (b'{"id":"a",}', Status.MALFORMED, "malformed JSON at byte 10"),
        (b'{"id":"a""value":1}', Status.MALFORMED, "malformed JSON at byte 9"),
        (b'{"id" "a"}', Status.MALFORMED, "malformed JSON at byte 6"),
        (b'{id:"a"}', Status.MALFORMED, "malformed JSON at byte 1"),
        (b'{"id":"a","value":01}', Status.MALFORMED, "malformed JSON at byte 19"),
        (b'{"id":"a","value":NaN}', Status.MALFORMED, "malformed JSON at byte 18"),
        (b'{"id":"a","value":-Infinity}', Status.MALFORMED, "malformed JSON at byte 19"),
        (b'{"id":"a\x01"}', Status.MALFORMED, "malformed JSON at byte 8"),
        (b'{"id":"\xff"}', Status.MALFORMED, "malformed JSON at byte 7"),
        (b'\xef\xbb\xbf{"id":"a"}', Status.MALFORMED, "malformed JSON at byte 0"),
        (b'[{"id":"a"}]', Status.NOT_OBJECT, "JSON, but not an object"),
        (b' "id" ', Status.NOT_OBJECT, "JSON, but not an object"),
        (b"null", Status.NOT_OBJECT, "JSON, but not an object"),
        (b'"id', Status.MALFORMED, "malformed JSON at byte 3"),
        (b'{"id":"a","x":' + b"[" * 61 + b"]" * 61 + b"}", Status.NESTED_TOO_DEEP, "JSON nested too deeply"),
        (b"[" * 100_000, Status.NESTED_TOO_DEEP, "JSON nested too deeply"),
        (b'{"value":1}', Status.MISSING, "missing required field id"),
        (b'{"id":null}', Status.MISSING, "missing required field id"),
        (b'{"id":5}', Status.WRONG_TYPE, "field id has the wrong type: expected a string"),
        (b'{"id":{"a":["b"]}}', Status.WRONG_TYPE, "field id has the wrong type: expected a string"),
        (b'{"id":"a","value":"1"}', Status.WRONG_TYPE, "field value has the wrong type: expected a number"),
        (b'{"id":"a","count":1.5}', Status.WRONG_TYPE, "field count has the wrong type: expected a whole number"),
        (b'{"id":"a","good":1}', Status.WRONG_TYPE, "field good has the wrong type: expected true or false"),
        (b'{"id":"a","good":"true"}', Status.WRONG_TYPE, "field good has the wrong type: expected true or false"),
        (b'{"id":"a","at":1451607300}', Status.WRONG_TYPE, AT_TYPE),
        (b'{"id":"a","at":"2016-02-30T00:00:00Z"}', Status.BAD_TIMESTAMP, AT_BAD),
        (b'{"id":"a","count":9223372036854775808}', Status.OUT_OF_RANGE, f"number in field count {LARGE}"),
        (b'{"id":"a","value":1e200}', Status.OUT_OF_RANGE, f"number in field value {LARGE}"),
        (b'{"id":"\\ud800"}', Status.BAD_TEXT, "text in field id has half of a surrogate pair"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_valid_says_why_and_has_no_values(row, status, reason):
    found = decoded(b'{"id":"before"}', row, b'{"id":"after"}')
    assert found.status.tolist() == [Status.OK, status, Status.OK]
    assert found.reason(1) == reason
    assert found.bad_rows().tolist() == [1]
    assert not any(found.valid(field.name)[1] for field in FIELDS)
    assert found.texts("id") == ["before", None, "after"]


def test_nesting_up_to_the_limit_is_passed_over():
    deep = b'{"id":"a","x":' + b'[{"y":' * 30 + b"1" + b"}]" * 30 + b"}"
    assert one(deep).status.tolist() == [Status.OK]


@pytest.mark.parametrize(
    "row", ['{"id":1,"id":"b"}', '{"id":"a","id":"b"}', '{"id":null,"id":"b"}', '{"id":"\\n","id":"b"}']
)
def test_the_last_of_several_members_of_one_name_counts(row):
    assert one(row).texts("id") == ["b"]
    backwards = one(row.replace('"b"', "null"))
    assert backwards.status.tolist() == [Status.MISSING]


def test_the_last_timestamp_counts_too():
    good, bad, leap = '"at":"2016-01-01T00:15:00Z"', '"at":"never"', '"at":"2016-12-31T23:59:60Z"'
    assert one(f'{{"id":"a",{bad},{good}}}').timestamp_us("at").tolist() == [1_451_607_300_000_000]
    assert one(f'{{"id":"a",{leap},{good}}}').timestamp_us("at").tolist() == [1_451_607_300_000_000]
    assert one(f'{{"id":"a",{good},{bad}}}').status.tolist() == [Status.BAD_TIMESTAMP]
    assert one(f'{{"id":"a",{good},{leap}}}').timestamp_us("at").tolist() == [1_483_228_800_000_000]


def test_order_may_change_from_row_to_row_and_white_space_is_free():
    rows = [
        b'{"id":"a","value":1,"count":2}',
        b'{"count":2,"id":"a","value":1}',
        b' {\n"value" :\t1 , "x" : {"id":"no"} ,"id": "a","count":2 } \r\n',
        b'{"x":[1,"]",{"value":9}],"id":"a","valu":3,"value2":4,"value":1,"count":2}',
        b'{"id":"a","value":1,"count":2}',
    ]
    found = decoded(*rows)
    assert found.texts("id") == ["a"] * 5
    assert found.decimal("value")[0].tolist() == [1] * 5
    assert found.int64("count").tolist() == [2] * 5


@pytest.mark.parametrize(
    ("text", "mantissa", "scale"),
    [
        ("0", 0, 0), ("-0", 0, 0), ("0.000", 0, -3), ("1.50", 150, -2), ("-12.5", -125, -1), ("1e3", 1, 3),
        ("1.5E-7", 15, -8),
        ("1E+2", 1, 2), ("999999999999999999", 999_999_999_999_999_999, 0),
        ("9223372036854775807", 2**63 - 1, 0), ("-9223372036854775808", -(2**63), 0),
        ("0.30000000000000004", 30_000_000_000_000_004, -17), ("-0.123456789012345678", -123_456_789_012_345_678, -18),
        ("1.0000000000000000000000000", 1, 0), ("10000000000000000000000", 1, 22), ("0e999", 0, 0), ("1e127", 1, 127),
        ("1e-128", 1, -128), ("0.0000000000000000000000000000001", 1, -31),
    ],
)  # fmt: skip
def test_decimals_are_exact(text, mantissa, scale):
    found = one(f'{{"id":"a","value":{text}}}')
    assert found.status.tolist() == [Status.OK]
    assert [part.tolist() for part in found.decimal("value")] == [[mantissa], [scale]]


@pytest.mark.parametrize(
    "text", ["9223372036854775808", "1e128", "1e-129", "12345678901234567890012345", "1e99999999999999999999"]
)
def test_decimals_that_do_not_fit_are_refused(text):
    assert one(f'{{"id":"a","value":{text}}}').status.tolist() == [Status.OUT_OF_RANGE]


def test_a_number_of_a_million_digits_is_refused_at_once():
    for digits in ("1" * 1_000_000, "0." + "1" * 1_000_000, "1" + "0" * 1_000_000):
        assert one(f'{{"id":"a","value":{digits}}}').status.tolist() == [Status.OUT_OF_RANGE]


@pytest.mark.parametrize(
    ("text", "number"), [("900.0", 900), ("9e2", 900), ("-1.50e1", -15), ("0.0", 0), ("9223372036854775807", 2**63 - 1)]
)
def test_whole_numbers_may_be_written_with_a_fraction_of_zeros(text, number):
    assert one(f'{{"id":"a","count":{text}}}').int64("count").tolist() == [number]


TIMES = [
    ("2016-01-01T00:15:00Z", 1_451_607_300_000_000),
    ("1970-01-01T00:00:00Z", 0),
    ("1969-12-31T23:59:59.999999Z", -1),
    ("2016-01-01T01:15:00+01:00", 1_451_607_300_000_000),
    ("2015-12-31t18:45:00.5-05:30", 1_451_607_300_500_000),
    ("2016-01-01 00:15:00.1234567891z", 1_451_607_300_123_456),
    ("2000-02-29T00:00:00Z", 951_782_400_000_000),
    ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
    ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
    ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
    ("2017-01-01T00:59:60+01:00", 1_483_228_800_000_000),
]  # fmt: skip


@pytest.mark.parametrize(("text", "micros"), TIMES)
def test_timestamps(text, micros):
    assert one(f'{{"id":"a","at":"{text}"}}').timestamp_us("at").tolist() == [micros]
    assert timestamp_us(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "", "2016", "2016-01-01", "2016-01-01T00:15:00", "2016-01-01T00:15Z", "2016-13-01T00:00:00Z",
        "2016-00-01T00:00:00Z", "2016-01-00T00:00:00Z", "2015-02-29T00:00:00Z", "1900-02-29T00:00:00Z",
        "2016-04-31T00:00:00Z", "2016-01-01T24:00:00Z", "2016-01-01T00:60:00Z", "2016-01-01T00:00:61Z",
        "2016-01-01T00:00:60Z", "2016-12-31T22:59:60Z", "0000-01-01T00:00:00Z", "2016-01-01T00:00:00.Z",
        "2016-01-01T00:00:00+1:00",
        "2016-01-01T00:00:00+24:00", "2016-01-01T00:00:00+01:60", "2016-01-01T00:00:00+0100", "2016-01-01T00:00:00ZZ",
        " 2016-01-01T00:00:00Z", "2016-01-01T00:00:00 Z", "2016/01/01T00:00:00Z", "2016-01-01X00:00:00Z",
        "2016-01-01T00-00:00Z", "2016-01-0aT00:00:00Z", "２016-01-01T00:00:00Z", "+016-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_timestamp(text):
    assert one(f'{{"id":"a","at":"{text}"}}').status.tolist() == [Status.BAD_TIMESTAMP]
    assert timestamp_us(text) is None


def test_a_repeated_timestamp_is_remembered_only_when_it_is_whole():
    first = b'{"id":"a","at":"2016-01-01T00:15:00Z"}'
    found = decoded(first, first, first[:-3], first[:-2] + b' "}', first.replace(b"15", b"30"), first)
    assert found.status.tolist() == [Status.OK, Status.OK, Status.MALFORMED, Status.BAD_TIMESTAMP, Status.OK, Status.OK]
    assert found.timestamp_us("at").tolist() == [
        1_451_607_300_000_000, 1_451_607_300_000_000, 0, 0, 1_451_608_200_000_000, 1_451_607_300_000_000,
    ]  # fmt: skip


def test_a_fresh_memory_does_not_take_zeros_for_a_timestamp():
    assert one(b'{"id":"a","at":"' + bytes(20) + b'"}').status.tolist() == [Status.MALFORMED]


def test_escapes_are_resolved_and_spans_stay_true():
    rows = [
        b'{"id":"plain"}',
        b'{"id":"a\\u00e4\\n\\"","value":1.5}',
        b'{"\\u0069d":"name"}',
        b'{"id":"x","gr\\u00f6\\u00dfe":"\\ud83d\\ude00"}',
        b'{"id":"last"}',
    ]
    found = decoded(*rows)
    assert found.status.tolist() == [0] * 5
    assert found.texts("id") == ["plain", 'aä\n"', "name", "x", "last"]
    assert found.texts("größe") == [None, None, None, "😀", None]
    assert found.decimal("value")[0].tolist() == [0, 15, 0, 0, 0]
    assert found.flawed == 0


def test_only_escaped_texts():
    assert decoded(b'{"id":"\\t"}', b'{"id":""}').texts("id") == ["\t", ""]


def test_columns_of_events_are_decoded_where_they_lie():
    data = batch.encode([batch.Event(b'{"id":"%d"}' % n if n != 2 else None) for n in range(4)])
    columns = decode(data, 0, len(data), from_offset=0).columns[0]
    found = JsonDecoder(FIELDS).decode(columns)
    assert np.shares_memory(found.data, columns.data)
    assert found.texts("id", [0, 3]) == ["0", "3"]
    assert found.status.tolist() == [0, 0, Status.NO_VALUE, 0]


def test_no_rows():
    assert len(decoded()) == 0


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 11), (11, 1), (2**62, 2**30)])
def test_spans_outside_of_their_data_are_refused(start, length):
    with pytest.raises(ValueError, match="outside"):
        JsonDecoder(FIELDS).decode_spans(as_bytes(b"0123456789"), np.array([start]), np.array([length], np.int32))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [JsonField("a", "text"), JsonField("a", "text")],
        [JsonField("a" * 61, "text")],
        [JsonField('a"', "text")],
        [JsonField("a\n", "text")],
        [JsonField("a", "float")],  # type: ignore[arg-type]
        [JsonField(f"f{n}", "text") for n in range(63)],
    ],
)
def test_fields_that_cannot_be_decoded_are_refused(fields):
    with pytest.raises(ValueError, match="field"):
        JsonDecoder(fields)


def test_as_many_fields_as_there_may_be_with_names_as_long_as_they_may_be():
    fields = [JsonField(f"{n:060}", "int64", True) for n in range(62)]
    row = "{" + ",".join(f'"{field.name}":{n}' for n, field in enumerate(fields)) + "}"
    found = decoded(row.encode(), row.encode(), fields=fields)
    assert [found.int64(field.name).tolist() for field in fields] == [[n, n] for n in range(62)]


def test_a_column_is_asked_for_by_its_own_kind():
    with pytest.raises(TypeError, match="declared as text"):
        one('{"id":"a"}').decimal("id")


def test_decimals_are_brought_to_one_scale_exactly_or_not_at_all():
    mantissa = np.array([213, -5, 15, 7, 1, 10**18, 0, -(2**63), 2**63 - 1, 1, 922_337_203_685_477_580])
    scale = np.array([-3, 0, -7, -7, 30, 0, 120, -6, -6, 127, -5], np.int8)
    values, exact = rescale(mantissa, scale, -6)
    assert exact.tolist() == [True, True, False, False, False, False, True, True, True, False, True]
    assert values.tolist() == [213_000, -5_000_000, 0, 0, 0, 0, 0, -(2**63), 2**63 - 1, 0, 9_223_372_036_854_775_800]
    assert rescale(np.array([50]), np.array([-7], np.int8), -6)[0].tolist() == [5]
