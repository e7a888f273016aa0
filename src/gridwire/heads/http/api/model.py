"""The words in which an address is described: parameters, bodies, answers, and the rights it takes besides its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from gridwire.auth.model import Action

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
EVENT_STREAM: Final = "text/event-stream"


class Raw:
    """Stands where a type would: bytes that no schema describes."""


Media = Mapping[str, Any]
"""Content types, and the type of value each holds: anything msgspec has a schema of, a tuple of such, or `Raw`."""

Count = Annotated[int, Meta(ge=0)]
Partition = Annotated[int, Meta(ge=0, le=2**31)]
Time = Annotated[str, Meta(description="RFC 3339 time with an offset", examples=["2016-06-14T07:45:00Z"])]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value outside of the body. `shape`: a type that msgspec has a schema of."""

    name: str
    help: str
    shape: Any = str
    place: Literal["query", "header", "path"] = "query"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """What a request brings."""

    media: Media
    required: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back when all is well. `media` is empty where there is no body."""

    help: str
    media: Media = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Need:
    """A right a call takes besides that of its address (`sign_in.ACTIONS`). `on`: what it is about, in words."""

    action: Action
    on: str


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method of one address does.

    Args:
        name: of the call in generated clients. group: the heading it stands under.
        about: what the summary has no room for.
        refusals: statuses besides those every call of its kind may answer, see `document`.
        needs: rights besides the one of its address.
    """

    name: str
    group: str
    summary: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    about: str = ""
    refusals: tuple[int, ...] = ()
    needs: tuple[Need, ...] = ()


def answers(help: str, shape: Any, status: int = 200) -> dict[int, Answer]:
    """One answer in JSON."""
    return {status: Answer(help, {JSON: shape})}


def done(help: str) -> dict[int, Answer]:
    """An answer without a body."""
    return {204: Answer(help)}


def takes(shape: Any, *, required: bool = True) -> Body:
    """A body in JSON."""
    return Body({JSON: shape}, required)
