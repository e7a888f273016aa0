"""The unmodified Java client and Kafka's own tools, from Maven artifacts, against a hub that runs as a user runs it.

One JVM runs everything (`java/Runner.java`); it is started once for the whole file.
"""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gridwire.auth.model import ROOT_POLICY
from gridwire.auth.plain import parse_connection_string

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
import fetch_kafka  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TOOLS = "org.apache.kafka.tools."
_numbers = itertools.count()


class Jvm:
    """A JVM that runs main methods one after the other."""

    def __init__(self, classes: Path, libs: Path) -> None:
        classpath = f"{classes}{os.pathsep}{libs}{os.sep}*"
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
        command = [fetch_kafka.java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", quiet, "-cp", classpath, "Runner"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, name: str, *arguments: str, text: str = "") -> tuple[int, str, str]:
        """Exit code, output and errors of `name`'s main method."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        words = [name, *(base64.b64encode(each.encode()).decode() for each in (text, *arguments))]
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the JVM ended"
        code, out, err = line.rstrip("\n").split(" ")
        return int(code), base64.b64decode(out).decode(), base64.b64decode(err).decode()

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jvm]:
    try:
        compiler, libs = fetch_kafka.java("javac"), fetch_kafka.fetch()
    except fetch_kafka.KafkaUnavailable as problem:
        pytest.skip(f"no Java client: {problem}")
    classes = tmp_path_factory.mktemp("classes")
    sources = [str(path) for path in sorted((HERE / "java").glob("*.java"))]
    subprocess.run([compiler, "-cp", f"{libs}{os.sep}*", "-d", str(classes), *sources], check=True, timeout=120)
    running = Jvm(classes, libs)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kafka-java") / "data"


@pytest.fixture(scope="module")
def compacted(data: Path, write_compacted: Any) -> Any:
    """What the hub's compacted hubs hold."""
    return write_compacted(data)


@pytest.fixture(scope="module")
def hub(data: Path, compacted: Any, hub_process: Any) -> Iterator[Any]:
    running = hub_process(data)
    yield running
    running.stop()


@pytest.fixture
def topic() -> str:
    return f"java-{next(_numbers)}"


class Tools:
    def __init__(self, jvm: Jvm, hub: Any) -> None:
        self.jvm, self.hub = jvm, hub

    def __call__(self, name: str, *arguments: str, text: str = "", code: int = 0) -> str:
        found, out, err = self.jvm.run(TOOLS + name, "--bootstrap-server", self.hub.kafka, *arguments, text=text)
        assert found == code, f"{name} {' '.join(arguments)} ended with {found}: {err[-3000:]}{out[-1000:]}"
        return out

    def case(self, name: str, *arguments: str) -> None:
        code, out, err = self.jvm.run("Clients", name, self.hub.kafka, *arguments)
        assert (code, out) == (0, "passed\n"), err[-4000:]

    def create(self, topic: str, partitions: int) -> None:
        self("TopicCommand", "--create", "--topic", topic, "--partitions", str(partitions))


@pytest.fixture
def tools(jvm: Jvm, hub: Any) -> Tools:
    return Tools(jvm, hub)


def test_every_codec_offsets_and_times(tools: Tools, topic: str) -> None:
    tools.create(topic, 1)
    tools.case("codecs", topic)


@pytest.mark.parametrize("topic", ["gap", "emptied", "lz4"])
def test_what_compaction_left_is_read_up_to_the_end(tools: Tools, topic: str, compacted: Any) -> None:
    events, end = compacted[topic]
    code, out, err = tools.jvm.run("Clients", "left", tools.hub.kafka, topic, str(end))
    assert code == 0, err[-4000:]
    assert out.splitlines() == [*(f"{offset} {value}" for offset, value in events), "passed"]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_group_rebalances_and_commits(tools: Tools, topic: str, protocol: str) -> None:
    tools.create(topic, 6)
    tools.case("group", topic, f"group-{topic}", protocol)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_static_member_comes_back(tools: Tools, topic: str, protocol: str) -> None:
    tools.create(topic, 6)
    tools.case("fixed", topic, protocol)


def test_pattern_finds_topics_that_come_later(tools: Tools, topic: str) -> None:
    tools.case("pattern", topic)


def test_administration(tools: Tools, topic: str) -> None:
    tools.case("admin", topic)


def test_console_and_offsets(tools: Tools, topic: str) -> None:
    tools.create(topic, 1)
    lines = "".join(f"k{number}:v{number}\n" for number in range(20))
    keyed = ["--reader-property", "parse.key=true", "--reader-property", "key.separator=:"]
    tools("ConsoleProducer", "--topic", topic, "--compression-codec", "zstd", *keyed, text=lines)
    shown = tools(
        "consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--max-messages", "20",
        "--group", f"group-{topic}", "--timeout-ms", "30000",
        "--formatter-property", "print.key=true", "--formatter-property", "key.separator=:",
    )  # fmt: skip
    assert shown == lines
    assert tools("GetOffsetShell", "--topic", topic) == f"{topic}:0:20\n"
    assert tools("GetOffsetShell", "--topic", topic, "--time", "earliest") == f"{topic}:0:0\n"


def test_topics_and_configs(tools: Tools, topic: str) -> None:
    tools("TopicCommand", "--create", "--topic", topic, "--partitions", "2", "--config", "retention.ms=60000")
    assert topic in tools("TopicCommand", "--list").split()
    described = tools("TopicCommand", "--describe", "--topic", topic)
    assert "PartitionCount: 2" in described
    assert "retention.ms=60000" in described
    tools("TopicCommand", "--alter", "--topic", topic, "--partitions", "3")
    assert "PartitionCount: 3" in tools("TopicCommand", "--describe", "--topic", topic)
    config = ["--entity-type", "topics", "--entity-name", topic]
    run = tools.jvm.run
    server = ["--bootstrap-server", tools.hub.kafka]
    code, _, err = run("kafka.admin.ConfigCommand", *server, "--alter", *config, "--add-config", "retention.ms=70000")
    assert code == 0, err
    code, out, err = run("kafka.admin.ConfigCommand", *server, "--describe", *config)
    assert code == 0, err
    assert "retention.ms=70000" in out
    code, out, err = run("kafka.admin.ConfigCommand", *server, "--describe", *config, "--all")
    assert code == 0, err
    assert "cleanup.policy=" in out
    code, _, err = run("kafka.admin.ConfigCommand", *server, "--alter", *config, "--delete-config", "retention.ms")
    assert code == 0, err
    assert "retention.ms=" not in tools("TopicCommand", "--describe", "--topic", topic)
    tools("TopicCommand", "--delete", "--topic", topic)
    assert topic not in tools("TopicCommand", "--list").split()


def test_groups(tools: Tools, topic: str) -> None:
    tools.create(topic, 1)
    group = f"group-{topic}"
    tools("ConsoleProducer", "--topic", topic, text="a\nb\nc\n")
    tools(
        "consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--max-messages", "2",
        "--group", group, "--timeout-ms", "30000",
    )  # fmt: skip
    command = "consumer.group.ConsumerGroupCommand"
    assert group in tools(command, "--list").split()
    rows = tools(command, "--describe", "--group", group).splitlines()
    row = next(line.split() for line in rows if line.startswith(group))
    assert row[1:6] == [topic, "0", "2", "3", "1"]
    assert "Empty" in tools(command, "--describe", "--group", group, "--state")
    reset = ["--reset-offsets", "--group", group, "--topic", topic]
    tools(command, *reset, "--to-earliest", "--execute")
    rows = tools(command, "--describe", "--group", group).splitlines()
    assert next(line.split() for line in rows if line.startswith(group))[3] == "0"
    tools(command, "--delete", "--group", group)
    assert group not in tools(command, "--list").split()
    tools("GroupsCommand", "--list")


def test_performance_tools(tools: Tools, topic: str) -> None:
    tools.create(topic, 2)
    code, out, err = tools.jvm.run(
        TOOLS + "ProducerPerformance", "--topic", topic, "--num-records", "20000", "--record-size", "100",
        "--throughput", "-1", "--producer-props", f"bootstrap.servers={tools.hub.kafka}",
    )  # fmt: skip
    assert code == 0, err
    assert "20000 records sent" in out
    out = tools("ConsumerPerformance", "--topic", topic, "--num-records", "20000", "--timeout", "30000")
    columns = [each.strip() for each in out.splitlines()[0].split(",")]
    row = dict(zip(columns, out.splitlines()[1].split(","), strict=True))
    assert float(row["data.consumed.in.nMsg"]) == 20000


def test_api_versions_are_understood(tools: Tools) -> None:
    shown = tools("BrokerApiVersionsCommand")
    assert "Produce(0)" in shown
    assert "Metadata(3)" in shown


# -- a hub with sign-in


ADMIN = f"{ROOT_POLICY}-PLAIN"


class Signed:
    """The tools as an administrator and as a user of his, against a hub where everybody signs in."""

    def __init__(self, jvm: Jvm, hub: Any, directory: Path) -> None:
        self.jvm, self.hub, self.directory = jvm, hub, directory
        root = parse_connection_string((hub.data / "root.connection-string").read_text().strip())
        self.login(root.name, "PLAIN", root.key, "plain.PlainLoginModule")

    def login(self, name: str, mechanism: str, password: str, module: str = "scram.ScramLoginModule") -> Path:
        """The file of client settings of somebody."""
        path = self.directory / f"{name}-{mechanism}.properties"
        jaas = f'org.apache.kafka.common.security.{module} required username="{name}" password="{password}";'
        path.write_text(f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism={mechanism}\nsasl.jaas.config={jaas}\n")
        return path

    def __call__(
        self, name: str, *arguments: str, text: str = "", who: str = f"{ROOT_POLICY}-PLAIN"
    ) -> tuple[int, str]:
        config = str(self.directory / f"{who}.properties")
        server = ["--bootstrap-server", self.hub.kafka, "--command-config", config]
        code, out, err = self.jvm.run(name, *server, *arguments, text=text)
        return code, out + err

    def done(self, name: str, *arguments: str) -> str:
        code, out = self(name, *arguments)
        assert code == 0, out
        return out


@pytest.fixture(scope="module")
def signed(jvm: Jvm, tmp_path_factory: pytest.TempPathFactory, hub_process: Any) -> Iterator[Signed]:
    directory = tmp_path_factory.mktemp("kafka-java-signed")
    running = hub_process(directory / "data", "--auth", "--no-workers")
    yield Signed(jvm, running, directory)
    running.stop()


ACLS, CONFIGS = TOOLS + "AclCommand", "kafka.admin.ConfigCommand"


def test_a_user_made_and_granted_by_the_tools(signed: Signed, topic: str) -> None:
    user = f"user-{topic}"
    entity = ["--entity-type", "users", "--entity-name", user]
    credentials = "SCRAM-SHA-256=[iterations=8192,password=a-secret],SCRAM-SHA-512=[password=a-secret]"
    signed.done(CONFIGS, "--alter", *entity, "--add-config", credentials)
    assert "SCRAM-SHA-256=iterations=8192" in signed.done(CONFIGS, "--describe", *entity)
    signed.done(TOOLS + "TopicCommand", "--create", "--topic", topic, "--partitions", "1")
    signed.login(user, "SCRAM-SHA-256", "a-secret")
    signed.login(user, "SCRAM-SHA-512", "a-secret")
    produce = (TOOLS + "ConsoleProducer", "--topic", topic, "--sync")
    ends = (TOOLS + "GetOffsetShell", "--topic", topic)
    mine, also_mine = f"{user}-SCRAM-SHA-256", f"{user}-SCRAM-SHA-512"
    assert "TopicAuthorizationException" in signed(*produce, text="no\n", who=mine)[1]
    signed.done(ACLS, "--add", "--allow-principal", f"User:{user}", "--producer", "--topic", topic)
    assert signed(*produce, text="a\nb\n", who=mine) == (0, "")
    consume = (
        TOOLS + "consumer.ConsoleConsumer", "--topic", topic, "--from-beginning", "--max-messages", "2",
        "--group", f"group-{topic}", "--timeout-ms", "30000",
    )  # fmt: skip
    assert "AuthorizationException" in signed(*consume, who=also_mine)[1]
    signed.done(
        ACLS, "--add", "--allow-principal", f"User:{user}", "--consumer", "--topic", topic[:5], "--group", "group-",
        "--resource-pattern-type", "prefixed",
    )  # fmt: skip
    assert signed(*consume, who=also_mine)[1].startswith("a\nb\n")
    listed = signed.done(ACLS, "--list", "--principal", f"User:{user}")
    for expected in (f"name={topic}, patternType=LITERAL", "patternType=PREFIXED", "operation=WRITE", "GROUP"):
        assert expected in listed
    signed.done(ACLS, "--add", "--deny-principal", f"User:{user}", "--operation", "Write", "--topic", topic)
    assert "AuthorizationException" in signed(*produce, text="no\n", who=mine)[1]
    assert signed.done(*ends) == f"{topic}:0:2\n"
    removal = ["--remove", "--force", "--deny-principal", f"User:{user}", "--operation", "Write", "--topic", topic]
    signed.done(ACLS, *removal)
    assert signed(*produce, text="c\n", who=mine) == (0, "")
    assert signed.done(*ends) == f"{topic}:0:3\n"
    assert "ClusterAuthorizationException" in signed(ACLS, "--list", who=mine)[1]
    rates = "producer_byte_rate=50000,consumer_byte_rate=60000"
    signed.done(CONFIGS, "--alter", *entity, "--add-config", rates)
    shown = signed.done(CONFIGS, "--describe", *entity)
    assert "producer_byte_rate=50000.0" in shown
    assert "consumer_byte_rate=60000.0" in shown
    signed.done(CONFIGS, "--alter", *entity, "--delete-config", "producer_byte_rate,consumer_byte_rate")
    assert "byte_rate" not in signed.done(CONFIGS, "--describe", *entity)
    signed.done(CONFIGS, "--alter", *entity, "--delete-config", "SCRAM-SHA-256,SCRAM-SHA-512")
    assert "SCRAM" not in signed.done(CONFIGS, "--describe", *entity)
    assert "SaslAuthenticationException" in signed(*produce, text="no\n", who=mine)[1]


def test_lists_without_sign_in_are_refused(tools: Tools) -> None:
    _, out, err = tools.jvm.run(ACLS, "--bootstrap-server", tools.hub.kafka, "--list")
    assert "SecurityDisabledException" in out + err
