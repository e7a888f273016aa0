"""What of the Kafka protocol is served and what is not: the rows of the generated protocol matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gridwire.wire.kafka.codec import API_VERSIONS, APIS, FETCH, PRODUCE
from gridwire.wire.kafka.schema import Versions

PRODUCE_SERVED_FROM: Final = 3
"""Produce is advertised from 0, or librdkafka before 2.11.1 silently stops compressing, but 0 to 2 are refused."""

_ACLS: Final = "answered SECURITY_DISABLED by a hub without sign-in; topics, groups, transactional ids, the cluster"
_QUOTAS: Final = "as 29; producer_byte_rate and consumer_byte_rate of users: not of client ids, addresses, the default"
_SCRAM: Final = "as 29; users, not policies"

_GAPS: Final[dict[int, str]] = {
    PRODUCE: "v0 to v2 are advertised and answered UNSUPPORTED_VERSION",
    FETCH: "no incremental sessions (session id 0)",
    3: "one broker, node 1",
    10: "groups and transactions: a share coordinator is refused",
    33: "topics only",
    35: "one directory",
    75: "no eligible leader replicas",
    API_VERSIONS: "one feature level: transaction.version 2",
    17: "answered ILLEGAL_SASL_STATE by a hub without sign-in; PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER",
    36: "as 17; no channel binding, no delegation tokens",
    19: "replication factor 1; topic configs of the settings table only",
    22: "no v6 (two-phase commit)",
    24: "no v4 and later, which brokers send to each other",
    29: _ACLS,
    30: _ACLS,
    31: _ACLS,
    32: "topics and broker 1",
    44: "topics only",
    48: _QUOTAS,
    49: _QUOTAS,
    50: _SCRAM,
    51: _SCRAM,
    60: "brokers only",
    68: "a group with members does not change between the classic and the new protocol; an empty one does",
}

NOT_SERVED: Final[dict[int, str]] = {
    76: "ShareGroupHeartbeat",
}  # fmt: skip
"""APIs clients may look for and do not find in ApiVersions."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One API: its key, the versions advertised, and what is missing of them."""

    key: int
    name: str
    versions: Versions
    gaps: str


def ledger() -> list[LedgerRow]:
    """Every API advertised, by key."""
    return [LedgerRow(key, api.name, api.versions, _GAPS.get(key, "")) for key, api in sorted(APIS.items())]
