"""Which processor works on which partition: claims with a version, changed only by whoever knows the newest one.

    claim/<group>/<hub id>/<partition>      ClaimRecord

The hub does not decide who gets what: processors of Event Hubs' SDKs balance among themselves, and all they need is
that of two who claim the same partition at once one loses. Positions are not here but the group's own.
"""

from __future__ import annotations

import secrets
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from gridwire.broker.control import Changes, follow, pack
from gridwire.broker.port import Journal
from gridwire.core.clock import Clock
from gridwire.core.errors import InvalidName, InvalidSetting, UnknownPartition
from gridwire.core.limits import NAME_MAX

PREFIX: Final = "claim/"
OWNER_CHARS_MAX: Final = 256
"""SDKs send a UUID; the journal keeps it."""

FORGOTTEN_MS: Final = 3600 * 1000
"""A claim that was not renewed for so long is nobody's: processors renew theirs every few seconds."""

CLAIMS_MAX: Final = 100_000
"""Claims kept in memory and journal, over all groups."""


class ClaimRecord(msgspec.Struct, frozen=True, array_like=True):
    """A claim as the journal keeps it. An empty owner has let go."""

    owner: str
    etag: str
    claimed_ms: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody wants: a partition, for an owner, knowing the newest version of its claim (None: there is none)."""

    partition: int
    owner: str
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim in force. `age_ms`: time since it was made or renewed, by the hub's clock."""

    partition: int
    owner: str
    etag: str
    age_ms: int


class Claims:
    """See the module."""

    def __init__(self, broker: Journal, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._known: dict[str, ClaimRecord] = {}
        follow(broker, PREFIX, self._take)

    def _take(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._known.pop(key, None)
        else:
            self._known[key] = msgspec.msgpack.decode(value, type=ClaimRecord)

    def held(self, group: str, hub: str) -> list[Claimed]:
        """Claims of a group on a hub's partitions. Raises UnknownHub, InvalidName."""
        where, partitions = self._where(group, hub)
        now_ms = self._clock.now_ms()
        found = ((number, self._known.get(f"{where}{number}")) for number in range(partitions))
        return [_shown(number, record, now_ms) for number, record in found if record is not None]

    async def claim(self, group: str, hub: str, wanted: Sequence[Claim]) -> list[Claimed]:
        """Make or renew claims; returns those that were granted, durable. The others were changed by somebody else.

        Raises:
            UnknownHub, UnknownPartition, InvalidName, InvalidSetting, StorageFailed: then none is granted.
        """
        where, partitions = self._where(group, hub)
        for claim in wanted:
            if not 0 <= claim.partition < partitions:
                raise UnknownPartition(f"hub {hub!r} has partitions 0 to {partitions - 1}, not {claim.partition}")
            if len(claim.owner) > OWNER_CHARS_MAX:
                raise InvalidSetting(f"an owner's name has at most {OWNER_CHARS_MAX} characters")
        now_ms = self._clock.now_ms()
        granted: dict[str, tuple[int, ClaimRecord]] = {}

        def decide() -> Changes:
            granted.clear()
            for claim in wanted:
                key = f"{where}{claim.partition}"
                known = self._known.get(key)
                if key not in granted and (None if known is None else known.etag) == claim.etag:
                    granted[key] = claim.partition, ClaimRecord(claim.owner, secrets.token_hex(8), now_ms)
            return self._changes({key: record for key, (_, record) in granted.items()})

        await self._broker.update(decide)
        return [_shown(number, record, now_ms) for number, record in granted.values()]

    def _changes(self, records: dict[str, ClaimRecord]) -> Changes:
        fresh = sum(key not in self._known for key in records)
        gone = self._of_deleted_hubs() if fresh else []
        if fresh and len(self._known) - len(gone) + fresh > CLAIMS_MAX:
            raise InvalidSetting(f"there are {CLAIMS_MAX} claims already: forget groups that are not used any more")
        changes: dict[str, bytes | None] = {PREFIX + key: None for key in gone}
        changes.update({PREFIX + key: pack(record) for key, record in records.items()})
        return changes

    def _of_deleted_hubs(self) -> list[str]:
        """Claims nobody can ever see again; looked for when one is made, not when one is renewed.

        Old ones only: a hub that another gateway has just made may not be known here yet.
        """
        ids = {str(hub.id) for hub in self._broker.hubs()}
        before_ms = self._clock.now_ms() - FORGOTTEN_MS
        return [
            key for key, record in self._known.items()
            if record.claimed_ms < before_ms and key.split("/")[1] not in ids
        ]  # fmt: skip

    def _where(self, group: str, hub: str) -> tuple[str, int]:
        check_group(group)
        info = self._broker.hub(hub)
        return f"{urllib.parse.quote(group, safe='')}/{info.id}/", info.partitions


DEFAULT_GROUP: Final = "$Default"
"""The consumer group that Event Hubs' clients expect everywhere. It is listed once somebody has used it."""

_DECLARED: Final = "group/"


async def declare_groups(broker: Journal, groups: Iterable[str]) -> None:
    """Let groups be there before anybody reads with them; durable when it returns. Raises InvalidName."""
    known = {key for key, _ in broker.kept(_DECLARED)}
    wanted = {urllib.parse.quote(check_group(group), safe="") for group in groups}
    if wanted - known:
        await broker.change({_DECLARED + key: b"" for key in sorted(wanted - known)})


def declared_groups(broker: Journal) -> set[str]:
    """Groups that are there although nobody may have read with them."""
    return {urllib.parse.unquote(key) for key, _ in broker.kept(_DECLARED)}


def check_group(group: str) -> str:
    """Return a group's name; it may be anything, as in Kafka, `$Default` among it. Raises InvalidName."""
    if not 1 <= len(group) <= NAME_MAX:
        raise InvalidName(f"a group's name has 1 to {NAME_MAX} characters")
    return group


def _shown(partition: int, record: ClaimRecord, now_ms: int) -> Claimed:
    return Claimed(partition, record.owner, record.etag, max(0, now_ms - record.claimed_ms))
