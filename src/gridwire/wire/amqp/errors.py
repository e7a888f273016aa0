"""What is told to an AMQP peer: conditions, and the errors that carry them."""

from __future__ import annotations

from typing import Final

from gridwire.core.errors import (
    Corruption,
    FencedEpoch,
    GridwireError,
    HubExists,
    InvalidBatch,
    InvalidName,
    InvalidRecord,
    InvalidSetting,
    MessageTooLarge,
    NotAllowed,
    NotAuthenticated,
    OffsetOutOfRange,
    OutOfOrderSequence,
    RemoteProtocolError,
    StorageFailed,
    Unavailable,
    UnknownHub,
    UnknownPartition,
    Unsupported,
)

DECODE_ERROR: Final = "amqp:decode-error"
FRAMING_ERROR: Final = "amqp:connection:framing-error"
CONNECTION_FORCED: Final = "amqp:connection:forced"
WINDOW_VIOLATION: Final = "amqp:session:window-violation"
UNATTACHED_HANDLE: Final = "amqp:session:unattached-handle"
HANDLE_IN_USE: Final = "amqp:session:handle-in-use"
LINK_STOLEN: Final = "amqp:link:stolen"
SIZE_EXCEEDED: Final = "amqp:link:message-size-exceeded"
NOT_FOUND: Final = "amqp:not-found"
NOT_ALLOWED: Final = "amqp:not-allowed"
NOT_IMPLEMENTED: Final = "amqp:not-implemented"
UNAUTHORIZED: Final = "amqp:unauthorized-access"
INTERNAL: Final = "amqp:internal-error"
INVALID_FIELD: Final = "amqp:invalid-field"
ILLEGAL_STATE: Final = "amqp:illegal-state"
LIMIT: Final = "amqp:resource-limit-exceeded"
PRECONDITION: Final = "amqp:precondition-failed"

SERVER_BUSY: Final = "com.microsoft:server-busy"
TIMEOUT: Final = "com.microsoft:timeout"
AUTH_FAILED: Final = "com.microsoft:auth-failed"
ARGUMENT_ERROR: Final = "com.microsoft:argument-error"
ARGUMENT_RANGE: Final = "com.microsoft:argument-out-of-range"


class AmqpError(RemoteProtocolError):
    """The peer broke a rule. `condition` is the symbol it is told; the connection ends."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition
        self.description = description


class SessionError(AmqpError):
    """As above, but only its session ends."""


class LinkError(AmqpError):
    """As above, but only its link ends."""


CONDITIONS: Final = (
    (NotAuthenticated, UNAUTHORIZED),
    (NotAllowed, UNAUTHORIZED),
    (UnknownHub, NOT_FOUND),
    (UnknownPartition, ARGUMENT_RANGE),
    (OffsetOutOfRange, ARGUMENT_RANGE),
    (HubExists, NOT_ALLOWED),
    (InvalidName, NOT_FOUND),
    (InvalidSetting, ARGUMENT_ERROR),
    (MessageTooLarge, SIZE_EXCEEDED),
    (InvalidBatch, DECODE_ERROR),
    (InvalidRecord, ARGUMENT_ERROR),
    (OutOfOrderSequence, "com.microsoft:out-of-order-sequence"),
    (FencedEpoch, "com.microsoft:producer-epoch-stolen"),
    (StorageFailed, SERVER_BUSY),
    (Unavailable, SERVER_BUSY),
    (Unsupported, NOT_IMPLEMENTED),
    (Corruption, INTERNAL),
)


def condition_of(error: BaseException) -> tuple[str, str]:
    """(condition, description) of any error, as the SDKs expect it. What is no error of ours is told without detail."""
    if isinstance(error, AmqpError):
        return error.condition, error.description
    for kind, condition in CONDITIONS:
        if isinstance(error, kind):
            return condition, str(error)
    if isinstance(error, GridwireError):
        return NOT_ALLOWED, str(error)
    return INTERNAL, "the hub failed to do this; its log says more"
