"""`gridwire demo` on a real Apache Kafka, which this starts and stops; its data is kept beside the demo's.

    python scripts/demo_on_kafka.py [--data gridwire-demo-kafka] [flags of gridwire demo]

Needs Java 17 or newer, and Maven for the first start; without them it says so.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

import fetch_kafka
from local_kafka import KafkaCluster


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("gridwire-demo-kafka"))
    options, rest = parser.parse_known_args()
    print("starting Apache Kafka", fetch_kafka.VERSION, "...", flush=True)
    try:
        with KafkaCluster(options.data.absolute() / "kafka") as cluster:
            return _demo(cluster.url, options.data, rest)
    except fetch_kafka.KafkaUnavailable as problem:
        print(problem, file=sys.stderr)
        return 1


def _demo(url: str, data: Path, flags: list[str]) -> int:
    """Run the demo until it ends; Ctrl-C and SIGTERM are its to deal with, the cluster outlives it."""
    command = [sys.executable, "-m", "gridwire", "demo", "--data", str(data), "--broker", url, *flags]
    demo = subprocess.Popen(command)
    signal.signal(signal.SIGINT, lambda *_: None)  # a terminal tells the demo itself
    signal.signal(signal.SIGTERM, lambda *_: demo.terminate())
    return demo.wait()


if __name__ == "__main__":
    sys.exit(main())
