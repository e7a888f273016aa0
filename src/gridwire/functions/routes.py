"""Routes of HTTP functions: Azure's templates to patterns, and which of them a path means.

    products/{category:alpha}/{id:int?}      a segment, with a constraint, or missing at the end
    files/{*path}                            the rest

Literal segments win over parameters, constrained parameters over free ones, and `{*rest}` comes last, as in ASP.NET.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from gridwire.functions.model import Function
from gridwire.functions.settings import Invalid

_CONSTRAINTS = {
    "int": r"[+-]?\d+", "long": r"[+-]?\d+", "alpha": r"[A-Za-z]+", "bool": r"(?:[Tt]rue|[Ff]alse)",
    "guid": r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}",
    "decimal": r"[+-]?\d+(?:\.\d+)?", "double": r"[+-]?\d+(?:\.\d+)?", "float": r"[+-]?\d+(?:\.\d+)?",
    "datetime": r"[^/]+",
}  # fmt: skip
_PARAMETER = re.compile(r"\{(\*?)(\w+)((?::[^{}]+?)*)(\?|=[^{}]*)?\}")
_LENGTHS = re.compile(r"(length|minlength|maxlength)\((\d+)(?:,(\d+))?\)\Z")


@dataclass(frozen=True, slots=True)
class Route:
    """One function's route; `rank` sorts the more specific ones first."""

    function: Function
    pattern: re.Pattern[str]
    rank: tuple[int, ...]

    def match(self, path: str) -> dict[str, str] | None:
        """Route parameters, or None."""
        found = self.pattern.fullmatch(path)
        return None if found is None else {k: unquote(v) for k, v in found.groupdict().items() if v is not None}


def compiled(prefix: str, function: Function) -> Route:
    """A route. Raises Invalid: says what of the template is not understood."""
    template = "/".join(part for part in (prefix, function.route) if part)
    pattern, ranks = "", []
    for number, segment in enumerate(part for part in template.split("/") if part):
        text, rank = _segment(segment, template)
        optional = text.endswith("?") and text.startswith("(?P") and segment.startswith("{")
        if segment.startswith("{*"):
            pattern += f"(?:/{text})?" if number else f"/?{text}"
        elif optional:
            pattern += f"(?:/{text[:-1]})?"
        else:
            pattern += f"/{text}"
        ranks.append(rank)
    return Route(function, re.compile(f"{pattern}/?", re.IGNORECASE), tuple(ranks))


def _segment(segment: str, template: str) -> tuple[str, int]:
    """A segment's pattern and rank; the pattern of a parameter that may be missing ends with a question mark."""
    text, at, rank = "", 0, 0
    for match in _PARAMETER.finditer(segment):
        text += re.escape(segment[at : match.start()])
        star, name, constraints, optional = match.groups()
        inner = ".*" if star else _constraint(constraints, template)
        rank = 4 if star else 3 if inner == "[^/]+" else 2
        text += f"(?P<{name}>{inner})" + ("?" if optional and not star and match.span() == (0, len(segment)) else "")
        at = match.end()
    rest = segment[at:]
    if "{" in rest or "}" in rest:
        raise Invalid(f"route {template!r}: {segment!r} is not understood")
    return text + re.escape(rest), rank


def _constraint(text: str, template: str) -> str:
    """The pattern of a parameter. Raises Invalid."""
    inner = "[^/]+"
    for word in (part for part in text.split(":") if part):
        lengths = _LENGTHS.match(word)
        if lengths is not None:
            kind, first, second = lengths.groups()
            bounds = {"length": f"{first},{second or first}", "minlength": f"{first},", "maxlength": f"0,{first}"}
            inner = f"[^/]{{{bounds[kind]}}}"
        elif word.lower() in _CONSTRAINTS:
            inner = _CONSTRAINTS[word.lower()]
        elif word.startswith("regex(") and word.endswith(")"):
            inner = word[6:-1].strip("^$")
        else:
            raise Invalid(f"route {template!r}: constraint {word!r} is not supported")
    return inner


def table(prefix: str, functions: list[Function]) -> list[Route]:
    """Routes, the more specific ones first. Raises Invalid."""
    return sorted((compiled(prefix, function) for function in functions), key=lambda route: route.rank)
