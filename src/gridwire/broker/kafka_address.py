"""Where a Kafka cluster is, how to sign in to it, and what gridwire's things are called there.

    kafka://host:9092,host2:9092

A hub `readings` is the topic `<prefix>readings`, a group `billing` the group `<prefix>billing`; so a cluster that is
shared needs one rule with a prefix for each. Everything that speaks to the cluster takes its configuration from here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gridwire.core.errors import InvalidSetting
from gridwire.core.limits import NAME_MAX, check_name

SCHEME: Final = "kafka://"
DEFAULT_PORT: Final = 9092
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
CLUSTER_DEFAULT: Final = -1
"""A replication factor or min.insync that is left to the cluster."""

CONTROL_TOPIC: Final = "__gridwire.control"
"""Control state; compacted. Its name comes after the prefix, as a hub's does."""

PREFIX_CHARS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """A cluster, checked. `servers` are `host:port`.

    Args:
        sasl: one of `SASL_MECHANISMS`, or empty. password: never shown.
        tls: encrypt; on by itself where one of the files is given. ca: authorities (PEM); empty: the system's.
        cert, key: of this client (PEM), for mutual TLS.
        prefix: in front of every topic, group and transactional id of gridwire's.
        replication, min_insync: of topics that gridwire makes; `CLUSTER_DEFAULT` leaves it to the cluster.
    """

    servers: tuple[str, ...]
    sasl: str = ""
    user: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    prefix: str = ""
    replication: int = CLUSTER_DEFAULT
    min_insync: int = CLUSTER_DEFAULT

    @classmethod
    def parse(cls, url: str, **settings: Any) -> KafkaAddress:
        """An address out of its text and the settings that go with it. Raises InvalidSetting, saying what to do."""
        if not url.startswith(SCHEME):
            raise InvalidSetting(f"broker {url[:80]!r} is no Kafka address: write kafka://host:9092,host2:9092")
        address = cls(tuple(_server(text) for text in url[len(SCHEME) :].rstrip("/").split(",")), **settings)
        address._check()
        return address

    def _check(self) -> None:
        if self.sasl and self.sasl not in SASL_MECHANISMS:
            raise InvalidSetting(f"SASL mechanism {self.sasl!r} is not supported: {', '.join(SASL_MECHANISMS)} are")
        if bool(self.sasl) != bool(self.user):
            raise InvalidSetting("a SASL mechanism and a user go together")
        if self.sasl and not self.password:
            raise InvalidSetting(f"user {self.user!r} needs a password: give the file it is in")
        if bool(self.cert) != bool(self.key):
            raise InvalidSetting("a client certificate and its key go together")
        for file in (self.ca, self.cert, self.key):
            if file and not Path(file).is_file():
                raise InvalidSetting(f"{file} is no file")
        if self.prefix:
            check_name(self.prefix, "prefix")
            if len(self.prefix) > PREFIX_CHARS_MAX:
                raise InvalidSetting(f"a prefix has at most {PREFIX_CHARS_MAX} characters")
        if 0 < self.replication < self.min_insync:
            raise InvalidSetting("min.insync cannot be above the replication factor: nothing could be written")

    def __repr__(self) -> str:
        return f"KafkaAddress({self.url!r})"

    @property
    def url(self) -> str:
        """The address as text, without secrets."""
        return SCHEME + ",".join(self.servers)

    @property
    def bootstrap(self) -> str:
        """`host:port` of every server, as clients want it."""
        return ",".join(self.servers)

    @property
    def encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self.tls or bool(self.ca or self.cert)

    @property
    def protocol(self) -> str:
        """Kafka's name of what connections are."""
        return ("SASL_" if self.sasl else "") + ("SSL" if self.encrypted else "PLAINTEXT")

    # -- names --------------------------------------------------------------------------------------------------

    def topic(self, hub: str) -> str:
        """A hub's topic. Raises InvalidName: too long with the prefix."""
        return self._named(hub, "hub")

    def hub(self, topic: str) -> str | None:
        """A topic's hub; None when it is not one of ours."""
        return topic[len(self.prefix) :] or None if topic.startswith(self.prefix) else None

    def group(self, group: str) -> str:
        """A group's name in Kafka."""
        return self.prefix + group

    def group_of(self, name: str) -> str | None:
        """Our name of a group in Kafka; None when it is not one of ours."""
        return name[len(self.prefix) :] or None if name.startswith(self.prefix) else None

    def transactional_id(self, name: str) -> str:
        """A transactional id of ours."""
        return self.prefix + name

    def _named(self, name: str, what: str) -> str:
        found = self.prefix + name
        return found if len(found) <= NAME_MAX else check_name(found, what)

    # -- clients ------------------------------------------------------------------------------------------------

    def confluent(self) -> dict[str, Any]:
        """Configuration of a confluent-kafka client; group, transactional id and the rest are the caller's.

        A broker that is away is not forgotten: librdkafka would otherwise end what talks to it and yet go on waiting
        for it as a group's coordinator (its issue 5511), in consumers and transactional producers alike.
        """
        found: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap, "security.protocol": self.protocol.lower(),
            "metadata.recovery.strategy": "none",
        }  # fmt: skip
        if self.sasl:
            found |= {"sasl.mechanism": self.sasl, "sasl.username": self.user, "sasl.password": self.password}
        files = {"ssl.ca.location": self.ca, "ssl.certificate.location": self.cert, "ssl.key.location": self.key}
        return found | {name: file for name, file in files.items() if file}

    def ssl_context(self) -> ssl.SSLContext:
        """What connections are encrypted with. Raises InvalidSetting."""
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSetting(f"the cluster's TLS files cannot be used: {error}") from None
        return context


def _server(text: str) -> str:
    if "@" in text:
        raise InvalidSetting("user and password are settings of their own, not a part of the broker's address")
    host, colon, port = text.strip().rpartition(":")
    if text.strip().endswith("]") or not colon:  # an IPv6 address without port, or a plain name
        host, port = text.strip(), str(DEFAULT_PORT)
    if not host or not port.isdigit() or not 0 < int(port) <= 65535:
        raise InvalidSetting(f"{text[:80]!r} is no host:port: write kafka://host:9092,host2:9092")
    return f"{host}:{port}"
