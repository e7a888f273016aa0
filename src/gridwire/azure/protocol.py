"""What the checkpoint store says to the hub, and how answers look to Azure's processor. No I/O.

The SDK compares `last_modified_time` with its own clock. The hub therefore tells how old a claim is, and the time here
is the client's now less that age: clocks that disagree take no partition away.

    event offset n dealt with   <->   committed position n + 1
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from gridwire.core.errors import GridwireError, InvalidSetting

Ownership = dict[str, Any]
"""As the SDK has it: namespace, hub and group by name, `partition_id`, `owner_id`, `etag`, `last_modified_time` (s)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to the hub's HTTP API."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


def claims_path(group: str) -> str:
    """Where a group's claims are."""
    return f"/v1/groups/{quote(group, safe='')}/claims"


def positions_path(group: str) -> str:
    """Where a group's positions are."""
    return f"/v1/groups/{quote(group, safe='')}/positions"


def claims_request(hub: str, group: str) -> Request:
    """Ask who claims which partition of a hub."""
    return Request("GET", claims_path(group), {"hub": hub})


def positions_request(hub: str, group: str) -> Request:
    """Ask how far a group is in a hub."""
    return Request("GET", positions_path(group), {"hub": hub})


def claim_requests(ownerships: Sequence[Ownership]) -> list[Request]:
    """Claim partitions: one request for each hub and group, which for a processor is one."""
    wanted: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in ownerships:
        claim = {"partition": _partition(each["partition_id"]), "owner": each["owner_id"], "etag": each.get("etag")}
        wanted.setdefault((each["eventhub_name"], each["consumer_group"]), []).append(claim)
    return [
        Request("POST", claims_path(group), body={"hub": hub, "claims": claims})
        for (hub, group), claims in wanted.items()
    ]


def commit_request(checkpoint: Mapping[str, Any]) -> Request:
    """Commit the position behind an event. Raises InvalidSetting when it has no number."""
    number = checkpoint.get("sequence_number")
    if number is None:
        number = checkpoint.get("offset")
    try:
        position = int(number) + 1  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidSetting("a checkpoint has the sequence number or the offset of an event") from None
    group, hub = checkpoint["consumer_group"], checkpoint["eventhub_name"]
    row = {"partition": _partition(checkpoint["partition_id"]), "position": position}
    return Request("POST", positions_path(group), body={"hub": hub, "positions": [row]})


def _partition(text: str) -> int:
    if not str(text).isdecimal():
        raise InvalidSetting(f"partitions have numbers, not {text!r}")
    return int(text)


def owned(namespace: str, hub: str, group: str, answer: Mapping[str, Any]) -> list[Ownership]:
    """Claims as the SDK has them."""
    now_s = time.time()
    return [
        {
            "fully_qualified_namespace": namespace,
            "eventhub_name": hub,
            "consumer_group": group,
            "partition_id": str(row["partition"]),
            "owner_id": row["owner"],
            "etag": row["etag"],
            "last_modified_time": now_s - row["age_ms"] / 1000,
        }
        for row in answer["claims"]
    ]


def checkpointed(namespace: str, hub: str, group: str, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Positions as the SDK has them; nothing was dealt with before position 0."""
    return [
        {
            "fully_qualified_namespace": namespace,
            "eventhub_name": hub,
            "consumer_group": group,
            "partition_id": str(row["partition"]),
            "sequence_number": row["position"] - 1,
            "offset": str(row["position"] - 1),
        }
        for row in answer["positions"]
        if row["position"] > 0
    ]


def granted(ownerships: Sequence[Ownership], request: Request, answer: Mapping[str, Any]) -> list[Ownership]:
    """Those of the ownerships that `request` claimed and the hub granted."""
    path, hub = request.path, request.body["hub"]
    asked = {
        str(each["partition_id"]): each
        for each in ownerships
        if each["eventhub_name"] == hub and claims_path(each["consumer_group"]) == path
    }
    found = []
    for row in answer["claims"]:
        of = asked[str(row["partition"])]
        found += owned(of["fully_qualified_namespace"], hub, of["consumer_group"], {"claims": [row]})
    return found


def result(response: httpx.Response) -> Any:
    """The answer. Raises GridwireError with the hub's reason."""
    if response.status_code < 400:
        return response.json()
    try:
        reason = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        reason = f"{response.status_code} {response.reason_phrase}"
    raise GridwireError(reason)
