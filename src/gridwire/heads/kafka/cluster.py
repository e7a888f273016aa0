"""FindCoordinator: versions 0 to 6 served. Missing: share coordinators, which are refused.

DescribeCluster: versions 0 to 2 served. Missing: controllers as endpoints; there is one node and it is a broker.
"""

from __future__ import annotations

from typing import Final

from gridwire.heads.kafka.context import NODE_ID, Answer, Context, Request
from gridwire.heads.kafka.metadata import CLUSTER_OPERATIONS, NOT_ASKED, broker_of
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

_GROUP: Final = 0
_TRANSACTION: Final = 1
_BROKERS: Final = 1
_CONTROLLERS: Final = 2
_NOBODY: Final[Struct] = {"NodeId": -1, "Host": "", "Port": -1}


def find_coordinator(context: Context, request: Request) -> Answer:
    """Answer FindCoordinator: this node coordinates every group and every transaction."""
    body = request.body
    code, message = _coordinator_error(body.get("KeyType", _GROUP))
    node = broker_of(context, request) if code is ErrorCode.NONE else dict(_NOBODY)
    node.pop("Rack", None)
    node |= {"ErrorCode": code, "ErrorMessage": message}
    if request.header.version < 4:
        return node
    return {"Coordinators": [{"Key": key, **node} for key in body["CoordinatorKeys"]]}


def _coordinator_error(kind: int) -> tuple[ErrorCode, str | None]:
    if kind in (_GROUP, _TRANSACTION):
        return ErrorCode.NONE, None
    return ErrorCode.INVALID_REQUEST, f"coordinators of type {kind} are not served"


def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeCluster."""
    body = request.body
    kind = body.get("EndpointType", _BROKERS)
    if kind != _BROKERS:
        code = ErrorCode.MISMATCHED_ENDPOINT_TYPE if kind == _CONTROLLERS else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        return {"ErrorCode": code, "ErrorMessage": "this is a broker's endpoint", "EndpointType": kind}
    broker = broker_of(context, request)
    broker["BrokerId"] = broker.pop("NodeId")
    operations = CLUSTER_OPERATIONS if body["IncludeClusterAuthorizedOperations"] else NOT_ASKED
    return {
        "ClusterId": context.cluster_id,
        "ControllerId": NODE_ID,
        "Brokers": [broker],
        "ClusterAuthorizedOperations": operations,
    }
