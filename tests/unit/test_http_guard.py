"""Who is answered: loopback names only on loopback, and no changes from foreign pages."""

import pytest

from gridwire.heads.http.guard import Guard, host_name, is_loopback
from gridwire.wire.http.problems import Forbidden, HttpError


def scope(method="GET", version="1.1", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"method": method, "http_version": version, "headers": pairs}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("hub.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_loopback_names(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("authority", "host"),
    [("h", "h"), ("h:80", "h"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("", ""), (":80", "")],
)
def test_host_name(authority, host):
    assert host_name(authority) == host


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8700", "localhost", "localhost:1", "[::1]:8700", "hub.local:8700", "HUB.local"]
)
def test_hosts_answered(host):
    Guard(True, frozenset({"hub.local"})).check(scope(host=host))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "10.0.0.1", "", "127.0.0.1.evil.example"])
def test_hosts_refused_on_loopback_only(host):
    with pytest.raises(Forbidden, match="loopback names only"):
        Guard(True).check(scope(host=host))
    Guard(False).check(scope(host=host))


def test_host_header_is_needed_once():
    with pytest.raises(HttpError, match="no Host"):
        Guard(True).check(scope())
    Guard(True).check(scope(version="1.0"))
    twice = scope(host="localhost")
    twice["headers"] *= 2
    with pytest.raises(HttpError, match="two Host"):
        Guard(True).check(twice)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8700", "http://127.0.0.1:8700"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("hub.example", "https://hub.example"),
        ("hub.example:443", "https://hub.example"),
        ("[::1]:8700", "http://[::1]:8700"),
        ("Hub.example", "http://hub.example"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_own_page_may_change_things(method, host, origin):
    Guard(False).check(scope(method, host=host, origin=origin))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8700", "http://127.0.0.1:3000"),
        ("127.0.0.1:8700", "http://localhost:8700"),
        ("127.0.0.1:8700", "http://evil.example"),
        ("127.0.0.1:8700", "null"),
        ("127.0.0.1:8700", ""),
        ("127.0.0.1:8700", "127.0.0.1:8700"),
        ("127.0.0.1:8700", "file://"),
        ("localhost", "http://localhost:8080"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT", "BREW"])
def test_foreign_pages_may_not(method, host, origin):
    with pytest.raises(Forbidden, match="not taken from pages"):
        Guard(False).check(scope(method, host=host, origin=origin))
    Guard(False).check(scope("GET", host=host, origin=origin))


def test_fetch_metadata_is_believed_when_it_says_cross_site():
    with pytest.raises(Forbidden, match="other sites"):
        Guard(False).check(scope("POST", host="h", sec_fetch_site="cross-site"))
    Guard(False).check(scope("POST", host="h", sec_fetch_site="same-origin"))
    Guard(False).check(scope("GET", host="h", sec_fetch_site="cross-site"))


def test_programs_without_origin_may_change_things():
    Guard(True).check(scope("POST", host="127.0.0.1:8700"))
