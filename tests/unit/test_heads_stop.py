"""A head stops at once though a client holds an idle TLS connection, of which it reads nothing."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from gridwire import app
from gridwire.broker.embedded import EmbeddedBroker
from gridwire.broker.membership import Membership
from gridwire.core.clock import SystemClock
from gridwire.heads import tls
from gridwire.heads.amqp import AmqpHead
from gridwire.heads.amqp import server as amqp_server
from gridwire.heads.http.options import HttpLimits
from gridwire.heads.http.server import HttpHead
from gridwire.heads.kafka import KafkaHead
from gridwire.heads.kafka import server as kafka_server

FOR_EVER_S = 1000.0
DEADLINE_S = 30.0
HEADS = ["kafka", "amqp", "http"]
FIRST_WORDS = {
    "kafka": b"",
    "amqp": b"AMQP\x03\x01\x00\x00",
    "http": b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n",
}


def head_of(kind: str, broker: EmbeddedBroker, membership: Membership, context: ssl.SSLContext) -> Any:
    if kind == "kafka":
        return KafkaHead(broker, membership, host="127.0.0.1", port=0, cluster_id="c", tls=context)
    if kind == "amqp":
        return AmqpHead(broker, host="127.0.0.1", port=-1, tls_port=0, tls=context)
    limits = replace(HttpLimits(), drain_s=FOR_EVER_S)
    return HttpHead(broker, membership, status=dict, port=0, tls=context, limits=limits)


def idle_client(port: int, first: bytes, authority: trustme.CA) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    client = context.wrap_socket(socket.create_connection(("127.0.0.1", port), DEADLINE_S), server_hostname="localhost")
    if first:
        client.sendall(first)
        assert client.recv(4096)
    return client


async def stops(kind: str, directory: Path, within_s: float) -> bool:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    broker = await EmbeddedBroker.open(directory, "os")
    membership = Membership(SystemClock())
    head = head_of(kind, broker, membership, context)
    await head.start()
    port = head.tls_port if kind == "amqp" else head.port
    client = await asyncio.to_thread(idle_client, port, FIRST_WORDS[kind], authority)
    stopping = asyncio.ensure_future(head.stop())
    done, _ = await asyncio.wait({stopping}, timeout=within_s)
    client.close()
    await asyncio.wait_for(stopping, DEADLINE_S)
    await membership.close()
    await broker.close()
    return bool(done)


@pytest.fixture(autouse=True)
def no_drain_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_server, "DRAIN_S", FOR_EVER_S)
    monkeypatch.setattr(amqp_server, "DRAIN_S", FOR_EVER_S)


@pytest.mark.parametrize("kind", HEADS)
def test_an_idle_tls_connection_does_not_hold_up_a_stop(kind: str, tmp_path: Path) -> None:
    assert uvloop.run(stops(kind, tmp_path, DEADLINE_S))


def test_it_would_if_its_goodbye_were_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "GOODBYE_S", FOR_EVER_S)
    assert not uvloop.run(stops("amqp", tmp_path, 1.0))


class Slow:
    """A head that waits for another one to be told to stop too."""

    def __init__(self, told: asyncio.Event, waits_for: asyncio.Event, fails: bool = False) -> None:
        self.told, self.waits_for, self.fails, self.stopped = told, waits_for, fails, False

    async def stop(self) -> None:
        self.told.set()
        if self.fails:
            raise OSError("no")
        await asyncio.wait_for(self.waits_for.wait(), DEADLINE_S)
        self.stopped = True


def test_heads_stop_at_the_same_time_and_one_that_fails_stops_no_other() -> None:
    async def main() -> None:
        one, other = asyncio.Event(), asyncio.Event()
        heads: list[Any] = [Slow(one, other), None, Slow(other, one)]
        await app._stop(*heads)
        assert heads[0].stopped
        assert heads[2].stopped
        failing, last = asyncio.Event(), asyncio.Event()
        heads = [Slow(failing, last, fails=True), Slow(last, failing)]
        with pytest.raises(OSError, match="no"):
            await app._stop(*heads)
        assert heads[1].stopped

    uvloop.run(main())
