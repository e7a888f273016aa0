"""Where webhooks may go: a table of addresses, names that change their meaning, and a real socket behind it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import trustme

from gridwire import config
from gridwire.core.errors import InvalidSetting
from gridwire.router.addresses import Allowed, Refused, find, system_resolve
from gridwire.router.sender import ANSWER_BYTES_MAX, Answer, NotSent, Sender, agree
from webhook_receiver import Receiver, answering

LOOPBACK = Allowed.parse(config.LOOPBACK)
NOTHING = Allowed()


def resolver(*addresses: str) -> Any:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


def checked(host: str, resolve: Any, allowed: Allowed = NOTHING) -> tuple[str, ...]:
    return asyncio.run(find(host, 443, allowed, resolve)).addresses


PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "169.254.0.1",
    "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "::127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:db8::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    with pytest.raises(Refused):
        checked("receiver.example", resolver(address))
    with pytest.raises(Refused):  # one of several is enough
        checked("receiver.example", resolver("8.8.8.8", address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public_addresses_are_taken(address: str) -> None:
    assert checked("receiver.example", resolver(address)) == (address,)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "localhost", "::1"])
def test_other_ways_to_write_this_machine_are_this_machine(host: str) -> None:
    with pytest.raises(Refused):
        checked(host, system_resolve)


def test_what_cannot_be_resolved_is_refused() -> None:
    async def broken(host: str, port: int) -> Sequence[str]:
        raise OSError("the resolver is on fire")

    with pytest.raises(Refused, match="on fire"):
        checked("receiver.example", broken)
    with pytest.raises(Refused):
        checked("receiver.example", resolver())
    with pytest.raises(Refused):
        checked("receiver.example", resolver(*(f"8.8.8.{n}" for n in range(17))))


def test_networks_and_names_can_be_allowed() -> None:
    allowed = Allowed.parse("10.1.0.0/16, chat.lan ,fd00::/8")
    assert checked("x", resolver("10.1.2.3"), allowed) == ("10.1.2.3",)
    assert checked("x", resolver("::ffff:10.1.2.3"), allowed) == ("::ffff:a01:203",)
    assert checked("x", resolver("fd00::1"), allowed) == ("fd00::1",)
    assert checked("CHAT.lan.", resolver("192.168.0.1"), allowed) == ("192.168.0.1",)
    for host, address in (("x", "10.2.0.1"), ("evil-chat.lan", "192.168.0.1"), ("x", "127.0.0.1")):
        with pytest.raises(Refused):
            checked(host, resolver(address), allowed)


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "10.0.0.300", "a b", "http://x", "-x", "*"])
def test_a_list_that_cannot_be_meant_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidSetting, match="webhook_allow"):
        config.load({"webhook_allow": wrong}, {})


def test_loopback_is_allowed_where_nobody_else_gets_in() -> None:
    def allowed(**flags: Any) -> str:
        return config.webhooks_allowed(config.load(flags, {}))

    assert allowed() == config.LOOPBACK
    assert allowed(auth=True) == ""
    assert allowed(host="0.0.0.0", insecure_i_understand=True) == ""
    assert allowed(webhook_allow="chat.lan") == "chat.lan"


# -- over a socket


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    yield listening
    listening.close()


def ask(url: str, allowed: Allowed = LOOPBACK, method: str = "POST", **options: Any) -> Answer:
    async def asked() -> Answer:
        sender = Sender(allowed, **options)
        try:
            return await sender.ask(method, url, {"content-type": "text/plain"}, b"hello")
        finally:
            await sender.close()

    return asyncio.run(asked())


def test_a_request_arrives_as_it_was_meant(receiver: Receiver) -> None:
    receiver.always(answering(202, {"x-name": "y"}, b"thanks"))
    answer = ask(f"http://127.0.0.1:{receiver.port}/a%20b?c=d%26e")
    assert (answer.status, answer.body, answer.headers["x-name"]) == (202, "thanks", "y")
    (asked,) = receiver.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/a%20b?c=d%26e", b"hello")
    assert asked.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert asked.headers["content-type"] == "text/plain"


def test_a_name_that_means_something_else_a_moment_later_gains_nothing(receiver: Receiver) -> None:
    meant = ["127.0.0.1", "8.8.8.8"]
    seen = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        seen.append(host)
        return [meant[len(seen) - 1]]

    url = f"http://receiver.example:{receiver.port}/"
    ask(url, resolve=rebinding)
    assert seen == ["receiver.example"], "resolved once: what was looked at is what is connected to"
    assert receiver.asked[0].headers["host"] == f"receiver.example:{receiver.port}"
    meant[:] = ["127.0.0.1"]
    seen.clear()
    with pytest.raises(NotSent, match="not on the public internet"):
        ask(url, NOTHING, resolve=rebinding)
    assert len(receiver.asked) == 1


def test_redirects_are_answers_and_not_followed(receiver: Receiver) -> None:
    receiver.always(answering(302, {"location": f"http://127.0.0.1:{receiver.port}/secret"}))
    assert ask(f"http://127.0.0.1:{receiver.port}/").status == 302
    assert len(receiver.asked) == 1


def test_plain_http_goes_only_where_it_is_allowed() -> None:
    with pytest.raises(NotSent, match="not encrypted"):
        ask("http://receiver.example/", resolve=resolver("8.8.8.8"))


def test_an_answer_without_end_is_cut(receiver: Receiver) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(10**12))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    receiver.always(endless)
    assert len(ask(f"http://127.0.0.1:{receiver.port}/").body) == ANSWER_BYTES_MAX


def test_a_receiver_that_drips_is_given_up(receiver: Receiver) -> None:
    gone = threading.Event()

    def dripping(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not gone.wait(0.05):
                handler.wfile.write(b"x: y\r\n")
        except OSError:
            pass

    receiver.always(dripping)
    try:
        with pytest.raises(NotSent, match=r"within 0\.5 s"):
            ask(f"http://127.0.0.1:{receiver.port}/", total_s=0.5)
    finally:
        gone.set()


def test_nobody_there_is_a_reason_in_a_line() -> None:
    with pytest.raises(NotSent, match="cannot be reached") as caught:
        ask("http://127.0.0.1:9/")
    assert "\n" not in str(caught.value)


def test_certificates_are_those_of_the_name_in_the_address() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("receiver.example").configure_cert(server)
    authority.configure_trust(client)
    listening = Receiver(server)
    try:
        here = {"resolve": resolver("127.0.0.1"), "tls": client}
        assert ask(f"https://receiver.example:{listening.port}/", **here).status == 200
        for url, tls in (("https://other.example", client), ("https://receiver.example", None)):
            with pytest.raises(NotSent, match="cannot be reached"):
                ask(f"{url}:{listening.port}/", resolve=resolver("127.0.0.1"), tls=tls)
    finally:
        listening.close()


def handshake(url: str) -> int:
    async def asked() -> int:
        sender = Sender(LOOPBACK)
        try:
            return await agree(sender, url, "gridwire", {"authorization": "x"})
        finally:
            await sender.close()

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("status", "headers", "rate"),
    [
        (200, {"WebHook-Allowed-Origin": "gridwire"}, 0),
        (204, {"webhook-allowed-origin": "*", "WebHook-Allowed-Rate": "120"}, 120),
        (200, {"webhook-allowed-origin": "*", "WebHook-Allowed-Rate": "lots"}, 0),
        (200, {}, None),
        (200, {"webhook-allowed-origin": "somebody.else"}, None),
        (405, {"webhook-allowed-origin": "*"}, None),
        (302, {"webhook-allowed-origin": "*", "location": "/"}, None),
    ],
)
def test_a_receiver_agrees_before_anything_is_delivered(
    receiver: Receiver, status: int, headers: dict[str, str], rate: int | None
) -> None:
    receiver.always(answering(status, headers))
    url = f"http://127.0.0.1:{receiver.port}/hook"
    if rate is None:
        with pytest.raises(NotSent, match="handshake"):
            handshake(url)
    else:
        assert handshake(url) == rate
    (asked,) = receiver.asked
    sent = asked.headers
    assert (asked.method, sent["webhook-request-origin"], sent["authorization"]) == ("OPTIONS", "gridwire", "x")
