"""Durations, sizes and times as people write them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from gridwire.core.errors import InvalidSetting

_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_UNITS_B: Final = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def duration_ms(text: str) -> int:
    """`7d`, `90m`, `250ms` in milliseconds; `forever` is -1.

    Raises:
        InvalidSetting.
    """
    if text in ("forever", "-1"):
        return -1
    match = re.fullmatch(r"(\d+)(ms|s|m|h|d|w)", text)
    if match is None:
        raise InvalidSetting(f"{text!r} is not a duration: write a number with ms, s, m, h, d or w, or `forever`")
    return int(match[1]) * _UNITS_MS[match[2]]


def size_bytes(text: str) -> int:
    """`512m`, `10g` in bytes; `unlimited` is -1.

    Raises:
        InvalidSetting.
    """
    if text in ("unlimited", "-1"):
        return -1
    match = re.fullmatch(r"(\d+)([bkmgt]?)(?:i?b)?", text.lower())
    if match is None:
        raise InvalidSetting(f"{text!r} is not a size: write a number with k, m, g or t, or `unlimited`")
    return int(match[1]) * _UNITS_B[match[2]]


def duration_text(milliseconds: int) -> str:
    """The shortest way to write a duration exactly."""
    if milliseconds < 0:
        return "forever"
    for unit, size in sorted(_UNITS_MS.items(), key=lambda item: -item[1]):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def moment(text: str) -> datetime:
    """An instant in RFC 3339, `Z` or another offset and all.

    Raises:
        InvalidSetting.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidSetting(f"{text!r} is no time with an offset: write 2026-01-01T00:00:00Z")
    return found
