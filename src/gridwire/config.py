"""The one settings table. Flags, environment, `gridwire.toml`, validation and the reference page derive from it.

Order: flag, then `GRIDWIRE_NAME`, then `gridwire.toml` (`--config FILE`, or the working directory's), then default.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from gridwire.broker.kafka_address import CLUSTER_DEFAULT, KafkaAddress
from gridwire.core.errors import InvalidSetting
from gridwire.core.limits import PARTITIONS_PER_HUB_MAX

OFF: Final = -1
"""A port that is `off`: the head is not started."""


AVRO_PATH: Final = "{Namespace}/{EventHub}/{PartitionId}/{Year}/{Month}/{Day}/{Hour}/{Minute}/{Second}.avro"
"""As Event Hubs has it unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `kind` is text, path (may be empty), port, count, copies, seconds or switch."""

    name: str
    default: Any
    kind: str
    unit: str
    help: str


SETTINGS: Final = (
    Row("data", "gridwire-data", "text", "directory", "where the log, the lake and everything else is kept"),
    Row(
        "host", "127.0.0.1", "text", "address", "address the heads listen on; only loopback works without auth and TLS"
    ),
    Row("kafka_port", 9092, "port", "port, 0 or off", "Kafka head; 0 picks a free port"),
    Row("amqp_port", 5672, "port", "port, 0 or off", "AMQP head without TLS; 0 picks a free port"),
    Row(
        "amqps_port",
        5671,
        "port",
        "port, 0 or off",
        "AMQP head with TLS, where a certificate is given; the Azure SDKs expect 5671",
    ),
    Row("http_port", 8700, "port", "port, 0 or off", "HTTP head and page; 0 picks a free port"),
    Row("broker", "embedded", "text", "embedded or kafka://HOST:PORT,...", "where the log is: here or there"),
    Row("broker_prefix", "", "path", "text", "what gridwire's topics and groups begin with on the cluster"),
    Row("broker_replication", -1, "copies", "copies or -1", "of topics that we make; -1: the cluster's default"),
    Row("broker_min_insync", -1, "copies", "copies or -1", "that must have an event before it is acknowledged"),
    Row("broker_tls", False, "switch", "on or off", "encrypt connections to the cluster; a certificate below does too"),
    Row("broker_ca", "", "path", "file", "authorities (PEM) of the cluster's certificates; empty: the system's"),
    Row("broker_cert", "", "path", "file", "our certificate (PEM) for the cluster"),
    Row("broker_key", "", "path", "file", "its private key (PEM)"),
    Row("broker_sasl", "", "path", "PLAIN, SCRAM-SHA-256 or -512", "how we sign in to the cluster"),
    Row("broker_user", "", "path", "name", "who we are there"),
    Row("broker_password_file", "", "path", "file", "our password there"),
    Row("durability", "fsync", "text", "fsync, interval:MS or os", "what an acknowledgement means"),
    Row("partitions", 4, "count", "partitions", "partitions of a hub that is created without saying how many"),
    Row("auto_create", True, "switch", "on or off", "create a hub when a client first writes to it"),
    Row("entities", "", "path", "file", "hubs and consumer groups to create, as Azure's Event Hubs emulator has them"),
    Row("workers", True, "switch", "on or off", "run the grid and capture workers when there is work for them"),
    Row("lake_flush", 5, "seconds", "seconds", "longest time captured events wait before they are a row of the lake"),
    Row("avro_window", 300, "seconds", "seconds", "longest time events wait before they are in a captured Avro file"),
    Row("avro_size", 64, "count", "MiB", "events of all captured hubs that wait at most; the largest hub's go first"),
    Row("avro_path", AVRO_PATH, "text", "path", "where captured Avro files lie below `capture` in the data directory"),
    Row("namespace", "gridwire", "text", "name", "what {Namespace} stands for there"),
    Row(
        "grid_window",
        2,
        "count",
        "days",
        "days whose sums late readings correct at once; those before by the lake",
    ),
    Row(
        "grid_shared",
        False,
        "switch",
        "on or off",
        "let gateways share the partitions of readings: only where all are keyed by their transformer",
    ),
    Row(
        "vee_channels",
        250_000,
        "count",
        "channels",
        "largest network model whose readings are judged by the VEE rules: they take 16 KB of memory each",
    ),
    Row("detectors", "all", "text", "names", "what watches the grid: all, none, or names such as outages,voltage"),
    Row("decode_processes", 0, "count", "processes", "that decode meter frames of hubs; 0: one a core"),
    Row("decode_zone", "Europe/Oslo", "text", "IANA zone", "of clocks in frames that do not say it"),
    Row("decode_keys", "", "path", "file", "keys of encrypted meters (TOML)"),
    Row("decode_mapping", "", "path", "file", "what columns mean (TOML), for hubs of the format mapped"),
    Row("secret_file", "", "path", "file", "key of the policies' keys, the same on every gateway [data]/secret.key"),
    Row("auth", False, "switch", "on or off", "let in only who signs in: keys, SCRAM, tokens, certificates"),
    Row("deploy_remote", False, "switch", "on or off", "take apps of functions, which are code, from other machines"),
    Row(
        "webhook_allow",
        "",
        "path",
        "networks and hosts",
        "where alerts may be delivered besides public addresses, commas in between; empty: 127.0.0.1 alone, "
        "and only where the hub listens there without auth",
    ),
    Row("tls_cert", "", "path", "file", "certificate chain (PEM) of both heads; read again when it changes"),
    Row("tls_key", "", "path", "file", "its private key (PEM)"),
    Row("tls_client_ca", "", "path", "file", "authorities (PEM) whose client certificates are taken"),
    Row("oauth_jwks", "", "path", "file or https address", "public keys of the issuer whose JSON Web Tokens are taken"),
    Row("oauth_issuer", "", "path", "text", "what such a token's iss must be"),
    Row("oauth_audience", "", "path", "text", "what such a token's aud must name"),
    Row("oauth_claim", "roles", "text", "name", "claim of such a token that names policies"),
    Row("insecure_i_understand", False, "switch", "on or off", "listen on any address although nothing asks who calls"),
)

ELSEWHERE: Final = (
    "GRIDWIRE_URL", "GRIDWIRE_CONFIG", "GRIDWIRE_CONNECTION_STRING", "GRIDWIRE_CA_FILE",
    "GRIDWIRE_FROM_CONNECTION_STRING", "GRIDWIRE_TO_CONNECTION_STRING", "GRIDWIRE_CONTEXT", "GRIDWIRE_CONTEXTS",
)  # fmt: skip
"""Environment variables of the command line that are no settings of the hub. `GRIDWIRE_TEST_*` belongs to the tests."""

_ROWS: Final = {row.name: row for row in SETTINGS}
_SWITCH: Final = {
    "on": True,
    "true": True,
    "1": True,
    "yes": True,
    "off": False,
    "false": False,
    "0": False,
    "no": False,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings of one hub; the rows of `SETTINGS` by name."""

    data: str
    host: str
    kafka_port: int
    amqp_port: int
    amqps_port: int
    http_port: int
    broker: str
    broker_prefix: str
    broker_replication: int
    broker_min_insync: int
    broker_tls: bool
    broker_ca: str
    broker_cert: str
    broker_key: str
    broker_sasl: str
    broker_user: str
    broker_password_file: str
    durability: str
    partitions: int
    auto_create: bool
    entities: str
    workers: bool
    lake_flush: int
    avro_window: int
    avro_size: int
    avro_path: str
    namespace: str
    grid_window: int
    grid_shared: bool
    vee_channels: int
    detectors: str
    decode_processes: int
    decode_zone: str
    decode_keys: str
    decode_mapping: str
    secret_file: str
    auth: bool
    deploy_remote: bool
    webhook_allow: str
    tls_cert: str
    tls_key: str
    tls_client_ca: str
    oauth_jwks: str
    oauth_issuer: str
    oauth_audience: str
    oauth_claim: str
    insecure_i_understand: bool


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, config: Path | None = None
) -> Settings:
    """Merge the sources and check every value.

    Raises:
        InvalidSetting: an unknown key, a bad value, a file that is not TOML; says where and what to do.
    """
    settings = _settings(_merged(flags, os.environ if environment is None else environment, config))
    _check_host(settings)
    kafka_address(settings)
    _check_networks(settings.webhook_allow)
    return settings


def load_address(
    flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, config: Path | None = None
) -> KafkaAddress | None:
    """The cluster that flags, environment and file name together; None for the embedded broker. Raises InvalidSetting.

    What else they say is a hub's business.
    """
    merged = _merged(flags, os.environ if environment is None else environment, config)
    defaults = {row.name: row.default for row in SETTINGS}
    of_broker = {name: value for name, value in merged.items() if name.startswith("broker")}
    return kafka_address(_settings({**defaults, **of_broker}))


def _merged(flags: Mapping[str, Any], environment: Mapping[str, str], config: Path | None) -> dict[str, Any]:
    return {name: value for name, (value, _) in with_origins(flags, environment, config).items()}


def with_origins(
    flags: Mapping[str, Any], environment: Mapping[str, str] | None = None, config: Path | None = None
) -> dict[str, tuple[Any, str]]:
    """Every setting as (value, where it was said): a flag, a variable, a file, or `default`. Raises InvalidSetting."""
    environment = os.environ if environment is None else environment
    file = config or _default_file()
    told = {name: _check(name, value, _flag(name)) for name, value in flags.items() if value is not None}
    values: dict[str, tuple[Any, str]] = {row.name: (row.default, "default") for row in SETTINGS}
    values |= {name: (value, str(file)) for name, value in _from_file(file).items()}
    values |= {name: (value, f"GRIDWIRE_{name.upper()}") for name, value in _from_environment(environment).items()}
    return values | {name: (value, _flag(name)) for name, value in told.items()}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _settings(values: Mapping[str, Any]) -> Settings:
    return Settings(**{field.name: values[field.name] for field in fields(Settings)})


def _default_file() -> Path | None:
    path = Path("gridwire.toml")
    return path if path.exists() else None


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidSetting(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"{path} is not TOML: {error}") from None
    return {name: _check(name, value, str(path)) for name, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for variable, value in environment.items():
        if not variable.startswith("GRIDWIRE_") or variable in ELSEWHERE or variable.startswith("GRIDWIRE_TEST_"):
            continue
        name = variable.removeprefix("GRIDWIRE_").lower()
        found[name] = _check(name, value, variable)
    return found


def _check(name: str, value: Any, origin: str) -> Any:
    row = _ROWS.get(name)
    if row is None:
        near = difflib.get_close_matches(name, _ROWS, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_ROWS)}"
        raise InvalidSetting(f"{origin}: unknown setting {name!r}; {advice}")
    try:
        return _CHECKS[row.kind](value)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidSetting(f"{origin}: {name} must be {row.unit}, not {value!r}") from None


def _port(value: Any) -> int:
    if str(value).lower() == "off" or value is False:
        return OFF
    number = int(value)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def _count(value: Any) -> int:
    number = int(value)
    if not 1 <= number <= PARTITIONS_PER_HUB_MAX:
        raise ValueError
    return number


def _copies(value: Any) -> int:
    number = int(value)
    if number != CLUSTER_DEFAULT and not 1 <= number <= 32_767:
        raise ValueError
    return number


def _switch(value: Any) -> bool:
    return value if isinstance(value, bool) else _SWITCH[str(value).lower()]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_CHECKS: Final = {
    "port": _port, "count": _count, "seconds": _count, "copies": _copies, "switch": _switch, "text": _text,
    "path": _path,
}  # fmt: skip

EMBEDDED: Final = "embedded"
LOOPBACK: Final = "127.0.0.0/8,::1/128"
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")


def kafka_address(settings: Settings) -> KafkaAddress | None:
    """The cluster that the settings name; None for the embedded broker. Raises InvalidSetting."""
    if settings.broker == EMBEDDED:
        given = [row.name for row in SETTINGS if row.name.startswith("broker_")
                 and getattr(settings, row.name) != row.default]  # fmt: skip
        if given:
            raise InvalidSetting(f"{', '.join(given)} takes a broker as well: --broker kafka://host:9092")
        return None
    return KafkaAddress.parse(
        settings.broker, sasl=settings.broker_sasl, user=settings.broker_user,
        password=_secret(settings.broker_password_file), tls=settings.broker_tls, ca=settings.broker_ca,
        cert=settings.broker_cert, key=settings.broker_key, prefix=settings.broker_prefix,
        replication=settings.broker_replication, min_insync=settings.broker_min_insync,
    )  # fmt: skip


def broker_flags(settings: Settings) -> list[str]:
    """Flags with which another gridwire process finds the same cluster. No secrets: those lie in files."""
    flags = []
    for row in SETTINGS:
        value = getattr(settings, row.name)
        if row.name.startswith("broker") and value != row.default:
            flag = f"--{row.name.replace('_', '-')}"
            flags += [flag] if value is True else [flag, str(value)]
    return flags


def _secret(file: str) -> str:
    """What a file says, without its last line's end."""
    if not file:
        return ""
    try:
        return Path(file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"cannot read {file}: {error}") from None


def webhooks_allowed(settings: Settings) -> str:
    """The setting `webhook_allow`, or what stands for it where it is empty: see its row."""
    alone = is_loopback(settings.host) and not settings.auth
    return settings.webhook_allow or (LOOPBACK if alone else "")


def _check_networks(text: str) -> None:
    """Networks and names of hosts. Raises InvalidSetting: one of them is neither."""
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            ipaddress.ip_network(part)
        except ValueError:
            if not _HOST.match(part) or part[-1].isdigit():
                raise InvalidSetting(
                    f"webhook_allow: {part[:80]!r} is neither a network, such as 10.1.0.0/16, nor the name of a host"
                ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_host(settings: Settings) -> None:
    if not is_loopback(settings.host) and not settings.insecure_i_understand:
        missing = [
            flag
            for flag, there in (("--auth on", settings.auth), ("--tls-cert and --tls-key", settings.tls_cert))
            if not there
        ]
        if missing:
            raise InvalidSetting(
                f"host {settings.host} can be reached from other machines and takes sign-in and TLS: "
                f"add {' and '.join(missing)}, or listen on 127.0.0.1. "
                "(--insecure-i-understand does without, for a network nobody else is in)"
            )
    if settings.deploy_remote and not settings.auth:
        raise InvalidSetting("--deploy-remote takes --auth: whoever deploys runs code on this machine")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise InvalidSetting("--tls-cert and --tls-key go together")
    if settings.tls_client_ca and not settings.tls_cert:
        raise InvalidSetting("--tls-client-ca takes --tls-cert and --tls-key as well")
    if settings.oauth_jwks and not (settings.auth and settings.oauth_issuer and settings.oauth_audience):
        raise InvalidSetting("--oauth-jwks takes --auth on, --oauth-issuer and --oauth-audience as well")
