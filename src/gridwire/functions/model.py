"""What an app consists of, as its worker tells the host: values only, nothing of the `azure-functions` package."""

from __future__ import annotations

from typing import Any, Final

import msgspec

EVENT_HUB: Final = "eventHubTrigger"
KAFKA: Final = "kafkaTrigger"
TIMER: Final = "timerTrigger"
HTTP: Final = "httpTrigger"
EVENT_GRID: Final = "eventGridTrigger"
WARM_UP: Final = "warmupTrigger"

STREAMS: Final = frozenset({EVENT_HUB, KAFKA})
"""Triggers that read a hub."""

TRIGGERS: Final = STREAMS | {TIMER, HTTP, EVENT_GRID, WARM_UP}
OUTPUTS: Final = frozenset({"eventHub", "kafka", "eventGrid", "http", "blob"})
INPUTS: Final = frozenset({"blob"})

RETRY_INFINITE: Final = -1

BATCH_EVENTS_MAX: Final = 1000
"""Events of one call unless host.json or the decorator says otherwise. Azure's own default is 100, chosen for events
that cross a process boundary as JSON; ours cross it as columns, so a call of 1,000 costs little more than of 100."""

BATCH_BYTES_LIMIT: Final = 256 * 1024 * 1024
"""What an app may ask for instead: half of a frame, and twice that in the host's memory for each partition."""

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of one call unless told otherwise: the host holds a few batches per partition in memory."""

FROM_END: Final = 1 << 62
"""In place of a time in milliseconds: after every event there is."""

CALL_S: Final = 300.0
"""How long one call may take unless host.json's functionTimeout says otherwise; Azure's own default."""


class Retry(msgspec.Struct, frozen=True):
    """How often a failed call is repeated as it is, before its batch is taken apart. Times in seconds."""

    count: int = 0
    first_s: float = 0.0
    most_s: float = 0.0
    exponential: bool = False


class Batching(msgspec.Struct, frozen=True):
    """When a batch is given to the function: `events_min` are there, it is full, or the oldest waited `wait_s`."""

    events_max: int = BATCH_EVENTS_MAX
    events_min: int = 1
    wait_s: float = 60.0
    bytes_max: int = BATCH_BYTES_MAX


class Output(msgspec.Struct, frozen=True):
    """An output binding. `name` is the parameter, or `$return`; `target` the hub, or the path of a blob."""

    name: str
    kind: str
    target: str = ""


class Input(msgspec.Struct, frozen=True):
    """An input binding besides the trigger."""

    name: str
    kind: str
    target: str = ""


class Function(msgspec.Struct, frozen=True):
    """One function.

    Args:
        hub: what a stream trigger reads. many: whether it gets a list. takes: how its argument looks: `event`, `text`,
            `bytes`, `sdk` for the SDK's `EventData`, or one of `worker.COLUMNS`.
        envelope: a Kafka event's body is JSON of the whole event, as in Azure's host unless data_type is binary.
        avro: schema of a Kafka event's value, which is handed out as JSON of the record then.
        registry: how a Kafka trigger names the settings of its schema registry: address, user, password; then the
            event's body is JSON too. Not the settings themselves, for a function is shown to many.
        schedule, run_on_startup, use_monitor: of a timer. route, methods, auth: of HTTP.
        start_ms: where the function has not read before: from the first event of that time on, `FROM_END` from the end;
            None: from the first event kept.
    """

    name: str
    trigger: str
    parameter: str
    hub: str = ""
    consumer_group: str = "$Default"
    many: bool = False
    start_ms: int | None = None
    batching: Batching = Batching()
    retry: Retry = Retry()
    timeout_s: float = CALL_S
    schedule: str = ""
    run_on_startup: bool = False
    use_monitor: bool = True
    route: str = ""
    methods: tuple[str, ...] = ()
    auth: str = "FUNCTION"
    http_type: str = "function"
    takes: str = "event"
    envelope: bool = False
    avro: str = ""
    registry: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    parallel: int = 1
    outputs: tuple[Output, ...] = ()
    inputs: tuple[Input, ...] = ()


class App(msgspec.Struct, frozen=True):
    """A whole app, or every reason why it cannot run."""

    functions: tuple[Function, ...] = ()
    problems: tuple[str, ...] = ()
    route_prefix: str = "api"
    threads: int | None = None


class Call(msgspec.Struct, frozen=True):
    """One call of a function as the host asks for it; a batch of events follows the frame it travels in.

    Args:
        tries, tries_max: how often this very batch has been tried, and may be. failure: why it failed last.
        arguments: of anything but a batch, see `arguments`.
    """

    function: str
    id: str = ""
    hub: str = ""
    partition: int = 0
    tries: int = 0
    tries_max: int = 0
    failure: str = ""
    trace: tuple[str, str] = ("", "")
    arguments: dict[str, Any] = {}


class Published(msgspec.Struct, frozen=True, array_like=True):
    """Events for one hub, in order. `keys` is empty where none has a key."""

    hub: str
    values: list[bytes]
    keys: list[bytes | None] = []
    headers: list[list[tuple[str, bytes]]] = []


class Result(msgspec.Struct, frozen=True):
    """What became of a call.

    Args:
        done: events from the start of the batch that succeeded; their outputs are in `published`.
        rejected: rows that could not be decoded to columns, with the reason; the function did not see them.
        error: empty when all went well, else one line. traceback: for the dead-letter hub. answer: of HTTP.
        took_us: of the call. cpu_us: processor time of the worker since its last answer.
    """

    done: int = 0
    published: list[Published] = []
    rejected: list[tuple[int, str]] = []
    error: str = ""
    traceback: str = ""
    answer: Any = None
    took_us: int = 0
    cpu_us: int = 0
