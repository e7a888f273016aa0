"""Keys of encrypted meters, read from one TOML file that should be readable by its owner alone.

    [meters."4b464d1020030201"]          # system title in hexadecimal, or meter id
    encryption = "000102030405060708090a0b0c0d0e0f"
    authentication = "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf"

    [default]                            # for whoever is not listed; may be left out
    encryption = "..."

Keys are never part of a reason, a report or a log line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gridwire.core.errors import InvalidSetting

_KEY_BYTES: Final = (16, 24, 32)


@dataclass(frozen=True, slots=True)
class MeterKey:
    """AES keys of one meter; `authentication` may be empty where frames are only encrypted."""

    encryption: bytes = field(repr=False)
    authentication: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys by system title in hexadecimal or by meter id, both in lower case."""

    by_meter: Mapping[str, MeterKey] = field(default_factory=dict, repr=False)
    default: MeterKey | None = field(default=None, repr=False)

    def find(self, *names: str) -> MeterKey | None:
        """The key of whichever name is known first, else the default."""
        for name in names:
            key = self.by_meter.get(name.lower()) if name else None
            if key is not None:
                return key
        return self.default


def parse(text: str) -> Keys:
    """Keys out of TOML text.

    Raises:
        InvalidSetting: no TOML, an unknown entry, or a key that is no AES key; the message never shows a key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"the key file is no TOML: {str(error).splitlines()[0]}") from None
    unknown = set(data) - {"meters", "default"}
    if unknown:
        raise InvalidSetting(f"the key file has [meters.*] and [default], not {', '.join(sorted(unknown))}")
    meters = data.get("meters", {})
    if not isinstance(meters, dict):
        raise InvalidSetting("the key file's `meters` must be a table of meters")
    by_meter = {name.lower().replace(" ", ""): _key(name, entry) for name, entry in meters.items()}
    return Keys(by_meter, _key("default", data["default"]) if "default" in data else None)


def load(path: Path) -> Keys:
    """Keys out of a file.

    Raises:
        InvalidSetting: see `parse`; also a file that cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"cannot read the key file {path}: {error}") from None


def _key(name: str, entry: Any) -> MeterKey:
    if not isinstance(entry, dict) or set(entry) - {"encryption", "authentication"} or "encryption" not in entry:
        raise InvalidSetting(f"keys of {name!r}: `encryption` and perhaps `authentication`, nothing else")
    found = {}
    for part, digits in entry.items():
        try:
            found[part] = bytes.fromhex(digits)
        except (TypeError, ValueError):
            found[part] = b""
        if len(found[part]) not in _KEY_BYTES:
            raise InvalidSetting(f"{part} key of {name!r} must be 32, 48 or 64 hexadecimal digits")
    return MeterKey(**found)
