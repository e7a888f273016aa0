"""The HTTP endpoint: ingest, administration, browsing, streams, metrics and the page, on one port."""
