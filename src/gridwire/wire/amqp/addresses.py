"""What a link's address and filter mean.

    [scheme://host/] HUB                                        all partitions
                     HUB/Partitions/ID                          to one
                     HUB/Publishers/NAME                        to the partition of that publisher
                     HUB/ConsumerGroups/GROUP                   from all, sharing the group's positions
                     HUB/ConsumerGroups/GROUP/Partitions/ID     from one
                     $cbs, $management, HUB/$management         requests

Words are taken in any case, as the service does; names of hubs and groups are not, for the other protocols' sake.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from gridwire.wire.amqp.errors import ARGUMENT_ERROR, NOT_FOUND, NOT_IMPLEMENTED, LinkError
from gridwire.wire.amqp.types import Described

CBS: Final = "$cbs"
MANAGEMENT: Final = "$management"
DEFAULT_GROUP: Final = "$Default"
ADDRESS_CHARS_MAX: Final = 2048

SELECTOR: Final = "apache.org:selector-filter:string"
_SELECTOR_CODES: Final = frozenset({0x0000468C00000004, 0x000000137000000A, SELECTOR})
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*/?")
_EXPRESSION = re.compile(
    r"\s*amqp\.annotation\.(x-opt-offset|x-opt-sequence-number|x-opt-enqueued-time|x-opt-enqueuedtimeutc)"
    r"\s*(>=?)\s*'?\s*(@latest|-?\d{1,19})\s*'?\s*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Address:
    """A node. `partition` -1: none was named. `node` is `$cbs` or `$management` where it is one of these."""

    hub: str = ""
    partition: int = -1
    group: str = ""
    publisher: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin reading. `kind`: `offset`, `time` (milliseconds), `latest` or `committed`."""

    kind: str
    value: int = 0


def parse_address(text: Any) -> Address:
    """The node an address means. Raises LinkError."""
    if not isinstance(text, str) or not text or len(text) > ADDRESS_CHARS_MAX:
        raise LinkError(NOT_FOUND, "the link names no node: its address is a hub's name")
    path = _ORIGIN.sub("", text, count=1).strip("/")
    words = [unquote(word) for word in path.split("/")]
    if words[-1].lower() in (CBS, MANAGEMENT):
        return Address(hub=words[0] if len(words) > 1 else "", node=words[-1].lower())
    found: dict[str, str] = {}
    for key, value in zip(words[1::2], words[2::2], strict=False):
        found[key.lower()] = value
    if len(words) % 2 == 0 or not words[0] or not set(found) <= {"partitions", "publishers", "consumergroups"}:
        raise LinkError(NOT_FOUND, f"address {path[:200]!r} names no node: see docs/reference/amqp.md")
    partition = -1
    if "partitions" in found:
        digits = found["partitions"]
        if not digits.isascii() or not digits.isdigit() or len(digits) > 9:
            raise LinkError("com.microsoft:argument-out-of-range", f"there is no partition {digits[:40]!r}")
        partition = int(digits)
    group = found.get("consumergroups", "")
    if group.lower() == DEFAULT_GROUP.lower():
        group = DEFAULT_GROUP
    return Address(words[0], partition, group, found.get("publishers", ""))


def parse_filter(filters: dict[Any, Any] | None) -> Start | None:
    """Where a source's filter begins; None without one. Raises LinkError for filters that are not served."""
    for name, value in (filters or {}).items():
        code = value.descriptor if isinstance(value, Described) else name
        text = value.value if isinstance(value, Described) else value
        if code not in _SELECTOR_CODES and name != SELECTOR:
            raise LinkError(NOT_IMPLEMENTED, f"filter {str(name)[:80]!r} is not served")
        return _start(text)
    return None


def _start(text: Any) -> Start:
    match = _EXPRESSION.match(text) if isinstance(text, str) else None
    if match is None:
        raise LinkError(ARGUMENT_ERROR, f"filter {str(text)[:120]!r} is not a position in the stream")
    name, operator, value = match[1].lower(), match[2], match[3]
    if value.lower() == "@latest":
        return Start("latest")
    number = int(value)
    if name.startswith("x-opt-enqueued"):
        return Start("time", number if operator == ">=" else number + 1)
    return Start("offset", max(0, number if operator == ">=" else number + 1))
