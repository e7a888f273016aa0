"""What doctor makes of a disk, and of what a hub says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridwire.cli.checks import cluster_findings, word_of, word_of_sign_in
from gridwire.log.disk import Mount, mount_of

TABLE = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 22 0:25 / {tmp} rw,nosuid - tmpfs tmpfs rw,size=1024k
31 22 8:17 / {tmp}/old\\040disk rw - ext3 /dev/sdb1 rw,barrier=0
malformed lines are not in it
"""


def mount(kind: str, *options: str) -> Mount:
    return Mount(kind, "/dev/x", frozenset(options))


@pytest.mark.parametrize(
    ("found", "sync_ms", "verdict", "says"),
    [
        (mount("ext4", "rw"), 0.4, "ok", "flushed by every sync"),
        (Mount("xfs", "/dev/x", frozenset(), "write back"), 0.4, "ok", "cache write back"),
        (mount("tmpfs"), 0.01, "bad", "power cut"),
        (mount("ext3", "barrier=0"), 0.4, "bad", "barriers"),
        (mount("ext4", "nobarrier"), 0.4, "bad", "barriers"),
        (mount("nfs4"), 0.4, "warn", "whoever is behind it"),
        (mount("fuse.sshfs"), 0.4, "warn", "whoever is behind it"),
        (mount("overlay"), 0.4, "warn", "whoever is behind it"),
        (mount("ext4"), 0.004, "warn", "no disk is that fast"),
        (None, 0.4, "warn", "does not tell"),
    ],
)
def test_what_a_disk_is_worth(found: Mount | None, sync_ms: float, verdict: str, says: str) -> None:
    finding = word_of(found, sync_ms)
    assert finding.verdict == verdict
    assert says in f"{finding.found} {finding.advice}"


def test_the_innermost_mount_counts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE.format(tmp=tmp_path).rpartition("malformed")[0])
    assert mount_of(Path("/"), table) == mount_of(Path("/elsewhere"), table)
    found = mount_of(tmp_path / "data", table)
    assert found is not None
    assert (found.kind, found.device) == ("tmpfs", "tmpfs")
    found = mount_of(tmp_path / "old disk" / "data", table)
    assert found is not None
    assert found.kind == "ext3"
    assert {"rw", "barrier=0"} <= found.options


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert mount_of(tmp_path, tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("replication", "min_insync", "verdict", "says"),
    [(3, 2, "ok", "in 2 of 3 brokers"), (3, 1, "warn", "one broker's memory"), (1, 1, "warn", "one broker's memory"),
     (2, 2, "warn", "stops writing")],
)  # fmt: skip
def test_what_an_acknowledgement_of_a_cluster_is_worth(
    replication: int, min_insync: int, verdict: str, says: str
) -> None:
    broker = {"brokers": 3, "address": "kafka://a:1", "trouble": None, "replication": replication}
    status = {"broker": broker | {"min_insync": min_insync}, "endpoints": {"kafka": "a:1"}}
    cluster, ack, rights = cluster_findings(status)
    assert (cluster.verdict, ack.verdict, rights.verdict) == ("ok", verdict, "ok")
    assert says in f"{ack.found} {ack.advice}"
    assert "Kafka's own for Kafka clients, at a:1" in rights.found


def test_a_cluster_in_trouble_is_bad() -> None:
    broker = {"brokers": 3, "address": "kafka://a:1", "trouble": "cannot be reached", "replication": 3, "min_insync": 2}
    found = next(cluster_findings({"broker": broker, "endpoints": {"kafka": "a:1"}}))
    assert (found.verdict, found.advice) == ("bad", "cannot be reached")


def test_sign_in_is_warned_of_only_where_it_is_off() -> None:
    on = word_of_sign_in("on")
    assert (on.verdict, on.found, on.advice) == ("ok", "on", "")
    for auth in ("off", "off (loopback only)"):
        off = word_of_sign_in(auth)
        assert (off.verdict, off.found) == ("warn", auth)
        assert "read and write" in off.advice
