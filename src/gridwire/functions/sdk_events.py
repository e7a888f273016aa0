"""Events as the Event Hubs SDK's own `EventData`: what functions get that ask for the SDK's type.

`azurefunctions-extensions-bindings-eventhub` makes them from the AMQP message that Azure's host sends along, so
does this: the message is that of the AMQP endpoint, so an event has here what any receiver would be told of it.
"""

from __future__ import annotations

from azure.eventhub import EventData
from azure.eventhub._pyamqp._decode import decode_payload

from gridwire.core.batch import headers_at, varint
from gridwire.functions.frames import Events
from gridwire.wire.amqp.deliveries import message_of


def sdk_events(events: Events, bodies: list[bytes]) -> list[EventData]:
    """An `EventData` for every event of a batch. Raises InvalidBatch, AmqpError: an event's headers are malformed."""
    return [_sdk_event(events, row, body) for row, body in enumerate(bodies)]


def _sdk_event(events: Events, row: int, body: bytes) -> EventData:
    start, count = events.header_starts[row], events.header_counts[row]
    _, end = headers_at(events.data, start, count)
    value = None if events.value_lengths[row] < 0 else body
    headers = varint(count) + bytes(events.data[start:end])
    message = message_of(events.key(row), value, headers, events.offsets[row], events.timestamps[row])
    return EventData._from_message(decode_payload(memoryview(message)))
