"""DescribeClientQuotas and AlterClientQuotas: versions 0 and 1 served.

A quota belongs to a user here (a policy, a user, a token's or certificate's name) and counts for all his connections
together, whatever they carry: `producer_byte_rate` is what comes in, `consumer_byte_rate` what goes out. Missing:
quotas of client ids, addresses and the default user; shares of CPU; rates of connections. Asking for those is refused.
"""

from __future__ import annotations

from typing import Final

from gridwire.auth.model import Quota
from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.heads.kafka.acls import NO_SECURITY
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

_USER: Final = "user"
_KINDS: Final = frozenset({_USER, "client-id", "ip"})
_IN: Final = "producer_byte_rate"
_OUT: Final = "consumer_byte_rate"
_RATE_MAX: Final = 2**53
"""Above it a float64 is no exact number of bytes."""

_EXACT, _DEFAULT, _ANY = range(3)


def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeClientQuotas: of the users asked for."""
    if context.access is None:
        return {"ErrorCode": ErrorCode.SECURITY_DISABLED, "ErrorMessage": NO_SECURITY, "Entries": None}
    components = {each["EntityType"]: each for each in request.body["Components"]}
    matches = all(each["MatchType"] in (_EXACT, _DEFAULT, _ANY) for each in components.values())
    if len(components) < len(request.body["Components"]) or not _KINDS.issuperset(components) or not matches:
        message = "a filter names user, client-id or ip, each once"
        return {"ErrorCode": ErrorCode.INVALID_REQUEST, "ErrorMessage": message, "Entries": None}
    quotas = context.access.quotas()
    asked = components.pop(_USER, None)
    if components or (asked is None and request.body["Strict"]):
        quotas = {}  # they are users' only
    elif asked is not None and asked["MatchType"] != _ANY:
        exact = asked["MatchType"] == _EXACT
        quotas = {name: quota for name, quota in quotas.items() if exact and name == asked["Match"]}
    return {"Entries": [_entry(name, quota) for name, quota in quotas.items()]}


def _entry(name: str, quota: Quota) -> Struct:
    rates = ((_IN, quota.bytes_in_s), (_OUT, quota.bytes_out_s))
    return {
        "Entity": [{"EntityType": _USER, "EntityName": name}],
        "Values": [{"Key": key, "Value": float(rate)} for key, rate in rates if rate],
    }


async def alter(context: Context, request: Request) -> Answer:
    """Answer AlterClientQuotas when it is durable; everything about one user, or nothing of it."""
    body = request.body
    return {"Entries": [await _altered(context, request, each, body["ValidateOnly"]) for each in body["Entries"]]}


async def _altered(context: Context, request: Request, entry: Struct, only_check: bool) -> Struct:
    answer: Struct = {"Entity": entry["Entity"]}
    if context.access is None:
        return answer | {"ErrorCode": ErrorCode.SECURITY_DISABLED, "ErrorMessage": NO_SECURITY}
    try:
        name, rates = _name(entry), {each["Key"]: _rate(each) for each in entry["Ops"]}
        await context.access.set_quota(
            request.who, name, rates.get(_IN), rates.get(_OUT), peer=request.peer_host, only_check=only_check
        )
    except InvalidSetting as error:
        return answer | {"ErrorCode": ErrorCode.INVALID_REQUEST, "ErrorMessage": str(error)}
    except GridwireError as error:
        return answer | {"ErrorCode": code_of(error), "ErrorMessage": str(error)}
    return answer


def _name(entry: Struct) -> str:
    kinds = [each["EntityType"] for each in entry["Entity"]]
    if kinds != [_USER] or entry["Entity"][0]["EntityName"] is None:
        raise InvalidSetting("a quota belongs to one user here, not to client ids, addresses or the default user")
    return str(entry["Entity"][0]["EntityName"])


def _rate(wanted: Struct) -> int:
    """Bytes a second; 0 for none."""
    key, value = wanted["Key"], wanted["Value"]
    if key not in (_IN, _OUT):
        raise InvalidSetting(f"{key[:80]!r} is not limited here: choose {_IN} or {_OUT}")
    if wanted["Remove"]:
        return 0
    if not 1 <= value <= _RATE_MAX or value != int(value):
        raise InvalidSetting(f"{key} is a whole number of bytes a second, not {value}")
    return int(value)
