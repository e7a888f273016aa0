"""Meter formats: bytes of any provenance to readings and bad frames, nothing else.

A format never raises on data: what it cannot use comes out as a `BadFrame` with its bytes, its place and a reason.

    base.Format, base.Context, base.Decoded, base.BadFrame    the contract
    registry.FORMATS, registry.get(name), registry.by_file(path)
    dsmr   DSMR P1 telegrams (NL, BE, LU and relatives)       han    Nordic HAN frames (Aidon, Kaifa, Kamstrup)
    dlms   DLMS/COSEM push, encrypted too                     sml    German meters, both CRC, with and without transport
    mbus   wired M-Bus                                        nem12  NEM12 and NEM13
    espi   Green Button                                       cim    IEC 61968-9, XML and JSON
    mapped a mapping file for CSV and JSON lines
    senml  SenML, JSON and CBOR                               keys   the key file of encrypted meters
    framing, units, cim_codes, cosem, cbor, xmlstream         what several of them need
    rows   `json`: newline-delimited readings; `csv`: readings with a header line
"""
