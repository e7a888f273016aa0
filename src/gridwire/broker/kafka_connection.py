"""One blocking connection of a worker to one Kafka broker: TLS and sign-in as the address says, requests, raw answers.

The messages are those of our own codec. An answer stays in the buffer it was received into, so that record batches
are never copied between the socket and the kernel that decodes them.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from gridwire.broker.frames import receive_into
from gridwire.broker.kafka_address import KafkaAddress
from gridwire.broker.kafka_sign_in import SASL_AUTHENTICATE, SASL_HANDSHAKE, SignIn
from gridwire.core.errors import RemoteProtocolError, Unavailable
from gridwire.core.limits import MIB
from gridwire.wire.kafka import codec

CONNECT_S: Final = 10.0
ANSWER_S: Final = 30.0
"""A broker that is silent for longer is taken for dead; long polls are much shorter."""

ANSWER_BYTES_MAX: Final = 256 * MIB
"""More than any fetch may ask for and one batch on top."""

METADATA: Final = 3
LIST_OFFSETS: Final = 2

VERSIONS: Final[Mapping[int, int]] = {
    codec.API_VERSIONS: 0,
    METADATA: 12,
    LIST_OFFSETS: 7,
    codec.FETCH: 13,
    SASL_HANDSHAKE: 1,
    SASL_AUTHENTICATE: 1,
}
"""What is spoken: the first versions that name topics by id, so that a topic made anew is never taken for the old one.
Apache Kafka has them since 3.1."""

CLIENT_ID: Final = "gridwire-worker"


class KafkaConnection:
    """Requests and answers over one socket; answers come in the order of their requests.

    Raises:
        Unavailable: nobody answers there, or the cluster is older than 3.1. NotAuthenticated: sign-in was refused.
    """

    def __init__(self, host: str, port: int, address: KafkaAddress) -> None:
        self.where = f"{host}:{port}"
        self._number = 0
        try:
            self._socket = self._connect(host, port, address)
        except OSError as error:
            raise Unavailable(f"Kafka broker {self.where} cannot be reached: {error}") from None
        try:
            self._check_versions()
            if address.sasl:
                self._sign_in(address)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _connect(host: str, port: int, address: KafkaAddress) -> socket.socket:
        plain = socket.create_connection((host, port), CONNECT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(ANSWER_S)
        if not address.encrypted:
            return plain
        try:
            return address.ssl_context().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    @property
    def buffered(self) -> bool:
        """Whether the encryption layer holds bytes that a selector does not see."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def call(self, key: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask and wait for the answer; nothing else may be in flight. Raises Unavailable, RemoteProtocolError."""
        self.send(key, body)
        return self.receive(key)

    def send(self, key: int, body: Mapping[str, Any]) -> None:
        """Ask. Raises Unavailable."""
        self._number = (self._number + 1) & 0x7FFFFFFF
        frame = codec.encode_request(key, VERSIONS[key], self._number, CLIENT_ID, dict(body))
        try:
            self._socket.sendall(frame)
        except OSError as error:
            raise self._lost(error) from None

    def receive(self, key: int) -> dict[str, Any]:
        """The answer to the oldest request not answered yet. Raises Unavailable, RemoteProtocolError."""
        try:
            head = bytearray(4)
            receive_into(self._socket, memoryview(head))
            size = int.from_bytes(head, "big", signed=True)
            if not 4 <= size <= ANSWER_BYTES_MAX:
                raise RemoteProtocolError(f"Kafka broker {self.where} announces an answer of {size} bytes")
            frame = bytearray(size + 4)
            receive_into(self._socket, memoryview(frame)[4:])
        except OSError as error:
            raise self._lost(error) from None
        return codec.decode_response(key, VERSIONS[key], frame)[1]

    def _lost(self, error: OSError) -> Unavailable:
        self.close()
        return Unavailable(f"connection to Kafka broker {self.where} lost: {error}")

    def _check_versions(self) -> None:
        told = self.call(codec.API_VERSIONS, {})
        served = {each["ApiKey"]: (each["MinVersion"], each["MaxVersion"]) for each in told["ApiKeys"]}
        for key, version in VERSIONS.items():
            first, last = served.get(key, (0, -1))
            if key not in (SASL_HANDSHAKE, SASL_AUTHENTICATE) and not first <= version <= last:
                raise Unavailable(
                    f"Kafka broker {self.where} has no {codec.APIS[key].name} v{version}: Kafka 3.1 or newer is needed"
                )

    def _sign_in(self, address: KafkaAddress) -> None:
        signing = SignIn(address, self.where)
        while signing.request is not None:
            signing.take(self.call(*signing.request))

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
