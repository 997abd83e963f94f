"""What the containers run beside the command: names for replicas, and each role's keys in a folder of its own."""

import importlib.util
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from latentwire.certificates import describe

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMES = ["cam-1", "cam-2", "cam-3"]


def script(name: str) -> ModuleType:
    """A file of deploy/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def end(names: list[str], folder: Path) -> None:
    """As if the processes that hold these names had ended: the kernel closes their files."""
    wanted = {str(folder / f"{name}.place") for name in names}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") in wanted:
                os.close(fd)
        except OSError:  # the listing's own
            continue


def test_replicas_take_names_of_their_own_and_come_back_to_them(tmp_path: Path) -> None:
    take = script("fleet").take
    try:
        assert [take(NAMES, tmp_path, host) for host in ("a", "b", "c", "d")] == [*NAMES, None]
        end(["cam-1", "cam-3"], tmp_path)
        assert take(NAMES, tmp_path, "c") == "cam-3"  # its own, though cam-1 is free
        assert take(NAMES, tmp_path, "e") == "cam-1"
    finally:
        end(NAMES, tmp_path)


def test_the_name_is_put_into_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = script("fleet")
    started: list[list[str]] = []
    monkeypatch.setattr(fleet, "FOLDER", tmp_path)
    monkeypatch.setattr(os, "execvp", lambda file, arguments: started.append([file, *arguments]))
    monkeypatch.setattr(sys, "argv", ["fleet.py"])
    for key, value in {"NAME_PREFIX": "yard", "NAMES": "1", "LATENTWIRE_SENSOR_SPOOL": "/s/{name}.db"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("LATENTWIRE_SENSOR_NAME", "")
    try:
        fleet.main()
        assert started == [["latentwire", "latentwire", "sensor"]]
        assert os.environ["LATENTWIRE_SENSOR_NAME"] == "yard-1"
        assert os.environ["LATENTWIRE_SENSOR_SPOOL"] == "/s/yard-1.db"
        with pytest.raises(SystemExit, match="all taken: raise NAMES"):
            fleet.main()
    finally:
        end(["yard-1"], tmp_path)


def test_each_role_gets_its_own_keys_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = script("certificates")
    for role in ("authority", "server", "sensors", "camera", "admin"):
        (tmp_path / role).mkdir()
    monkeypatch.setenv("NAMES", "2")
    monkeypatch.delenv("NAME_PREFIX", raising=False)
    certificates.main(tmp_path)
    keys = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.key"))
    assert keys == [
        "admin/admin-admin.key",
        "authority/ca.key",
        "camera/sensor-camera.key",
        "sensors/sensor-cam-1.key",
        "sensors/sensor-cam-2.key",
        "server/server-server.key",
    ]
    made = contents(tmp_path)
    certificates.main(tmp_path)
    assert contents(tmp_path) == made

    monkeypatch.setenv("SERVER_HOSTS", "edge.example, 192.0.2.1")
    certificates.main(tmp_path)
    server = tmp_path / "server" / "server-server.pem"
    assert {path for path, content in contents(tmp_path).items() if made[path] != content} == {
        server,
        server.with_suffix(".key"),
    }
    assert {"server", "edge.example", "192.0.2.1", "localhost"} <= set(describe(server).hosts)


def test_certificates_are_made_anew_before_they_end_and_with_another_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = script("certificates")
    for role in ("authority", "server", "sensors", "camera", "admin"):
        (tmp_path / role).mkdir()
    monkeypatch.setenv("NAMES", "1")
    certificates.main(tmp_path)
    made = contents(tmp_path)
    authority = {path for path in made if path.name == "ca.pem" or path.name == "ca.key"}
    monkeypatch.setattr(certificates, "RENEW_BEFORE", certificates.RENEW_BEFORE * 10)
    certificates.main(tmp_path)
    renewed = contents(tmp_path)
    assert {path for path in made if made[path] == renewed[path]} == authority

    for name in ("ca.pem", "ca.key"):
        (tmp_path / "authority" / name).unlink()
    certificates.main(tmp_path)
    other = contents(tmp_path)
    assert other.keys() == made.keys() and not {path for path in made if other[path] == renewed[path]}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sensor_is_healthy_while_it_answers(tmp_path: Path) -> None:
    def health() -> int:
        environment = {**os.environ, "LATENTWIRE_RUN_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, DEPLOY / "alive.py"], env=environment, capture_output=True).returncode

    assert health() == 1
    path = tmp_path / "1-a.sensor"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            link, _ = listener.accept()
            with link:
                link.sendall(b"{}")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert health() == 0
        thread.join()
    assert path.exists() and health() == 1, "nobody listens any more"
