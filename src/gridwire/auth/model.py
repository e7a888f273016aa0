"""Policies, identities, and the one table that says which right an action needs.

A policy grants rights on the namespace, on one hub, or on one consumer group of one hub. An access control list grants
or refuses single operations to a name. An identity is whoever proved to be somebody: by a policy's key, a password, a
token or a certificate. The decision, the same for every protocol:

    1. A token for one hub reaches no further than that hub.
    2. Manage on the namespace may do everything; no list takes that away, so nobody can lock himself out.
    3. What the list refuses is refused, whoever grants it.
    4. What the list or a policy grants is granted.
    5. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import Final

from gridwire.auth.acl import CLUSTER_NAME, EVERYTHING, Binding, Operation, Permission, ResourceType, Verdict, judge
from gridwire.auth.acl import anywhere as granted_anywhere
from gridwire.core.errors import InvalidSetting, NotAllowed
from gridwire.core.limits import check_name

ROOT_POLICY: Final = "RootManageSharedAccessKey"
"""The policy a hub with sign-in is born with."""

INTERNAL_PREFIX: Final = "__"
"""Hubs of the platform itself; reading one takes Manage on the namespace."""

_DECISIONS_MAX: Final = 4096


class Right(Flag):
    """What a policy grants. Manage implies the others."""

    SEND = auto()
    LISTEN = auto()
    MANAGE = auto()


ALL_RIGHTS: Final = Right.SEND | Right.LISTEN | Right.MANAGE
_NAMES: Final = {"send": Right.SEND, "listen": Right.LISTEN, "manage": Right.MANAGE}


def parse_rights(names: Iterable[str]) -> Right:
    """Rights by name, in any case. Raises InvalidSetting."""
    rights = Right(0)
    for name in names:
        found = _NAMES.get(name.strip().lower())
        if found is None:
            raise InvalidSetting(f"unknown right {name[:40]!r}: choose from Send, Listen, Manage")
        rights |= found
    if not rights:
        raise InvalidSetting("a policy grants at least one of Send, Listen, Manage")
    return rights


def right_names(rights: Right) -> list[str]:
    """Rights as people write them."""
    return [name.capitalize() for name, right in _NAMES.items() if right in rights]


@dataclass(frozen=True, slots=True)
class Policy:
    """Rights on a scope: the namespace (no hub), a hub, or a consumer group of a hub."""

    name: str
    rights: Right
    hub: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "policy")
        if self.hub is not None:
            check_name(self.hub)
        if self.group is not None and self.hub is None:
            raise InvalidSetting("a policy for a consumer group names the hub as well")
        if self.group is not None and Right.SEND in self.rights:
            raise InvalidSetting("a policy for a consumer group grants Listen or Manage: sending knows no group")

    @property
    def effective(self) -> Right:
        """Rights with what Manage implies."""
        if Right.MANAGE not in self.rights:
            return self.rights
        return ALL_RIGHTS if self.group is None else Right.LISTEN | Right.MANAGE


class Over(Enum):
    """What an action is done to."""

    NAMESPACE = "namespace"
    HUB = "hub"
    GROUP = "group"
    TRANSACTION = "transaction"
    ANYTHING = "anything"


class Action(Enum):
    """Everything a head lets somebody do. Values are what the audit hub calls it."""

    SEND = "events.send"
    READ = "events.read"
    LOOK_UP_OFFSETS = "events.offsets"
    DELETE_EVENTS = "events.delete"
    DESCRIBE_HUB = "hub.describe"
    DESCRIBE_SETTINGS = "hub.settings"
    CREATE_HUB = "hub.create"
    ALTER_HUB = "hub.alter"
    GROW_HUB = "hub.grow"
    DELETE_HUB = "hub.delete"
    USE_GROUP = "group.use"
    DESCRIBE_GROUP = "group.describe"
    DELETE_GROUP = "group.delete"
    TRANSACT = "transaction.use"
    DESCRIBE_TRANSACTION = "transaction.describe"
    LIST = "namespace.list"
    PRODUCE_IDEMPOTENTLY = "producer.id"
    READ_SCHEMA = "schema.read"
    REGISTER_SCHEMA = "schema.register"
    SUBSCRIBE_BY_PATTERN = "namespace.pattern"
    OBSERVE = "namespace.observe"
    CREATE_ANY_HUB = "namespace.create"
    INSPECT = "namespace.inspect"
    INSPECT_SETTINGS = "namespace.settings"
    OPERATE = "namespace.operate"


ANY_RIGHT: Final = ALL_RIGHTS


@dataclass(frozen=True, slots=True)
class Rule:
    """What an action takes.

    Args:
        over: what it is done to. rights: one of these is enough.
        kind, operation: the same in the words of an access control list; without `kind`, any grant will do.
        name: the resource's name in the list, where it is not the one the action is about.
        elsewhere: a grant of that action is enough too; its refusal takes no more than that away.
    """

    over: Over
    rights: Right
    kind: ResourceType | None = None
    operation: Operation = Operation.ALL
    name: str | None = None
    elsewhere: Action | None = None


_TOPIC, _GROUP, _CLUSTER = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.CLUSTER
_TRANSACTION = ResourceType.TRANSACTIONAL_ID


def _hub(rights: Right, operation: Operation, elsewhere: Action | None = None) -> Rule:
    return Rule(Over.HUB, rights, _TOPIC, operation, elsewhere=elsewhere)


def _namespace(rights: Right, operation: Operation) -> Rule:
    return Rule(Over.NAMESPACE, rights, _CLUSTER, operation, CLUSTER_NAME)


TABLE: Final[dict[Action, Rule]] = {
    Action.SEND: _hub(Right.SEND, Operation.WRITE),
    Action.READ: _hub(Right.LISTEN, Operation.READ),
    Action.LOOK_UP_OFFSETS: _hub(Right.LISTEN, Operation.DESCRIBE),
    Action.DELETE_EVENTS: _hub(Right.MANAGE, Operation.DELETE),
    Action.DESCRIBE_HUB: _hub(ANY_RIGHT, Operation.DESCRIBE),
    Action.DESCRIBE_SETTINGS: _hub(ANY_RIGHT, Operation.DESCRIBE_CONFIGS),
    Action.CREATE_HUB: _hub(Right.MANAGE, Operation.CREATE, Action.CREATE_ANY_HUB),
    Action.ALTER_HUB: _hub(Right.MANAGE, Operation.ALTER_CONFIGS),
    Action.GROW_HUB: _hub(Right.MANAGE, Operation.ALTER),
    Action.DELETE_HUB: _hub(Right.MANAGE, Operation.DELETE),
    Action.USE_GROUP: Rule(Over.GROUP, Right.LISTEN, _GROUP, Operation.READ),
    Action.DESCRIBE_GROUP: Rule(Over.GROUP, Right.LISTEN, _GROUP, Operation.DESCRIBE),
    Action.DELETE_GROUP: Rule(Over.GROUP, Right.MANAGE, _GROUP, Operation.DELETE),
    Action.TRANSACT: Rule(Over.TRANSACTION, Right.SEND, _TRANSACTION, Operation.WRITE),
    Action.DESCRIBE_TRANSACTION: Rule(Over.TRANSACTION, ANY_RIGHT, _TRANSACTION, Operation.DESCRIBE),
    Action.LIST: Rule(Over.ANYTHING, ANY_RIGHT),
    Action.PRODUCE_IDEMPOTENTLY: Rule(
        Over.ANYTHING, Right.SEND, _CLUSTER, Operation.IDEMPOTENT_WRITE, CLUSTER_NAME, Action.SEND
    ),
    Action.READ_SCHEMA: Rule(Over.ANYTHING, ANY_RIGHT),
    Action.REGISTER_SCHEMA: _namespace(Right.SEND, Operation.CREATE),
    Action.SUBSCRIBE_BY_PATTERN: Rule(Over.NAMESPACE, Right.LISTEN, _TOPIC, Operation.DESCRIBE, EVERYTHING),
    Action.OBSERVE: _namespace(Right.LISTEN, Operation.DESCRIBE),
    Action.CREATE_ANY_HUB: _namespace(Right.MANAGE, Operation.CREATE),
    Action.INSPECT: _namespace(Right.MANAGE, Operation.DESCRIBE),
    Action.INSPECT_SETTINGS: _namespace(Right.MANAGE, Operation.DESCRIBE_CONFIGS),
    Action.OPERATE: _namespace(Right.MANAGE, Operation.ALTER),
}
"""What each action takes. An action that is not here is refused."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What an identity may use; 0 is unlimited."""

    bytes_in_s: int = 0
    bytes_out_s: int = 0
    connections: int = 0


NO_QUOTA: Final = Quota()


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """Somebody who proved who he is.

    Args:
        name: as shown in the audit hub. how: `key`, `sas`, `scram`, `jwt` or `certificate`.
        policies: what he was granted. bindings: what access control lists say of him and of everybody.
        resource: a SAS token is good for this hub only; None means no such limit.
        expires_s: wall-clock second after which it is over, if it ever is.
        credential: what must still be valid for the identity to live on; see `Identities.renew`.
    """

    name: str
    how: str
    policies: tuple[Policy, ...]
    quota: Quota = NO_QUOTA
    resource: str | None = None
    expires_s: float | None = None
    credential: tuple[str, ...] = ()
    bindings: tuple[Binding, ...] = ()
    decisions: dict[tuple[Action, str | None, str], bool] = field(default_factory=dict)

    def expired(self, now_s: float) -> bool:
        """Whether the time is up."""
        return self.expires_s is not None and now_s >= self.expires_s

    @property
    def sovereign(self) -> bool:
        """Whether he holds Manage on the namespace."""
        return any(policy.hub is None and Right.MANAGE in policy.rights for policy in self.policies)


def allowed(identity: Identity, action: Action, resource: str | None = None, host: str = "") -> bool:
    """Whether an identity may do an action to a hub, group or transaction of that name. Remembered by the identity.

    Args:
        host: the address he asks from; bindings may hold for one only.
    """
    key = (action, resource, host)
    known = identity.decisions.get(key)
    if known is None:
        known = _decide(identity, action, resource, host)
        if len(identity.decisions) >= _DECISIONS_MAX:
            identity.decisions.clear()
        identity.decisions[key] = known
    return known


def _decide(identity: Identity, action: Action, resource: str | None, host: str) -> bool:
    rule = TABLE.get(action)
    if rule is None or (resource is None and rule.over in _NAMED):
        return False
    over, enough = rule.over, rule.rights
    if _internal(rule, resource):
        over, enough = Over.NAMESPACE, Right.MANAGE
    if identity.resource is not None and not _within(identity.resource, action, over, resource):
        return False
    if identity.sovereign:
        return True
    verdict = _listed(identity.bindings, rule, resource, host)
    if verdict is Verdict.DENIED:
        return False
    return verdict is Verdict.ALLOWED or any(_grants(policy, over, enough, resource) for policy in identity.policies)


_NAMED: Final = frozenset({Over.HUB, Over.GROUP, Over.TRANSACTION})


def _internal(rule: Rule, resource: str | None) -> bool:
    return rule.over is Over.HUB and resource is not None and resource.startswith(INTERNAL_PREFIX)


def _listed(bindings: tuple[Binding, ...], rule: Rule, resource: str | None, host: str) -> Verdict:
    """What the lists say. A hub of the platform itself is only granted by its very name."""
    if not bindings:
        return Verdict.NOTHING
    if rule.kind is None:
        some = any(each.permission is Permission.ALLOW and each.holds_for(host) for each in bindings)
        return Verdict.ALLOWED if some else Verdict.NOTHING
    name = resource if rule.name is None else rule.name
    verdict = judge(bindings, rule.kind, rule.operation, name or "", host, by_name=_internal(rule, resource))
    if rule.elsewhere is None:
        return verdict
    if rule.over is Over.ANYTHING:  # sending anywhere is enough, and refusing the other way takes only that way
        other = granted_anywhere(bindings, _TOPIC, TABLE[rule.elsewhere].operation, host)
        return Verdict.ALLOWED if other or verdict is Verdict.ALLOWED else Verdict.NOTHING
    if verdict is Verdict.NOTHING and not _internal(rule, resource):
        other_verdict = _listed(bindings, TABLE[rule.elsewhere], None, host)
        return Verdict.ALLOWED if other_verdict is Verdict.ALLOWED else Verdict.NOTHING
    return verdict


def _within(limit: str, action: Action, over: Over, resource: str | None) -> bool:
    """Whether a token for one hub reaches as far as this: to that hub, and to being one of its readers or senders."""
    if over is Over.HUB:
        return resource == limit
    return over in (Over.ANYTHING, Over.TRANSACTION) or action in (Action.USE_GROUP, Action.DESCRIBE_GROUP)


def _grants(policy: Policy, over: Over, enough: Right, resource: str | None) -> bool:
    rights = policy.effective & enough
    if not rights:
        return False
    if over in (Over.ANYTHING, Over.TRANSACTION):
        return True
    if over is Over.NAMESPACE:
        return policy.hub is None
    if resource is None:
        return False
    if policy.hub is None:
        return True
    if over is Over.HUB:  # through a group a hub is read, not administered
        return policy.hub == resource and (policy.group is None or Right.LISTEN in rights)
    # Groups belong to the namespace: the right to read a hub lets one join any group, but not forget one.
    return policy.group == resource or (policy.group is None and Right.LISTEN in rights)


def require(identity: Identity, action: Action, resource: str | None = None, host: str = "") -> None:
    """Raises NotAllowed, which says what is missing."""
    if allowed(identity, action, resource, host):
        return
    rule = TABLE[action]
    need = " or ".join(right_names(rule.rights))
    kind = rule.over.value if rule.over in _NAMED else "namespace"
    where = f"{kind} {resource[:80]!r}" if resource and kind != "namespace" else "the namespace"
    listed = "" if rule.kind is None else f", or {rule.operation.name} on the {rule.kind.name} by an ACL"
    raise NotAllowed(f"{identity.name} may not do {action.value}: it takes {need} on {where}{listed}", kind)
