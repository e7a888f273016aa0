"""Versions of the network model as SQL sees them, out of the captured events of the hub `grid.network`.

`network_versions` has a row for each model, `usage_point_places` one for each time that a usage point hung on one
transformer and feeder: `[valid_from, valid_to)`. An interval belongs to the model in effect when it begins. What holds
when is said in `gridwire.core.timeline`; here it is a window function: a model is in effect unless one that was
published after it holds from the same time or an earlier one, and it holds until the next one does.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = ("network_versions", "usage_point_places")
"""What `views` makes."""

_BEGINNING: Final = "TIMESTAMPTZ '0001-01-01 00:00:00Z'"
_END: Final = "TIMESTAMPTZ '9999-12-31 00:00:00Z'"

_WHOLE: Final = """
WITH events AS (
    SELECT "partition", "offset", max("timestamp") OVER (PARTITION BY "partition" ORDER BY "offset") AS published,
        TRY_CAST(TRY(decode(value)) AS JSON) AS body
    FROM {events}
), parts AS (
    SELECT *, coalesce(TRY_CAST(body ->> 'part' AS INTEGER), 0) AS part,
        coalesce(TRY_CAST(body ->> 'parts' AS INTEGER), 1) AS parts,
        coalesce(nullif(body ->> 'model', ''), "offset"::VARCHAR) AS model
    FROM events WHERE json_type(body) = 'OBJECT' AND json_type(body, '$.usage_points') = 'ARRAY'
), whole AS (
    SELECT l."partition", l."offset", l.published, l.parts, p.part, p.body
    FROM parts l JOIN parts p ON p."partition" = l."partition" AND p.model = l.model AND p."offset" <= l."offset"
    WHERE l.part = l.parts - 1
    QUALIFY row_number() OVER (PARTITION BY l."partition", l."offset", p.part ORDER BY p."offset" DESC) = 1
), models AS (
    SELECT "partition", "offset", any_value(published) AS published, any_value(body ->> 'name') AS name,
        coalesce(any_value(TRY_CAST(body ->> 'valid_from' AS TIMESTAMPTZ)), any_value(published)) AS valid_from,
        sum(json_array_length(body, '$.transformers'))::BIGINT AS transformers,
        sum(json_array_length(body, '$.feeders'))::BIGINT AS feeders,
        sum(json_array_length(body, '$.usage_points'))::BIGINT AS usage_points
    FROM whole GROUP BY ALL HAVING count(*) = any_value(parts)
), versions AS (
    SELECT *, min(valid_from) OVER (
        ORDER BY published, "partition", "offset" ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
    ) AS following
    FROM models
)
"""

_VERSIONS: Final = """
SELECT name, valid_from, CASE WHEN in_effect THEN following END AS valid_to, in_effect, published,
    "partition", "offset", transformers, feeders, usage_points
FROM (SELECT *, following IS NULL OR following > valid_from AS in_effect FROM versions)
ORDER BY published, "partition", "offset"
"""

_PLACES: Final = """
, effective AS (
    SELECT "partition", "offset", row_number() OVER (ORDER BY valid_from) AS number,
        CASE WHEN row_number() OVER (ORDER BY valid_from) = 1 THEN {beginning} ELSE valid_from END AS since,
        coalesce(following, {end}) AS until
    FROM versions WHERE following IS NULL OR following > valid_from
), points AS (
    SELECT number, since, until, unnest(from_json(json_extract(body, '$.usage_points'),
        '[{{"id": "VARCHAR", "transformer": "VARCHAR", "feeder": "VARCHAR"}}]')) AS point
    FROM effective JOIN whole USING ("partition", "offset")
), places AS (
    SELECT point.id AS usage_point, point.transformer AS transformer, point.feeder AS feeder, number, since, until,
        lag((number + 1, point.transformer, point.feeder)) OVER mine IS DISTINCT FROM
            (number, point.transformer, point.feeder) AS moved
    FROM points WINDOW mine AS (PARTITION BY point.id ORDER BY number)
), stays AS (
    SELECT *, sum(moved::INTEGER) OVER (PARTITION BY usage_point ORDER BY number) AS stay FROM places
)
SELECT usage_point, transformer, feeder, min(since) AS valid_from, max(until) AS valid_to
FROM stays GROUP BY usage_point, transformer, feeder, stay
ORDER BY usage_point, valid_from
"""


def views(events: str) -> dict[str, str]:
    """The question behind each view. `events`: the quoted name of the captured events."""
    whole = _WHOLE.format(events=events)
    return dict(zip(NAMES, (whole + _VERSIONS, whole + _PLACES.format(beginning=_BEGINNING, end=_END)), strict=True))
