"""The one tree of errors.

Heads map these to their protocol's own codes in one place each. The message is for the person who has to act on
it: it says what is wrong and what to do next.
"""

from __future__ import annotations


class GridwireError(Exception):
    """Root of every error gridwire raises on purpose."""


class LocalProtocolError(GridwireError):
    """We tried to do what the protocol forbids: a bug of ours."""


class RemoteProtocolError(GridwireError):
    """The peer sent what the protocol forbids. The connection may have to close."""


class Unsupported(GridwireError):
    """The peer asked for something we do not serve; the answer is its protocol's own "unsupported"."""


class InvalidBatch(RemoteProtocolError):
    """A record batch that is malformed, of an unknown format, or fails its CRC-32C."""


class InvalidRecord(RemoteProtocolError):
    """A sound batch with an event that its hub cannot take."""


class MessageTooLarge(RemoteProtocolError):
    """A frame, batch, record or decompressed payload above its limit."""


class InvalidName(RemoteProtocolError):
    """A hub or group name outside ``[A-Za-z0-9._-]{1,249}``."""


class InvalidSetting(GridwireError):
    """A setting that does not exist or whose value is out of range."""


class UnknownHub(GridwireError):
    """No hub of that name."""


class UnknownPartition(GridwireError):
    """The hub exists, the partition does not."""


class HubExists(GridwireError):
    """A hub of that name already exists."""


class InvalidSchema(RemoteProtocolError):
    """A text that is no schema of the format it is said to have."""


class IncompatibleSchema(GridwireError):
    """A new version of a schema that breaks what its group promises to readers."""


class UnknownSchema(GridwireError):
    """No schema group, schema or version of that name or id."""


class SchemaGroupExists(GridwireError):
    """A schema group of that name already exists, or one still has schemas."""


class UnknownApp(GridwireError):
    """No deployed app of that name."""


class UnknownRoute(GridwireError):
    """No route of alerts of that name."""


class RouteExists(GridwireError):
    """A route of alerts of that name already exists."""


class InvalidApp(GridwireError):
    """An app of functions that cannot run: its problems, a line each."""


class UnknownRule(GridwireError):
    """No alert rule of that name."""


class RuleExists(GridwireError):
    """An alert rule of that name already exists."""


class OffsetOutOfRange(GridwireError):
    """The offset asked for is before the log's start or after its end.

    Args:
        start: first offset kept. end: offset the next event will get.
    """

    def __init__(self, message: str, start: int = -1, end: int = -1) -> None:
        super().__init__(message)
        self.start = start
        self.end = end


class OutOfOrderSequence(GridwireError):
    """An idempotent producer skipped a sequence number: something before this batch is missing."""


class DuplicateSequence(GridwireError):
    """An idempotent producer repeats a batch so old that its offset is no longer remembered; it is in the log."""


class FencedEpoch(GridwireError):
    """A newer owner took over; this one must stop."""


class Rebalanced(GridwireError):
    """A worker committed for places that are another member's by now. Nothing happened; its next poll tells more."""


class UnknownProducer(GridwireError):
    """A transactional id that nobody holds, or that another producer holds."""


class InvalidTransaction(GridwireError):
    """There is no transaction of which this could be a part, or it was ended the other way."""


class StorageFailed(GridwireError):
    """The disk refused a write or a sync. Nothing of the request was acknowledged."""


class DiskFull(StorageFailed):
    """No space left. Reading goes on; appends succeed again when space returns."""


class Corruption(GridwireError):
    """Stored bytes that do not match their checksum or their format.

    Args:
        hub, partition, segment, position: where, so that an operator can look at the very bytes.
    """

    def __init__(
        self, reason: str, *, hub: str = "?", partition: int = -1, segment: str = "?", position: int = -1
    ) -> None:
        super().__init__(f"{reason} in hub {hub!r} partition {partition}, segment {segment}, position {position}")
        self.reason = reason
        self.hub = hub
        self.partition = partition
        self.segment = segment
        self.position = position


class MalformedBatch(Corruption):
    """A stored batch whose checksum is right and whose records are not: its producer wrote nonsense."""


class Unavailable(GridwireError):
    """The hub cannot be reached, is starting or is shutting down: try again."""


class NotAuthenticated(GridwireError):
    """Nobody proved to be anybody: a wrong key, an expired token, an unknown name. The message never says which."""


class NotAllowed(GridwireError):
    """Somebody known lacks the right.

    Args:
        kind: `hub`, `group` or `namespace`: what the right is missing on.
    """

    def __init__(self, message: str, kind: str = "namespace") -> None:
        super().__init__(message)
        self.kind = kind
