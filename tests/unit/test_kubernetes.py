"""The Kubernetes manifests: they parse, select what they name, and set what the command knows."""

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from latentwire.cli import app

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


def objects() -> list[dict[str, Any]]:
    return [one for file in FILES for one in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [one for one in objects() if one["kind"] == kind]


def servers() -> list[tuple[str, dict[str, Any]]]:
    """The pods that run the server, by their deployment."""
    return [(one["metadata"]["name"], one["spec"]["template"]) for one in of_kind("Deployment")]


def test_no_two_objects_share_kind_and_name() -> None:
    named = [(one["kind"], one["metadata"]["name"]) for one in objects()]
    assert len(named) == len(set(named)) and FILES


def test_the_service_is_headless_and_finds_every_server() -> None:
    (service,) = of_kind("Service")
    assert service["spec"]["clusterIP"] == "None"
    (port,) = service["spec"]["ports"]
    for _, pod in servers():
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        (container,) = pod["spec"]["containers"]
        assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]


def test_selectors_and_targets_are_there() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in servers()}
    for one in of_kind("Deployment") + of_kind("PodDisruptionBudget"):
        wanted = one["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= labels.get(one["metadata"]["name"], labels["latentwire"]).items()
    for one in of_kind("HorizontalPodAutoscaler"):
        assert one["spec"]["scaleTargetRef"]["name"] in labels


@pytest.mark.parametrize(("name", "pod"), servers(), ids=[name for name, _ in servers()])
def test_a_server_is_probed_drained_and_set_as_the_command_knows(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"][-1].endswith("deploy/health.py")
    assert pod["spec"]["terminationGracePeriodSeconds"] > 5 + 10  # the server's grace, and a flush
    command = typer.main.get_command(app).commands["server"]  # type: ignore[attr-defined]
    known = {f"LATENTWIRE_SERVER_{parameter.name.upper()}" for parameter in command.params}
    given = {one["name"] for one in container["env"]} - {"RAY_ADDRESS"}
    assert given <= known
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
