"""How grid facts look as rows of the lake."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

LOADS: Final = pa.schema(
    [
        pa.field("transformer", pa.string()),
        pa.field("feeder", pa.string()),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("interval_s", pa.int32()),
        pa.field("import_kwh", pa.float64()),
        pa.field("export_kwh", pa.float64()),
        pa.field("load_kw", pa.float64()),
        pa.field("count", pa.int32()),
        pa.field("expected", pa.int32()),
        pa.field("max_kw", pa.float64()),
        pa.field("peak_kw", pa.float64()),
        pa.field("peak_at", pa.timestamp("us", "UTC")),
        pa.field("rated_kva", pa.float64()),
        pa.field("version", pa.int64()),
        pa.field("estimated", pa.int32()),
        pa.field("estimated_kwh", pa.float64()),
    ]
)
"""Fields of `TransformerFact` and `FeederFact`; `feeder` is null in facts of transformers."""

HEALTH: Final = pa.schema(
    [
        pa.field("transformer", pa.string()),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("load_factor", pa.float64()),
        pa.field("top_oil_c", pa.float64()),
        pa.field("hot_spot_c", pa.float64()),
        pa.field("ageing_factor", pa.float64()),
        pa.field("loss_of_life_h", pa.float64()),
        pa.field("watched_h", pa.float64()),
        pa.field("held_h", pa.float64()),
        pa.field("ambient", pa.string()),
        pa.field("signature", pa.string()),
        pa.field("risk", pa.float64()),
        pa.field("voltage_pu", pa.float64()),
    ]
)
"""Fields of the facts of `gridwire.grid.watch.health`."""

WEATHER: Final = pa.schema(
    [
        pa.field("station", pa.string()),
        pa.field("ts", pa.timestamp("us", "UTC")),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("interval_s", pa.int32()),
        pa.field("temperature_c", pa.float64()),
        pa.field("wind_ms", pa.float64()),
        pa.field("wind_gust_ms", pa.float64()),
        pa.field("humidity_pct", pa.float64()),
        pa.field("radiation_wm2", pa.float64()),
    ]
)
"""Fields of `gridwire.grid.weather`; of `ts` and `ts_end` the one that was sent."""

FORECASTS: Final = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("issued_at", pa.timestamp("us", "UTC")),
        pa.field("ts_end", pa.timestamp("us", "UTC")),
        pa.field("interval_s", pa.int32()),
        pa.field("p10_kw", pa.float64()),
        pa.field("p50_kw", pa.float64()),
        pa.field("p90_kw", pa.float64()),
        pa.field("rated_kva", pa.float64()),
        pa.field("model", pa.string()),
    ]
)
"""Fields of `gridwire.grid.models.forecasts`; `model` is the version that made it."""

DEMAND: Final = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("day", pa.string()),
        pa.field("load_kw", pa.float64()),
        pa.field("normalised_kw", pa.float64()),
        pa.field("temperature_c", pa.float64()),
        pa.field("normal_c", pa.float64()),
        pa.field("model", pa.string()),
    ]
)
"""Fields of `gridwire.grid.models.normalising`; `day` as 2016-06-01, a local day."""

RISK: Final = pa.schema(
    [
        pa.field("transformer", pa.string()),
        pa.field("day", pa.string()),
        pa.field("probability", pa.float64()),
        pa.field("horizon_days", pa.int32()),
        pa.field("load_factor_max", pa.float64()),
        pa.field("hot_spot_max_c", pa.float64()),
        pa.field("sign_share", pa.float64()),
        pa.field("model", pa.string()),
    ]
)
"""Fields of `gridwire.grid.models.risk`; `day` as 2016-06-01, a UTC day."""
