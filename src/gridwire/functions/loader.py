"""Loads an app as the official worker does, and tells what is in it, or everything that is wrong with it.

    directory and `.python_packages` on the path -> import the script -> the one FunctionRegister -> its functions

`get_functions` may be called once only: the package keeps the names it has seen on the app. Source: the behaviour of
Azure's Python worker and of the `azure-functions` package 1.26 and 2.3.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gridwire.core.errors import InvalidName
from gridwire.core.limits import check_name
from gridwire.functions import cron, model
from gridwire.functions.model import App, Function, Input, Output
from gridwire.functions.settings import SCRIPT_SETTING, THREADS_SETTING, AppSettings, Invalid

PACKAGES: Final = Path(".python_packages/lib/site-packages")
OUT: Final = ("OUT", "INOUT")

COLUMN_KINDS: Final = {
    "text": "text", "string": "text", "str": "text", "decimal": "decimal", "float": "decimal", "float64": "decimal",
    "int": "int64", "int64": "int64", "timestamp": "timestamp_us", "bool": "bool", "boolean": "bool",
}  # fmt: skip
"""Words for declared columns and the kinds of the JSON kernel."""

BINARY: Final = 1
"""`azure.functions.DataType.BINARY`."""

_ARROW: Final = {
    "pyarrow.RecordBatch": "record_batch",
    "pyarrow.Table": "table",
    "polars.DataFrame": "polars",
}


@dataclass(slots=True)
class Loaded:
    """An app in this process: what the host is told, and the user's functions by name."""

    app: App
    code: dict[str, Callable[..., Any]] = field(default_factory=dict)
    asgi: dict[str, Any] = field(default_factory=dict)


def load(directory: Path) -> Loaded:
    """Import an app and index it. What is wrong is in `app.problems`; nothing is raised."""
    try:
        settings = AppSettings(directory)
        register = _import(directory, settings)
    except Invalid as error:
        return Loaded(App(problems=(str(error),)))
    found = Loaded(App())
    problems: list[str] = []
    functions = []
    for name, function in _functions(register, problems):
        index = _Index(settings, name, function)
        spec = index.spec()
        problems += [f"function {name}: {problem}" for problem in index.problems]
        if spec is not None:
            functions.append(spec)
            found.code[name] = function.get_user_function()
    threads = settings.get(THREADS_SETTING)
    if threads is not None and not (threads.isdigit() and int(threads)):
        problems.append(f"setting {THREADS_SETTING} must be a number above 0, not {threads!r}")
        threads = None
    if not functions and not problems:
        problems.append("the app has no functions")
    found.app = App(tuple(functions), tuple(problems), settings.route_prefix, None if threads is None else int(threads))
    return found


def _import(directory: Path, settings: AppSettings) -> Any:
    """The app object of a directory. Raises Invalid."""
    try:
        import azure.functions as func
    except ImportError:
        raise Invalid("the package azure-functions is not installed: pip install 'gridwire[functions]'") from None
    script = settings.get(SCRIPT_SETTING) or "function_app.py"
    if not (directory / script).is_file():
        hint = ""
        if any(directory.glob("*/function.json")):
            hint = " (function.json files are the v1 programming model, which is not supported)"
        raise Invalid(f"{directory} has no {script}{hint}")
    packages = directory / PACKAGES
    sys.path[:0] = [str(directory), *([str(packages)] if packages.is_dir() else [])]
    try:
        module = importlib.import_module(Path(script).stem)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Invalid(f"{script} cannot be imported: {short_trace(error, directory)}") from None
    registers = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionRegister)}
    if len(registers) != 1:
        found = "none" if not registers else f"{len(registers)}"
        raise Invalid(f"{script} must have exactly one FunctionApp at its top level, and has {found}")
    return next(iter(registers.values()))


def short_trace(error: BaseException, directory: Path) -> str:
    """What went wrong and on which line of the app."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
    where = f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""
    return text_of(error) + where


def text_of(error: BaseException) -> str:
    """Kind and message of what user code raised, which may fail in telling it."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as second:
        return f"{type(error).__name__}, whose text cannot be made: {type(second).__name__}"


def _functions(register: Any, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Functions with their names. A builder that fails is a problem of its own, not the end of the others."""
    seen: set[str] = set()
    for builder in register._function_builders:
        try:
            function = builder.build(getattr(register, "auth_level", None))
        except ValueError as error:
            problems.append(str(error))
            continue
        name = function.get_function_name()
        if name in seen:
            problems.append(f"function {name}: another function has this name; names must be unique")
            continue
        seen.add(name)
        yield name, function


class _Index:
    """One function: what it is, and every reason why it cannot run."""

    def __init__(self, settings: AppSettings, name: str, function: Any) -> None:
        self.problems: list[str] = []
        self._settings = settings
        self._name = name
        self._function = function
        self._code = function.get_user_function()
        self._bindings = [json.loads(text) for text in function.get_raw_bindings()]
        self._trigger = json.loads(json.dumps(function.get_trigger().get_dict_repr(), default=str))
        self._trigger = next(b for b in self._bindings if b["name"] == self._trigger["name"] and b["direction"] == "IN")
        self._hints = _hints(self._code)

    def spec(self) -> Function | None:
        """What the host needs to know; None when there are problems."""
        kind = self._trigger["type"]
        if kind not in model.TRIGGERS:
            self.problems.append(
                f"trigger {kind!r} is not supported; supported are {', '.join(sorted(model.TRIGGERS))}"
            )
        self._check_name()
        outputs = tuple(filter(None, map(self._output, [b for b in self._bindings if b["direction"] in OUT])))
        inputs = [b for b in self._bindings if b["direction"] == "IN" and b is not self._trigger]
        sources = tuple(filter(None, map(self._input, inputs)))
        self._check_signature()
        options: Mapping[str, Any] = {}
        try:
            options = self._of_trigger(kind)
        except Invalid as error:
            self.problems.append(str(error))
        if self.problems:
            return None
        return Function(self._name, kind, self._trigger["name"], outputs=outputs, inputs=sources, **options)

    def _check_name(self) -> None:
        try:
            check_name(self._name, "function")
        except InvalidName as error:
            self.problems.append(str(error))

    def _of_trigger(self, kind: str) -> dict[str, Any]:
        """Fields that belong to one kind of trigger. Raises Invalid."""
        settings, trigger = self._settings, self._trigger
        retry = settings.retry(self._function.get_settings_dict("retry_policy"))
        common = {"retry": retry, "timeout_s": settings.timeout_s}
        if kind in model.STREAMS:
            return common | self._of_stream(kind)
        if kind == model.TIMER:
            schedule = settings.resolve(str(trigger.get("schedule", "")))
            cron.parse(schedule)
            startup, monitor = bool(trigger.get("runOnStartup")), trigger.get("useMonitor")
            return common | {"schedule": schedule, "run_on_startup": startup, "use_monitor": monitor is not False}
        if kind == model.HTTP:
            methods = tuple(str(method).upper() for method in trigger.get("methods") or ())
            return {
                "timeout_s": settings.timeout_s,
                "route": settings.resolve(str(trigger.get("route") or self._name)).strip("/"),
                "methods": methods,
                "auth": str(trigger.get("authLevel") or "FUNCTION").upper(),
                "http_type": self._function.http_type,
            }
        return {"timeout_s": settings.timeout_s}

    def _of_stream(self, kind: str) -> dict[str, Any]:
        settings, trigger = self._settings, self._trigger
        if kind == model.KAFKA:
            hub = settings.resolve(str(trigger.get("topic") or ""))
        else:
            hub = settings.hub_of(trigger.get("connection"), str(trigger.get("eventHubName") or ""))
        parallel = int(trigger.get("maxParallelBatches") or 1)
        if not 1 <= parallel <= 64:
            raise Invalid(f"max_parallel_batches must be 1 to 64, not {parallel}")
        takes = self._takes()
        many = str(trigger.get("cardinality") or "ONE").upper() == "MANY" or takes in _ARROW.values()
        return {
            "hub": _hub_name(hub),
            "consumer_group": settings.resolve(str(trigger.get("consumerGroup") or "$Default")),
            "many": many,
            "start_ms": settings.kafka_start_ms if kind == model.KAFKA else settings.start_ms,
            "batching": settings.batching(kind == model.KAFKA, trigger),
            "takes": takes,
            "envelope": kind == model.KAFKA and not _is_binary(trigger.get("dataType")),
            "avro": self._avro() if kind == model.KAFKA else "",
            "registry": self._registry() if kind == model.KAFKA else (),
            "fields": self._fields(trigger.get("columns")),
            "parallel": parallel,
        }

    def _takes(self) -> str:
        """How the function wants its events, by the annotation of the argument."""
        hint = self._hints.get(self._trigger["name"])
        name = f"{getattr(hint, '__module__', '').partition('.')[0]}.{getattr(hint, '__name__', '')}"
        if name in _ARROW:
            return _ARROW[name]
        inner = _inner(hint)
        if _of_extension(inner):
            return "sdk"
        return "text" if inner is str else "bytes" if inner is bytes else "event"

    def _check_sdk_type(self, name: str, hint: Any) -> None:
        """Types of Azure's extension packages stand for objects of its SDKs."""
        inner = _inner(hint)
        is_event = name == self._trigger["name"] and self._trigger["type"] == model.EVENT_HUB
        if _of_extension(inner) and not (is_event and inner.__name__ == "EventData"):
            told = f"{inner.__module__}.{inner.__name__} is not supported"
            self.problems.append(f"parameter {name!r}: {told}; of the SDKs' types only EventData of event hubs is")

    def _avro(self) -> str:
        """Schema of a Kafka trigger's values. Raises Invalid."""
        if self._trigger.get("keyAvroSchema"):
            raise Invalid("key_avro_schema is not supported; keys are text")
        schema = str(self._trigger.get("avroSchema") or "")
        if schema:
            from gridwire.functions.avro import parsed

            try:
                parsed(schema)
            except Exception as error:  # the parser fails in its own ways on foreign text
                raise Invalid(f"avro_schema: {error}") from None
        return schema

    def _registry(self) -> tuple[str, ...]:
        """How the settings of a schema registry are named; of none where the function wants bytes. Raises Invalid."""
        names = ("schemaRegistryUrl", "schemaRegistryUsername", "schemaRegistryPassword")
        url, *sign_in = (str(self._trigger.get(name) or "") for name in names)
        if not url or _is_binary(self._trigger.get("dataType")):
            return ()
        if self._trigger.get("avroSchema"):
            raise Invalid("avro_schema and schema_registry_url exclude each other")
        address = self._settings.get(url) or self._settings.resolve(url)
        if urlsplit(address).scheme not in ("http", "https"):
            raise Invalid(f"schema_registry_url {url!r} is neither a setting nor an address")
        return (url, *sign_in)

    def _fields(self, columns: Any) -> tuple[tuple[str, str], ...]:
        """Declared columns. Raises Invalid."""
        if columns is None:
            return ()
        if not isinstance(columns, dict) or not columns:
            raise Invalid("columns must be names with kinds, such as {'meter': 'text', 'value': 'float'}")
        wrong = sorted(str(kind) for kind in columns.values() if str(kind) not in COLUMN_KINDS)
        if wrong:
            raise Invalid(f"kinds of columns are {', '.join(sorted(COLUMN_KINDS))}; not {', '.join(wrong)}")
        return tuple((str(name), COLUMN_KINDS[str(kind)]) for name, kind in columns.items())

    def _output(self, binding: Mapping[str, Any]) -> Output | None:
        kind, name = str(binding["type"]), str(binding["name"])
        try:
            if kind == "eventHub":
                hub = self._settings.hub_of(binding.get("connection"), str(binding.get("eventHubName") or ""))
                return Output(name, kind, _hub_name(hub))
            if kind == "kafka":
                return Output(name, kind, _hub_name(self._settings.resolve(str(binding.get("topic") or ""))))
            if kind == "eventGrid":
                return Output(name, kind, self._event_grid_hub(binding))
            if kind == "blob":
                return Output(name, kind, self._settings.resolve(str(binding.get("path") or "")))
            if kind == "http":
                return Output(name, kind)
            self.problems.append(f"output binding {kind!r} ({name}) is not supported; {_SUPPORTED_OUTPUTS}")
        except Invalid as error:
            self.problems.append(f"output binding {name}: {error}")
        return None

    def _event_grid_hub(self, binding: Mapping[str, Any]) -> str:
        """The hub that stands for an Event Grid topic. Raises Invalid."""
        setting = str(binding.get("topicEndpointUri") or binding.get("connection") or "")
        address = self._settings.get(setting) or self._settings.get(f"{setting}__topicEndpointUri")
        if not address:
            raise Invalid(f"setting {setting!r} with the topic's address is missing")
        parts = urlsplit(address if "//" in address else f"//{address}")
        names = [part for part in parts.path.split("/") if part not in ("", "api", "events", "topics")]
        host = parts.hostname or ""
        if names:
            return _hub_name(names[-1].partition(":")[0])
        return _hub_name(
            setting.lower() if host == "localhost" or host.replace(".", "").isdigit() else host.split(".")[0]
        )

    def _input(self, binding: Mapping[str, Any]) -> Input | None:
        kind, name = str(binding["type"]), str(binding["name"])
        if kind not in model.INPUTS:
            self.problems.append(f"input binding {kind!r} ({name}) is not supported; only blob is")
            return None
        try:
            return Input(name, kind, self._settings.resolve(str(binding.get("path") or "")))
        except Invalid as error:
            self.problems.append(f"input binding {name}: {error}")
            return None

    def _check_signature(self) -> None:
        """Parameters and bindings must be the same, but for `context`."""
        names = {str(binding["name"]): binding for binding in self._bindings}
        parameters = inspect.signature(self._code).parameters
        for name, parameter in parameters.items():
            hint = self._hints.get(name, parameter.annotation)
            self._check_sdk_type(name, hint)
            is_context = name == "context" or getattr(hint, "__name__", "") == "Context"
            if name not in names and not is_context and parameter.default is inspect.Parameter.empty:
                self.problems.append(f"parameter {name!r} has no binding")
            is_out = getattr(typing.get_origin(hint) or hint, "__name__", "") == "Out"
            if name in names and is_out != (names[name]["direction"] in OUT) and hint is not inspect.Parameter.empty:
                told = "func.Out" if not is_out else "no func.Out"
                self.problems.append(f"parameter {name!r} must be annotated with {told}, as its binding says")
        for name in names:
            if name != "$return" and name not in parameters:
                self.problems.append(f"binding {name!r} is not among the function's parameters")


_SUPPORTED_OUTPUTS: Final = f"supported are {', '.join(sorted(model.OUTPUTS))}"


def _inner(hint: Any) -> Any:
    """What a list is of; the annotation itself when it is none."""
    return next(iter(typing.get_args(hint)), hint)


def _of_extension(hint: Any) -> bool:
    return isinstance(hint, type) and hint.__module__.partition(".")[0] == "azurefunctions"


def _hub_name(name: str) -> str:
    try:
        return check_name(name)
    except InvalidName as error:
        raise Invalid(str(error)) from None


def _hints(code: Callable[..., Any]) -> dict[str, Any]:
    """Annotations; names that cannot be resolved are left out rather than fail the app."""
    try:
        return typing.get_type_hints(code)
    except Exception:
        return {name: hint for name, hint in getattr(code, "__annotations__", {}).items() if not isinstance(hint, str)}


def _is_binary(data_type: Any) -> bool:
    """Whether a binding asks for bytes; the decorator takes a name or the package's enumeration."""
    return str(getattr(data_type, "name", data_type)).upper() == "BINARY" or data_type == BINARY
