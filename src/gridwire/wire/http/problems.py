"""Every error's HTTP answer, in one table: status, title and RFC 9457 body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from gridwire.core import errors

CONTENT_TYPE: Final = "application/problem+json"


class HttpError(errors.RemoteProtocolError):
    """A request that HTTP itself has the answer to: wrong method, wrong host, unknown encoding, too slow.

    Args:
        status: HTTP status code, 4xx. headers: response headers the status asks for, such as `allow`.
    """

    def __init__(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class BadBody(errors.RemoteProtocolError):
    """A request body that does not have the form its content type promises."""


class Forbidden(errors.GridwireError):
    """The hub is the platform's own, or the page that asked lives elsewhere."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as RFC 9457 tells it. `type` is a stable name for programs, `detail` is for the person."""

    type: str
    title: str
    status: int
    detail: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        """The JSON document."""
        return msgspec.json.encode(
            {"type": self.type, "title": self.title, "status": self.status, "detail": self.detail}
        )


def rendered(problem: Problem) -> tuple[str, bytes]:
    """An error as our own API answers it: content type and body."""
    return CONTENT_TYPE, problem.body()


TABLE: Final[dict[type[Exception], tuple[int, str]]] = {
    BadBody: (400, "malformed body"),
    Forbidden: (403, "not allowed"),
    errors.InvalidName: (400, "name not allowed"),
    errors.InvalidSetting: (400, "setting not allowed"),
    errors.InvalidBatch: (400, "malformed batch"),
    errors.MessageTooLarge: (413, "too large"),
    errors.InvalidSchema: (400, "malformed schema"),
    errors.IncompatibleSchema: (400, "incompatible schema"),
    errors.RemoteProtocolError: (400, "malformed request"),
    errors.OffsetOutOfRange: (400, "offset out of range"),
    errors.NotAuthenticated: (401, "sign in first"),
    errors.NotAllowed: (403, "not allowed"),
    errors.UnknownHub: (404, "unknown hub"),
    errors.UnknownPartition: (404, "unknown partition"),
    errors.UnknownSchema: (404, "unknown schema"),
    errors.UnknownApp: (404, "unknown app"),
    errors.UnknownRoute: (404, "unknown route"),
    errors.RouteExists: (409, "route exists"),
    errors.UnknownRule: (404, "unknown rule"),
    errors.InvalidApp: (400, "app cannot run"),
    errors.HubExists: (409, "hub exists"),
    errors.SchemaGroupExists: (409, "schema group exists"),
    errors.RuleExists: (409, "rule exists"),
    errors.OutOfOrderSequence: (409, "out of order"),
    errors.Rebalanced: (409, "rebalanced"),
    errors.FencedEpoch: (409, "fenced"),
    errors.Unsupported: (415, "not supported"),
    errors.Unavailable: (503, "not available"),
    errors.DiskFull: (507, "disk full"),
    errors.StorageFailed: (503, "storage failed"),
    errors.Corruption: (500, "stored data is damaged"),
    errors.GridwireError: (500, "internal error"),
}
"""Status and title of each error; a subclass without a row takes its parent's."""

_HTTP_TITLES: Final = {
    400: "malformed request",
    401: "sign in first",
    403: "not allowed",
    404: "not found",
    405: "method not allowed",
    408: "too slow",
    409: "conflict",
    413: "too large",
    415: "not supported",
    429: "too much",
    431: "headers too large",
}


def problem_of(error: BaseException) -> Problem:
    """The answer to any error; one that is not ours is a 500 that gives nothing away."""
    if isinstance(error, HttpError):
        title = _HTTP_TITLES.get(error.status, "malformed request")
        return Problem(_type(title), title, error.status, str(error), error.headers)
    for kind in type(error).__mro__:
        row = TABLE.get(kind)
        if row is not None:
            status, title = row
            return Problem(_type(title), title, status, str(error))
    return Problem(_type("internal error"), "internal error", 500, "the hub failed; its log has the reason")


def _type(title: str) -> str:
    return "urn:gridwire:problem:" + title.replace(" ", "-")
