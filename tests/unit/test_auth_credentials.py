"""Every way to prove who one is, taken apart: tokens, keys, passwords, and what must not pass for them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import warnings
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gridwire.auth import bearer, keys, plain, sas, scram
from gridwire.auth.quota import Bucket
from gridwire.core.errors import GridwireError, InvalidSetting, NotAuthenticated

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I="
RULES = bearer.BearerRules("https://issuer", "gridwire")


def token(resource: str, signed: str | None = None, key: str = KEY, expiry: str = "2000") -> str:
    text = f"{resource if signed is None else signed}\n{expiry}".encode()
    signature = base64.b64encode(hmac.new(key.encode(), text, hashlib.sha256).digest()).decode()
    return f"SharedAccessSignature sr={resource}&sig={quote(signature, safe='')}&se={expiry}&skn=p"


def check(text: str, now_s: float = 1000) -> str | None:
    return sas.verify(sas.parse(text), ("other", KEY), now_s)


RESOURCE = "sb://host.example/readings"


@pytest.mark.parametrize(
    ("resource", "signed"),
    [
        (quote_plus(RESOURCE), None),
        (quote(RESOURCE, safe="").replace("%3A", "%3a").replace("%2F", "%2f"), None),
        (RESOURCE, None),
        (RESOURCE, quote(RESOURCE, safe="")),
        (quote(RESOURCE, safe=""), RESOURCE),
        (quote(RESOURCE, safe=""), quote(RESOURCE, safe="").replace("%3A", "%3a").replace("%2F", "%2f")),
    ],
)
def test_sas_in_the_encodings_clients_sign(resource: str, signed: str | None) -> None:
    assert check(token(resource, signed)) == KEY
    assert sas.parse(token(resource, signed)).hub == "readings"


def test_sas_is_for_its_key_time_and_resource() -> None:
    good = token(quote_plus(RESOURCE))
    assert check(good, 1999.9) == KEY
    assert check(good, 2000) is None
    assert check(token(quote_plus(RESOURCE), key="wrong")) is None
    assert check(good.replace("readings", "others")) is None
    assert check(good.replace("se=2000", "se=3000")) is None


def test_sas_cannot_be_encoded_again_to_mean_more() -> None:
    once = quote(RESOURCE, safe="")
    with pytest.raises(NotAuthenticated):
        sas.parse(token(quote(once, safe=""), signed=once))


@pytest.mark.parametrize(
    ("resource", "hub"),
    [
        ("https://h/", None), ("sb://h", None), ("http://127.0.0.1:8700/v1/hubs/a/events", "a"), ("sb://h/a/p/0", "a"),
        ("http://h/v1/hubs", None), ("h/a", "a"),
    ],
)  # fmt: skip
def test_what_a_resource_means(resource: str, hub: str | None) -> None:
    assert sas.hub_of(resource) == hub


@pytest.mark.parametrize("resource", ["readings", "", "http://h/v1/groups/g", "sb%3A%2F%2Fh%2Fa"])
def test_what_is_no_resource(resource: str) -> None:
    with pytest.raises(NotAuthenticated):
        sas.hub_of(resource)


def test_our_own_tokens_are_taken() -> None:
    assert check(sas.sign("http://h/v1/hubs/a b", "p", KEY, 2000)) == KEY


CONNECTION = f"Endpoint=sb://h/;SharedAccessKeyName=p;SharedAccessKey={KEY};EntityPath=readings"


def test_plain_basic_and_connection_strings() -> None:
    assert plain.parse_plain(b"\0p\0" + KEY.encode()) == plain.NameAndKey("p", KEY)
    assert plain.parse_plain(b"\0$ConnectionString\0" + CONNECTION.encode()) == plain.NameAndKey("p", KEY, "readings")
    assert plain.parse_basic(base64.b64encode(f"p:{KEY}".encode()).decode()) == plain.NameAndKey("p", KEY)
    assert str(plain.parse_connection_string(CONNECTION)) == CONNECTION


@pytest.mark.parametrize(
    "message", [b"", b"\0\0", b"\0p\0", b"p\0k", b"other\0p\0k", b"\0p\0\xff", b"\0p\0k\0", b"x" * 9000]
)
def test_plain_that_is_none(message: bytes) -> None:
    with pytest.raises(NotAuthenticated):
        plain.parse_plain(message)


def client_final(mechanism: str, password: str, first: scram.ClientFirst, server_first: bytes) -> tuple[bytes, bytes]:
    """(the client's final message, what the server must answer): the client's side, written from the RFC."""
    name = scram.HASHES[mechanism]
    fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
    salted = hashlib.pbkdf2_hmac(name, password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    client_key = hmac.digest(salted, b"Client Key", name)
    bare = f"c={base64.b64encode(first.header.encode()).decode()},r={fields['r']}"
    signed = f"{first.bare},{server_first.decode()},{bare}".encode()
    signature = hmac.digest(hashlib.new(name, client_key).digest(), signed, name)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True))).decode()
    answer = base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", name), signed, name))
    return f"{bare},p={proof}".encode(), b"v=" + answer


@pytest.mark.parametrize("mechanism", list(scram.HASHES))
@pytest.mark.parametrize("which", [0, 1])
def test_scram_with_either_key(mechanism: str, which: int) -> None:
    passwords = ("first-password", "second-password")
    verifiers = [scram.make_verifier(mechanism, each, b"s" * 16) for each in passwords]
    first = scram.parse_client_first(b"n,,n=us=2Cer,r=abc")
    assert first.user == "us,er"
    server = scram.ScramServer(mechanism, first, verifiers, "def")
    final, answer = client_final(mechanism, passwords[which], first, server.server_first)
    assert server.finish(final) == (which, answer)
    with pytest.raises(NotAuthenticated):
        server.finish(client_final(mechanism, "wrong", first, server.server_first)[0])
    with pytest.raises(NotAuthenticated):
        server.finish(final.replace(b"r=abcdef", b"r=abcxyz"))


def test_scram_example_of_the_rfc() -> None:
    """RFC 7677, section 3."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = scram.make_verifier("SCRAM-SHA-256", "pencil", salt)
    first = scram.parse_client_first(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    server = scram.ScramServer("SCRAM-SHA-256", first, [verifier], "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert server.finish(final) == (0, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_scram_for_nobody_looks_like_a_wrong_password() -> None:
    made = scram.unknown_verifier("SCRAM-SHA-256", "x", b"secret")
    assert made == scram.unknown_verifier("SCRAM-SHA-256", "x", b"secret")
    assert made.salt != scram.unknown_verifier("SCRAM-SHA-256", "y", b"secret").salt
    first = scram.parse_client_first(b"n,,n=x,r=abc")
    server = scram.ScramServer("SCRAM-SHA-256", first, [made], "def")
    with pytest.raises(NotAuthenticated):
        server.finish(client_final("SCRAM-SHA-256", "", first, server.server_first)[0])


@pytest.mark.parametrize(
    "message",
    [b"", b"n,,", b"p=tls-unique,,n=a,r=b", b"n,a=other,n=a,r=b", b"n,,n=,r=b", b"n,,n=a=,r=b", b"n,,m=x,n=a,r=b"],
)
def test_scram_first_messages_that_are_refused(message: bytes) -> None:
    with pytest.raises(NotAuthenticated):
        scram.parse_client_first(message)


CLAIMS = {"iss": "https://issuer", "aud": ["gridwire"], "sub": "meter", "exp": 2000, "roles": ["a", "b"]}


@pytest.fixture(scope="module")
def rsa_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "r"})


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_tokens_of_the_listed_algorithms(algorithm: str, rsa_key: RSAKey) -> None:
    made = {
        "ES256": lambda: ECKey.generate_key("P-256", {"kid": "e"}),
        "EdDSA": lambda: OKPKey.generate_key("Ed25519", {"kid": "o"}),
    }
    key = made.get(algorithm, lambda: rsa_key)()
    key_set = bearer.parse_key_set({"keys": [key.as_dict(private=False)]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        text = jwt.encode({"alg": algorithm, "kid": key.kid}, CLAIMS, key, algorithms=[algorithm])
    assert bearer.verify(text, key_set, RULES, 1000) == bearer.Subject("meter", ("a", "b"), 2000)


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://other"}, {"aud": "other"}, {"aud": None}, {"exp": 1000}, {"exp": None}, {"exp": "2000"},
        {"nbf": 1100}, {"sub": ""}, {"sub": 5}, {"exp": True}, {"exp": float("inf")},
    ],
)  # fmt: skip
def test_tokens_with_wrong_claims(change: dict[str, object], rsa_key: RSAKey) -> None:
    key_set = bearer.parse_key_set({"keys": [rsa_key.as_dict(private=False)]})
    text = jwt.encode({"alg": "RS256", "kid": "r"}, {**CLAIMS, **change}, rsa_key)
    with pytest.raises(NotAuthenticated):
        bearer.verify(text, key_set, RULES, 1000)


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def test_unsigned_and_secret_signed_tokens_are_refused(rsa_key: RSAKey) -> None:
    key_set = bearer.parse_key_set({"keys": [rsa_key.as_dict(private=False)]})
    good = jwt.encode({"alg": "RS256", "kid": "r"}, CLAIMS, rsa_key)
    body = good.split(".")[1]
    unsigned = _part(b'{"alg":"none"}') + f".{body}."
    signing = _part(b'{"alg":"HS256","kid":"r"}') + f".{body}"
    mac = hmac.digest(rsa_key.as_pem(private=False), signing.encode(), "sha256")
    stranger = jwt.encode({"alg": "RS256", "kid": "r"}, CLAIMS, RSAKey.generate_key(2048))
    for text in (unsigned, f"{signing}.{_part(mac)}", stranger, good[:-4] + "AAAA", good + ".x", "a.b.c", ""):
        with pytest.raises(NotAuthenticated):
            bearer.verify(text, key_set, RULES, 1000)


def test_a_key_set_takes_public_keys_only(rsa_key: RSAKey) -> None:
    secret = OctKey.generate_key(256).as_dict()
    assert len(bearer.parse_key_set({"keys": [rsa_key.as_dict(private=False), secret]}).keys) == 1
    for bad in ({}, [], {"keys": 5}, {"keys": [{"kty": "RSA"}]}, {"keys": [{}] * 100}):
        with pytest.raises(InvalidSetting):
            bearer.parse_key_set(bad)


def test_oauthbearer_messages() -> None:
    assert bearer.parse_oauthbearer(b"n,,\x01auth=Bearer abc.def\x01\x01") == "abc.def"
    assert bearer.parse_oauthbearer(b"n,a=me,\x01host=h\x01auth=bearer x\x01\x01") == "x"
    for bad in (b"", b"n,,\x01\x01", b"\x01auth=Bearer x\x01\x01", b"n,,\x01auth=Basic x\x01\x01"):
        with pytest.raises(NotAuthenticated):
            bearer.parse_oauthbearer(bad)


def test_keys_at_rest_open_only_where_they_belong() -> None:
    sealer = keys.Sealer(b"k" * 32)
    sealed = sealer.seal(KEY, "p/primary")
    assert KEY.encode() not in sealed
    assert sealer.open(sealed, "p/primary") == KEY
    for other, place in ((sealer, "p/secondary"), (keys.Sealer(b"x" * 32), "p/primary")):
        with pytest.raises(GridwireError, match="does not open"):
            other.open(sealed, place)
    with pytest.raises(GridwireError):
        keys.Sealer(b"short")


def test_a_bucket_asks_for_the_time_it_takes() -> None:
    bucket = Bucket(100)
    assert bucket.take(100, 0) == 0
    assert bucket.take(50, 0) == pytest.approx(0.5)
    assert bucket.wait_s(0.25) == pytest.approx(0.25)
    assert bucket.wait_s(0.5) == 0
    assert bucket.take(10_000_000, 1) == 30
    assert Bucket(0).take(10**12, 0) == 0


_PARSERS = (
    lambda data: sas.parse("SharedAccessSignature " + data.decode("latin-1")),
    lambda data: plain.parse_basic(data.decode("latin-1")),
    lambda data: plain.parse_connection_string(data.decode("latin-1")),
    plain.parse_plain,
    scram.parse_client_first,
    bearer.parse_oauthbearer,
    lambda data: scram.ScramServer(
        "SCRAM-SHA-256", scram.ClientFirst("u", "n", "n,,", "n=u,r=n"),
        [scram.unknown_verifier("SCRAM-SHA-256", "u", b"")], "x").finish(data),
)  # fmt: skip
_WORDS = [b"n,,n=a,r=b", b"sr=", b"&sig=", b"&se=1", b"&skn=", b"%", b"\0", b"\x01", b"auth=Bearer ", b"=", b",", b";",
          b"SharedAccessKey=", b"c=biws,r=nx,p=", b"AAAA", b"\xff"]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(_WORDS), st.binary(max_size=20)), max_size=12).map(b"".join))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in _PARSERS:
        try:
            parse(data)
        except NotAuthenticated:
            continue


_PUBLIC = OKPKey.generate_key("Ed25519").as_dict(private=False)


@given(st.text(max_size=60))
def test_any_text_as_token_is_refused(text: str) -> None:
    key_set = bearer.parse_key_set({"keys": [_PUBLIC]})
    with pytest.raises(NotAuthenticated):
        bearer.verify(_part(b'{"alg":"RS256"}') + f".{text}.AA", key_set, RULES, 1)


@pytest.mark.parametrize("mechanism", list(scram.HASHES))
def test_scram_client_and_server_agree_or_both_refuse(mechanism: str) -> None:
    verifier = scram.make_verifier(mechanism, "pencil", b"s" * 16)
    for password, name in (("pencil", "us,er="), ("pen", "user")):
        client = scram.ScramClient(mechanism, name, password, "abcdef")
        first = scram.parse_client_first(client.first)
        assert first.user == name
        server = scram.ScramServer(mechanism, first, [verifier], "ghi")
        message = client.final(server.server_first)
        if password == "pencil":
            client.check(server.finish(message)[1])
            with pytest.raises(NotAuthenticated):
                client.check(b"v=" + b"A" * 44)
        else:
            with pytest.raises(NotAuthenticated):
                server.finish(message)


@pytest.mark.parametrize(
    "answer", [b"", b"\xff", b"r=abc", b"r=other,s=AA==,i=4096", b"r=abcx,s=AA==,i=1", b"r=abcx,s=AA==,i=9e9"]
)
def test_scram_client_refuses_a_strange_server(answer: bytes) -> None:
    with pytest.raises(NotAuthenticated):
        scram.ScramClient("SCRAM-SHA-256", "user", "pencil", "abc").final(answer)
