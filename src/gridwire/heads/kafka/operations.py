"""What whoever asks may do, as bits: the authorized operations of Metadata, DescribeCluster and the group APIs.

Handlers answer for somebody who may do everything; here that is cut to what the one table of rights says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gridwire.auth.acl import Operation
from gridwire.auth.model import Action
from gridwire.heads.kafka.context import Request
from gridwire.wire.kafka.compiler import Struct

_TOPIC: Final[Mapping[Operation, Action]] = {
    Operation.READ: Action.READ,
    Operation.WRITE: Action.SEND,
    Operation.CREATE: Action.CREATE_HUB,
    Operation.DELETE: Action.DELETE_HUB,
    Operation.ALTER: Action.GROW_HUB,
    Operation.DESCRIBE: Action.DESCRIBE_HUB,
    Operation.DESCRIBE_CONFIGS: Action.DESCRIBE_SETTINGS,
    Operation.ALTER_CONFIGS: Action.ALTER_HUB,
}
_GROUP: Final[Mapping[Operation, Action]] = {
    Operation.READ: Action.USE_GROUP,
    Operation.DELETE: Action.DELETE_GROUP,
    Operation.DESCRIBE: Action.DESCRIBE_GROUP,
}
_CLUSTER: Final[Mapping[Operation, Action]] = {
    Operation.CREATE: Action.CREATE_ANY_HUB,
    Operation.ALTER: Action.OPERATE,
    Operation.DESCRIBE: Action.INSPECT,
    Operation.DESCRIBE_CONFIGS: Action.INSPECT_SETTINGS,
    Operation.ALTER_CONFIGS: Action.OPERATE,
    Operation.IDEMPOTENT_WRITE: Action.PRODUCE_IDEMPOTENTLY,
}

_LISTS: Final[dict[int, tuple[str, str, str, Mapping[Operation, Action]]]] = {
    3: ("Topics", "Name", "TopicAuthorizedOperations", _TOPIC),
    15: ("Groups", "GroupId", "AuthorizedOperations", _GROUP),
    69: ("Groups", "GroupId", "AuthorizedOperations", _GROUP),
    75: ("Topics", "Name", "TopicAuthorizedOperations", _TOPIC),
}
"""By API: the list, what names its items, where the bits are, and what they stand for."""

_ALWAYS: Final = 75
_NOBODY_ASKED: Final = -(2**31)
_IN_CLUSTER: Final = "ClusterAuthorizedOperations"


def asked(request: Request) -> bool:
    """Whether the answer tells what whoever asked may do."""
    wanted = (value for name, value in request.body.items() if name.startswith("Include") and "Operations" in name)
    return request.header.key == _ALWAYS or any(wanted)


def told(request: Request, answer: Struct) -> Struct:
    """An answer with the bits of whoever asked."""
    row = _LISTS.get(request.header.key)
    if row is not None:
        items, named, where, actions = row
        for item in answer[items]:
            if item.get(where, _NOBODY_ASKED) != _NOBODY_ASKED:
                item[where] = _bits(request, actions, item[named])
    if answer.get(_IN_CLUSTER, _NOBODY_ASKED) != _NOBODY_ASKED:
        answer[_IN_CLUSTER] = _bits(request, _CLUSTER, None)
    return answer


def _bits(request: Request, actions: Mapping[Operation, Action], name: str | None) -> int:
    return sum(1 << operation for operation, action in actions.items() if request.may(action, name))
