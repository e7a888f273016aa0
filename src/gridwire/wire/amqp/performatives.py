"""Performatives, SASL frames and the composite values inside them: typed, decoded by position, encoded in full.

Encoding never leaves out trailing nulls: the specification allows it, and the Azure SDK for Python reads by position
without looking at the length. Descriptors are written in their one-byte form for the same reason.

Source: OASIS AMQP 1.0, part 2 (transport), part 3 (messaging), part 5 (security).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec

from gridwire.wire.amqp import types
from gridwire.wire.amqp.errors import DECODE_ERROR, AmqpError
from gridwire.wire.amqp.types import NULL, Buffer, Described, Symbol

SENDER: Final = False
RECEIVER: Final = True
"""Values of `role`."""

UNSETTLED, SETTLED, MIXED = 0, 1, 2
"""Values of `snd_settle_mode`."""

FIRST, SECOND = 0, 1
"""Values of `rcv_settle_mode`."""


class Composite(msgspec.Struct):
    """A described list. `CODE`: its descriptor; `KINDS`: a type per field, `!` where it must not be null."""

    CODE: ClassVar[int]
    KINDS: ClassVar[tuple[str, ...]]


class Error(Composite):
    """What went wrong."""

    CODE = 0x1D
    KINDS = ("symbol!", "string", "map")
    condition: str
    description: str | None = None
    info: dict[Any, Any] | None = None


class Received(Composite):
    """How far a delivery came."""

    CODE = 0x23
    KINDS = ("uint!", "ulong!")
    section_number: int = 0
    section_offset: int = 0


class Accepted(Composite):
    """The delivery is done."""

    CODE = 0x24
    KINDS = ()


class Rejected(Composite):
    """The delivery is refused for good."""

    CODE = 0x25
    KINDS = ("error",)
    error: Error | None = None


class Released(Composite):
    """The delivery was not and will not be worked on."""

    CODE = 0x26
    KINDS = ()


class Modified(Composite):
    """As released, with what changed."""

    CODE = 0x27
    KINDS = ("boolean", "boolean", "map")
    delivery_failed: bool | None = None
    undeliverable_here: bool | None = None
    message_annotations: dict[Any, Any] | None = None


State = Received | Accepted | Rejected | Released | Modified | Described
"""State of a delivery; what is described otherwise belongs to transactions."""


class Source(Composite):
    """Where a link's messages come from."""

    CODE = 0x28
    KINDS = ("any", "uint", "symbol", "uint", "boolean", "map", "symbol", "map", "state", "symbols", "symbols")
    address: Any = None
    durable: int | None = None
    expiry_policy: str | None = None
    timeout: int | None = None
    dynamic: bool | None = None
    dynamic_node_properties: dict[Any, Any] | None = None
    distribution_mode: str | None = None
    filter: dict[Any, Any] | None = None
    default_outcome: State | None = None
    outcomes: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] | None = None


class Target(Composite):
    """Where a link's messages go to."""

    CODE = 0x29
    KINDS = ("any", "uint", "symbol", "uint", "boolean", "map", "symbols")
    address: Any = None
    durable: int | None = None
    expiry_policy: str | None = None
    timeout: int | None = None
    dynamic: bool | None = None
    dynamic_node_properties: dict[Any, Any] | None = None
    capabilities: tuple[str, ...] | None = None


class Open(Composite):
    """Begins a connection. `idle_time_out` in milliseconds."""

    CODE = 0x10
    KINDS = ("string!", "string", "uint", "ushort", "uint", "symbols", "symbols", "symbols", "symbols", "map")
    container_id: str
    hostname: str | None = None
    max_frame_size: int | None = None
    channel_max: int | None = None
    idle_time_out: int | None = None
    outgoing_locales: tuple[str, ...] | None = None
    incoming_locales: tuple[str, ...] | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: dict[Any, Any] | None = None


class Begin(Composite):
    """Begins a session on a channel."""

    CODE = 0x11
    KINDS = ("ushort", "uint!", "uint!", "uint!", "uint", "symbols", "symbols", "map")
    remote_channel: int | None
    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    handle_max: int | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: dict[Any, Any] | None = None


class Attach(Composite):
    """Attaches a link to a session."""

    CODE = 0x12
    KINDS = (
        "string!", "uint!", "boolean!", "ubyte", "ubyte", "source", "target", "map", "boolean", "uint", "ulong",
        "symbols", "symbols", "map",
    )  # fmt: skip
    name: str
    handle: int
    role: bool
    snd_settle_mode: int | None = None
    rcv_settle_mode: int | None = None
    source: Source | None = None
    target: Target | Described | None = None
    unsettled: dict[Any, Any] | None = None
    incomplete_unsettled: bool | None = None
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: dict[Any, Any] | None = None


class Flow(Composite):
    """Windows of a session, and credit of a link if `handle` is there."""

    CODE = 0x13
    KINDS = (
        "uint", "uint!", "uint!", "uint!", "uint", "uint", "uint", "uint", "boolean", "boolean", "map",
    )  # fmt: skip
    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool | None = None
    echo: bool | None = None
    properties: dict[Any, Any] | None = None


class Transfer(Composite):
    """A message, or a piece of one while `more`."""

    CODE = 0x14
    KINDS = (
        "uint!", "uint", "binary", "uint", "boolean", "boolean", "ubyte", "state", "boolean", "boolean", "boolean",
    )  # fmt: skip
    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool | None = None
    rcv_settle_mode: int | None = None
    state: State | None = None
    resume: bool | None = None
    aborted: bool | None = None
    batchable: bool | None = None


class Disposition(Composite):
    """State of deliveries `first` to `last`."""

    CODE = 0x15
    KINDS = ("boolean!", "uint!", "uint", "boolean", "state", "boolean")
    role: bool
    first: int
    last: int | None = None
    settled: bool | None = None
    state: State | None = None
    batchable: bool | None = None


class Detach(Composite):
    """Detaches a link; `closed`: for good."""

    CODE = 0x16
    KINDS = ("uint!", "boolean", "error")
    handle: int
    closed: bool | None = None
    error: Error | None = None


class End(Composite):
    """Ends a session."""

    CODE = 0x17
    KINDS = ("error",)
    error: Error | None = None


class Close(Composite):
    """Ends a connection."""

    CODE = 0x18
    KINDS = ("error",)
    error: Error | None = None


class SaslMechanisms(Composite):
    """Ways to sign in."""

    CODE = 0x40
    KINDS = ("symbols!",)
    mechanisms: tuple[str, ...]


class SaslInit(Composite):
    """The way chosen."""

    CODE = 0x41
    KINDS = ("symbol!", "binary", "string")
    mechanism: str
    initial_response: bytes | None = None
    hostname: str | None = None


class SaslChallenge(Composite):
    """A question of the server."""

    CODE = 0x42
    KINDS = ("binary!",)
    challenge: bytes


class SaslResponse(Composite):
    """The client's answer."""

    CODE = 0x43
    KINDS = ("binary!",)
    response: bytes


class SaslOutcome(Composite):
    """How it ended: 0 in, 1 refused."""

    CODE = 0x44
    KINDS = ("ubyte!", "binary")
    code: int
    additional_data: bytes | None = None


Performative = Open | Begin | Attach | Flow | Transfer | Disposition | Detach | End | Close
SaslFrame = SaslMechanisms | SaslInit | SaslChallenge | SaslResponse | SaslOutcome

AMQP_FRAMES: Final[dict[int, type[Composite]]] = {
    kind.CODE: kind for kind in (Open, Begin, Attach, Flow, Transfer, Disposition, Detach, End, Close)
}
SASL_FRAMES: Final[dict[int, type[Composite]]] = {
    kind.CODE: kind for kind in (SaslMechanisms, SaslInit, SaslChallenge, SaslResponse, SaslOutcome)
}
_STATES: Final[dict[int, type[Composite]]] = {
    kind.CODE: kind for kind in (Received, Accepted, Rejected, Released, Modified)
}
_NAMES: Final = {
    "amqp:error:list": 0x1D, "amqp:received:list": 0x23, "amqp:accepted:list": 0x24, "amqp:rejected:list": 0x25,
    "amqp:released:list": 0x26, "amqp:modified:list": 0x27, "amqp:source:list": 0x28, "amqp:target:list": 0x29,
    "amqp:open:list": 0x10, "amqp:begin:list": 0x11, "amqp:attach:list": 0x12, "amqp:flow:list": 0x13,
    "amqp:transfer:list": 0x14, "amqp:disposition:list": 0x15, "amqp:detach:list": 0x16, "amqp:end:list": 0x17,
    "amqp:close:list": 0x18, "amqp:sasl-init:list": 0x41, "amqp:sasl-response:list": 0x43,
}  # fmt: skip
"""Descriptors by name: allowed, though nobody sends them."""


def decode_frame(buffer: Buffer, position: int, end: int, known: dict[int, type[Composite]]) -> tuple[Composite, int]:
    """(performative, position of the payload after it). Raises AmqpError."""
    if buffer[position : position + 4] == _TRANSFER8 and Transfer.CODE in known:
        quick = _usual_transfer(buffer, position, end)
        if quick is not None:
            return quick
    value, after = types.decode(buffer, position, end)
    if not isinstance(value, Described):
        raise AmqpError(DECODE_ERROR, "a frame's body does not begin with a performative")
    kind = known.get(_code(value.descriptor))
    if kind is None:
        raise AmqpError(DECODE_ERROR, f"there is no performative {str(value.descriptor)[:40]!r} here")
    return _composite(kind, value.value), after


_TRANSFER8: Final = b"\x00\x53\x14\xc0"
"""A transfer whose list has a size of one byte."""
_NULL, _ZERO, _SMALL, _UINT, _BINARY8 = 0x40, 0x43, 0x52, 0x70, 0xA0
_FLAGS: Final = {0x40: None, 0x41: True, 0x42: False}
_U32 = struct.Struct(">I")


def _usual_transfer(buffer: Buffer, position: int, end: int) -> tuple[Transfer, int] | None:
    """A transfer as clients write it, without a detour over lists; None when it is written or filled in another way.

    Nearly every frame is one: what this takes and the general decoder's answer must be the same.
    """
    try:
        after, count = position + 5 + buffer[position + 4], buffer[position + 5]
        handle, at = (0, position + 7) if buffer[position + 6] == _ZERO else _usual_uint(buffer, position + 6)
        if buffer[at] == _UINT:  # not a call where it is not needed: this is the hub's most frequent line
            number: int | None = _U32.unpack_from(buffer, at + 1)[0]
            at += 5
        else:
            number, at = _usual_uint(buffer, at)
        tag = None
        if buffer[at] == _BINARY8:
            start, at = at + 2, at + 2 + buffer[at + 1]
            tag = buffer[start:at] if type(buffer) is bytes else bytes(buffer[start:at])
        elif buffer[at] == _NULL:
            at += 1
        else:
            return None
        message_format, at = (0, at + 1) if buffer[at] == _ZERO else _usual_uint(buffer, at)
        settled = _FLAGS[buffer[at]] if count > 4 else None
        more = _FLAGS[buffer[at + 1]] if count > 5 else None
    except (IndexError, KeyError, ValueError, struct.error):
        return None
    nulls = count - 6
    at += min(2, count - 4)
    if handle is None or count < 4 or after > end or count > len(Transfer.KINDS):
        return None
    if at + max(0, nulls) != after or (nulls > 0 and buffer[at:after] != b"\x40" * nulls):
        return None
    return Transfer(handle, number, tag, message_format, settled, more), after


def _usual_uint(buffer: Buffer, at: int) -> tuple[int | None, int]:
    """(uint or null, position after it). Raises ValueError for other types, IndexError, struct.error."""
    code = buffer[at]
    if code == _UINT:
        return _U32.unpack_from(buffer, at + 1)[0], at + 5
    if code == _SMALL:
        return buffer[at + 1], at + 2
    if code == _ZERO:
        return 0, at + 1
    if code == _NULL:
        return None, at + 1
    raise ValueError


def _code(descriptor: Any) -> int:
    if isinstance(descriptor, str):
        return _NAMES.get(descriptor, -1)
    return descriptor if isinstance(descriptor, int) else -1


def _composite(kind: type[Composite], items: Any) -> Composite:
    """A composite from its list; fields that are missing are null, more than there are is an error."""
    kinds = kind.KINDS
    if not isinstance(items, list) or len(items) > len(kinds):
        raise AmqpError(DECODE_ERROR, f"{kind.__name__.lower()} is not a list of at most {len(kinds)} fields")
    values = []
    for index, each in enumerate(kinds):
        value = items[index] if index < len(items) else None
        must = each[-1] == "!"
        if value is not None:
            try:
                value = _READERS[each[:-1] if must else each](value)
            except (TypeError, ValueError):
                raise AmqpError(DECODE_ERROR, f"field {_field(kind, index)} is no {each.rstrip('!')}") from None
        elif must:
            raise AmqpError(DECODE_ERROR, f"field {_field(kind, index)} is missing")
        values.append(value)
    return kind(*values)


def _field(kind: type[Composite], index: int) -> str:
    return f"{kind.__struct_fields__[index]} of {kind.__name__.lower()}"


def _number(bits: int) -> Callable[[Any], int]:
    limit = 1 << bits

    def read(value: Any) -> int:
        if type(value) is not int or not 0 <= value < limit:
            raise ValueError
        return value

    return read


def _instance(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return read


def _symbols(value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in found):
        raise ValueError
    return tuple(found)


def _of(kinds: dict[int, type[Composite]], *, strict: bool = True) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, Described):
            raise ValueError
        kind = kinds.get(_code(value.descriptor))
        if kind is None:
            if strict:
                raise ValueError
            return value
        return _composite(kind, value.value)

    return read


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "any": lambda value: value,
    "ubyte": _number(8), "ushort": _number(16), "uint": _number(32), "ulong": _number(64),
    "boolean": _instance(bool), "string": _instance(str), "symbol": _instance(str), "binary": _instance(bytes),
    "map": _instance(dict), "symbols": _symbols,
    "error": _of({Error.CODE: Error}), "source": _of({Source.CODE: Source}),
    "target": _of({Target.CODE: Target}, strict=False), "state": _of(_STATES, strict=False),
}  # fmt: skip


def _write_symbol_map(value: dict[Any, Any]) -> bytes:
    """A map of fields: its keys are symbols."""
    return types.map_(
        (types.symbol(key) if isinstance(key, str) else types.encode(key), types.encode(each))
        for key, each in value.items()
    )


def encode_composite(value: Composite | Described) -> bytes:
    """A composite with every field, null or not."""
    if isinstance(value, Described):
        return types.encode(value)
    items = [
        NULL if (each := getattr(value, name)) is None else _WRITERS[kind.rstrip("!")](each)
        for name, kind in zip(value.__struct_fields__, value.KINDS, strict=True)
    ]
    return types.described(value.CODE, types.list_(items))


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "any": types.encode,
    "ubyte": types.ubyte, "ushort": types.ushort, "uint": types.uint, "ulong": types.ulong, "boolean": types.boolean,
    "string": types.string, "symbol": types.symbol, "binary": types.binary, "map": _write_symbol_map,
    "symbols": types.symbols, "error": encode_composite, "source": encode_composite, "target": encode_composite,
    "state": encode_composite,
}  # fmt: skip


def rejected(condition: str, description: str) -> Rejected:
    """A refusal with its reason."""
    return Rejected(Error(Symbol(condition), description))
