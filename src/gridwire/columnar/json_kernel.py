"""The kernel that turns JSON objects into typed columns.

It is a full validating parser: whatever it accepts, a strict JSON parser accepts. Two things make it fast. Members
mostly come in the order they came in last time, so the name of the member of the previous row is compared first, a
word at a time, quotes and colon included. And timestamps mostly repeat, so the last one of each field is remembered.

What it cannot decide (an escape in a text that is wanted, a number of more digits than fit, a leap second) makes the
row IRREGULAR: valid JSON, to be read again by `json_fallback`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from gridwire.columnar import json_values as v
from gridwire.columnar.machine import (
    as_int,
    count_trailing_zeros,
    inlined,
    kernel,
    load8,
    load64,
    pointer,
    store32,
    store64,
)

# Kinds of fields.
TEXT: Final = 0
DECIMAL: Final = 1
INT64: Final = 2
TIMESTAMP_US: Final = 3
BOOL: Final = 4

# What became of a row.
OK: Final = 0
NO_VALUE: Final = 1
MALFORMED: Final = 2
NOT_OBJECT: Final = 3
NESTED_TOO_DEEP: Final = 4
MISSING: Final = 5
WRONG_TYPE: Final = 6
BAD_TIMESTAMP: Final = 7
OUT_OF_RANGE: Final = 8
BAD_TEXT: Final = 9
IRREGULAR: Final = 255

# What became of one value.
GOOD: Final = 0
NULL: Final = 1
WRONG: Final = 2
BAD_TIME: Final = 3
ODD: Final = 4

FIELDS_MAX: Final = 62
"""One bit a field in an int64."""

NAME_BYTES_MAX: Final = 60
"""A name with its quotes and colon fits eight words."""

# One field in the table of fields. Kernels get pointers to bytes: passing arrays would cost more than parsing.
#     0       64      128    136    144                        176
#     | name  | mask  | size | kind | last timestamp, its value |
# The name has its quotes and colon, as many as `size`; mask bytes are 255 where it counts. The last timestamp of 20
# characters is kept as three words that overlap, and its microseconds.
NAME_ROOM: Final = 64
SIZE: Final = 128
KIND: Final = 136
MEMORY: Final = 144
FIELD_BYTES: Final = 176

ORDER_MAX: Final = 64
"""Members whose order is remembered."""

_MINUS: Final = v._MINUS
_ZERO: Final = v._ZERO
_LOWER_N: Final = v._LOWER_N
_LOWER_T: Final = v._LOWER_T
_LOWER_F: Final = v._LOWER_F
_QUOTE: Final = v.QUOTE
_COLON: Final = v.COLON
_COMMA: Final = v.COMMA
_OPEN: Final = v.OPEN_OBJECT
_CLOSE: Final = v.CLOSE_OBJECT
_TOO_DEEP: Final = v.TOO_DEEP
_TIME_OK: Final = v.TIME_OK
_TIME_LEAP_SECOND: Final = v.TIME_LEAP_SECOND

skip_space = v.skip_space
string_end = v.string_end
value_end = v.value_end
number = v.number
literal_end = v.literal_end
timestamp = v.timestamp


@inlined
def name_matches(data: Any, position: int, fields: Any, name: int, size: int) -> bool:
    """Whether the bytes at `position` are the name at `name`; so many whole words as it touches are readable."""
    different = np.uint64(0)
    for word in range(0, size, 8):
        found = load64(data, position + word) ^ load64(fields, name + word)
        different |= found & load64(fields, name + word + NAME_ROOM)
    return as_int(different) == 0


@kernel
def find_field(data: Any, position: int, size: int, fields: Any, count: int) -> int:
    """Field with the name at [position, position + size), or -1."""
    for field in range(count):
        # A quote starts the name and a quote ends it; neither can be inside.
        name = field * FIELD_BYTES + 1
        if size <= NAME_BYTES_MAX and load8(fields, name + size) == _QUOTE:
            same = 0
            while same < size and load8(data, position + same) == load8(fields, name + same):
                same += 1
            if same == size:
                return field
    return -1


@kernel
def member_name(data: Any, position: int, end: int, limit: int, fields: Any, count: int) -> tuple[int, int, bool]:
    """(position after the colon, field or -1, whether the name has escapes) of the name at `position`."""
    if position >= end or load8(data, position) != _QUOTE:
        return ~position, -1, False
    close, escaped = string_end(data, position + 1, end, limit)
    if close < 0:
        return close, -1, False
    after = skip_space(data, close + 1, end)
    if after >= end or load8(data, after) != _COLON:
        return ~after, -1, False
    field = -1 if escaped else find_field(data, position + 1, close - position - 1, fields, count)
    return after + 1, field, escaped


@inlined
def timestamp_value(data: Any, position: int, end: int, limit: int, fields: Any, memory: int) -> tuple[int, int, int]:
    """(position after it, what it is, microseconds) of the string whose opening quote is at `position`.

    Args:
        memory: where in `fields` the last timestamp is remembered.
    """
    short = end - position >= 22 and position + 22 <= limit and load8(data, position + 21) == _QUOTE
    if short:
        first, second = load64(data, position + 1), load64(data, position + 9)
        third = load64(data, position + 13)
        same = (first ^ load64(fields, memory)) | (second ^ load64(fields, memory + 8))
        if (same | (third ^ load64(fields, memory + 16))) == 0:
            return position + 22, GOOD, as_int(load64(fields, memory + 24))
    close, escaped = string_end(data, position + 1, end, limit)
    if close < 0 or escaped:
        return close + (close >= 0), ODD, 0
    found, micros = timestamp(data, position + 1, close)
    if found == _TIME_OK:
        if short and close == position + 21:
            store64(fields, memory, load64(data, position + 1))
            store64(fields, memory + 8, load64(data, position + 9))
            store64(fields, memory + 16, load64(data, position + 13))
            store64(fields, memory + 24, np.uint64(micros))
        return close + 1, GOOD, micros
    return close + 1, ODD if found == _TIME_LEAP_SECOND else BAD_TIME, 0


@inlined
def typed_value(data: Any, position: int, end: int, limit: int, fields: Any, field: int) -> tuple[int, int, int, int]:
    """(position after it, what it is, 64-bit part, 32-bit part) of the value of the declared field at `field`."""
    kind = as_int(load64(fields, field + KIND))
    if position >= end:
        return ~end, GOOD, 0, 0
    byte = load8(data, position)
    if byte == _QUOTE:
        if kind == TEXT:
            close, escaped = string_end(data, position + 1, end, limit)
            if close < 0:
                return close, GOOD, 0, 0
            return close + 1, ODD if escaped else GOOD, position + 1, close - position - 1
        if kind == TIMESTAMP_US:
            after, what, micros = timestamp_value(data, position, end, limit, fields, field + MEMORY)
            return after, what, micros, 0
    elif byte == _MINUS or 0 <= byte - _ZERO <= 9:
        after, mantissa, scale, exact = number(data, position, end)
        if kind == DECIMAL:
            return after, GOOD if exact else ODD, mantissa, scale
        if kind == INT64:
            return after, GOOD if exact and scale == 0 else ODD, mantissa, 0
        return after, WRONG, 0, 0
    elif byte == _LOWER_N:
        return literal_end(data, position, end), NULL, 0, 0
    elif byte in (_LOWER_T, _LOWER_F) and kind == BOOL:
        return literal_end(data, position, end), GOOD, byte == _LOWER_T, 0
    return value_end(data, position, end, limit), WRONG, 0, 0


@kernel
def first_problem(wrong: int, bad_time: int, missing: int) -> tuple[int, int]:
    """(status, field): the first field, as declared, that is not as it should be."""
    problems = wrong | bad_time | missing
    if problems == 0:
        return OK, -1
    field = count_trailing_zeros(np.uint64(problems))
    if (wrong >> field) & 1:
        return WRONG_TYPE, field
    return (BAD_TIMESTAMP if (bad_time >> field) & 1 else MISSING), field


@kernel
def no_object(data: Any, start: int, position: int, end: int, limit: int) -> tuple[int, int]:
    """(status, where) of a row that does not start with a brace."""
    after = value_end(data, position, end, limit)
    if after == _TOO_DEEP:
        return NESTED_TOO_DEEP, -1
    if after >= 0:
        after = skip_space(data, after, end)
        if after == end:
            return NOT_OBJECT, -1
        after = ~after
    return MALFORMED, ~after - start


@inlined
def parse_member(
    data: Any, position: int, end: int, limit: int, member: int, fields: Any, count: int, order: Any
) -> tuple[int, int, bool]:
    """(position of the value, field or -1, whether the name has escapes) of the member whose name is at `position`.

    Args:
        member: its place in the object. order: as `parse_rows` has it.
    """
    if member < ORDER_MAX:
        expected = as_int(load64(order, member * 8))
        if expected >= 0:
            name = expected * FIELD_BYTES
            size = as_int(load64(fields, name + SIZE))
            if (
                position + size <= end
                and position + size + 7 <= limit
                and name_matches(data, position, fields, name, size)
            ):
                return skip_few(data, position + size, end), expected, False
    position, field, escaped = member_name(data, position, end, limit, fields, count)
    if position < 0:
        return position, -1, False
    if member < ORDER_MAX:
        store64(order, member * 8, field)
    return skip_few(data, position, end), field, escaped


@inlined
def skip_few(data: Any, position: int, end: int) -> int:
    """As `skip_space`, for places where there mostly is none."""
    if position < end and load8(data, position) <= 0x20:
        return skip_space(data, position, end)
    return position


@inlined
def parse_object(
    data: Any, position: int, end: int, limit: int, fields: Any, count: int, order: Any,
    longs: Any, ints: Any, row: int, rows: int,
) -> tuple[int, int, int, int, bool]:  # fmt: skip
    """Parse the object whose brace is in front of `position` and store the values of declared fields.

    Returns:
        (position after it; bits of fields with a value, of the wrong type, with a bad timestamp; whether the row is
        irregular).
    """
    seen = wrong = bad_time = odd = 0
    odd_name = False
    member = 0
    position = skip_few(data, position, end)
    if position < end and load8(data, position) == _CLOSE:
        return position + 1, seen, wrong, bad_time, odd_name
    while True:
        position, field, escaped = parse_member(data, position, end, limit, member, fields, count, order)
        if position < 0:
            break
        odd_name |= escaped
        if field < 0:
            position = value_end(data, position, end, limit)
        else:
            position, what, long, short = typed_value(data, position, end, limit, fields, field * FIELD_BYTES)
            store64(longs, (field * rows + row) * 8, long)
            store32(ints, (field * rows + row) * 4, short)
            bit = 1 << field
            if what == GOOD and ((wrong | bad_time | odd) & bit) == 0:
                seen |= bit
            else:  # the last of several members of one name counts
                seen = (seen & ~bit) | (bit if what != NULL else 0)
                wrong = (wrong & ~bit) | (bit if what == WRONG else 0)
                bad_time = (bad_time & ~bit) | (bit if what == BAD_TIME else 0)
                odd = (odd & ~bit) | (bit if what == ODD else 0)
        if position < 0:
            break
        position = skip_few(data, position, end)
        byte = load8(data, position) if position < end else 0
        if byte != _COMMA:
            position = position + 1 if byte == _CLOSE else ~position
            break
        position = skip_few(data, position + 1, end)
        member += 1
    return position, seen, wrong, bad_time, odd_name or odd != 0


@kernel
def parse_rows(
    array: Any, starts: Any, lengths: Any, field_bytes: Any, required: int, order_bytes: Any,
    longs: Any, ints: Any, present: Any, status: Any, where: Any,
) -> int:  # fmt: skip
    """Parse one JSON object a row; the spans are known to lie inside `array`.

    Args:
        field_bytes: uint8[f * FIELD_BYTES], the table of fields. required: bit per field.
        order_bytes: int64[ORDER_MAX] as bytes, field or -1 of each member of the row before, kept from call to call.
        longs, ints: int64[f * n] and int32[f * n] as bytes, to fill: start and length of a text, mantissa and scale of
            a decimal, value and zero of others. Absent: length -1, else zero.
        present: int64[n], bit per field with a value. status: uint8[n]. where: int32[n], byte or field of the problem.

    Returns:
        Rows that are not OK.
    """
    data, limit = pointer(array), len(array)
    fields, count, order = pointer(field_bytes), len(field_bytes) // FIELD_BYTES, pointer(order_bytes)
    long_cells, int_cells = pointer(longs), pointer(ints)
    rows = len(starts)
    everything = (1 << count) - 1
    flawed = 0
    for row in range(rows):
        start = starts[row]
        end = start + lengths[row]
        seen = 0
        code, place = OK, -1
        position = skip_space(data, start, end)
        if lengths[row] < 0:
            code = NO_VALUE
        elif position >= end:
            code, place = MALFORMED, end - start
        elif load8(data, position) != _OPEN:
            code, place = no_object(data, start, position, end, limit)
        else:
            position, seen, wrong, bad_time, irregular = parse_object(
                data, position + 1, end, limit, fields, count, order, long_cells, int_cells, row, rows
            )
            if position >= 0:
                position = skip_space(data, position, end)
                position = position if position == end else ~position
            if position == _TOO_DEEP:
                code = NESTED_TOO_DEEP
            elif position < 0:
                code, place = MALFORMED, ~position - start
            elif irregular:
                code = IRREGULAR
            else:
                code, place = first_problem(wrong, bad_time, required & ~seen)
        if code != OK:
            seen = 0
            flawed += 1
        absent = everything & ~seen
        while absent != 0:
            field = count_trailing_zeros(np.uint64(absent))
            absent &= absent - 1
            store64(long_cells, (field * rows + row) * 8, 0)
            is_text = as_int(load64(fields, field * FIELD_BYTES + KIND)) == TEXT
            store32(int_cells, (field * rows + row) * 4, -1 if is_text else 0)
        present[row] = seen
        status[row] = code
        where[row] = place
    return flawed
