"""Kernels for one JSON value: strings, numbers, timestamps, and anything that is only passed over.

    value  = string | number | object | array | "true" | "false" | "null"
    number = [ "-" ] ( "0" | digit1-9 *digit ) [ "." 1*digit ] [ ( "e" | "E" ) [ "+" | "-" ] 1*digit ]
    string = quote *( any UTF-8 but quote, backslash, U+0000-U+001F | escape ) quote

Every kernel takes the bytes, a position, and `end`, the first byte that is not part of the row. `limit` is the size of
the whole buffer: wide loads may read past the row but never past it. A position comes back; a negative one is the
complement of the place where the value stops being JSON, or TOO_DEEP.

Source: RFC 8259, RFC 3629 (UTF-8), RFC 3339 section 5.6.
"""

from __future__ import annotations

from typing import Any, Final

from gridwire.columnar.machine import count_trailing_zeros, kernel, load8, load32, string_mask16

NESTING_MAX: Final = 60
"""Levels of objects and arrays inside a member: one bit each in a word. Readings have none."""

TOO_DEEP: Final = -(2**62)

DIGITS_MAX: Final = 18
"""Significant digits that always fit an int64."""

QUOTE: Final = 0x22
BACKSLASH: Final = 0x5C
COMMA: Final = 0x2C
COLON: Final = 0x3A
OPEN_OBJECT: Final = 0x7B
CLOSE_OBJECT: Final = 0x7D
_OPEN_ARRAY: Final = 0x5B
_CLOSE_ARRAY: Final = 0x5D
_MINUS: Final = 0x2D
_PLUS: Final = 0x2B
_DOT: Final = 0x2E
_ZERO: Final = 0x30
_LOWER_E: Final = 0x65
_LOWER_N: Final = 0x6E
_LOWER_T: Final = 0x74
_LOWER_U: Final = 0x75
_LOWER_Z: Final = 0x7A
_LOWER_F: Final = 0x66
_SHORT_ESCAPES: Final = (1 << (0x62 - 0x60)) | (1 << (0x66 - 0x60)) | (1 << (0x6E - 0x60)) | (1 << 0x12) | (1 << 0x14)
"""Bits of b, f, n, r, t counted from 0x60."""
_TRUE: Final = int.from_bytes(b"true", "little")
_NULL: Final = int.from_bytes(b"null", "little")
_ALSE: Final = int.from_bytes(b"alse", "little")
_EXPONENT_MAX: Final = 100_000

# What a timestamp is.
TIME_OK: Final = 0
TIME_BAD: Final = 1
TIME_LEAP_SECOND: Final = 2

_SECOND_US: Final = 1_000_000
_DAY_S: Final = 86_400


@kernel
def skip_space(data: Any, position: int, end: int) -> int:
    """First position at or after `position` that is not JSON white space."""
    while position < end:
        byte = load8(data, position)
        if byte > 0x20 or (byte != 0x20 and byte != 0x0A and byte != 0x0D and byte != 0x09):
            break
        position += 1
    return position


@kernel
def continuation(data: Any, position: int, low: int, high: int) -> bool:
    """Whether a byte lies in [low, high]."""
    byte = load8(data, position)
    return low <= byte <= high


@kernel
def utf8_end(data: Any, position: int, end: int) -> int:
    """Position after the non-ASCII character at `position`; negative when it is not UTF-8."""
    lead = load8(data, position)
    left = end - position
    if 0xC2 <= lead <= 0xDF:
        if left >= 2 and continuation(data, position + 1, 0x80, 0xBF):
            return position + 2
    elif 0xE0 <= lead <= 0xEF:
        low = 0xA0 if lead == 0xE0 else 0x80
        high = 0x9F if lead == 0xED else 0xBF
        if left >= 3 and continuation(data, position + 1, low, high) and continuation(data, position + 2, 0x80, 0xBF):
            return position + 3
    elif 0xF0 <= lead <= 0xF4:
        low = 0x90 if lead == 0xF0 else 0x80
        high = 0x8F if lead == 0xF4 else 0xBF
        if (
            left >= 4
            and continuation(data, position + 1, low, high)
            and continuation(data, position + 2, 0x80, 0xBF)
            and continuation(data, position + 3, 0x80, 0xBF)
        ):
            return position + 4
    return ~position


@kernel
def escape_end(data: Any, position: int, end: int) -> int:
    """Position after the escape whose backslash is at `position`."""
    if position + 1 >= end:
        return ~position
    kind = load8(data, position + 1)
    if kind in (QUOTE, BACKSLASH, 0x2F) or (kind >= 0x60 and kind < 0x80 and (_SHORT_ESCAPES >> (kind - 0x60)) & 1):
        return position + 2
    if kind != _LOWER_U or end - position < 6:
        return ~position
    for place in range(position + 2, position + 6):
        byte = load8(data, place)
        letter = byte | 0x20
        if not (0x30 <= byte <= 0x39 or 0x61 <= letter <= 0x66):
            return ~position
    return position + 6


@kernel
def string_end(data: Any, position: int, end: int, limit: int) -> tuple[int, bool]:
    """(position of the closing quote, whether there are escapes); `position` is after the opening quote."""
    escaped = False
    while position < end:
        if position + 16 <= limit:
            mask = string_mask16(data, position)
            if mask == 0:
                position += 16
                continue
            position += count_trailing_zeros(mask)
            if position >= end:
                break
        byte = load8(data, position)
        if byte == QUOTE:
            return position, escaped
        if byte == BACKSLASH:
            escaped = True
            position = escape_end(data, position, end)
        elif byte >= 0x80:
            position = utf8_end(data, position, end)
        elif byte < 0x20:
            position = ~position
        else:
            position += 1
        if position < 0:
            return position, escaped
    return ~end, escaped


@kernel
def digit_at(data: Any, position: int, end: int) -> bool:
    """Whether there is a decimal digit."""
    return position < end and 0 <= load8(data, position) - _ZERO <= 9


@kernel
def number(data: Any, position: int, end: int) -> tuple[int, int, int, bool]:
    """(position after it, mantissa, scale, whether both are exact): value = mantissa * 10^scale, digits as written."""
    start = position
    negative = load8(data, position) == _MINUS
    position += negative
    if not digit_at(data, position, end):
        return ~position, 0, 0, False
    mantissa = load8(data, position) - _ZERO
    scale = 0
    position += 1
    if mantissa != 0:
        while position < end:
            digit = load8(data, position) - _ZERO
            if digit < 0 or digit > 9:
                break
            mantissa = mantissa * 10 + digit
            position += 1
    if position < end and load8(data, position) == _DOT:
        position += 1
        fraction = position
        while position < end:
            digit = load8(data, position) - _ZERO
            if digit < 0 or digit > 9:
                break
            mantissa = mantissa * 10 + digit
            position += 1
        scale = fraction - position
        if scale == 0:
            return ~position, 0, 0, False
    digits = position - start
    if digits > DIGITS_MAX:  # the sign, the point and a leading zero are no significant digits
        digits -= negative + (scale < 0) + (load8(data, start + negative) == _ZERO)
    exact = digits <= DIGITS_MAX and scale >= -128
    if position < end and (load8(data, position) | 0x20) == _LOWER_E:
        position, exponent = exponent_at(data, position + 1, end)
        scale += exponent
        exact = exact and -128 <= scale <= 127
    return position, -mantissa if negative else mantissa, scale, exact


@kernel
def exponent_at(data: Any, position: int, end: int) -> tuple[int, int]:
    """(position after it, exponent): the part after the e of a number."""
    negative = False
    if position < end:
        byte = load8(data, position)
        negative = byte == _MINUS
        position += negative or byte == _PLUS
    if not digit_at(data, position, end):
        return ~position, 0
    exponent = 0
    while digit_at(data, position, end):
        exponent = min(exponent * 10 + load8(data, position) - _ZERO, _EXPONENT_MAX)
        position += 1
    return position, -exponent if negative else exponent


@kernel
def literal_end(data: Any, position: int, end: int) -> int:
    """Position after true, false or null."""
    first = load8(data, position)
    if end - position >= 4:
        word = load32(data, position)
        if word in (_TRUE, _NULL):
            return position + 4
        if first == _LOWER_F and end - position >= 5 and load32(data, position + 1) == _ALSE:
            return position + 5
    return ~position


@kernel
def scalar_end(data: Any, position: int, end: int, limit: int) -> int:
    """Position after a string, number or literal; there is at least one byte."""
    byte = load8(data, position)
    if byte == QUOTE:
        close, _ = string_end(data, position + 1, end, limit)
        return close + 1 if close >= 0 else close
    if byte == _MINUS or 0 <= byte - _ZERO <= 9:
        after, _, _, _ = number(data, position, end)
        return after
    return literal_end(data, position, end)


@kernel
def member_name_end(data: Any, position: int, end: int, limit: int) -> int:
    """Position of the value of the member whose name starts at `position`."""
    if position >= end or load8(data, position) != QUOTE:
        return ~position
    close, _ = string_end(data, position + 1, end, limit)
    if close < 0:
        return close
    position = skip_space(data, close + 1, end)
    if position >= end or load8(data, position) != COLON:
        return ~position
    return skip_space(data, position + 1, end)


@kernel
def value_end(data: Any, position: int, end: int, limit: int) -> int:
    """Position after any value. `containers` holds a bit for each open container: 1 is an object."""
    depth = 0
    containers = 0
    while True:
        if position >= end:
            return ~end
        byte = load8(data, position)
        if byte in (OPEN_OBJECT, _OPEN_ARRAY):
            if depth == NESTING_MAX:
                return TOO_DEEP
            depth += 1
            is_object = byte == OPEN_OBJECT
            containers = (containers << 1) | is_object
            position = skip_space(data, position + 1, end)
            if position < end and load8(data, position) != (CLOSE_OBJECT if is_object else _CLOSE_ARRAY):
                if is_object:
                    position = member_name_end(data, position, end, limit)
                    if position < 0:
                        return position
                continue
        else:
            position = scalar_end(data, position, end, limit)
            if position < 0:
                return position
        # After a value, or at the close of an empty container.
        while depth > 0:
            position = skip_space(data, position, end)
            if position >= end:
                return ~end
            byte = load8(data, position)
            if byte == COMMA:
                position = skip_space(data, position + 1, end)
                if containers & 1:
                    position = member_name_end(data, position, end, limit)
                    if position < 0:
                        return position
                break
            if byte != (CLOSE_OBJECT if containers & 1 else _CLOSE_ARRAY):
                return ~position
            position += 1
            depth -= 1
            containers >>= 1
        else:
            return position


@kernel
def two_digits(data: Any, position: int) -> int:
    """Number of two digits, or a large negative one."""
    tens, units = load8(data, position) - _ZERO, load8(data, position + 1) - _ZERO
    return tens * 10 + units if 0 <= tens <= 9 and 0 <= units <= 9 else -100_000


@kernel
def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date of the proleptic Gregorian calendar, year 1 and later.

    Source: Richards' algorithm; years start in March, so that the leap day comes last.
    """
    shifted = year - (month <= 2)
    era = shifted // 400
    year_of_era = shifted - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


@kernel
def days_in_month(year: int, month: int) -> int:
    """Length of a month."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 + ((month + (month >> 3)) & 1)


@kernel
def timestamp(data: Any, position: int, end: int) -> tuple[int, int]:
    """(TIME_OK, microseconds since the epoch) of an RFC 3339 date-time that fills [position, end).

    Digits after the microseconds are dropped. Second 60 is TIME_LEAP_SECOND whether it existed or not.
    """
    if end - position < 20:
        return TIME_BAD, 0
    year = two_digits(data, position) * 100 + two_digits(data, position + 2)
    month, day = two_digits(data, position + 5), two_digits(data, position + 8)
    hour, minute = two_digits(data, position + 11), two_digits(data, position + 14)
    second = two_digits(data, position + 17)
    separator = load8(data, position + 10)
    if load8(data, position + 4) != _MINUS or load8(data, position + 7) != _MINUS:
        return TIME_BAD, 0
    if load8(data, position + 13) != COLON or load8(data, position + 16) != COLON:
        return TIME_BAD, 0
    if (separator | 0x20) != _LOWER_T and separator != 0x20:
        return TIME_BAD, 0
    if year < 1 or month < 1 or month > 12 or day < 1 or day > days_in_month(year, month):
        return TIME_BAD, 0
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 60:
        return TIME_BAD, 0
    position += 19
    micros, position = fraction_us(data, position, end)
    ahead_s, fine = zone_s(data, position, end)
    if not fine:
        return TIME_BAD, 0
    if second == 60:
        return TIME_LEAP_SECOND, 0
    seconds = days_from_civil(year, month, day) * _DAY_S + hour * 3600 + minute * 60 + second - ahead_s
    return TIME_OK, seconds * _SECOND_US + micros


@kernel
def fraction_us(data: Any, position: int, end: int) -> tuple[int, int]:
    """(microseconds, position after them) of an optional fraction; a point without digits stays where it is."""
    if not (load8(data, position) == _DOT and digit_at(data, position + 1, end)):
        return 0, position
    position += 1
    micros = 0
    weight = _SECOND_US // 10
    while digit_at(data, position, end):
        micros += (load8(data, position) - _ZERO) * weight
        weight //= 10
        position += 1
    return micros, position


@kernel
def zone_s(data: Any, position: int, end: int) -> tuple[int, bool]:
    """(seconds ahead of UTC, whether it is a zone that fills the rest)."""
    left = end - position
    if left == 1:
        return 0, (load8(data, position) | 0x20) == _LOWER_Z
    if left != 6 or load8(data, position + 3) != COLON:
        return 0, False
    sign = load8(data, position)
    hours, minutes = two_digits(data, position + 1), two_digits(data, position + 4)
    fine = sign in (_PLUS, _MINUS) and 0 <= hours <= 23 and 0 <= minutes <= 59
    ahead = hours * 3600 + minutes * 60
    return -ahead if sign == _MINUS else ahead, fine
