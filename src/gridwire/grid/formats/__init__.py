"""Meter formats: bytes of any provenance to readings and bad frames, nothing else.

A format never raises on data: what it cannot use comes out as a `BadFrame` with its bytes, its place and a reason.

    base.Format, base.Context, base.Decoded, base.BadFrame    the contract
    registry.FORMATS, registry.get(name), registry.by_file(path)
    dsmr   DSMR P1 telegrams (NL, BE, LU and relatives)       han    Nordic HAN frames (Aidon, Kaifa, Kamstrup)
    rows   `json`: newline-delimited readings; `csv`: readings with a header line
"""
