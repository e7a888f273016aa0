"""Policies, identities, and the one table that says which right an action needs.

A policy grants rights on the namespace, on one hub, or on one consumer group of one hub. An identity is whoever proved
to hold a policy: by its key, a password, a token or a certificate. What no policy grants is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import Final

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
    ANYTHING = "anything"


class Action(Enum):
    """Everything a head lets somebody do. Values are what the audit hub calls it."""

    SEND = "events.send"
    READ = "events.read"
    DELETE_EVENTS = "events.delete"
    DESCRIBE_HUB = "hub.describe"
    CREATE_HUB = "hub.create"
    ALTER_HUB = "hub.alter"
    DELETE_HUB = "hub.delete"
    USE_GROUP = "group.use"
    DELETE_GROUP = "group.delete"
    LIST = "namespace.list"
    PRODUCE_IDEMPOTENTLY = "producer.id"
    READ_SCHEMA = "schema.read"
    REGISTER_SCHEMA = "schema.register"
    OBSERVE = "namespace.observe"
    OPERATE = "namespace.operate"


ANY_RIGHT: Final = ALL_RIGHTS

TABLE: Final[dict[Action, tuple[Over, Right]]] = {
    Action.SEND: (Over.HUB, Right.SEND),
    Action.READ: (Over.HUB, Right.LISTEN),
    Action.DELETE_EVENTS: (Over.HUB, Right.MANAGE),
    Action.DESCRIBE_HUB: (Over.HUB, ANY_RIGHT),
    Action.CREATE_HUB: (Over.HUB, Right.MANAGE),
    Action.ALTER_HUB: (Over.HUB, Right.MANAGE),
    Action.DELETE_HUB: (Over.HUB, Right.MANAGE),
    Action.USE_GROUP: (Over.GROUP, Right.LISTEN),
    Action.DELETE_GROUP: (Over.GROUP, Right.MANAGE),
    Action.LIST: (Over.ANYTHING, ANY_RIGHT),
    Action.PRODUCE_IDEMPOTENTLY: (Over.ANYTHING, Right.SEND),
    Action.READ_SCHEMA: (Over.ANYTHING, ANY_RIGHT),
    Action.REGISTER_SCHEMA: (Over.NAMESPACE, Right.SEND),
    Action.OBSERVE: (Over.NAMESPACE, Right.LISTEN),
    Action.OPERATE: (Over.NAMESPACE, Right.MANAGE),
}
"""What each action is done to, and the rights of which one is enough. An action that is not here is refused."""


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
        policies: what he was granted.
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
    decisions: dict[tuple[Action, str | None], bool] = field(default_factory=dict)

    def expired(self, now_s: float) -> bool:
        """Whether the time is up."""
        return self.expires_s is not None and now_s >= self.expires_s


def allowed(identity: Identity, action: Action, resource: str | None = None) -> bool:
    """Whether an identity may do an action to a hub or group of that name. Remembered by the identity."""
    key = (action, resource)
    known = identity.decisions.get(key)
    if known is None:
        known = _decide(identity, action, resource)
        if len(identity.decisions) >= _DECISIONS_MAX:
            identity.decisions.clear()
        identity.decisions[key] = known
    return known


def _decide(identity: Identity, action: Action, resource: str | None) -> bool:
    row = TABLE.get(action)
    if row is None:
        return False
    over, enough = row
    if over is Over.HUB and resource is not None and resource.startswith(INTERNAL_PREFIX):
        over, enough = Over.NAMESPACE, Right.MANAGE
    if identity.resource is not None and not _within(identity.resource, action, over, resource):
        return False
    return any(_grants(policy, over, enough, resource) for policy in identity.policies)


def _within(limit: str, action: Action, over: Over, resource: str | None) -> bool:
    """Whether a token for one hub reaches as far as this: to that hub, and to being one of its readers or senders."""
    if over is Over.HUB:
        return resource == limit
    return over is Over.ANYTHING or action is Action.USE_GROUP


def _grants(policy: Policy, over: Over, enough: Right, resource: str | None) -> bool:
    rights = policy.effective & enough
    if not rights:
        return False
    if over is Over.ANYTHING:
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


def require(identity: Identity, action: Action, resource: str | None = None) -> None:
    """Raises NotAllowed, which says what is missing."""
    if allowed(identity, action, resource):
        return
    over, enough = TABLE[action]
    need = " or ".join(right_names(enough))
    kind = "namespace" if over in (Over.NAMESPACE, Over.ANYTHING) else over.value
    where = f"{kind} {resource[:80]!r}" if resource and kind != "namespace" else "the namespace"
    raise NotAllowed(f"{identity.name} may not do {action.value}: it takes {need} on {where}", kind)
