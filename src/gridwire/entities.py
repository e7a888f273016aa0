"""The entity file of Azure's Event Hubs emulator: which hubs and consumer groups there are to be.

    {"UserConfig": {
        "NamespaceConfig": [{"Type": "EventHub", "Name": "emulatorns1", "Entities": [
            {"Name": "eh1", "PartitionCount": "2", "ConsumerGroups": [{"Name": "cg1"}]}]}],
        "LoggingConfig": {"Type": "File"}}}

What is not understood is passed over, as another version of the emulator may have it. `LoggingConfig` has no meaning
here: the hub logs to standard error.

Source: Azure/azure-event-hubs-emulator-installer, EventHub-Emulator/Config/Config.json and its README.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.core.limits import MIB, NAME_MAX, PARTITIONS_PER_HUB_MAX, check_name

FILE_BYTES_MAX: Final = MIB
_SHOWN: Final[Mapping[type[Any], str]] = {dict: "an object", list: "an array", str: "a text"}


@dataclass(frozen=True, slots=True)
class Entity:
    """A hub that is wanted. `partitions` None: as many as usual."""

    name: str
    partitions: int | None
    groups: tuple[str, ...]


def load(path: Path) -> list[Entity]:
    """The entities of a file. Raises InvalidSetting, which says where in the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}") from None
    try:
        return parse(data)
    except GridwireError as error:
        raise InvalidSetting(f"{path}: {error}") from None


def parse(data: bytes) -> list[Entity]:
    """The entities of a file's content. Raises InvalidSetting, InvalidName."""
    if len(data) > FILE_BYTES_MAX:
        raise InvalidSetting(f"an entity file has at most {FILE_BYTES_MAX} bytes")
    try:
        content = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidSetting(f"not JSON: {error}") from None
    config = _member(content, "UserConfig", dict, "the file")
    found: dict[str, Entity] = {}
    for at, namespace in enumerate(_member(config, "NamespaceConfig", list, "UserConfig")):
        where = f"NamespaceConfig[{at}]"
        kind = _member(namespace, "Type", str, where, optional=True) or "EventHub"
        if kind.lower() != "eventhub":
            raise InvalidSetting(f"{where} has the Type {kind!r}: only EventHub is served")
        for number, each in enumerate(_member(namespace, "Entities", list, where)):
            entity = _entity(each, f"{where}.Entities[{number}]")
            if entity.name in found:
                raise InvalidSetting(f"{where}: hub {entity.name!r} comes twice")
            found[entity.name] = entity
    return list(found.values())


def _entity(value: Any, where: str) -> Entity:
    name = check_name(_member(value, "Name", str, where))
    if name.startswith("__"):
        raise InvalidSetting(f"{where}: hub names that start with '__' are the platform's own")
    groups = [
        _member(each, "Name", str, f"{where}.ConsumerGroups[{at}]")
        for at, each in enumerate(_member(value, "ConsumerGroups", list, where, optional=True))
    ]
    if any(not 1 <= len(group) <= NAME_MAX for group in groups):
        raise InvalidSetting(f"{where}: a consumer group's name has 1 to {NAME_MAX} characters")
    return Entity(name, _partitions(_found(value, "PartitionCount"), where), tuple(dict.fromkeys(groups)))


def _partitions(value: Any, where: str) -> int | None:
    """The emulator's own samples have the number as text."""
    if value is None:
        return None
    text = str(value)
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= PARTITIONS_PER_HUB_MAX:
        raise InvalidSetting(f"{where}.PartitionCount must be 1 to {PARTITIONS_PER_HUB_MAX}, not {value!r}")
    return int(text)


def _member(value: Any, name: str, kind: type[Any], where: str, *, optional: bool = False) -> Any:
    """A member of an object, by its name in any case. Raises InvalidSetting."""
    if not isinstance(value, Mapping):
        raise InvalidSetting(f"{where} is no JSON object")
    found = _found(value, name)
    if found is None and optional:
        return kind()
    if not isinstance(found, kind):
        raise InvalidSetting(f"{where} has no {name}, or it is not {_SHOWN[kind]}")
    return found


def _found(value: Mapping[str, Any], name: str) -> Any:
    return next((each for key, each in value.items() if key.lower() == name.lower()), None)
