"""docker-compose.yml as a project of its own, and what tests ask of it."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentwire.control_client import ControlClient
from latentwire.tls import Access

ROOT = Path(__file__).parents[2]
PROJECT = "latentwire-e2e"
RESULTS = "/var/lib/latentwire/results.sqlite"
# As `latentwire sensor status --json`, without its imports: for five sensors, again and again, in half a core each.
STATUS = """
import glob, socket
for path in glob.glob("/tmp/latentwire/*.sensor"):
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        print("".join(iter(lambda: link.recv(65536).decode(), "")))
"""


def engine_answers() -> bool:
    """Whether there is a container engine."""
    return (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


def docker(*arguments: str, check: bool = True) -> str:
    """What ``docker`` prints; AssertionError if it fails, unless not ``check``."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, (
        f"docker {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    return done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


@dataclass(frozen=True)
class Stack:
    """The project: its environment, its ports, a folder for what is copied out of it."""

    environment: dict[str, str]
    port: int
    prometheus_port: int
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Stack":
        """Settings for a stack that is not up yet: 50 images a second, and a cut link noticed within 4 s."""
        port, prometheus_port = free_ports(2)
        settings = {"RESULTS": RESULTS, "FPS": "50", "KEEPALIVE_S": "2", "COMPOSE_PROJECT_NAME": PROJECT}
        settings |= {"PORT": str(port), "PROMETHEUS_PORT": str(prometheus_port), "COLUMNS": "200"}
        return cls({**os.environ, **settings}, port, prometheus_port, folder)

    def compose(self, *arguments: str) -> str:
        """What docker-compose prints; AssertionError if it fails."""
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        files = ["-f", "docker-compose.yml", "-f", "tests/e2e/compose.yml"]
        done = subprocess.run(
            [*command, *files, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def ctl(self, *arguments: str) -> str:
        """What ``latentwire ctl`` prints in a container of its own, which has the admin's certificate."""
        return self.compose("run", "--rm", "-T", "ctl", *arguments)

    def containers(self, service: str = "") -> list[str]:
        """Ids of a service's containers, or of all, running or not; without those of ``run``."""
        labels = [f"com.docker.compose.project={PROJECT}", "com.docker.compose.oneoff=False"]
        labels += [f"com.docker.compose.service={service}"] if service else []
        return docker("ps", "-aq", *(word for label in labels for word in ("--filter", f"label={label}"))).split()

    def inspect(self, container: str, form: str) -> str:
        """One fact about a container."""
        return docker("inspect", "-f", form, container).strip()

    def control(self) -> ControlClient:
        """From this machine, through the published port, with the admin's certificate copied out."""
        admin = self.folder / "admin"
        if not admin.exists():
            docker("cp", f"{self.containers('certs')[0]}:/pki/admin", str(admin))
        paths = (admin / name for name in ("ca.pem", "admin-admin.pem", "admin-admin.key"))
        return ControlClient(f"127.0.0.1:{self.port}", access=Access.of_settings(*paths))

    def vitals(self) -> dict[str, dict[str, Any]]:
        """What each replica of the sensor says of itself, by name, and in which container it is."""
        found: dict[str, dict[str, Any]] = {}
        for container in self.containers("sensor"):
            for line in docker("exec", container, "python", "-c", STATUS, check=False).splitlines():
                if line.startswith("{"):
                    vitals = json.loads(line)
                    found[vitals["sensor"]] = vitals | {"container": container}
        return found

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of the server's file of results, asked for in its container."""
        program = f"import json, sqlite3; print(json.dumps(sqlite3.connect({RESULTS!r}).execute({sql!r}).fetchall()))"
        rows: list[list[Any]] = json.loads(docker("exec", self.containers("server")[0], "python", "-c", program))
        return rows

    def wait_for(self, what: str, holds: Callable[[], Any], seconds: float = 180) -> Any:
        """Wait until ``holds`` gives something true, which is returned; AssertionError with the logs if it is late."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < deadline, f"{what}: not in {seconds:g} s\n{self.compose('logs', '--tail', '20')}"
            time.sleep(0.3)
        return found
