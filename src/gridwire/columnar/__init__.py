"""The kernels: record batches to columns to Arrow and back, and JSON values to typed columns.

Only workers and commands import this package; the hub process does without numpy, numba and pyarrow.

    columns.EventColumns       n events of one partition as spans into one buffer
    decode.decode              whole batches -> Decoded(columns, next_offset, next_position, damaged)
    reader.SegmentReader       read(SegmentSpan(path, base_offset, start, end), ...) -> Decoded, over mapped files
    arrow.to_arrow             columns -> RecordBatch of schema EVENTS; to_arrow_batches splits above 2 GiB
    encode.encode_values       values, keys, timestamps -> records section; encode_batch makes the whole batch
    json_columns.JsonDecoder   values of flat JSON objects -> JsonColumns; rescale brings decimals to one scale
    text_index.TextIndex       spans of text -> small numbers
    parquet                    a process that turns rows into a Parquet file
    machine.kernel             the decorator of every kernel; kernel, gather, json_values, json_kernel, cells hold them
"""
