"""docker-compose.yml brought up for real, step by step: each test goes on from the one before. `make e2e` runs this."""

import json
import shutil
import sqlite3
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from e2e.stack import PROJECT, Stack, docker, engine_answers
from e2e.truncated import with_truncated

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

IMAGES = ("latentwire-server", "latentwire-sensor")
KEYS = r"""
import os, re, sys
key = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{40}")
for folder, folders, files in (found for top in sys.argv[1:] for found in os.walk(top)):
    folders[:] = [each for each in folders if os.path.join(folder, each) not in ("/proc", "/sys", "/dev")]
    for path in (os.path.join(folder, each) for each in files):
        if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK):
            content = open(path, "rb").read()
            if not content.startswith(b"\x7fELF") and key.search(content):  # GnuTLS tests itself with a known key
                print(path)
"""
TOOLS = """
import importlib.util, shutil
modules = "torch torchvision pip setuptools numpy"
print(*(name for name in modules.split() if importlib.util.find_spec(name)))
print(*filter(shutil.which, "gcc cc g++ c++ cpp clang tcc ld as rustc go make sh".split()))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is not up yet; gone, volumes and all, after the module."""
    if not engine_answers():
        pytest.skip("no container engine answers `docker info`")
    made = Stack.make(tmp_path_factory.mktemp("stack"))
    down = ("--profile", "prometheus", "down", "--volumes", "--timeout", "20")
    made.compose(*down)  # what a run that was killed left behind
    try:
        yield made
    finally:
        made.compose(*down)


@pytest.fixture(autouse=True)
def _step(stack: Stack, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Print each step's time as it ends."""
    start = time.monotonic()
    yield
    name = request.node.name.removeprefix("test_").replace("_", " ")
    with capsys.disabled():
        print(f"\n{time.monotonic() - start:7.1f} s  {name}", end="")


def test_the_file_is_clean(stack: Stack) -> None:
    assert stack.compose("config", "--quiet").strip() == ""


def test_the_images_are_built(stack: Stack) -> None:
    stack.compose("--profile", "prometheus", "build", "--quiet")
    for image in IMAGES:
        labels = json.loads(docker("image", "inspect", "-f", "{{json .Config.Labels}}", image))
        assert labels["org.opencontainers.image.title"] == image


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_no_torch_no_compiler_no_key(stack: Stack, image: str) -> None:
    key = stack.folder / "a.key"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{'A' * 64}\n-----END PRIVATE KEY-----\n")
    run = ("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python", "-v", f"{key}:/srv/a.key:ro")
    modules, tools, *keys = docker(*run, image, "-c", TOOLS + KEYS, "/").splitlines()
    assert modules == "numpy", "what is there would be found"
    assert tools == "sh"
    assert keys == ["/srv/a.key"]


def test_it_comes_up_and_is_healthy(stack: Stack) -> None:
    stack.compose("up", "-d")
    assert len(stack.containers("sensor")) == 2
    (certs,), (server,) = stack.containers("certs"), stack.containers("server")
    assert stack.inspect(certs, "{{.State.Status}} {{.State.ExitCode}}") == "exited 0"
    for container in (server, *stack.containers("sensor")):
        stack.wait_for("health", lambda c=container: stack.inspect(c, "{{.State.Health.Status}}") == "healthy")


def test_containers_have_few_rights(stack: Stack) -> None:
    for service in ("server", "sensor"):
        container = stack.containers(service)[0]
        assert stack.inspect(container, "{{.HostConfig.ReadonlyRootfs}}") == "true"
        assert stack.inspect(container, "{{.HostConfig.CapDrop}}") == "[ALL]"
        assert "no-new-privileges" in stack.inspect(container, "{{.HostConfig.SecurityOpt}}")
        assert stack.inspect(container, "{{.HostConfig.Memory}}") != "0"
        status = docker("exec", container, "cat", "/proc/1/status")
        assert "Uid:\t10001\t10001\t10001\t10001\n" in status and "CapEff:\t0000000000000000\n" in status
        assert "Read-only file system" in docker("exec", container, "touch", "/opt/latentwire/x", check=False)


def test_each_container_sees_the_keys_of_its_role_alone(stack: Stack) -> None:
    def keys(service: str) -> set[str]:
        where = ("/etc", "/tls", "/tmp", "/var")
        listed = docker("exec", stack.containers(service)[0], "python", "-c", KEYS, *where).split()
        return {Path(path).name for path in listed}

    assert keys("server") == {"server-server.key"}
    assert keys("sensor") == {f"sensor-cam-{number}.key" for number in range(1, 9)}


def test_results_are_read(stack: Stack) -> None:
    sql = "SELECT sensor, count(*) FROM results GROUP BY sensor"
    stack.wait_for("200 results of each", lambda: [n for _, n in stack.query(sql) if n >= 200][1:])
    assert "accuracy 9" in docker("logs", stack.containers("sensor")[0])
    said = docker("exec", stack.containers("sensor")[0], "latentwire", "sensor", "status")
    assert "server:50051, connected" in said


def test_a_third_container_turns_the_knob(stack: Stack) -> None:
    listed = json.loads(stack.ctl("sensors", "--json"))
    assert [sensor["name"] for sensor in listed] == ["cam-1", "cam-2"]
    rate = listed[0]["rate"]
    bits = {}
    for scale in (rate["min_rate_scale"], rate["max_rate_scale"]):
        said = stack.ctl("rate", "set", "cam-1", str(scale))
        assert f"after:  rate scale {scale:g} " in said
        with stack.control() as control:
            got = stack.wait_for("100 images", lambda: _over(control.get_rate("cam-1"), 100))
            bits[got.rate_scale] = got.payload_bits_per_image
            assert control.get_rate("cam-2").rate_scale == rate["rate_scale"], "each has its own"
    assert bits[rate["min_rate_scale"]] < 0.5 * bits[rate["max_rate_scale"]]


def test_a_sensor_may_not_turn_it_and_a_stranger_may_not_connect(stack: Stack) -> None:
    tls = [f"--tls-{kind}=/tls/{file}" for kind, file in _files("sensor-cam-1").items()]
    ask = ("exec", stack.containers("sensor")[0], "latentwire", "ctl", "--server", "server:50051")
    assert "you may not do that" in docker(*ask, *tls, "sensors", check=False)
    assert "no server answers" in docker(*ask, tls[0], "sensors", check=False)


def test_prometheus_sees_the_server_and_each_sensor(stack: Stack) -> None:
    stack.compose("--profile", "prometheus", "up", "-d", "prometheus")

    def ask(query: str) -> dict[str, float]:
        url = f"http://127.0.0.1:{stack.prometheus_port}/api/v1/query?query={urllib.parse.quote(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:  # not there yet
            return {}
        return {each["metric"].get("sensor", each["metric"].get("job", "")): float(each["value"][1]) for each in found}

    stack.wait_for("targets", lambda: ask("sum by (job) (up)") == {"sensor": 2, "server": 1})
    assert stack.wait_for("sensors", lambda: ask("latentwire_sensor_info")).keys() == {"cam-1", "cam-2"}
    answered = "sum by (job) (latentwire_server_images_answered_total)"
    before = stack.wait_for("a count", lambda: ask(answered))["server"]
    stack.wait_for("a greater count", lambda: ask(answered)["server"] > before)
    # the server's own count is one of what it has written
    (written,) = stack.query("SELECT count(*) FROM results")[0]
    assert 0 < before <= written


def test_the_sensors_scale_to_five(stack: Stack) -> None:
    stack.compose("up", "-d", "--scale", "sensor=5")
    names = {f"cam-{number}" for number in range(1, 6)}
    stack.wait_for("five sensors", lambda: stack.vitals().keys() == names)
    sql = "SELECT sensor FROM results GROUP BY sensor HAVING count(*) > 100"
    stack.wait_for("100 results of each", lambda: {name for (name,) in stack.query(sql)} == names)


def test_a_killed_server_comes_back_and_answers_what_it_missed(stack: Stack) -> None:
    (server,) = stack.containers("server")
    docker("exec", server, "sh", "-c", "kill -9 -1", check=False)  # all but the container's init
    stack.wait_for("its return", lambda: int(stack.inspect(server, "{{.RestartCount}}")) >= 1)
    coded = {name: vitals["report"]["images_sent"] for name, vitals in stack.vitals().items()}
    assert len(coded) == 5, "no sensor minds"

    def all_answered() -> bool:
        now = {name: vitals["report"]["images_answered"] for name, vitals in stack.vitals().items()}
        return all(now[name] > coded[name] for name in coded)

    stack.wait_for("health", lambda: stack.inspect(server, "{{.State.Health.Status}}") == "healthy")
    stack.wait_for("every image's answer", all_answered)


def test_a_cut_network_loses_nothing(stack: Stack) -> None:
    before = stack.vitals()["cam-2"]
    container, network = before["container"], f"{PROJECT}_default"
    docker("network", "disconnect", network, container)
    try:
        cut = stack.wait_for("images without an answer", lambda: _waiting(stack.vitals()["cam-2"]))
    finally:
        docker("network", "connect", "--alias", "sensor", network, container)
    stack.wait_for("it to be sent", lambda: _over_with(stack.vitals()["cam-2"], cut["report"]["images_sent"]))
    after = stack.vitals()["cam-2"]
    assert after["pid"] == before["pid"] and after["report"]["reconnects"] > before["report"]["reconnects"]
    assert after["report"]["dropped"] == {}


def test_a_bundle_is_pushed_and_its_truncated_variant_runs(stack: Stack) -> None:
    folder = stack.folder / "digits-truncated"
    bundle = with_truncated(folder, keep=4)
    folder.chmod(0o755)
    docker("cp", str(folder), f"{stack.containers('server')[0]}:/var/lib/latentwire/library/digits-truncated")
    said = stack.ctl("bundle", "push", "cam-3", bundle.digest, "--variant", "truncated")
    assert "truncated/anchored" in said.partition("after:")[2]
    sql = "SELECT count(*), avg(probability) FROM results WHERE sensor = 'cam-3' AND variant = 'truncated'"
    stack.wait_for("its results", lambda: stack.query(sql)[0][0] > 100)


def test_all_stops_with_status_0_and_nothing_is_lost(stack: Stack) -> None:
    reports = {name: vitals["report"] for name, vitals in stack.vitals().items()}
    assert len(reports) == 5 and not any(report["dropped"] for report in reports.values())
    stack.compose("--profile", "prometheus", "stop")
    states = {c: stack.inspect(c, "{{.Name}} {{.State.Status}} {{.State.ExitCode}}") for c in stack.containers()}
    assert len(states) == 8 and all(state.endswith(" exited 0") for state in states.values()), states

    for service, folder in (("sensor", "sensors"), ("server", "server")):
        docker("cp", f"{stack.containers(service)[0]}:/var/lib/latentwire", str(stack.folder / folder))
    with closing(sqlite3.connect(stack.folder / "server" / "results.sqlite")) as results:
        written = results.execute("SELECT sensor, sequence, label FROM results").fetchall()
        assert len(results.execute("SELECT DISTINCT sensor, session FROM results").fetchall()) == 5
    for name, report in reports.items():
        rows = [json.loads(line) for line in (stack.folder / "sensors" / f"{name}.jsonl").read_text().splitlines()]
        # every image coded, once, in the sensor's own file and in the server's, with the same class
        assert sorted(row["sequence"] for row in rows) == list(range(len(rows))), name
        assert len(rows) >= report["images_sent"]
        assert {(row["sequence"], row["label"]) for row in rows} == {row[1:] for row in written if row[0] == name}
        with closing(sqlite3.connect(stack.folder / "sensors" / f"{name}.db")) as spool:
            assert spool.execute("SELECT count(*) FROM messages").fetchone() == (0,), f"{name} has images unanswered"
            _, state = spool.execute("SELECT * FROM state").fetchone()
            assert json.loads(state)["next_sequence"] == len(rows), name
    shutil.rmtree(stack.folder / "sensors")


def _files(stem: str) -> dict[str, str]:
    return {"ca": "ca.pem", "cert": f"{stem}.pem", "key": f"{stem}.key"}


def _over(rate: Any, images: int) -> Any:
    return rate if rate.images > images else None


def _waiting(vitals: dict[str, Any]) -> dict[str, Any] | None:
    """A recorded source waits with the link, when so many images are unanswered."""
    return vitals if not vitals["connected"] and vitals["unanswered_images"] > 100 else None


def _over_with(vitals: dict[str, Any], sent: int) -> bool:
    return vitals["connected"] and vitals["report"]["images_answered"] > sent
