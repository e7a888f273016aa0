"""host.json and local.settings.json: what of them counts here, and names in percent signs.

Source: Azure Functions' reference of host.json (version 2.0) and of app settings.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gridwire.functions.model import (
    BATCH_BYTES_LIMIT,
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    CALL_S,
    FROM_END,
    RETRY_INFINITE,
    Batching,
    Retry,
)

SCRIPT_SETTING: Final = "PYTHON_SCRIPT_FILE_NAME"
THREADS_SETTING: Final = "PYTHON_THREADPOOL_THREAD_COUNT"
WORKERS_SETTING: Final = "FUNCTIONS_WORKER_PROCESS_COUNT"

# `Function.start_ms`; a time of the settings in place of 0.
_HUB_STARTS: Final[Mapping[str, int | None]] = {"fromStart": None, "fromEnd": FROM_END, "fromEnqueuedTime": 0}
_KAFKA_STARTS: Final[Mapping[str, int | None]] = {"earliest": None, "latest": FROM_END}

_NAMED = re.compile(r"%([^%]+)%")
_SPAN = re.compile(r"(?:(\d+)\.)?(\d{1,2}):(\d{2}):(\d{2})(?:\.(\d{1,7}))?\Z")


class Invalid(ValueError):
    """A setting that cannot be understood; the message names it."""


def seconds(text: str, what: str) -> float:
    """A time span `[d.]hh:mm:ss[.fffffff]` in seconds; `-1` is no limit. Raises Invalid."""
    if str(text).strip() in ("-1", "-00:00:01"):
        return float("inf")
    match = _SPAN.match(str(text).strip())
    if match is None:
        raise Invalid(f"{what} must be a time span hh:mm:ss, not {text!r}")
    days, hours, minutes, secs, rest = match.groups()
    whole = int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + int(secs)
    return whole + float(f"0.{rest or 0}")


class AppSettings:
    """Settings of an app directory: the environment wins over local.settings.json, as with Azure's tools."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.host = _read(directory / "host.json")
        local = _read(directory / "local.settings.json")
        values = local.get("Values")
        self.values = {str(name): str(value) for name, value in (values if isinstance(values, dict) else {}).items()}
        self._environment = os.environ if environment is None else environment
        named = local.get("ConnectionStrings")
        for name, value in (named if isinstance(named, dict) else {}).items():
            text = value.get("ConnectionString") if isinstance(value, dict) else value
            self.values.setdefault(f"ConnectionStrings:{name}", str(text))

    def get(self, name: str) -> str | None:
        """One setting."""
        return self._environment.get(name, self.values.get(name))

    def missing_from(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What an environment has to be given so that user code sees the settings."""
        return {name: value for name, value in self.values.items() if name not in environment}

    def resolve(self, text: str) -> str:
        """`%NAME%` replaced by the setting of that name. Raises Invalid: there is none."""

        def value(match: re.Match[str]) -> str:
            found = self.get(match[1])
            if found is None:
                raise Invalid(
                    f"setting {match[1]!r} (of {text!r}) is neither in the environment nor local.settings.json"
                )
            return found

        return _NAMED.sub(value, text)

    def section(self, *path: str) -> dict[str, Any]:
        """An object of host.json; empty where there is none."""
        found: Any = self.host
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def hub_of(self, connection: str | None, name: str) -> str:
        """The hub a binding means: its name, unless the connection string has an EntityPath. Raises Invalid."""
        string = self.get(connection) if connection else None
        for part in (string or "").split(";"):
            key, _, value = part.partition("=")
            if key.strip().lower() == "entitypath" and value:
                return value.strip()
        return self.resolve(name)

    @property
    def timeout_s(self) -> float:
        """functionTimeout. Raises Invalid."""
        text = self.host.get("functionTimeout")
        return CALL_S if text is None else seconds(text, "host.json: functionTimeout")

    @property
    def route_prefix(self) -> str:
        """Before every route; `api` unless told otherwise."""
        return str(self.section("extensions", "http").get("routePrefix", "api")).strip("/")

    def batching(self, kafka: bool, own: Mapping[str, Any]) -> Batching:
        """Batches of a function: what its decorator says, then host.json, then ours. Raises Invalid."""
        hubs = self.section("extensions", "eventHubs")
        old = self.section("extensions", "eventHubs", "eventProcessorOptions")
        most = self.section("extensions", "kafka").get("maxBatchSize") if kafka else hubs.get(
            "maxEventBatchSize", hubs.get("maxBatchSize", old.get("maxBatchSize"))
        )  # fmt: skip
        wait = own.get("maxWaitTime", own.get("maxWait", None if kafka else hubs.get("maxWaitTime")))
        batching = Batching(
            _count(own.get("maxBatchSize", most), BATCH_EVENTS_MAX, "the largest batch"),
            _count(own.get("minBatchSize", None if kafka else hubs.get("minEventBatchSize")), 1, "the smallest batch"),
            60.0 if wait is None else seconds(wait, "the longest wait"),
            _count(own.get("maxBatchBytes"), BATCH_BYTES_MAX, "the bytes of a batch"),
        )
        if batching.bytes_max > BATCH_BYTES_LIMIT:
            raise Invalid(f"a batch may have {BATCH_BYTES_LIMIT:,} bytes at most, not {batching.bytes_max:,}")
        if batching.events_min > batching.events_max:
            raise Invalid(f"the smallest batch ({batching.events_min}) is above the largest ({batching.events_max})")
        return batching

    def retry(self, own: Mapping[str, Any] | None) -> Retry:
        """The retry policy of a function, else host.json's, else none. Raises Invalid."""
        stated = own if own is not None else self.section("retry")
        if not stated:
            return Retry()
        get = {_folded(name): value for name, value in stated.items() if value is not None}.get
        count = int(get("maxretrycount", 0))
        if count < RETRY_INFINITE:
            raise Invalid(f"a retry policy's count must be -1 (for ever) or more, not {count}")
        if str(get("strategy", "")).replace("_", "").lower() == "fixeddelay":
            delay_s = seconds(get("delayinterval", "00:00:00"), "delay_interval of the retry policy")
            return Retry(count, delay_s, delay_s)
        first_s = seconds(get("minimuminterval", "00:00:00"), "minimum_interval of the retry policy")
        most = get("maximuminterval")
        most_s = 3600.0 if most is None else seconds(most, "maximum_interval of the retry policy")
        return Retry(count, max(first_s, 0.1), max(most_s, first_s), exponential=True)

    @property
    def start_ms(self) -> int | None:
        """Where a function of event hubs begins, see `Function`. Raises Invalid."""
        options = self.section("extensions", "eventHubs", "initialOffsetOptions")
        start_ms = _start("initialOffsetOptions.type", str(options.get("type") or "fromStart"), _HUB_STARTS)
        if start_ms != 0:
            return start_ms
        text = str(options.get("enqueuedTimeUtc") or "")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise Invalid(f"host.json: enqueuedTimeUtc must be a time like 2026-01-31T12:00Z, not {text!r}") from None
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)

    @property
    def kafka_start_ms(self) -> int | None:
        """Where a function of Kafka begins. Raises Invalid."""
        options = {name.lower(): value for name, value in self.section("extensions", "kafka").items()}
        kind = str(options.get("autooffsetreset") or "earliest")
        return _start("kafka.autoOffsetReset", kind, _KAFKA_STARTS)


def _start(setting: str, kind: str, meanings: Mapping[str, int | None]) -> int | None:
    found = {name.lower(): name for name in meanings}.get(kind.lower())
    if found is None:
        raise Invalid(f"host.json: {setting} {kind!r} is none of {', '.join(meanings)}")
    return meanings[found]


def now_text(moment: datetime) -> str:
    """A time as Azure's host writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _count(value: Any, default: int, what: str) -> int:
    if value is None:
        return default
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise Invalid(f"{what} must be a number above 0, not {value!r}")
    return number


def _read(path: Path) -> dict[str, Any]:
    """A JSON object with comments, as Azure's tools read it; empty when there is no file. Raises Invalid."""
    if not path.exists():
        return {}
    try:
        text = path.read_text("utf-8-sig")
        found = json.loads(re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', lambda m: m[1] or "", text, flags=re.S))
    except (OSError, ValueError) as error:
        raise Invalid(f"{path.name} cannot be read: {error}") from None
    return found if isinstance(found, dict) else {}
