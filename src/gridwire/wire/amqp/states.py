"""The state tables of a connection, a session and a link, from the side that was connected to.

Theory of operation. A peer may send far ahead of our answers (the Azure SDKs send open, begin and both attaches of
`$cbs` before they read anything), so a state says what may *come*, not what was said. What is in no row is refused:
with a close on the connection, an end on the session, a detach on the link.

A delivery may take many transfers, and between two of them anything of other links may come; so "in the middle of a
delivery" is a state of the link and of nothing above it. After we ended something ourselves (`ENDING`), frames of it
that were under way are dropped until the peer says that it ended it too. A link whose node is still being looked for
is `ATTACHING`: its deliveries are kept back by whoever looks.

Source: OASIS AMQP 1.0, part 2, sections 2.4.6 (connection), 2.5.5 (session), 2.6 (link); part 5, section 5.3 (SASL).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from gridwire.wire.amqp.errors import FRAMING_ERROR, ILLEGAL_STATE, AmqpError, LinkError


class ConnectionState(Enum):
    """What a connection waits for."""

    START = "a protocol header"
    SASL_INIT = "the choice of a SASL mechanism"
    SASL_PENDING = "our answer to a sign-in"
    SASL_RESPONSE = "the client's answer to a challenge"
    HEADER = "the AMQP header after SASL"
    OPEN = "open"
    OPENED = "anything"
    CLOSING = "close, after ours"
    CLOSED = "nothing"


CONNECTION: Final[dict[tuple[ConnectionState, str], ConnectionState]] = {
    (ConnectionState.START, "sasl header"): ConnectionState.SASL_INIT,
    (ConnectionState.START, "amqp header"): ConnectionState.OPEN,
    (ConnectionState.SASL_INIT, "SaslInit"): ConnectionState.SASL_PENDING,
    (ConnectionState.SASL_RESPONSE, "SaslResponse"): ConnectionState.SASL_PENDING,
    (ConnectionState.HEADER, "amqp header"): ConnectionState.OPEN,
    (ConnectionState.OPEN, "Open"): ConnectionState.OPENED,
    **{
        (ConnectionState.OPENED, frame): ConnectionState.OPENED
        for frame in ("Begin", "Attach", "Flow", "Transfer", "Disposition", "Detach", "End")
    },
    (ConnectionState.OPEN, "Close"): ConnectionState.CLOSED,
    (ConnectionState.OPENED, "Close"): ConnectionState.CLOSED,
    (ConnectionState.CLOSING, "Close"): ConnectionState.CLOSED,
}


class LinkState(Enum):
    """What a link is doing."""

    ATTACHING = "its node is being looked for"
    ATTACHED = "between deliveries"
    DELIVERING = "in the middle of a delivery"
    ENDING = "detached by us, not yet by the peer"
    DETACHED = "gone"


LINK: Final[dict[tuple[LinkState, str], LinkState]] = {
    (LinkState.ATTACHING, "answered"): LinkState.ATTACHED,
    (LinkState.ATTACHING, "first of many"): LinkState.DELIVERING,
    (LinkState.ATTACHING, "whole"): LinkState.ATTACHING,
    (LinkState.ATTACHED, "whole"): LinkState.ATTACHED,
    (LinkState.ATTACHED, "first of many"): LinkState.DELIVERING,
    (LinkState.DELIVERING, "one of many"): LinkState.DELIVERING,
    (LinkState.DELIVERING, "last of many"): LinkState.ATTACHED,
    (LinkState.DELIVERING, "aborted"): LinkState.ATTACHED,
    (LinkState.DELIVERING, "answered"): LinkState.DELIVERING,
    **{
        (state, "detached by us"): LinkState.ENDING
        for state in (LinkState.ATTACHING, LinkState.ATTACHED, LinkState.DELIVERING)
    },
    **{
        (state, "detached by peer"): LinkState.DETACHED
        for state in (LinkState.ATTACHING, LinkState.ATTACHED, LinkState.DELIVERING, LinkState.ENDING)
    },
    **{(LinkState.ENDING, event): LinkState.ENDING for event in ("whole", "first of many", "answered")},
}


def next_connection(state: ConnectionState, event: str) -> ConnectionState:
    """The state after an event. Raises AmqpError."""
    found = CONNECTION.get((state, event))
    if found is None:
        condition = FRAMING_ERROR if state in (ConnectionState.START, ConnectionState.HEADER) else ILLEGAL_STATE
        raise AmqpError(condition, f"{event} came while the connection waits for {state.value}")
    return found


def next_link(state: LinkState, event: str) -> LinkState:
    """The state after an event. Raises LinkError."""
    found = LINK.get((state, event))
    if found is None:
        raise LinkError(ILLEGAL_STATE, f"a transfer that is {event} came while the link is {state.value}")
    return found
