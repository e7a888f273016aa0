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
