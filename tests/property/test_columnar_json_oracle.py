"""Any row: the decoder accepts exactly what the standard library's parser accepts, with the same values."""

import json
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridwire.columnar import json_kernel
from gridwire.columnar.decode import as_bytes
from gridwire.columnar.json_columns import JsonDecoder, JsonField, Status
from gridwire.columnar.json_fallback import parse

FIELDS = [
    JsonField("t", "text", True),
    JsonField("d", "decimal"),
    JsonField("i", "int64"),
    JsonField("s", "timestamp_us"),
    JsonField("b", "bool"),
    JsonField("größe", "text"),
]
DECODER = JsonDecoder(FIELDS)  # shared on purpose: what it remembers from one row must not change the next

SPACE = st.sampled_from(["", "", "", " ", "\n\t", " \r"])
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["01", "-", "1.", ".5", "+1", "1e", "1e+", "0x1", "-01", "NaN", "Infinity", "1_0", "٣"]),
)
STRINGS = st.one_of(
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(max_size=12).map(json.dumps),
    st.from_regex(r'"([a-z]|\\["\\/bfnrtux]|\\u[0-9a-fA-Fg]{4}|[\x00-\x20]){0,6}"', fullmatch=True),
    st.datetimes(min_value=datetime(1, 1, 2)).map(lambda at: f'"{at.isoformat()}Z"'),
    st.from_regex(
        r'"20[0-9]{2}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]'
        r'(\.[0-9]{1,8})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])"',
        fullmatch=True,
    ),
)  # fmt: skip
SCALARS = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null", "nul", "True", "", "truefalse"]))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(st.tuples(STRINGS, inner), max_size=3).map(
            lambda items: "{" + ", ".join(f"{name}:{value}" for name, value in items) + "}"
        ),
    ),
    max_leaves=4,
)
NAMES = st.one_of(
    st.sampled_from(
        ['"t"', '"d"', '"i"', '"s"', '"b"', '"größe"', '"gr\\u00f6\\u00dfe"', '"\\u0074"', '"x"', '"tt"', '""']
    ),
    STRINGS,
)


@st.composite
def rows(draw):
    """Text that is nearly always nearly JSON."""
    members = [
        draw(SPACE) + name + draw(SPACE) + ":" + draw(SPACE) + draw(VALUES) + draw(SPACE)
        for name in draw(st.lists(NAMES, max_size=7))
    ]
    if draw(st.booleans()):
        members.insert(0, '"t":' + draw(st.sampled_from(['"LV1.101 Load 1"', '"ä"', '"\\n"', "1"])))
    text = draw(SPACE) + "{" + ",".join(members) + "}" + draw(SPACE)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw):
    """A row with bytes changed, inserted or cut away."""
    row = bytearray(draw(rows()))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(row) - 1, 0)))
        piece = draw(
            st.one_of(st.binary(max_size=2), st.sampled_from([b'"', b"{", b"}", b",", b":", b"\\", b"[", b"0"]))
        )
        row[place : place + draw(st.integers(0, 2))] = piece
    return bytes(row)


def refuse(constant):
    raise ValueError(constant)


def library(row):
    """(accepted, document) according to the standard library, numbers exact."""
    try:
        return True, json.loads(row.decode(), parse_float=Number, parse_int=Number, parse_constant=refuse)
    except ValueError:
        return False, None


class Number:
    def __init__(self, text):
        self.text = text


def expected(row):
    """(status, values) by the documented rules, written as plainly as possible."""
    accepted, document = library(row)
    if not accepted:
        return Status.MALFORMED, {}
    if not isinstance(document, dict):
        return Status.NOT_OBJECT, {}
    values = {}
    for field in FIELDS:
        value = document.get(field.name)
        if value is None:
            if field.required:
                return Status.MISSING, {}
            continue
        status, values[field.name] = TYPES[field.kind](value)
        if status is not Status.OK:
            return status, {}
    return Status.OK, values


def text_of(value):
    if not isinstance(value, str):
        return Status.WRONG_TYPE, None
    try:
        value.encode()
    except UnicodeEncodeError:
        return Status.BAD_TEXT, None
    return Status.OK, value


def fits(number):
    sign, digits, exponent = number.as_tuple()
    whole = int("".join(map(str, digits))) * (-1 if sign else 1)
    return (whole, exponent) if -(2**63) <= whole < 2**63 and -128 <= exponent <= 127 else None


def decimal_of(value):
    if not isinstance(value, Number):
        return Status.WRONG_TYPE, None
    try:
        number = Decimal(value.text)
    except InvalidOperation:
        return Status.OUT_OF_RANGE, None
    if number == 0:
        return Status.OK, fits(number) or (0, 0)
    while fits(number) is None:
        sign, digits, exponent = number.as_tuple()
        if digits[-1] != 0:
            return Status.OUT_OF_RANGE, None
        number = Decimal((sign, digits[:-1], exponent + 1))
    return Status.OK, fits(number)


def int_of(value):
    if not isinstance(value, Number):
        return Status.WRONG_TYPE, None
    number = Decimal(value.text)
    if number == 0:
        return Status.OK, 0
    if number.adjusted() > 25:
        return Status.OUT_OF_RANGE, None
    if number.adjusted() < 0 or int(number) != number:
        return Status.WRONG_TYPE, None
    return (Status.OK, int(number)) if -(2**63) <= number < 2**63 else (Status.OUT_OF_RANGE, None)


def time_of(value):
    if not isinstance(value, str):
        return Status.WRONG_TYPE, None
    try:
        if len(value) < 20 or value[4] + value[7] + value[13] + value[16] != "--::" or value[10] not in "Tt ":
            raise ValueError
        if not value.isascii():
            raise ValueError
        rest = value[19:].upper()
        fraction = ""
        if rest[:1] == ".":
            fraction = rest[1:].split("Z")[0].split("+")[0].split("-")[0]
            if not fraction.isdigit():
                raise ValueError
            rest = rest[1 + len(fraction) :]
        if rest != "Z" and (
            len(rest) != 6 or rest[0] not in "+-" or not (rest[1:3] + rest[4:]).isdigit() or rest[3] != ":"
        ):
            raise ValueError
        parts = [value[:4], value[5:7], value[8:10], value[11:13], value[14:16], value[17:19]]
        if not "".join(parts).isdigit():
            raise ValueError
        year, month, day, hour, minute, second = map(int, parts)
        leap = second == 60
        at = datetime(year, month, day, hour, minute, 59 if leap else second)
        ahead = 0 if rest == "Z" else (int(rest[1:3]) * 60 + int(rest[4:])) * (-1 if rest[0] == "-" else 1)
        if rest != "Z" and (int(rest[1:3]) > 23 or int(rest[4:]) > 59):
            raise ValueError
        seconds = (at - datetime(1970, 1, 1)) // timedelta(seconds=1) - ahead * 60 + leap
        if leap and (datetime(1970, 1, 1) + timedelta(seconds=seconds)).strftime("%m%d%H%M%S") not in (
            "0101000000",
            "0701000000",
        ):
            raise ValueError
    except ValueError:
        return Status.BAD_TIMESTAMP, None
    return Status.OK, seconds * 1_000_000 + int((fraction + "000000")[:6])


def bool_of(value):
    return (Status.OK, value) if isinstance(value, bool) else (Status.WRONG_TYPE, None)


TYPES = {"text": text_of, "decimal": decimal_of, "int64": int_of, "timestamp_us": time_of, "bool": bool_of}


def decoded(*given_rows):
    lengths = np.array([len(row) for row in given_rows], np.int32)
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    return DECODER.decode_spans(as_bytes(b"".join(given_rows)), starts, lengths)


def values_of(found, row):
    values = {}
    for field in FIELDS:
        if not found.valid(field.name)[row]:
            continue
        if field.kind == "text":
            values[field.name] = found.texts(field.name, [row])[0]
        elif field.kind == "decimal":
            values[field.name] = tuple(part[row].item() for part in found.decimal(field.name))
        else:
            column = {"int64": found.int64, "timestamp_us": found.timestamp_us, "bool": found.bool}[field.kind]
            values[field.name] = column(field.name)[row].item()
    return values


def check(*given_rows):
    found = decoded(*given_rows)
    for number, row in enumerate(given_rows):
        status, values = expected(row)
        assert Status(found.status[number]) is status, (row, Status(found.status[number]), status)
        assert values_of(found, number) == values, row
    assert found.flawed == sum(found.status != 0) == len(found.bad_rows())


@settings(max_examples=400, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=3))
@example([b'{"t":"a","d":-0.0}', b'{"t":"a","d":1.0e-0}'])
def test_rows_mean_what_the_library_says(given_rows):
    check(*given_rows)


@settings(max_examples=400, deadline=None)
@given(damaged())
@example(b'{"t":"\xed\xa0\x80"}')
@example(b'{"t":"\xf4\x90\x80\x80"}')
@example(b'{"t":"\xc0\xaf"}')
@example(b'{"t":"\x7f\xc2\x80"}')
def test_damaged_rows_are_accepted_only_where_the_library_accepts_them(row):
    check(row)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=24))
def test_any_bytes(row):
    check(row)


@settings(max_examples=150, deadline=None)
@given(rows())
def test_the_slow_path_alone_means_the_same(row):
    """Kernel and fallback must agree, or a row's meaning would depend on an escape somewhere else in it."""
    kinds = [
        json_kernel.TEXT,
        json_kernel.DECIMAL,
        json_kernel.INT64,
        json_kernel.TIMESTAMP_US,
        json_kernel.BOOL,
        json_kernel.TEXT,
    ]
    slow = parse(row, [field.name for field in FIELDS], kinds, [field.required for field in FIELDS])
    found = decoded(row)
    assert slow.status == found.status[0]
    for field, cell in zip(FIELDS, slow.values, strict=False):
        assert (cell is not None) == found.valid(field.name)[0]
