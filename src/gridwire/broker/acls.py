"""Access control lists in the control journal: one entry a binding, so that adding one twice changes nothing.

    identity/acl/<type>/<pattern>/<name>/<principal>/<host>/<operation>/<permission>      BindingRecord

What a binding means is decided where policies are (`gridwire.auth.model`). Bindings are about names, not about records:
they outlive the user they name, and hold for whoever signs in under that name, however he proves it.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from gridwire.auth.acl import (
    ANYBODY,
    PRINCIPAL_KIND,
    Binding,
    Filter,
    Operation,
    Pattern,
    Permission,
    ResourceType,
    check,
)
from gridwire.broker.audit import Audit
from gridwire.broker.control import Changes, follow, pack
from gridwire.broker.port import Journal
from gridwire.core.errors import GridwireError, InvalidSetting

BINDINGS_MAX: Final = 10_000
"""All of them are in memory, and those of one name are walked at every new decision about it."""

_PREFIX: Final = "identity/acl/"


class BindingRecord(msgspec.Struct, frozen=True, array_like=True):
    """A binding as the journal keeps it; numbers are Kafka's."""

    resource_type: int
    name: str
    pattern: int
    principal: str
    host: str
    operation: int
    permission: int

    def binding(self) -> Binding:
        """As decisions want it."""
        return Binding(
            ResourceType(self.resource_type), self.name, Pattern(self.pattern), self.principal, self.host,
            Operation(self.operation), Permission(self.permission),
        )  # fmt: skip


class Acls:
    """See the module. `changed` is called after every change, when it is durable."""

    def __init__(self, journal: Journal, audit: Audit, changed: Callable[[], None]) -> None:
        self._journal = journal
        self._audit = audit
        self._changed = changed
        self._bindings: dict[str, Binding] = {}
        self._by_principal: dict[str, tuple[Binding, ...]] | None = None
        """Made of the bindings when it is asked for."""

    def open(self) -> None:
        """Read what is known, and follow it."""
        follow(self._journal, _PREFIX, self._take)

    def _take(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._bindings.pop(key, None)
        else:
            self._bindings[key] = msgspec.msgpack.decode(value, type=BindingRecord).binding()
        self._by_principal = None
        self._changed()

    def of(self, name: str) -> tuple[Binding, ...]:
        """What is said of somebody of that name, and of everybody."""
        known = self._by_principal
        if known is None:
            known = self._by_principal = self._index()
        return known.get(PRINCIPAL_KIND + name, ()) + known.get(ANYBODY, ())

    def found(self, wanted: Filter) -> list[Binding]:
        """Bindings a filter means, in order."""
        return sorted(each for each in self._bindings.values() if wanted.takes(each))

    async def create(self, who: str, wanted: Sequence[Binding], peer: str = "") -> list[GridwireError | None]:
        """Add bindings, those that may be added at once; durable when it returns. One outcome each."""
        outcomes: list[GridwireError | None] = []
        fresh: dict[Binding, None] = {}

        def decide() -> Changes:
            outcomes.clear()
            fresh.clear()
            for binding in wanted:
                known = _rest(binding) in self._bindings or binding in fresh
                outcomes.append(None if known else self._refusal(binding, len(fresh)))
                if not known and outcomes[-1] is None:
                    fresh[binding] = None
            return {_PREFIX + _rest(each): pack(_record(each)) for each in fresh}

        await self._journal.update(decide)
        for each in fresh:
            self._audit.record(who, "acl.create", each.principal, peer=peer, **_shown(each))
        return outcomes

    async def delete(self, who: str, filters: Sequence[Filter], peer: str = "") -> list[list[Binding]]:
        """Take away what filters mean, all at once; durable when it returns what each of them meant."""
        found: list[list[Binding]] = []

        def decide() -> Changes:
            found[:] = (self.found(each) for each in filters)
            return {_PREFIX + _rest(each): None for some in found for each in some}

        await self._journal.update(decide)
        for each in sorted({each for some in found for each in some}):
            self._audit.record(who, "acl.delete", each.principal, peer=peer, **_shown(each))
        return found

    def _refusal(self, binding: Binding, fresh: int) -> GridwireError | None:
        try:
            check(binding)
        except GridwireError as error:
            return error
        if len(self._bindings) + fresh >= BINDINGS_MAX:
            return InvalidSetting(f"there are {BINDINGS_MAX} ACLs already: use prefixed ones")
        return None

    def _index(self) -> dict[str, tuple[Binding, ...]]:
        by_principal: dict[str, list[Binding]] = {}
        for each in self._bindings.values():
            by_principal.setdefault(each.principal, []).append(each)
        return {name: tuple(some) for name, some in by_principal.items()}


def _record(each: Binding) -> BindingRecord:
    return BindingRecord(
        each.resource_type, each.name, each.pattern, each.principal, each.host, each.operation, each.permission
    )


def _rest(each: Binding) -> str:
    """Its key in the journal, after the prefix."""
    words: Iterable[Any] = (
        int(each.resource_type), int(each.pattern), each.name, each.principal, each.host, int(each.operation),
        int(each.permission),
    )  # fmt: skip
    return "/".join(urllib.parse.quote(str(word), safe="") for word in words)


def _shown(each: Binding) -> dict[str, Any]:
    """For the audit hub."""
    return {
        "permission": each.permission.name, "operation": each.operation.name, "host": each.host,
        "resource": f"{each.resource_type.name}:{each.pattern.name}:{each.name}",
    }  # fmt: skip
