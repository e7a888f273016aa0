"""A worker process: loads one app and calls its functions when the host says so.

    main thread      reads frames; runs event functions itself, in the order they come
    a loop's thread  runs every coroutine: clients that user code keeps belong to one loop
    some threads     run synchronous HTTP, timer and Event Grid functions beside them

User code runs nowhere else. A worker knows nothing of hubs: events come in frames, outputs leave in frames, so killing
it at any instruction loses nothing. When the host is gone the socket ends, and so does the worker.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec

from gridwire.functions.context import Context, child_trace, configure_logging, invocation, trace_in
from gridwire.functions.frames import BATCH, CALL, DONE, READY, Channel, Events, read_events
from gridwire.functions.loader import Loaded, load, text_of
from gridwire.functions.model import Call, Function, Result
from gridwire.functions.outputs import Out, Outbox, blob_path
from gridwire.functions.settings import AppSettings, Invalid

TRACEBACK_CHARS_MAX: Final = 16_000
"""A dead letter's header; a recursion error's traceback has no end."""

COLUMNS: Final = ("record_batch", "table", "polars")


class Prepared:
    """One function, ready to be called."""

    def __init__(self, function: Function, code: Callable[..., Any], directory: Path, blobs: Sequence[Path]) -> None:
        self.function = function
        self.code = code
        self.is_async = inspect.iscoroutinefunction(code)
        self._directory = directory
        self._blobs = blobs
        self._outputs = {output.name: output for output in function.outputs}
        hints = getattr(code, "__annotations__", {})
        named = [name for name in inspect.signature(code).parameters if name not in self._outputs]
        bound = {function.parameter, *(each.name for each in function.inputs)}
        self._context = next((name for name in named if name not in bound and _is_context(name, hints)), None)
        self._hints = hints
        self.names_paths = bool(function.inputs) or any(output.kind == "blob" for output in function.outputs)

    @cached_property
    def decoder(self) -> Any:
        """Batches to columns; pulls in pyarrow and the kernels."""
        from gridwire.functions.arrow import Decoder

        return Decoder(self.function)

    def context(self, call: Call) -> Context:
        """What the call is told of itself."""
        return Context(msgspec.structs.replace(call, trace=child_trace(call.trace)), self._directory)

    def arguments(
        self, argument: Any, context: Context, names: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Out]]:
        """Keyword arguments, and the outputs among them."""
        outs = {name: Out() for name in self._outputs if name != "$return"}
        keywords = {self.function.parameter: argument, **outs}
        for binding in self.function.inputs:
            keywords[binding.name] = self._blob(binding.target, binding.name, names)
        if self._context is not None:
            keywords[self._context] = context
        return keywords, outs

    def _blob(self, pattern: str, name: str, names: Mapping[str, Any]) -> Any:
        from azure.functions.blob import InputStream

        paths = [blob_path(root, pattern, names) for root in self._blobs]
        path = next((path for path in paths if path.is_file()), paths[0])
        data = path.read_bytes() if path.is_file() else None
        kind = self._hints.get(name)
        if data is None or kind in (bytes, "bytes"):
            return data
        if kind in (str, "str"):
            return data.decode()
        return InputStream(data=data, name=pattern, uri=path.as_uri(), length=len(data))

    def outbox(self, call: Call, context: Context) -> Outbox:
        """Where the outputs of one call go; they carry on a trace that came with the call."""
        return Outbox(self._blobs[0], _span(call, context))

    def collect(self, outbox: Outbox, returned: Any, outs: Mapping[str, Out], names: Mapping[str, Any]) -> Any:
        """Put outputs into the outbox; returns the HTTP answer, if there is one. Raises TypeError."""
        answer = None
        for name, binding in self._outputs.items():
            value = returned if name == "$return" else outs[name].get()
            if binding.kind == "http":
                answer = value
            else:
                outbox.put(binding, value, names)
        if returned is not None and "$return" not in self._outputs:
            raise TypeError(f"function {self.function.name} returned a value, and no output binding is named $return")
        return answer


def _span(call: Call, context: Context) -> tuple[str, str]:
    """The call's own span, if a trace came with it."""
    trace = context.trace_context
    return (trace.trace_parent, trace.trace_state) if call.trace[0] else ("", "")


def _is_context(name: str, hints: Mapping[str, Any]) -> bool:
    hint = hints.get(name)
    return name == "context" or str(getattr(hint, "__name__", hint)).endswith("Context")


class Worker:
    """Serves the host over one socket until it hangs up.

    Args:
        blobs: where blobs are written and read, then where else they are read.
    """

    def __init__(self, loaded: Loaded, channel: Channel, directory: Path, blobs: Sequence[Path]) -> None:
        self._channel = channel
        self._send_lock = threading.Lock()
        self._functions = {
            function.name: Prepared(function, loaded.code[function.name], directory, blobs)
            for function in loaded.app.functions
        }
        self._threads = loaded.app.threads
        self._cpu_ns = time.process_time_ns()
        self._views: Any = None

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="loop", daemon=True).start()
        return loop

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, "function")

    def serve(self) -> None:
        """Answer frames until the host hangs up."""
        while True:
            try:
                kind, number, body = self._channel.receive()
            except OSError:
                return
            if kind == BATCH:
                self._send(DONE, number, self._batch(read_events(body)))
            elif kind == CALL:
                call = msgspec.msgpack.decode(body, type=Call)
                prepared = self._functions[call.function]
                if prepared.is_async:
                    asyncio.run_coroutine_threadsafe(self._single_async(prepared, call, number), self._loop)
                else:
                    self._pool.submit(self._single, prepared, call, number)

    def _send(self, kind: int, number: int, result: Result) -> None:
        with self._send_lock:
            now_ns = time.process_time_ns()
            result = msgspec.structs.replace(result, cpu_us=(now_ns - self._cpu_ns) // 1000)
            self._cpu_ns = now_ns
            try:
                data = msgspec.msgpack.encode(result)
            except (TypeError, ValueError) as error:
                data = msgspec.msgpack.encode(Result(error=f"the answer cannot be sent: {error}"))
            try:
                self._channel.send(kind, number, data)
            except OSError:
                os._exit(0)  # the host is gone; nobody may act on this result any more

    # -- events ---------------------------------------------------------------------------------------------------

    def _batch(self, events: Events) -> Result:
        begun = time.perf_counter_ns()
        prepared = self._functions[events.call.function]
        context = prepared.context(events.call)
        outbox = prepared.outbox(events.call, context)
        with invocation(context, prepared.function):
            if prepared.function.many:
                result = self._many(prepared, events, context, outbox)
            else:
                result = self._each(prepared, events, context, outbox)
        return msgspec.structs.replace(result, took_us=(time.perf_counter_ns() - begun) // 1000)

    def _many(self, prepared: Prepared, events: Events, context: Context, outbox: Outbox) -> Result:
        rejected: list[tuple[int, str]] = []
        try:
            if prepared.function.takes in COLUMNS:
                argument, rejected = prepared.decoder.argument(events)
            else:
                argument = self._arguments(prepared, events)
            if argument is not None:
                names = _names_of(events, None)
                keywords, outs = prepared.arguments(argument, context, names)
                prepared.collect(outbox, self._call(prepared, keywords), outs, names)
        except BaseException as error:
            return _failed(error, 0)
        return Result(events.count, outbox.published(), rejected)

    def _each(self, prepared: Prepared, events: Events, context: Context, outbox: Outbox) -> Result:
        """One call an event, in order, until one fails: what came before it stands."""
        done = 0
        try:
            for row, argument in enumerate(self._arguments(prepared, events)):
                names = _names_of(events, row) if prepared.names_paths else {}
                if row and (events.header_counts[row] or events.header_counts[row - 1]):
                    call = msgspec.structs.replace(events.call, trace=trace_in(events.headers(row)))
                    context = prepared.context(call)
                    outbox.carry_on(_span(call, context))
                keywords, outs = prepared.arguments(argument, context, names)
                prepared.collect(outbox, self._call(prepared, keywords), outs, names)
                done += 1
        except BaseException as error:
            return msgspec.structs.replace(_failed(error, done), published=outbox.published())
        return Result(done, outbox.published())

    def _arguments(self, prepared: Prepared, events: Events) -> list[Any]:
        from gridwire.functions.events import Rows

        rows = Rows(events, prepared.function)
        if prepared.function.takes == "bytes":
            return rows.bodies
        if prepared.function.takes == "text":
            return [body.decode() for body in rows.bodies]
        if prepared.function.takes == "sdk":
            from gridwire.functions.sdk_events import sdk_events

            return sdk_events(events, rows.bodies)
        return rows.views()

    def _call(self, prepared: Prepared, keywords: Mapping[str, Any]) -> Any:
        if prepared.is_async:
            coroutine: Coroutine[Any, Any, Any] = prepared.code(**keywords)
            return asyncio.run_coroutine_threadsafe(_in_context(coroutine), self._loop).result()
        return prepared.code(**keywords)

    # -- everything else --------------------------------------------------------------------------------------------

    def _single(self, prepared: Prepared, call: Call, number: int) -> None:
        one = _Single(prepared, call)
        with invocation(one.context, prepared.function):
            try:
                result = one.result(prepared.code(**one.keywords()))
            except BaseException as error:
                result = _failed(error, 0)
        self._send(DONE, number, result)

    async def _single_async(self, prepared: Prepared, call: Call, number: int) -> None:
        one = _Single(prepared, call)
        with invocation(one.context, prepared.function):
            try:
                result = one.result(await prepared.code(**one.keywords()))
            except BaseException as error:
                result = _failed(error, 0)
        self._send(DONE, number, result)


class _Single:
    """A call that is not of events, before and after the user's code."""

    def __init__(self, prepared: Prepared, call: Call) -> None:
        self.context = prepared.context(call)
        self._prepared = prepared
        self._call = call
        self._outbox = prepared.outbox(call, self.context)
        self._outs: dict[str, Out] = {}
        self._names: dict[str, Any] = {}
        self._begun = time.perf_counter_ns()

    def keywords(self) -> dict[str, Any]:
        """What the function is called with."""
        from gridwire.functions import requests

        self._names = requests.names_of(self._call)
        argument = requests.argument(self._prepared.function, self._call)
        keywords, self._outs = self._prepared.arguments(argument, self.context, self._names)
        return keywords

    def result(self, returned: Any) -> Result:
        """What the host is told."""
        from gridwire.functions import requests

        answer = self._prepared.collect(self._outbox, returned, self._outs, self._names)
        told = requests.answer(self._prepared.function, answer)
        took_us = (time.perf_counter_ns() - self._begun) // 1000
        return Result(1, self._outbox.published(), answer=told, took_us=took_us)


async def _in_context(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


def _names_of(events: Events, row: int | None) -> dict[str, Any]:
    """What a binding expression of an event function may name."""
    call = events.call
    first = 0 if row is None else row
    offset = events.offsets[first] if events.count else 0
    names: dict[str, Any] = {
        "PartitionContext": {"PartitionId": call.partition, "EventHubName": call.hub},
        "Offset": offset,
        "SequenceNumber": offset,
    }
    if row is not None:
        try:
            start = events.value_starts[row]
            body = msgspec.json.decode(bytes(events.data[start : start + max(events.value_lengths[row], 0)]))
            names |= body if isinstance(body, dict) else {}
        except msgspec.DecodeError:
            pass
    return names


def _failed(error: BaseException, done: int) -> Result:
    text = "".join(traceback.format_exception(error))
    if len(text) > TRACEBACK_CHARS_MAX:
        half = TRACEBACK_CHARS_MAX // 2
        text = f"{text[:half]}\n...\n{text[-half:]}"
    return Result(done, error=text_of(error)[:1000], traceback=text)


def _end_with_host() -> None:
    """The host holds the other end of our standard input: its end is ours, even while user code hangs."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(4)


def main(arguments: list[str] | None = None) -> None:
    """`python -m gridwire.functions.worker FD DIRECTORY BLOBS [BENEATH]`; the host starts it."""
    number, directory, *blobs = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's to deal with
    threading.Thread(target=_end_with_host, name="host", daemon=True).start()
    channel = Channel(socket.socket(fileno=int(number)))
    root = Path(directory).absolute()
    os.chdir(root)
    os.dup2(2, 1)  # what user code prints belongs to the log
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # at once: the log is a pipe, which Python would fill first
    configure_logging()
    try:
        os.environ.update(AppSettings(root).missing_from(os.environ))
    except Invalid:
        pass  # `load` says it
    loaded = load(root)
    gc.collect()
    gc.freeze()
    channel.send(READY, 0, msgspec.msgpack.encode(loaded.app))
    if not loaded.app.problems:
        Worker(loaded, channel, root, [Path(each) for each in blobs]).serve()
    sys.stderr.flush()
    os._exit(0)  # user code's threads must not hold a worker that nobody listens to


if __name__ == "__main__":
    main()
