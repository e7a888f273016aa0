"""All benchmarks, one after the other, and one table at the end.

    python bench/run.py [--quick] [--rounds N] [--only NAME ...] [--markdown FILE]

Each benchmark is a program of its own, see its docstring; this runs them, shows what they print, reads the JSON of
their last line and puts ours, the peer, their ratio and the goal side by side. A benchmark that fails, and a peer that
cannot be had, are rows of the table, not gaps in it. The exit code says whether every benchmark ran, not whether goals
were met: absolute figures are of a machine and a moment. `--markdown` writes the table for the documents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import support

BENCH_S: Final = 1800.0
HERE: Final = Path(__file__).resolve().parent
BENCHES: Final = (
    "produce_consume",
    "java_tools",
    "connections",
    "growth",
    "columnar_read",
    "readings_pipeline",
    "burst",
    "window",
    "day",
    "functions",
    "kafka_columnar",
    "kafka_workers",
    "gateways",
    "amqp",
    "start_and_memory",
    "recovery",
    "decoders",
    "simulate",
)

COLUMNAR_GOAL: Final = 20e6
COLUMNAR_RATIO_GOAL: Final = 30.0
PIPELINE_GOAL: Final = 3e6

Row = dict[str, Any]
"""what; ours, theirs, ratio: {median, and min and max where known}; peer; goal_ratio (at least), goal_ratio_most,
goal_least, goal_most (of ours); skipped: why there is no peer; failed: why there is no figure at all."""


# -- results to rows ----------------------------------------------------------------------------------------------


def columnar_rows(result: Mapping[str, Any]) -> list[Row]:
    """Rows out of what columnar_read prints: medians of events a second by reader."""
    rates = result["events_per_s"]
    peer = "confluent" if "confluent" in rates else "aiokafka"
    goals = {"goal_least": COLUMNAR_GOAL, "goal_ratio": COLUMNAR_RATIO_GOAL if peer == "confluent" else None}
    return [
        _against("log to columns, one core, events/s", rates["spans"], f"{peer} client", rates[peer]) | goals,
        _against("log to Arrow, one core, events/s", rates["arrow"], f"{peer} client", rates[peer]),
        _against("JSON readings to columns, one core, rows/s", rates["columns"], "msgspec", rates["msgspec"]),
    ]


def _against(what: str, ours: float, peer: str, theirs: float) -> Row:
    return {
        "what": what,
        "ours": {"median": ours},
        "peer": peer,
        "theirs": {"median": theirs},
        "ratio": {"median": ours / theirs},
    }


def pipeline_rows(result: Mapping[str, Any]) -> list[Row]:
    """Rows out of what readings_pipeline prints."""
    return [
        {
            "what": "JSON readings in the log to committed sums, readings/s",
            "ours": result["gridwire_readings_s"],
            "peer": "Python loop",
            "theirs": result["peer_readings_s"],
            "ratio": {"median": result["ratio"]},
            "goal_least": PIPELINE_GOAL,
        }
    ]


_ADAPTERS: Final[Mapping[str, Callable[[Mapping[str, Any]], list[Row]]]] = {
    "columnar_read": columnar_rows,
    "readings_pipeline": pipeline_rows,
}


def rows_of(bench: str, output: str) -> list[Row]:
    """The rows of a benchmark's output; a failure is a row too."""
    lines = output.strip().splitlines()
    try:
        result = json.loads(lines[-1])
        rows: list[Row] = result["rows"] if "rows" in result else _ADAPTERS[bench](result)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        return [failed(bench, f"no result: {type(error).__name__} {error}")]
    return rows


def failed(bench: str, reason: str) -> Row:
    """The row of a benchmark without figures."""
    return {"what": bench, "failed": reason}


# -- rows to cells ------------------------------------------------------------------------------------------------

HEAD: Final = ("what", "gridwire", "peer", "", "ratio", "goal", "met")


def cells(row: Row) -> list[str]:
    """One line of the table."""
    if "failed" in row:
        return [row["what"], f"FAILED: {row['failed']}", "", "", "", "", met(row)]
    if "skipped" in row:
        ours = figure(row["ours"]) if "ours" in row else ""
        return [row["what"], ours, f"SKIPPED: {row['skipped']}", row["peer"], "", goal(row), met(row)]
    ratio = figure(row["ratio"])
    return [row["what"], figure(row["ours"]), figure(row["theirs"]), row["peer"], ratio, goal(row), met(row)]


def figure(found: Mapping[str, float]) -> str:
    """`median (min to max)`, or the median alone where nothing else is known."""
    if "min" not in found:
        return support.short(found["median"])
    return support.spread_text(support.Spread(found["min"], found["median"], found["max"]))


def goal(row: Row) -> str:
    """What we hold ourselves to."""
    parts = []
    if row.get("goal_least") is not None:
        parts.append(f">= {support.short(row['goal_least'])}")
    if row.get("goal_most") is not None:
        parts.append(f"<= {support.short(row['goal_most'])}")
    if row.get("goal_ratio") is not None:
        parts.append(f"ratio >= {support.short(row['goal_ratio'])}")
    if row.get("goal_ratio_most") is not None:
        parts.append(f"ratio <= {support.short(row['goal_ratio_most'])}")
    return ", ".join(parts)


def met(row: Row) -> str:
    """Whether the medians reach the goal; empty without a goal, `unknown` when its peer is missing."""
    if "failed" in row:
        return "no"
    verdicts = []
    if row.get("goal_least") is not None:
        verdicts.append(row["ours"]["median"] >= row["goal_least"])
    if row.get("goal_most") is not None:
        verdicts.append(row["ours"]["median"] <= row["goal_most"])
    least, most = row.get("goal_ratio"), row.get("goal_ratio_most")
    if (least, most) != (None, None):
        if "ratio" not in row:
            return "no" if False in verdicts else "unknown"
        ratio = row["ratio"]["median"]
        verdicts.append((least is None or ratio >= least) and (most is None or ratio <= most))
    if not verdicts:
        return ""
    return "yes" if all(verdicts) else "no"


def markdown(rows: Sequence[Row], about: str) -> str:
    """The table as a part of a document."""
    return f"{about}\n\n{support.markdown_table(HEAD, [cells(row) for row in rows])}\n"


# -- running ------------------------------------------------------------------------------------------------------


def run(bench: str, flags: Sequence[str]) -> tuple[list[Row], bool]:
    """Run one benchmark and show what it prints. Returns its rows and whether it succeeded."""
    print(f"\n== {bench}", flush=True)
    command = [sys.executable, str(HERE / f"{bench}.py"), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        deadline_s = time.monotonic() + BENCH_S
        try:
            for line in process.stdout:
                lines.append(line)
                if not line.startswith("{"):
                    print(line, end="", flush=True)
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"not done within {BENCH_S:.0f} s")
            process.wait(support.STOP_S)
        except BaseException as error:
            process.terminate()
            if isinstance(error, Exception):
                return [failed(bench, str(error))], False
            raise
    if process.returncode:
        return [failed(bench, f"exit code {process.returncode}")], False
    rows = rows_of(bench, "".join(lines))
    return rows, not any("failed" in row for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0, help="instead of each one's own number")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES), metavar="NAME")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for the documents")
    options = parser.parse_args()
    about = support.heading("all", date=time.strftime("%Y-%m-%d", time.gmtime()))
    flags = ["--quick"] if options.quick else []
    flags += ["--rounds", str(options.rounds)] if options.rounds else []
    rows: list[Row] = []
    good = True
    for bench in options.only:
        found, fine = run(bench, flags)
        rows += found
        good = good and fine
    print("\n" + support.table(HEAD, [cells(row) for row in rows]))
    if options.markdown is not None:
        quick = ", quick run" if options.quick else ""
        about_text = f"Measured {about['date']} at commit {about['commit']} on {about['machine']}{quick}."
        options.markdown.write_text(markdown(rows, about_text), encoding="utf-8")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
