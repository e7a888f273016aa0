"""DescribeAcls, CreateAcls and DeleteAcls: versions 1 to 3 served.

Missing: delegation tokens, users and brokers' own operations as something to grant (CLUSTER_ACTION, CREATE_TOKENS,
DESCRIBE_TOKENS, TWO_PHASE_COMMIT): nothing here asks for them, so granting them is refused. Filters may name them, and
find nothing. Without sign-in there is nobody to speak of: SECURITY_DISABLED.
"""

from __future__ import annotations

from typing import Final

from gridwire.auth.acl import Binding, Filter, Operation, Pattern, Permission, ResourceType
from gridwire.broker.acls import Acls
from gridwire.core.errors import GridwireError, InvalidName, InvalidSetting, RemoteProtocolError
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

NO_SECURITY: Final = "nobody has to sign in here: start the hub with --auth on"
_ANY: Final = 1
_MATCH: Final = 2
_PATTERNS: Final = (_ANY, _MATCH, *Pattern)


def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeAcls."""
    if context.access is None:
        return {"ErrorCode": ErrorCode.SECURITY_DISABLED, "ErrorMessage": NO_SECURITY}
    try:
        found = context.access.acls.found(_filter(request.body))
    except RemoteProtocolError as error:
        return {"ErrorCode": ErrorCode.INVALID_REQUEST, "ErrorMessage": str(error)}
    resources: dict[tuple[ResourceType, str, Pattern], list[Struct]] = {}
    for each in found:
        resources.setdefault((each.resource_type, each.name, each.pattern), []).append(_entry(each))
    return {
        "Resources": [
            {"ResourceType": kind, "ResourceName": name, "PatternType": pattern, "Acls": entries}
            for (kind, name, pattern), entries in resources.items()
        ]
    }


async def create(context: Context, request: Request) -> Answer:
    """Answer CreateAcls when they are durable; each stands for itself."""
    creations = request.body["Creations"]
    if context.access is None:
        return {"Results": [_disabled() for _ in creations]}
    results: list[Struct] = [{} for _ in creations]
    wanted: dict[int, Binding] = {}
    for index, creation in enumerate(creations):
        try:
            wanted[index] = _binding(creation)
        except InvalidSetting as error:
            results[index] = _refused(error)
    try:
        outcomes = await context.access.acls.create(request.who, list(wanted.values()), request.peer_host)
    except GridwireError as problem:
        outcomes = [problem] * len(wanted)
    for index, outcome in zip(wanted, outcomes, strict=True):
        if outcome is not None:
            results[index] = _refused(outcome)
    return {"Results": results}


async def delete(context: Context, request: Request) -> Answer:
    """Answer DeleteAcls when it is durable: what each filter meant."""
    filters = request.body["Filters"]
    if context.access is None:
        return {"FilterResults": [_disabled() for _ in filters]}
    results: list[Struct] = [{} for _ in filters]
    wanted: dict[int, Filter] = {}
    for index, each in enumerate(filters):
        try:
            wanted[index] = _filter(each)
        except RemoteProtocolError as error:
            results[index] = _refused(error)
    try:
        found = await _deleted(context.access.acls, request, wanted)
    except GridwireError as problem:
        found = dict.fromkeys(wanted, _refused(problem))
    for index, result in found.items():
        results[index] = result
    return {"FilterResults": results}


async def _deleted(acls: Acls, request: Request, wanted: dict[int, Filter]) -> dict[int, Struct]:
    found = await acls.delete(request.who, list(wanted.values()), request.peer_host)
    return {
        index: {"MatchingAcls": [_whole_entry(each) for each in some]}
        for index, some in zip(wanted, found, strict=True)
    }


def _disabled() -> Struct:
    return {"ErrorCode": ErrorCode.SECURITY_DISABLED, "ErrorMessage": NO_SECURITY}


def _refused(error: GridwireError) -> Struct:
    ours = isinstance(error, InvalidSetting | InvalidName)
    return {"ErrorCode": ErrorCode.INVALID_REQUEST if ours else code_of(error), "ErrorMessage": str(error)}


def _binding(creation: Struct) -> Binding:
    try:
        return Binding(
            ResourceType(creation["ResourceType"]), creation["ResourceName"], Pattern(creation["ResourcePatternType"]),
            creation["Principal"], creation["Host"], Operation(creation["Operation"]),
            Permission(creation["PermissionType"]),
        )  # fmt: skip
    except ValueError as error:
        raise InvalidSetting(f"this cannot be granted here: {error}") from None


def _filter(body: Struct) -> Filter:
    """What a filter means. Raises RemoteProtocolError."""
    pattern = body["PatternTypeFilter"]
    numbers = (body["ResourceTypeFilter"], body["Operation"], body["PermissionType"])
    if min(numbers) <= 0 or pattern not in _PATTERNS:
        raise RemoteProtocolError("the filter asks for something unknown")
    kind, operation, permission = (None if number == _ANY else number for number in numbers)
    return Filter(
        kind, body["ResourceNameFilter"], Pattern(pattern) if pattern > _MATCH else None, pattern == _MATCH,
        body["PrincipalFilter"], body["HostFilter"], operation, permission,
    )  # fmt: skip


def _entry(each: Binding) -> Struct:
    return {
        "Principal": each.principal,
        "Host": each.host,
        "Operation": each.operation,
        "PermissionType": each.permission,
    }


def _whole_entry(each: Binding) -> Struct:
    named = {"ResourceType": each.resource_type, "ResourceName": each.name, "PatternType": each.pattern}
    return {"ErrorCode": ErrorCode.NONE, **named, **_entry(each)}
