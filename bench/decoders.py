"""How many frames a second do our decoders read on one core, beside the library each is checked against?

    python bench/decoders.py [--quick] [--rounds N]

Both sides read the same frames of `tests/meter_frames.py` to the end, interleaved round by round: ours to readings of
the open schema, the library to its own objects. Ratios are the result.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import meterbus
import nemreader
from dlms_cosem.protocol.xdlms import DataNotification
from dlms_cosem.utils import parse_as_dlms_data
from greenbutton_objects.parse import parse_feed
from sml import SmlBase

import meter_frames as frames
from gridwire.grid.formats import registry
from gridwire.grid.formats.base import Context, Decoded


def ours(name: str, data: bytes, count: int) -> None:
    good = sum(isinstance(item, Decoded) for item in registry.get(name).stream([data] * count, Context()))
    assert good >= count, f"{good} of {count} {name} frames"


def pairs(folder: Path) -> dict[str, tuple[bytes, str, Callable[[], object]]]:
    nem12 = folder / "nem12.csv"
    nem12.write_bytes(frames.NEM12)
    sml = frames.sml_file()
    return {
        "dlms": (
            frames.wrapper(frames.PUSH_LIST),
            "dlms-cosem",
            lambda: parse_as_dlms_data(DataNotification.from_bytes(frames.PUSH_LIST).body),
        ),
        "sml": (sml, "pysml", lambda: SmlBase.find_frame(sml)),
        "mbus": (frames.MBUS_ELECTRICITY, "pyMeterBus", lambda: meterbus.load(frames.MBUS_ELECTRICITY).to_JSON()),
        "nem12": (frames.NEM12, "nemreader", lambda: nemreader.NEMFile(str(nem12)).nem_data()),
        "espi": (frames.ESPI, "greenbutton-objects", lambda: parse_feed(io.BytesIO(frames.ESPI.replace(b".0<", b"<")))),
    }


def rate(run: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def spread(rates: list[float]) -> dict[str, float]:
    return {"median": median(rates), "min": min(rates), "max": max(rates)}


def row(name: str, data: bytes, peer: str, theirs: Callable[[], object], rounds: int, count: int) -> dict[str, object]:
    mine, other = [], []
    for _ in range(rounds):
        if name == "espi":  # one document a stream
            mine.append(rate(lambda: [ours(name, data, 1) for _ in range(count)], count))
        else:
            mine.append(rate(lambda: ours(name, data, count), count))
        other.append(rate(lambda: [theirs() for _ in range(count)], count))
    ratio = spread([m / o for m, o in zip(mine, other, strict=True)])
    return {
        "what": f"{name}, frames/s on one core",
        "ours": spread(mine),
        "peer": peer,
        "theirs": spread(other),
        "ratio": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    rounds, count = options.rounds or (2 if options.quick else 5), 50 if options.quick else 300
    with TemporaryDirectory() as folder:
        found = [row(name, *rest, rounds, count) for name, rest in pairs(Path(folder)).items()]
    for line in found:
        print(line["what"], line["ours"], line["peer"], line["theirs"], "ratio", line["ratio"])
    print(json.dumps({"rows": found}))


if __name__ == "__main__":
    main()
