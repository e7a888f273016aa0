"""What names that are no policy may use: quotas of users, tokens and certificates, in the control journal.

    identity/quota/<name>           QuotaRecord: bytes in and out a second; 0 is unlimited

A policy's quota is part of the policy.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Final

import msgspec

from gridwire.auth.model import NO_QUOTA, Quota
from gridwire.broker.control import Changes, follow, pack
from gridwire.broker.port import Journal
from gridwire.core.errors import InvalidSetting

NAME_CHARS_MAX: Final = 1024
QUOTAS_MAX: Final = 10_000
"""All of them are in memory."""

_PREFIX: Final = "identity/quota/"


class QuotaRecord(msgspec.Struct, frozen=True, array_like=True):
    """A quota as the journal keeps it."""

    bytes_in_s: int
    bytes_out_s: int


class Quotas:
    """See the module. `changed` is called with a name when its quota changed."""

    def __init__(self, journal: Journal, changed: Callable[[str], None]) -> None:
        self._journal = journal
        self._changed = changed
        self._quotas: dict[str, Quota] = {}

    def open(self) -> None:
        """Read what is known, and follow it."""
        follow(self._journal, _PREFIX, self._take)

    def _take(self, key: str, value: bytes | None) -> None:
        name = urllib.parse.unquote(key)
        if value is None:
            self._quotas.pop(name, None)
        else:
            record = msgspec.msgpack.decode(value, type=QuotaRecord)
            self._quotas[name] = Quota(record.bytes_in_s, record.bytes_out_s)
        self._changed(name)

    def of(self, name: str) -> Quota:
        """The quota of a name."""
        return self._quotas.get(name, NO_QUOTA)

    def all(self) -> dict[str, Quota]:
        """Every quota by name."""
        return dict(self._quotas)

    def check(self, name: str) -> None:
        """Raises InvalidSetting when a name cannot have a quota."""
        if not 1 <= len(name) <= NAME_CHARS_MAX:
            raise InvalidSetting(f"a user's name has 1 to {NAME_CHARS_MAX} characters")
        if len(self._quotas) >= QUOTAS_MAX and name not in self._quotas:
            raise InvalidSetting(f"there are {QUOTAS_MAX} quotas already")

    @staticmethod
    def changes(name: str, quota: Quota) -> Changes:
        """What keeps a quota, or forgets it when nothing is limited."""
        gone = quota == NO_QUOTA
        record = QuotaRecord(quota.bytes_in_s, quota.bytes_out_s)
        return {_PREFIX + urllib.parse.quote(name, safe=""): None if gone else pack(record)}
