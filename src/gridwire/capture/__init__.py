"""The lake: hubs as open Delta tables, exactly once, and SQL over them. Only workers and commands import this
(and the hub `layout`).

delta.TableWriter       the only writer of one table: rows and positions in one Delta commit
durable                 what a power cut may leave of a table, and how it is put right
worker.run              log -> tables, restartable at any instruction
avro.AvroWriter         events as Avro files in Event Hubs' layout; layout says where they lie
decoders                event columns -> Arrow rows of a table: `events`, `json_decoder(schema)`
sql.query, sql.tables   DuckDB over the lake with no access to anything else
"""
