"""Kafka's error codes, and the one place where our errors become them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from gridwire.core import errors


class ErrorCode(IntEnum):
    """The codes we send. Source: Apache Kafka protocol guide, "Error Codes"."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    LEADER_NOT_AVAILABLE = 5
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    COORDINATOR_NOT_AVAILABLE = 15
    INVALID_TOPIC_EXCEPTION = 17
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    INVALID_REQUEST = 42
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    SECURITY_DISABLED = 54
    OPERATION_NOT_ATTEMPTED = 55
    KAFKA_STORAGE_ERROR = 56
    SASL_AUTHENTICATION_FAILED = 58
    NON_EMPTY_GROUP = 68
    GROUP_ID_NOT_FOUND = 69
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    MEMBER_ID_REQUIRED = 79
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    GROUP_SUBSCRIBED_TO_TOPIC = 86
    INVALID_RECORD = 87
    UNSTABLE_OFFSET_COMMIT = 88
    PRODUCER_FENCED = 90
    RESOURCE_NOT_FOUND = 91
    DUPLICATE_RESOURCE = 92
    UNACCEPTABLE_CREDENTIAL = 93
    UNKNOWN_TOPIC_ID = 100
    FENCED_MEMBER_EPOCH = 110
    UNRELEASED_INSTANCE_ID = 111
    UNSUPPORTED_ASSIGNOR = 112
    STALE_MEMBER_EPOCH = 113
    MISMATCHED_ENDPOINT_TYPE = 114
    UNSUPPORTED_ENDPOINT_TYPE = 115
    INVALID_REGULAR_EXPRESSION = 128


_CODES: Final[tuple[tuple[type[errors.GridwireError], ErrorCode], ...]] = (
    (errors.InvalidRecord, ErrorCode.INVALID_RECORD),
    (errors.InvalidBatch, ErrorCode.CORRUPT_MESSAGE),
    (errors.MessageTooLarge, ErrorCode.MESSAGE_TOO_LARGE),
    (errors.InvalidName, ErrorCode.INVALID_TOPIC_EXCEPTION),
    (errors.InvalidSetting, ErrorCode.INVALID_CONFIG),
    (errors.UnknownHub, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    (errors.UnknownPartition, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    (errors.HubExists, ErrorCode.TOPIC_ALREADY_EXISTS),
    (errors.OffsetOutOfRange, ErrorCode.OFFSET_OUT_OF_RANGE),
    (errors.OutOfOrderSequence, ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER),
    (errors.DuplicateSequence, ErrorCode.DUPLICATE_SEQUENCE_NUMBER),
    (errors.UnknownProducer, ErrorCode.INVALID_PRODUCER_ID_MAPPING),
    (errors.InvalidTransaction, ErrorCode.INVALID_TXN_STATE),
    (errors.FencedEpoch, ErrorCode.INVALID_PRODUCER_EPOCH),
    (errors.StorageFailed, ErrorCode.KAFKA_STORAGE_ERROR),
    (errors.Corruption, ErrorCode.KAFKA_STORAGE_ERROR),
    (errors.Unavailable, ErrorCode.LEADER_NOT_AVAILABLE),
    (errors.Unsupported, ErrorCode.UNSUPPORTED_VERSION),
    (errors.NotAuthenticated, ErrorCode.SASL_AUTHENTICATION_FAILED),
    (errors.NotAllowed, ErrorCode.CLUSTER_AUTHORIZATION_FAILED),
    (errors.RemoteProtocolError, ErrorCode.INVALID_REQUEST),
)
"""Most specific first: the first class that matches decides."""


def code_of(error: BaseException) -> ErrorCode:
    """The code a peer sees for one of our errors; anything unforeseen is UNKNOWN_SERVER_ERROR."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ErrorCode.UNKNOWN_SERVER_ERROR


def coordinator_code_of(error: BaseException) -> ErrorCode:
    """As `code_of`, for requests that go to a group coordinator: clients retry COORDINATOR_NOT_AVAILABLE there."""
    if isinstance(error, errors.InvalidName):
        return ErrorCode.INVALID_GROUP_ID
    if isinstance(error, errors.StorageFailed | errors.Unavailable):
        return ErrorCode.COORDINATOR_NOT_AVAILABLE
    return code_of(error)
