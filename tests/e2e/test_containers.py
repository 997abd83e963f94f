"""docker-compose.yml, brought up for real: the stream runs and its knob turns from outside. `make e2e` runs this."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROJECT = "latentwire-e2e"
SENSOR = "cam-e2e"
SERVICES = ("server", "sensor")


def compose(*arguments: str) -> str:
    command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    done = subprocess.run([*command, "-p", PROJECT, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def container(service: str) -> str:
    return compose("ps", "-q", service).strip()


def wait_for(what: str, holds: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{compose('logs', '--tail', '20')}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The published port of a stack that is up; down again after the module."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no container engine answers `docker info`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = int(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORT", str(number))
        patch.setenv("NAME", SENSOR)
        try:
            compose("up", "-d", "--build")
            yield number
        finally:
            compose("down", "--timeout", "20")


@pytest.fixture
def ctl(port: int) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "latentwire", "ctl", "--server", f"127.0.0.1:{port}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
        return done.stdout if done.returncode == 0 else ""

    return run


def answered(ctl: Callable[..., str]) -> int:
    sensors = json.loads(ctl("sensors", "--json") or "[]")
    return sum(sensor["images_answered"] for sensor in sensors if sensor["name"] == SENSOR)


def test_the_sensor_streams_and_the_server_is_healthy(ctl: Callable[..., str]) -> None:
    wait_for("1,000 answered images", lambda: answered(ctl) >= 1000)
    assert docker("inspect", "-f", "{{.State.Health.Status}}", container("server")).strip() == "healthy"


def test_the_knob_turns_from_outside(ctl: Callable[..., str]) -> None:
    wait_for("an answered image", lambda: answered(ctl) > 0)
    rate = next(s["rate"] for s in json.loads(ctl("sensors", "--json")) if s["name"] == SENSOR)
    bits = {}
    for scale in (rate["min_rate_scale"], rate["max_rate_scale"]):
        assert "after:" in ctl("rate", "set", SENSOR, str(scale))
        before = answered(ctl)
        wait_for("more images", lambda before=before: answered(ctl) > before + 500)
        now = next(s["rate"] for s in json.loads(ctl("sensors", "--json")) if s["name"] == SENSOR)
        assert now["rate_scale"] == scale
        bits[scale] = now["payload_bits_per_image"]
    assert bits[rate["min_rate_scale"]] < 0.75 * bits[rate["max_rate_scale"]]


@pytest.mark.parametrize("service", SERVICES)
def test_the_container_is_small_in_rights_and_content(port: int, service: str) -> None:
    name = container(service)
    assert docker("inspect", "-f", "{{.HostConfig.ReadonlyRootfs}}", name).strip() == "true"
    assert docker("exec", name, "id", "-u").strip() == "10001"
    for module in ("torch", "torchvision", "pip"):
        assert "ModuleNotFoundError" in docker("exec", name, "python", "-c", f"import {module}", check=False)
    assert docker("exec", name, "sh", "-c", "command -v gcc cc g++ ld || true").strip() == ""


def test_a_stop_is_clean_and_every_image_is_accounted_for(ctl: Callable[..., str]) -> None:
    wait_for("an answered image", lambda: answered(ctl) > 0)
    names = {service: container(service) for service in SERVICES}
    compose("stop", "sensor")
    compose("stop", "server")
    for service, name in names.items():
        assert docker("inspect", "-f", "{{.State.ExitCode}}", name).strip() == "0", service
    sent = re.findall(r"(\d+) answered of (\d+)", docker("logs", names["sensor"]))[-1]
    assert sent[0] == sent[1] != "0"
