"""Where captured Avro files lie: a path of names and the time of a file's first event.

    {Namespace}/{EventHub}/{PartitionId}/{Year}/{Month}/{Day}/{Hour}/{Minute}/{Second}.avro

Without pyarrow, so that the hub can check the setting when it starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final

from gridwire.core.errors import InvalidSetting
from gridwire.core.limits import check_name

TIMES: Final = {"Year": "%Y", "Month": "%m", "Day": "%d", "Hour": "%H", "Minute": "%M", "Second": "%S"}
NAMES: Final = ("EventHub", "PartitionId")
"""Every file needs a name of its own: these and the times must stand in the path."""

_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_FIRST_S: Final = 0
_LAST_S: Final = 253_402_300_799
"""31 December 9999: later times, and those before 1970, are a producer's mistake, and no directory."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A checked path pattern. Raises InvalidSetting, InvalidName."""

    pattern: str
    namespace: str

    def __post_init__(self) -> None:
        check_name(self.namespace, "namespace")
        found = _PLACE.findall(self.pattern)
        unknown = [name for name in found if name not in ("Namespace", *NAMES, *TIMES)]
        missing = [name for name in (*NAMES, *TIMES) if name not in found]
        if unknown:
            raise InvalidSetting(f"avro_path has {{{unknown[0][:40]}}}, which is unknown")
        if missing:
            raise InvalidSetting(f"avro_path lacks {{{missing[0]}}}: every file needs a name of its own")
        path = PurePosixPath(self.pattern)
        if path.is_absolute() or any(part.startswith((".", "@")) for part in path.parts) or "\0" in self.pattern:
            raise InvalidSetting("avro_path is a relative path whose parts do not start with '.' or '@'")

    def path(self, hub: str, partition: int, second: int) -> str:
        """Path of a file, relative to the directory of captured files. `second`: seconds since 1970, UTC."""
        moment = datetime.fromtimestamp(second, UTC)
        values = {"Namespace": self.namespace, "EventHub": hub, "PartitionId": str(partition)}
        values |= {name: f"{moment.year:04d}" if name == "Year" else moment.strftime(f) for name, f in TIMES.items()}
        return _PLACE.sub(lambda match: values[match[1]], self.pattern)


def second_of(timestamp_ms: int) -> int:
    """The second a file is named after."""
    return min(max(timestamp_ms // 1000, _FIRST_S), _LAST_S)
