"""DescribeUserScramCredentials and AlterUserScramCredentials: version 0 served.

These are the users of `gridwire policy user`; policies sign in with SCRAM too, but by their own keys, and are neither
shown nor changed here. Without sign-in: SECURITY_DISABLED.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from gridwire.broker.users import Alteration, SaltedPassword, UnknownCredential, Users
from gridwire.core.errors import GridwireError, InvalidSetting
from gridwire.heads.kafka.acls import NO_SECURITY
from gridwire.heads.kafka.context import Answer, Context, Request
from gridwire.wire.kafka.compiler import Struct
from gridwire.wire.kafka.errors import ErrorCode, code_of

MECHANISMS: Final = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}
_NUMBERS: Final = {name: number for number, name in MECHANISMS.items()}


def describe(context: Context, request: Request) -> Answer:
    """Answer DescribeUserScramCredentials: the users asked for, or all of them."""
    if context.access is None:
        return {"ErrorCode": ErrorCode.SECURITY_DISABLED, "ErrorMessage": NO_SECURITY}
    known = context.access.users.mechanisms()
    asked = request.body["Users"]
    names = Counter(each["Name"] for each in asked) if asked else Counter(list(known))
    return {"Results": [_described(name, known.get(name), count) for name, count in names.items()]}


def _described(name: str, mechanisms: dict[str, int] | None, count: int) -> Struct:
    if count > 1:
        return _refused(name, ErrorCode.DUPLICATE_RESOURCE, "a user is described once a request")
    if mechanisms is None:
        return _refused(name, ErrorCode.RESOURCE_NOT_FOUND, f"there is no user {name[:80]!r}")
    infos = [{"Mechanism": _NUMBERS[each], "Iterations": iterations} for each, iterations in mechanisms.items()]
    return {"User": name, "CredentialInfos": infos}


async def alter(context: Context, request: Request) -> Answer:
    """Answer AlterUserScramCredentials when it is durable; everything about one user, or nothing of it."""
    body = request.body
    rows: list[tuple[Struct, SaltedPassword | None]] = [(each, None) for each in body["Deletions"]]
    rows += [
        (each, SaltedPassword(bytes(each["Salt"]), each["Iterations"], bytes(each["SaltedPassword"])))
        for each in body["Upsertions"]
    ]
    wanted: dict[str, list[tuple[int, SaltedPassword | None]]] = {}
    for each, sent in rows:
        wanted.setdefault(each["Name"], []).append((each["Mechanism"], sent))
    return {"Results": [await _altered(context, request, name, changes) for name, changes in wanted.items()]}


async def _altered(
    context: Context, request: Request, name: str, changes: list[tuple[int, SaltedPassword | None]]
) -> Struct:
    if context.access is None:
        return _refused(name, ErrorCode.SECURITY_DISABLED, NO_SECURITY)
    if any(mechanism not in MECHANISMS for mechanism, _ in changes):
        return _refused(name, ErrorCode.UNSUPPORTED_SASL_MECHANISM, "unknown SCRAM mechanism")
    alteration: Alteration = {MECHANISMS[mechanism]: sent for mechanism, sent in changes}
    if len(alteration) < len(changes):
        return _refused(name, ErrorCode.DUPLICATE_RESOURCE, "a credential is changed once a request")
    return await _outcome(context.access.users, request.who, name, alteration, request.peer_host)


async def _outcome(users: Users, who: str, name: str, alteration: Alteration, peer: str) -> Struct:
    try:
        await users.alter(who, name, alteration, peer)
    except UnknownCredential as error:
        return _refused(name, ErrorCode.RESOURCE_NOT_FOUND, str(error))
    except InvalidSetting as error:
        return _refused(name, ErrorCode.UNACCEPTABLE_CREDENTIAL, str(error))
    except GridwireError as error:
        return _refused(name, code_of(error), str(error))
    return {"User": name}


def _refused(name: str, code: ErrorCode, message: str) -> Struct:
    return {"User": name, "ErrorCode": code, "ErrorMessage": message}
