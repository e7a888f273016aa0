"""What is in `deploy/`: the manifests against the published schemas, the image's steps and the unit by running them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import dockerfile
import jsonschema
import kubernetes_validate
import pytest
import yaml

from gridwire import config

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
KUBERNETES = "1.33"
"""The oldest release that is maintained: what is valid there is valid in newer ones."""

sys.path.insert(0, str(ROOT / "scripts"))
import fetch_keda  # noqa: E402


def manifests() -> list[dict[str, Any]]:
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [each for file in files for each in yaml.safe_load_all((BASE / file).read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in manifests() if each["kind"] == kind}


def test_manifests_are_what_kubernetes_takes() -> None:
    checked = [each for each in manifests() if not each["apiVersion"].startswith("keda.sh/")]
    assert {each["kind"] for each in checked} == {
        "ConfigMap", "Deployment", "PersistentVolumeClaim", "PodDisruptionBudget", "Service",
    }  # fmt: skip
    for each in checked:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
    wrong = {**checked[0], "metadata": {**checked[0]["metadata"], "lables": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def keda_schema() -> dict[str, Any]:
    try:
        directory = fetch_keda.fetch()
    except fetch_keda.KedaUnavailable as problem:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI requires KEDA's definitions: {problem}")
        pytest.skip(f"no definitions of KEDA: {problem}")
    crd = yaml.safe_load((directory / "keda.sh_scaledobjects.yaml").read_text())
    version = next(each for each in crd["spec"]["versions"] if each["name"] == "v1alpha1")
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """As the API server means it: fields that are not named are refused."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def test_scaling_is_what_keda_takes() -> None:
    schema = keda_schema()
    scaled = of_kind("ScaledObject")
    workers = of_kind("Deployment")
    for each in scaled.values():
        jsonschema.validate(each, schema)
        target = workers[each["spec"]["scaleTargetRef"]["name"]]
        (trigger,) = each["spec"]["triggers"]
        environment = [row["name"] for row in target["spec"]["template"]["spec"]["containers"][0]["env"]]
        assert trigger["metadata"]["bootstrapServersFromEnv"] in environment
    groups = {each["spec"]["triggers"][0]["metadata"]["consumerGroup"] for each in scaled.values()}
    from gridwire.app import CAPTURE_GROUP, GRID_GROUP, VEE_GROUP

    assert groups == {GRID_GROUP, VEE_GROUP, CAPTURE_GROUP}
    wrong = next(iter(scaled.values()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**wrong, "spec": {**wrong["spec"], "maxReplicas": 3}}, schema)


def test_manifests_go_together() -> None:
    """Selectors find their pods, probes and services their ports, references what is there."""
    deployments, maps = of_kind("Deployment"), of_kind("ConfigMap")
    for each in deployments.values():
        pod = each["spec"]["template"]
        assert each["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (container,) = pod["spec"]["containers"]
        volumes = {row["name"] for row in pod["spec"]["volumes"]}
        assert {row["name"] for row in container["volumeMounts"]} == volumes
        ports = {row["name"] for row in container.get("ports", ())}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports
        for row in container["env"]:
            reference = row.get("valueFrom", {}).get("configMapKeyRef")
            assert reference is None or reference["key"] in maps[reference["name"]]["data"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    gateway = deployments["gridwire-gateway"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        of_kind("Service")["gridwire"]["spec"]["selector"],
        of_kind("PodDisruptionBudget")["gridwire-gateway"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= gateway.items()


def test_manifests_set_what_can_be_set() -> None:
    known = {f"GRIDWIRE_{row.name.upper()}" for row in config.SETTINGS}
    if "GRIDWIRE_BROKER" not in known:
        pytest.skip("this version has no gateways before a Kafka cluster")
    (container,) = of_kind("Deployment")["gridwire-gateway"]["spec"]["template"]["spec"]["containers"]
    named = [*of_kind("ConfigMap")["gridwire"]["data"], *(row["name"] for row in container["env"])]
    assert {name for name in named if name.startswith("GRIDWIRE_")} <= known


def test_kustomize_builds_the_example() -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        [program, "kustomize", str(DEPLOY / "kubernetes" / "example")], capture_output=True, text=True, check=True
    )
    found = list(yaml.safe_load_all(built.stdout))
    assert len(found) == len(manifests())
    gateway = next(
        each for each in found if each["metadata"]["name"] == "gridwire-gateway" and "replicas" in each["spec"]
    )
    assert gateway["spec"]["replicas"] == 3
    assert gateway["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/gridwire:1"


# -- the image ----------------------------------------------------------------------------------------------------


def commands() -> list[Any]:
    return list(dockerfile.parse_file(str(DEPLOY / "Containerfile")))


def test_the_image_is_as_it_should_be() -> None:
    found = [(each.cmd.upper(), each.value) for each in commands()]
    last = found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]
    of = dict(last)
    assert all(value[0].endswith("-slim") for name, value in found if name == "FROM")
    assert of["USER"] == ("10001:10001",) and "/data" in of["VOLUME"]
    assert of["HEALTHCHECK"][-1].endswith("healthcheck.py") or "healthcheck.py" in " ".join(of["HEALTHCHECK"])
    pairs = of["ENV"]
    names = [name for name in pairs[::3] if name.startswith("GRIDWIRE_")]
    assert names and {f"GRIDWIRE_{row.name.upper()}" for row in config.SETTINGS} >= set(names)
    for each in commands():
        if each.cmd.upper() == "COPY" and not any(flag.startswith("--from") for flag in each.flags):
            for source in each.value[:-1]:
                assert (ROOT / source).exists(), source


def test_the_steps_of_the_image_make_a_gridwire_that_runs(tmp_path: Path) -> None:
    """The RUN steps in a fresh environment, its packages those installed here; what only root may do is left out."""
    source, wheels, home = tmp_path / "src", tmp_path / "wheels", tmp_path / "venv"
    for each in commands():
        if (each.cmd.upper() == "COPY" and each.value[-1] == "./") or each.value[-1:] == ("./src",):
            for name in each.value[:-1]:
                origin = ROOT / name
                if origin.is_dir():
                    shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
                else:
                    source.mkdir(exist_ok=True)
                    shutil.copy(origin, source / name)
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    here = sysconfig.get_path("purelib")
    site = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    (site / "installed.pth").write_text(here + "\n")
    steps = [each.value[0] for each in commands() if each.cmd.upper() == "RUN"]
    assert len(steps) == 3
    for step in steps:
        if step.startswith("useradd"):
            continue
        command = step.replace("/wheels", str(wheels)).replace("python -m", f"{shlex.quote(str(python))} -m")
        if " install " in command:
            command = command.replace(" install ", " install --no-deps ")
        done = subprocess.run(["sh", "-ec", command], cwd=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    told = subprocess.check_output(
        [python, "-c", "import gridwire, gridwire.web as w; print(gridwire.__file__); print(w.static_directory())"],
        text=True, cwd=tmp_path,
    ).splitlines()  # fmt: skip
    assert told[0].startswith(str(site)) and (Path(told[1]) / "index.html").is_file()
    assert subprocess.run([home / "bin" / "gridwire", "--version"], cwd=tmp_path, check=False).returncode == 0


def test_the_healthcheck_tells_ready_from_not(start_hub: Any, tmp_path: Path) -> None:
    hub = start_hub("--durability", "os", "--no-workers", kafka_port="off")

    def check(port: str) -> int:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GRIDWIRE_")}
        return subprocess.run(
            [sys.executable, DEPLOY / "healthcheck.py"], env={**clean, "GRIDWIRE_HTTP_PORT": port}, check=False
        ).returncode

    port = hub.http.rpartition(":")[2]
    assert check(port) == 0
    hub.stop()
    assert check(port) == 1


# -- the unit -----------------------------------------------------------------------------------------------------


def test_the_unit_starts_a_hub_and_stops_it(tmp_path: Path) -> None:
    lines = [line for line in (DEPLOY / "gridwire.service").read_text().splitlines() if not line.startswith("#")]
    rows = [line.partition("=")[::2] for line in lines if "=" in line]
    values = dict(rows)
    command = values["ExecStart"].replace("/var/lib/gridwire", str(tmp_path / "data")).split()
    assert command[0] == "/opt/gridwire/bin/gridwire"
    ports = ["--kafka-port", "0", "--http-port", "0", "--amqp-port", "0"]
    command = [sys.executable, "-m", "gridwire", *command[1:], *ports]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()


def test_the_unit_is_what_systemd_takes(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / "gridwire.service").read_text().replace("/opt/gridwire/bin/gridwire", "/bin/sh")
    for name, taken in (
        ("gridwire.service", text),
        ("wrong.service", text.replace("Restart=always", "Restrat=always")),
    ):
        file = tmp_path / name
        file.write_text(taken)
        told = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, check=False)
        mine = [line for line in told.stderr.splitlines() if name in line]
        assert bool(mine) == (name == "wrong.service"), mine
