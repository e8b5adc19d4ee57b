"""Files of ``deploy/`` for which no container engine or cluster is at hand: commands, names, promises in them hold."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from forecast.cli.app import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
WORKLOADS = [one for one in MANIFESTS if one["kind"] in {"Deployment", "StatefulSet"}]
DOCS = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("deploying.md", "operating.md"))
RULES = (DEPLOY / "prometheus" / "alerts.yml").read_text()
DASHBOARD = (DEPLOY / "grafana" / "forecast.json").read_text()


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    return found


def unit(path: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in path.read_text().splitlines() if not line.startswith(("#", "[")))
    return {key: value for key, separator, value in lines if separator}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Return every command of ours that something here starts."""
    for name, part in COMPOSE.items():
        yield f"compose {name}", list(map(str, part.get("command", ())))
    for path in UNITS:
        yield path.name, shlex.split(unit(path)["ExecStart"])
    for one in WORKLOADS:
        yield f"kubernetes {one['metadata']['name']}", pod(one)["containers"][0]["args"]
    message = re.search(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert message
    yield "Dockerfile", json.loads(message[1])


def pod(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = workload["spec"]["template"]["spec"]
    return found


OURS = {where: words for where, words in commands() if words and Path(words[0]).name == "forecast"}


@pytest.mark.parametrize("where", OURS)
def test_every_command_is_one_that_the_command_line_knows(where: str) -> None:
    name, *rest = OURS[where][1:]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, rest):  # a mistyped option is an error here
        pass


def test_all_parts_of_the_service_are_started_everywhere() -> None:
    for kind in ("compose", "forecast-", "kubernetes"):
        started = {words[1] for where, words in OURS.items() if where.startswith(kind)}
        assert {"serve", "schedule", "work"} <= started, kind


def test_every_variable_that_is_set_is_told_in_the_documentation() -> None:
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    names = set(re.findall(r"\b(?:FORECAST|MLFLOW|AWS|POSTGRES|STORE)_[A-Z_]+\b", text))
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in DOCS and f"{name}=" not in DOCS} <= {
        "POSTGRES_DB", "POSTGRES_USER", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    }  # fmt: skip


def test_no_part_of_the_compose_file_has_privileges_or_a_port_beyond_this_machine() -> None:
    for name, part in COMPOSE.items():
        assert all(port.startswith("127.0.0.1:") for port in part.get("ports", ())), name
        assert not part.get("privileged"), name
        if part["image"].startswith("forecast"):
            assert part["read_only"], name
            assert part["cap_drop"] == ["ALL"], name
            assert part["security_opt"] == ["no-new-privileges:true"], name


def test_the_image_has_every_package_and_runs_as_nobody_in_particular() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    assert copied == {pattern.rstrip("*") for pattern in packages}
    assert re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE)[-1] == "cpu"
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text()
    sources = {word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert all(f"!{name}\n" in allowed for name in sources)
    assert all((ROOT / name).exists() for name in sources)


@pytest.mark.parametrize("one", WORKLOADS, ids=lambda one: one["metadata"]["name"])
def test_every_pod_is_bounded_unprivileged_and_finds_what_it_names(one: Mapping[str, Any]) -> None:
    spec = pod(one)
    labels = one["spec"]["template"]["metadata"]["labels"]
    assert one["spec"]["selector"]["matchLabels"] == labels
    assert spec["securityContext"]["runAsNonRoot"]
    claims = {each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "PersistentVolumeClaim"}
    volumes = {volume["name"]: volume.get("persistentVolumeClaim", {}).get("claimName") for volume in spec["volumes"]}
    assert {claim for claim in volumes.values() if claim} <= claims
    sources = {(each["kind"], each["metadata"]["name"]) for each in MANIFESTS}
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"].keys() == {"cpu", "memory"}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        for source in container["envFrom"]:
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            assert (kind, next(iter(source.values()))["name"]) in sources
        if "ports" in container:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]


def test_services_and_policies_point_at_pods_and_every_file_is_applied() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in WORKLOADS]
    for one in MANIFESTS:
        if one["kind"] == "Service":
            assert one["spec"]["selector"] in labels
        if one["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}:
            chosen = one["spec"].get("podSelector", one["spec"].get("selector", {})).get("matchLabels", {})
            assert any(chosen.items() <= each.items() for each in labels)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "forecast"
    everybody = [one for one in MANIFESTS if one["kind"] == "NetworkPolicy" and one["spec"]["podSelector"] == {}]
    assert [set(one["spec"]) for one in everybody] == [{"podSelector", "policyTypes"}]  # and lets nobody through
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")} - {"kustomization.yaml"}
    applied = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert set(applied) == files


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_every_unit_is_confined(path: Path) -> None:
    message = unit(path)
    assert (message["User"], message["ProtectSystem"], message["NoNewPrivileges"]) == ("forecast", "strict", "true")
    assert message["CapabilityBoundingSet"] == ""
    if path.stem == "forecast-work":  # it ends its own workers; those of one that died go on
        assert message["KillMode"] == "process"
        assert int(message["TimeoutStopSec"]) > 30


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/opt/forecast/bin/", f"{tmp_path}/")
        (tmp_path / path.name).write_text(text)
    for name in ("forecast", "mlflow"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    units = [tmp_path / path.name for path in (DEPLOY / "systemd").iterdir()]
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_promtool_understands_the_alerts_and_their_cases() -> None:
    promtool = program("promtool")
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(
            [promtool, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_and_dashboard_name_figures_that_the_documentation_tells() -> None:
    rules = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]
    assert all({"summary", "remedy"} <= rule["annotations"].keys() for rule in rules)
    panels = json.loads(DASHBOARD)["panels"]
    asked = [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]
    names = {name for text in asked for name in re.findall(r"\b(?:forecast|process)_[a-z_]+", text)}
    assert len(names) > 10
    assert {name for name in names if f"`{re.sub('_(count|bucket)$', '', name)}`" not in DOCS} == set()
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_every_local_link_of_the_documentation_leads_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCS):
        assert (ROOT / "docs" / link).exists(), link
