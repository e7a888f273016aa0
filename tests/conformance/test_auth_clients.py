"""Unmodified clients sign in: every mechanism, TLS, certificates that change, quotas, and rights that end."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka import AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from joserfc import jwt
from joserfc.jwk import RSAKey

from gridwire.auth.plain import parse_connection_string
from gridwire.heads.tls import Certificates

ROOT = "RootManageSharedAccessKey"


class Secured:
    """A hub with sign-in and TLS, as an operator starts it, and one policy of each right."""

    def __init__(self, start: Any, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.issue(self.ca)
        self.issuer_key = RSAKey.generate_key(2048, {"kid": "k"})
        jwks = directory / "jwks.json"
        jwks.write_text(json.dumps({"keys": [self.issuer_key.as_dict(private=False)]}))
        self.hub = start(
            "--auth", "--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem"),
            "--tls-client-ca", str(self.ca_file), "--oauth-jwks", str(jwks), "--oauth-issuer", "https://issuer",
            "--oauth-audience", "gridwire", "--no-workers",
        )  # fmt: skip
        self.root = (self.hub.data / "root.connection-string").read_text().strip()
        self.cli("hub", "create", "h", "--partitions", "1")
        self.keys = {ROOT: self.root}
        for right in ("send", "listen"):
            made = self.cli("policy", "create", right, "--rights", right, "--hub", "h", "-o", "json")
            self.keys[right] = json.loads(made)["primary_key"]
        self.keys[ROOT] = parse_connection_string(self.root).key

    def issue(self, ca: trustme.CA) -> None:
        made = ca.issue_cert("localhost", "127.0.0.1")
        made.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        (self.directory / "cert.pem").write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))

    def cli(self, *arguments: str, text: str | None = None, codes: tuple[int, ...] = (0,)) -> str:
        environment = {**os.environ, "GRIDWIRE_URL": self.hub.http, "GRIDWIRE_CA_FILE": str(self.ca_file),
                       "GRIDWIRE_CONNECTION_STRING": self.root}  # fmt: skip
        command = [sys.executable, "-m", "gridwire", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, input=text, timeout=60)
        assert done.returncode in codes, done.stderr
        return done.stdout

    def config(self, name: str, mechanism: str = "PLAIN", password: str | None = None) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.hub.kafka, "security.protocol": "SASL_SSL", "ssl.ca.location": str(self.ca_file),
            "sasl.mechanism": mechanism, "sasl.username": name, "log_level": 0,
            "sasl.password": self.keys[name] if password is None else password,
        }  # fmt: skip

    def token(self, *roles: str, seconds: float = 600) -> str:
        claims = {
            "iss": "https://issuer",
            "aud": "gridwire",
            "sub": "meter",
            "exp": time.time() + seconds,
            "roles": roles,
        }
        return jwt.encode({"alg": "RS256", "kid": "k"}, claims, self.issuer_key)


@pytest.fixture(scope="module")
def secured(hub_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    started: list[Any] = []

    def start(*flags: str) -> Any:
        started.append(hub_process(directory / "data", *flags))
        return started[0]

    try:
        yield Secured(start, directory)
    finally:
        for hub in started:
            assert hub.stop() == 0


def send(config: dict[str, Any], hub: str = "h", timeout_s: float = 20) -> str:
    """Send one event; empty when it arrived, else why not."""
    reasons: list[str] = []
    outcome: list[str] = []

    def failed(error: Any) -> None:
        reasons.append(error.str())

    producer = Producer({**config, "error_cb": failed, "message.timeout.ms": 20_000})
    producer.produce(hub, b"x", on_delivery=lambda error, _: outcome.append(error.str() if error else ""))
    deadline = time.monotonic() + timeout_s
    while not outcome and not any("uthentic" in reason or "expired" in reason for reason in reasons):
        producer.poll(0.1)
        assert time.monotonic() < deadline, reasons
    producer.purge()
    producer.flush(1)
    return outcome[0] if outcome and (not outcome[0] or "uthor" in outcome[0]) else "; ".join(reasons) or outcome[0]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_librdkafka_with_keys(secured: Secured, mechanism: str) -> None:
    assert send(secured.config("send", mechanism)) == ""
    assert "uthentication" in send(secured.config("send", mechanism, "wrong"))
    assert "uthoriz" in send(secured.config("listen", mechanism))


def test_doctor_is_content_with_sign_in(secured: Secured) -> None:
    shown = secured.cli("doctor", "--data", str(secured.hub.data), "-o", "json", codes=(0, 1))  # 1: the disk is bad
    findings = json.loads(shown)
    [found] = [finding for finding in findings if finding["what"] == "sign-in"]
    assert (found["verdict"], found["found"], found["advice"]) == ("ok", "on", "")


def test_librdkafka_with_a_connection_string(secured: Secured) -> None:
    assert send({**secured.config(ROOT), "sasl.username": "$ConnectionString", "sasl.password": secured.root}) == ""
    narrow = f"Endpoint=sb://x/;SharedAccessKeyName={ROOT};SharedAccessKey={secured.keys[ROOT]};EntityPath=other"
    assert "uthoriz" in send({**secured.config(ROOT), "sasl.username": "$ConnectionString", "sasl.password": narrow})


def test_librdkafka_with_tokens(secured: Secured) -> None:
    def config(token: str) -> dict[str, Any]:
        plain = {k: v for k, v in secured.config("send").items() if k not in ("sasl.username", "sasl.password")}
        return {**plain, "sasl.mechanism": "OAUTHBEARER", "oauth_cb": lambda _: (token, time.time() + 600)}

    assert send(config(secured.token("send"))) == ""
    assert "uthoriz" in send(config(secured.token("listen")))
    assert "not valid" in send(config(secured.token("send", seconds=-60)))


def test_a_group_reads_with_listen_and_admin_needs_manage(secured: Secured) -> None:
    assert send(secured.config("send")) == ""
    consumer = Consumer({**secured.config("listen"), "group.id": "readers", "auto.offset.reset": "earliest"})
    consumer.subscribe(["h"])
    deadline = time.monotonic() + 20
    event = None
    while event is None:
        assert time.monotonic() < deadline
        event = consumer.poll(0.5)
    assert event.error() is None
    consumer.commit(event, asynchronous=False)
    consumer.close()
    admin = AdminClient(secured.config("listen"))
    with pytest.raises(KafkaException, match="uthoriz"):
        admin.delete_topics(["h"])["h"].result(10)


def test_aiokafka(secured: Secured) -> None:
    context = ssl.create_default_context(cafile=str(secured.ca_file))

    class Provider(AbstractTokenProvider):
        async def token(self) -> str:
            return secured.token("send")

    async def produce(**more: Any) -> int:
        producer = AIOKafkaProducer(
            bootstrap_servers=secured.hub.kafka, security_protocol="SASL_SSL", ssl_context=context, **more
        )
        await producer.start()
        try:
            return (await producer.send_and_wait("h", b"x")).offset
        finally:
            await producer.stop()

    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        named = {"sasl_plain_username": "send", "sasl_plain_password": secured.keys["send"]}
        assert asyncio.run(produce(sasl_mechanism=mechanism, **named)) >= 0
    assert asyncio.run(produce(sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Provider())) >= 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kafka_python(secured: Secured) -> None:
    from kafka import KafkaProducer

    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        producer = KafkaProducer(
            bootstrap_servers=secured.hub.kafka, security_protocol="SASL_SSL", ssl_cafile=str(secured.ca_file),
            sasl_mechanism=mechanism, sasl_plain_username="send", sasl_plain_password=secured.keys["send"],
        )  # fmt: skip
        assert producer.send("h", b"x").get(20).offset >= 0
        producer.close()


def test_a_user_with_a_password_and_a_certificate(secured: Secured) -> None:
    secured.cli("policy", "user", "operator", "--policies", "send", text="a long password\n")
    assert send(secured.config("operator", "SCRAM-SHA-512", "a long password")) == ""
    assert "uthentication" in send(secured.config("operator", "PLAIN", "a long password"))
    made = secured.ca.issue_cert("meter-1.example")
    key, cert = secured.directory / "client.key", secured.directory / "client.pem"
    made.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    secured.cli("policy", "certificate", "meter-1.example", "--policies", "send")
    config = {
        "bootstrap.servers": secured.hub.kafka, "security.protocol": "SSL", "ssl.ca.location": str(secured.ca_file),
        "ssl.certificate.location": str(cert), "ssl.key.location": str(key), "log_level": 0,
    }  # fmt: skip
    assert send(config) == ""
    curl = ["curl", "-sS", "--cacert", str(secured.ca_file), "-o", os.devnull, "-w", "%{http_code}"]
    url = f"{secured.hub.http}/v1/hubs/h/events"
    client = ["--cert", str(cert), "--key", str(key)]
    assert _out([*curl, *client, "-d", '{"a":1}', url]) == "200"
    assert _out([*curl, *client, url]) == "403"
    assert _out([*curl, url]) == "401"


def test_curl_with_basic_and_bearer(secured: Secured) -> None:
    curl = ["curl", "-sS", "--cacert", str(secured.ca_file), "-o", os.devnull, "-w", "%{http_code}"]
    url = f"{secured.hub.http}/v1/hubs/h/events"
    assert _out([*curl, "-u", f"listen:{secured.keys['listen']}", url]) == "200"
    assert _out([*curl, "-u", "listen:wrong", url]) == "401"
    assert _out([*curl, "-H", f"Authorization: Bearer {secured.token('listen')}", url]) == "200"
    assert _out([*curl, "-H", f"Authorization: Bearer {secured.token('send')}", url]) == "403"
    assert _out([*curl, f"{secured.hub.http}/healthz"]) == "200"


def _out(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_a_deleted_policy_is_out_at_once(secured: Secured) -> None:
    secured.keys["gone"] = json.loads(
        secured.cli("policy", "create", "gone", "--rights", "send", "--hub", "h", "-o", "json")
    )["primary_key"]
    producer = Producer({**secured.config("gone"), "message.timeout.ms": 3000})
    outcome: list[Any] = []
    producer.produce("h", b"x", on_delivery=lambda error, _: outcome.append(error))
    producer.flush(20)
    secured.cli("policy", "delete", "gone")
    producer.produce("h", b"x", on_delivery=lambda error, _: outcome.append(error))
    producer.flush(20)
    assert outcome[0] is None
    assert outcome[1] is not None


def test_the_audit_hub_tells_who_did_what(secured: Secured) -> None:
    send(secured.config("send", "PLAIN", "wrong"))
    curl = ["curl", "-sS", "--cacert", str(secured.ca_file), "-u", f"{ROOT}:{secured.keys[ROOT]}"]
    found = json.loads(_out([*curl, f"{secured.hub.http}/v1/hubs/__audit/events?limit=1000"]))["events"]
    told = {(each["value"]["who"], each["value"]["action"], each["value"]["what"]) for each in found}
    assert (ROOT, "policy.create", "send") in told
    assert any(each["value"]["action"] == "sign-in" and "refused" in each["value"] for each in found)
    assert secured.keys["send"] not in json.dumps(found)


def test_keys_are_nowhere_on_the_disk(secured: Secured) -> None:
    for path in secured.hub.data.rglob("*"):
        if path.is_file():
            assert secured.keys["send"].encode() not in path.read_bytes(), path
    for name in ("secret.key", "root.connection-string"):
        assert (secured.hub.data / name).stat().st_mode & 0o077 == 0


def test_a_certificate_is_taken_when_it_changes(tmp_path: Path, secured: Secured) -> None:
    first = ssl.get_server_certificate(_address(secured.hub.kafka))
    secured.issue(secured.ca)
    deadline = time.monotonic() + 20
    while ssl.get_server_certificate(_address(secured.hub.kafka)) == first:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert send(secured.config("send")) == ""


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def test_broken_certificate_files_leave_the_old_in_force(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("localhost")
    cert, key = tmp_path / "c", tmp_path / "k"
    cert.write_bytes(made.cert_chain_pems[0].bytes())
    key.write_bytes(made.private_key_pem.bytes())
    certificates = Certificates(cert, key)
    assert certificates.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert not certificates.reload_if_changed()
    cert.write_bytes(b"nothing")
    assert not certificates.reload_if_changed()
    cert.write_bytes(made.cert_chain_pems[0].bytes() + b"\n")
    assert certificates.reload_if_changed()


@pytest.mark.parametrize("flags", [(), ("--auth",)])
def test_an_open_address_takes_sign_in_and_tls(
    flags: tuple[str, ...], gridwire_cli: Callable[..., Any], tmp_path: Path
) -> None:
    done = gridwire_cli("up", "--data", str(tmp_path / "d"), "--host", "0.0.0.0", *flags, check=False)
    assert done.returncode == 1
    assert "--tls-cert" in done.stderr
    assert ("--auth on" in done.stderr) == (not flags)


def test_a_quota_slows_down_whoever_uses_too_much(secured: Secured) -> None:
    made = secured.cli(
        "policy", "create", "slow", "--rights", "send", "--hub", "h", "--bytes-in-s", "50000", "-o", "json"
    )
    secured.keys["slow"] = json.loads(made)["primary_key"]
    throttled: list[int] = []
    producer = Producer(
        {**secured.config("slow"), "throttle_cb": lambda event: throttled.append(event.throttle_time), "linger.ms": 0}
    )
    started = time.monotonic()
    for _ in range(6):
        producer.produce("h", os.urandom(25_000))
        assert producer.flush(30) == 0
    producer.poll(0.1)
    assert time.monotonic() - started > 1
    assert any(throttled)
