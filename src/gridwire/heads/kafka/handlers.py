"""Which handler answers which API; and ApiVersions, which is made of this table.

ApiVersions: versions 0 to 4 served. Missing: nothing; one feature level is finalized, `transaction.version` 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gridwire.heads.kafka import (
    acls,
    client_quotas,
    cluster,
    configs,
    consumer_groups,
    fetch,
    group_admin,
    groups,
    log_dirs,
    metadata,
    offsets,
    positions,
    producer_ids,
    records,
    scram_users,
    topics,
    transactions,
)
from gridwire.heads.kafka.context import Answer, Context, Handled, Request
from gridwire.heads.kafka.sasl import AUTHENTICATE, HANDSHAKE
from gridwire.wire.kafka import codec
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode

Handler = Callable[[Context, Request], Handled]


_FEATURES: Final[Struct] = {
    "SupportedFeatures": [{"Name": "transaction.version", "MinVersion": 0, "MaxVersion": 2}],
    "FinalizedFeaturesEpoch": 0,
    "FinalizedFeatures": [{"Name": "transaction.version", "MaxVersionLevel": 2, "MinVersionLevel": 2}],
}
"""The second transaction protocol (KIP-890)."""


def _versions(error: ErrorCode) -> Struct:
    keys = [
        {"ApiKey": key, "MinVersion": api.versions[0], "MaxVersion": api.versions[1]}
        for key, api in sorted(codec.APIS.items())
    ]
    return {"ErrorCode": error, "ApiKeys": keys, **_FEATURES}


def api_versions(context: Context, request: Request) -> Answer:
    """Answer ApiVersions."""
    return _versions(ErrorCode.NONE)


def unsupported_api_versions(correlation_id: int) -> bytearray:
    """Answer an ApiVersions of an unknown version: error 35 in a v0 body, so that any client can read the ranges."""
    return codec.encode_response(codec.API_VERSIONS, 0, correlation_id, _versions(ErrorCode.UNSUPPORTED_VERSION))


def sasl_handshake(context: Context, request: Request) -> Answer:
    """Answer SaslHandshake."""
    if request.gate is None:
        return {"ErrorCode": ErrorCode.ILLEGAL_SASL_STATE, "Mechanisms": []}
    return request.gate.handshake(request.body["Mechanism"], request.header.version)


def sasl_authenticate(context: Context, request: Request) -> Answer:
    """Answer SaslAuthenticate."""
    if request.gate is None:
        return {"ErrorCode": ErrorCode.ILLEGAL_SASL_STATE, "ErrorMessage": "nobody has to sign in here"}
    return request.gate.authenticate(bytes(request.body["AuthBytes"]))


HANDLERS: Final[dict[int, Handler]] = {
    1: fetch.handle,
    2: offsets.list_offsets,
    3: metadata.handle,
    8: positions.commit,
    9: positions.fetch,
    10: cluster.find_coordinator,
    11: groups.join,
    12: groups.heartbeat,
    13: groups.leave,
    14: groups.sync,
    15: group_admin.describe,
    16: group_admin.list_groups,
    HANDSHAKE: sasl_handshake,
    18: api_versions,
    19: topics.create,
    20: topics.delete,
    21: records.delete,
    22: producer_ids.init,
    23: offsets.for_leader_epoch,
    24: transactions.add_partitions,
    25: transactions.add_offsets,
    26: transactions.end,
    28: transactions.commit_offsets,
    29: acls.describe,
    30: acls.create,
    31: acls.delete,
    32: configs.describe,
    33: configs.replace,
    35: log_dirs.describe,
    AUTHENTICATE: sasl_authenticate,
    37: topics.create_partitions,
    42: group_admin.delete,
    44: configs.alter,
    47: records.delete_positions,
    48: client_quotas.describe,
    49: client_quotas.alter,
    50: scram_users.describe,
    51: scram_users.alter,
    60: cluster.describe,
    75: log_dirs.describe_partitions,
    68: consumer_groups.heartbeat,
    69: consumer_groups.describe,
}
"""By API key; Produce has its own path in `gridwire.heads.kafka.connection`."""
