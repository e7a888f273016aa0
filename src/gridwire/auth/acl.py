"""Access control lists, as Kafka's tools write them: what one principal may or may not do to resources of one pattern.

A binding is a grant (or a refusal) beside those of policies, evaluated in the same decision (`gridwire.auth.model`).
Numbers are Kafka's own. Source: Apache Kafka documentation, "Authorization and ACLs"; KIP-290 (patterns).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gridwire.core.errors import InvalidSetting
from gridwire.core.limits import check_name

ANYBODY: Final = "User:*"
"""The principal that stands for everybody who signed in."""

ANY_HOST: Final = "*"
EVERYTHING: Final = "*"
"""As the name of a literal pattern: every resource of the type."""

CLUSTER_NAME: Final = "kafka-cluster"
"""The one resource of type CLUSTER."""

PRINCIPAL_KIND: Final = "User:"
TEXT_CHARS_MAX: Final = 1024
"""A name in a binding; bindings are kept for ever and walked at every new decision."""


class ResourceType(IntEnum):
    """What a binding is about."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Pattern(IntEnum):
    """How its name is meant."""

    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What is done."""

    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class Permission(IntEnum):
    """Whether it is granted or refused."""

    DENY = 2
    ALLOW = 3


OPERATIONS: Final[dict[ResourceType, frozenset[Operation]]] = {
    ResourceType.TOPIC: frozenset(Operation) - {Operation.IDEMPOTENT_WRITE},
    ResourceType.GROUP: frozenset({Operation.ALL, Operation.READ, Operation.DELETE, Operation.DESCRIBE}),
    ResourceType.CLUSTER: frozenset(Operation) - {Operation.READ, Operation.WRITE, Operation.DELETE},
    ResourceType.TRANSACTIONAL_ID: frozenset({Operation.ALL, Operation.WRITE, Operation.DESCRIBE}),
}
"""What can be done to each type here; a binding about anything else would say something that nobody asks."""

_IMPLIED: Final[dict[Operation, frozenset[Operation]]] = {
    Operation.DESCRIBE: frozenset({Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER}),
    Operation.DESCRIBE_CONFIGS: frozenset({Operation.ALTER_CONFIGS}),
}
"""Who may do one of these may do the key as well. Refusals imply nothing."""


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """One line of the list. `host`: the address it holds for, or `*`."""

    resource_type: ResourceType
    name: str
    pattern: Pattern
    principal: str
    host: str
    operation: Operation
    permission: Permission

    def about(self, name: str) -> bool:
        """Whether the pattern holds for a resource of its type."""
        if self.pattern is Pattern.PREFIXED:
            return name.startswith(self.name)
        return self.name in (name, EVERYTHING)

    def grants(self, operation: Operation) -> bool:
        """Whether it allows an operation, implied ones included."""
        mine = self.operation
        return self.permission is Permission.ALLOW and (
            mine in (operation, Operation.ALL) or mine in _IMPLIED.get(operation, ())
        )

    def refuses(self, operation: Operation) -> bool:
        """Whether it denies an operation."""
        return self.permission is Permission.DENY and self.operation in (operation, Operation.ALL)

    def holds_for(self, host: str) -> bool:
        """Whether it is about requests from that address."""
        return self.host in (ANY_HOST, host)


def check(binding: Binding) -> Binding:
    """A binding that can be kept and means something.

    Raises:
        InvalidSetting, InvalidName.
    """
    kind, name = binding.resource_type, binding.name
    if not name or not binding.host or max(map(len, (name, binding.host, binding.principal))) > TEXT_CHARS_MAX:
        raise InvalidSetting(f"names in an ACL have 1 to {TEXT_CHARS_MAX} characters")
    if not binding.principal.startswith(PRINCIPAL_KIND) or binding.principal == PRINCIPAL_KIND:
        raise InvalidSetting("a principal is written User:NAME; other kinds are not known here")
    if kind is ResourceType.CLUSTER and (name != CLUSTER_NAME or binding.pattern is not Pattern.LITERAL):
        raise InvalidSetting(f"the only cluster is the literal {CLUSTER_NAME!r}")
    if kind is ResourceType.TOPIC and name != EVERYTHING:
        check_name(name)
    if binding.operation not in OPERATIONS[kind]:
        raise InvalidSetting(f"{binding.operation.name} cannot be done to a {kind.name}")
    return binding


class Verdict(IntEnum):
    """What a list says of a request."""

    NOTHING = 0
    ALLOWED = 1
    DENIED = 2


def judge(
    bindings: Iterable[Binding],
    kind: ResourceType,
    operation: Operation,
    name: str,
    host: str,
    *,
    by_name: bool = False,
) -> Verdict:
    """What bindings of somebody say of an operation on one resource; a refusal beats a grant.

    Args:
        by_name: only a literal pattern with that very name grants.
    """
    verdict = Verdict.NOTHING
    for binding in bindings:
        if binding.resource_type is not kind or not binding.about(name) or not binding.holds_for(host):
            continue
        if binding.refuses(operation):
            return Verdict.DENIED
        if binding.grants(operation) and (not by_name or (binding.name == name and binding.pattern is Pattern.LITERAL)):
            verdict = Verdict.ALLOWED
    return verdict


def anywhere(bindings: Sequence[Binding], kind: ResourceType, operation: Operation, host: str) -> bool:
    """Whether there may be a resource of that type on which the operation is granted and not refused."""
    mine = [each for each in bindings if each.resource_type is kind and each.holds_for(host)]
    refusals = [each for each in mine if each.refuses(operation)]
    return any(each.grants(operation) and not any(_covers(other, each) for other in refusals) for each in mine)


def _covers(refusal: Binding, grant: Binding) -> bool:
    """Whether nothing of a grant is left."""
    if refusal.pattern is Pattern.LITERAL and refusal.name != EVERYTHING:
        return grant.pattern is Pattern.LITERAL and grant.name == refusal.name
    if grant.pattern is Pattern.LITERAL and grant.name == EVERYTHING:
        return refusal.name == EVERYTHING and refusal.pattern is Pattern.LITERAL
    return refusal.about(grant.name)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which bindings are meant; None: any. `matching`: those of any pattern that hold for `name`."""

    resource_type: ResourceType | None = None
    name: str | None = None
    pattern: Pattern | None = None
    matching: bool = False
    principal: str | None = None
    host: str | None = None
    operation: Operation | None = None
    permission: Permission | None = None

    def takes(self, binding: Binding) -> bool:
        """Whether a binding is meant."""
        named = self.name is None or (binding.about(self.name) if self.matching else binding.name == self.name)
        return (
            named
            and self.resource_type in (None, binding.resource_type)
            and (self.matching or self.pattern in (None, binding.pattern))
            and self.principal in (None, binding.principal)
            and self.host in (None, binding.host)
            and self.operation in (None, binding.operation)
            and self.permission in (None, binding.permission)
        )
