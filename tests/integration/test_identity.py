"""Who is let in, and as whom: TLS handshakes, certificates and tokens, against real servers on loopback."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import factories
import grpc
import pytest
from command import Done, latentwire
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from PIL import Image
from pki import ADMIN, CAM, SERVER, Authority
from raw_sensor import RawSensor, serving

from latentwire import certificates
from latentwire.bundle import Bundle
from latentwire.control_client import ControlClient
from latentwire.errors import NotAllowedError, ServerUnavailableError
from latentwire.identity import Identity
from latentwire.tls import KeyPair
from latentwire.v1 import bundles_pb2, bundles_pb2_grpc, control_pb2, stream_pb2

TELLING = re.compile(r"expired|issuer|authority|certificate|verif|cam|other|token", re.IGNORECASE)


@dataclass(frozen=True)
class Running:
    """A ``latentwire server`` process."""

    address: str
    log_file: Path

    def wait_for(self, pattern: str, since: int) -> str:
        """The first line of its log after ``since`` characters that matches; fails after 30 s."""
        deadline = time.monotonic() + 30
        while True:
            for line in self.log_file.read_text()[since:].splitlines():
                if re.search(pattern, line):
                    return line
            assert time.monotonic() < deadline, (pattern, self.log_file.read_text()[since:])
            time.sleep(0.02)

    def said(self) -> int:
        """How many characters its log has."""
        return len(self.log_file.read_text())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def server(bundle: Bundle, ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Mutual TLS, as a process of its own, logging JSON."""
    log_file = tmp_path_factory.mktemp("log") / "server.log"
    pair = ours.pair(SERVER)
    options = ["--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-ca", ours.ca]
    command = [sys.executable, "-m", "latentwire", "--log-format", "json", "server", "--bundle", bundle.path]
    command += ["--listen", "127.0.0.1:0", "--threads", "1", "--grace-s", "0.1", *options]
    with log_file.open("wb") as log, subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=log) as p:
        try:
            assert p.stdout is not None
            said = p.stdout.readline().decode()
            assert said.startswith("listening on"), log_file.read_text()
            yield Running(said.split()[-1], log_file)
        finally:
            p.terminate()
            p.wait(60)


def stranger(ours: Authority, foreign: Authority, kind: str) -> KeyPair | None:
    return {"wrong CA": foreign.pair(CAM), "expired": ours.expired(CAM), "none": None}[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong CA", "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate"),
        ("expired", "CERTIFICATE_VERIFY_FAILED: certificate has expired"),
        ("none", "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    ],
)
async def test_a_stranger_gets_no_connection_and_no_reason(
    server: Running, bundle: Bundle, ours: Authority, foreign: Authority, kind: str, reason: str
) -> None:
    before = server.said()
    async with RawSensor(server.address, bundle, access=ours.access(stranger(ours, foreign, kind))) as sensor:
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await sensor.join()
        code, details = await sensor.refusal()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert not TELLING.search(details), details
    assert "Handshake failed" in await asyncio.to_thread(server.wait_for, reason, before)


async def test_plain_text_is_refused(server: Running) -> None:
    before = server.said()
    with ControlClient(server.address, timeout_s=5) as control, pytest.raises(ServerUnavailableError):
        await asyncio.to_thread(control.list_sensors)
    await asyncio.to_thread(server.wait_for, "WRONG_VERSION_NUMBER", before)


async def test_a_sensor_with_its_certificate_is_served(server: Running, bundle: Bundle, ours: Authority) -> None:
    async with RawSensor(server.address, bundle, access=ours.access(ours.pair(CAM))) as sensor:
        await sensor.join()
        await sensor.send(sensor.batch(0, 4))
        await sensor.hear_results(0, 4)


async def test_a_sensor_cannot_speak_for_another(server: Running, bundle: Bundle, ours: Authority) -> None:
    before = server.said()
    async with RawSensor(server.address, bundle, "other", access=ours.access(ours.pair(CAM))) as sensor:
        await sensor.send(sensor.hello())
        code, details = await sensor.refusal()
    assert (code, details) == (grpc.StatusCode.PERMISSION_DENIED, f"NotAllowedError: {NotAllowedError.told}")
    assert not TELLING.search(details)
    line = await asyncio.to_thread(server.wait_for, "NotAllowedError", before)
    assert "sensor 'cam' says hello as sensor 'other'" in json.loads(line)["message"]


async def test_an_admin_is_no_sensor(server: Running, bundle: Bundle, ours: Authority) -> None:
    async with RawSensor(server.address, bundle, "ops", access=ours.access(ours.pair(ADMIN))) as sensor:
        code, _ = await sensor.refusal()
    assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("service", "allowed"),
    [
        ("latentwire.v1.Control", {ADMIN}),
        ("latentwire.v1.Bundles", {ADMIN, CAM}),
        ("latentwire.v1.Sensors", {CAM}),
        ("grpc.health.v1.Health", {ADMIN, CAM, SERVER}),
    ],
)
async def test_every_method_asks_who_calls(
    server: Running, ours: Authority, service: str, allowed: set[Identity]
) -> None:
    """With an empty request: what is not refused for who calls is refused for what it says, or answered."""
    for who in (ADMIN, CAM, SERVER):
        credentials = ours.access(ours.pair(who)).credentials()
        assert credentials is not None
        async with grpc.aio.secure_channel(server.address, credentials.get()) as channel:
            for method in methods(service):
                denied = await outcome(channel, method) is grpc.StatusCode.PERMISSION_DENIED
                assert denied == (who not in allowed), (method.full_name, who)


def methods(service: str) -> list[MethodDescriptor]:
    if service == "grpc.health.v1.Health":
        return [m for m in health_pb2.DESCRIPTOR.services_by_name["Health"].methods if m.name == "Check"]
    files = (control_pb2, bundles_pb2, stream_pb2)
    found = [f.DESCRIPTOR.services_by_name.get(service.rpartition(".")[2]) for f in files]
    return [method for each in found if each is not None for method in each.methods]


async def outcome(channel: grpc.aio.Channel, method: MethodDescriptor) -> grpc.StatusCode:
    """The status that a call ends with, OK if it has a first answer."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            stream = channel.stream_stream(path)()
            await stream.done_writing()
            await stream.read()
            return await stream.code()
        if method.server_streaming:
            call = channel.unary_stream(path)(b"", timeout=20)
            first = await call.read()
            if first is not grpc.aio.EOF:
                call.cancel()
                return grpc.StatusCode.OK
            return await call.code()
        await channel.unary_unary(path)(b"", timeout=20)
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()


async def test_what_a_sensor_may_not_do_is_in_the_log_and_audit(server: Running, ours: Authority) -> None:
    before = server.said()
    client = ControlClient(server.address, access=ours.access(ours.pair(CAM)))
    with client as control, pytest.raises(NotAllowedError) as refused:
        await asyncio.to_thread(control.set_rate, "cam", 1.0)
    assert str(refused.value) == NotAllowedError.told
    warned = json.loads(await asyncio.to_thread(server.wait_for, "may not call", before))
    assert "sensor 'cam' may not call /latentwire.v1.Control/SetRate" in warned["message"]
    audited = json.loads(await asyncio.to_thread(server.wait_for, "latentwire.audit", before))
    assert (audited["who"], audited["action"]) == ("sensor 'cam'", "SetRate")
    assert audited["result"].startswith("NotAllowedError: ") and audited["peer"].startswith("ipv4:127.0.0.1:")


async def test_an_admin_turns_the_knob_and_that_is_written_down(
    server: Running, bundle: Bundle, ours: Authority
) -> None:
    before = server.said()
    async with RawSensor(server.address, bundle, access=ours.access(ours.pair(CAM)), session="s2") as sensor:
        await sensor.join()
        with ControlClient(server.address, access=ours.access(ours.pair(ADMIN))) as control:
            turning = asyncio.create_task(asyncio.to_thread(control.set_rate, "cam", 4.0))
            command = await sensor.hear()
            announced = sensor.announcement(4.0, command_id=command.command_id)  # type: ignore[union-attr]
            await sensor.send(announced, sensor.batch(0, 1))
            await turning
    audited = json.loads(await asyncio.to_thread(server.wait_for, "latentwire.audit", before))
    assert (audited["who"], audited["result"]) == ("admin 'ops'", "done")
    assert audited["action"] == "SetRate sensor='cam' rate_scale=4" and audited["time"]


async def test_bundles_are_handed_to_sensors(server: Running, ours: Authority, bundle: Bundle) -> None:
    credentials = ours.access(ours.pair(CAM)).credentials()
    assert credentials is not None
    async with grpc.aio.secure_channel(server.address, credentials.get()) as channel:
        stub = bundles_pb2_grpc.BundlesStub(channel)
        answer = await stub.GetManifest(bundles_pb2.GetManifestRequest(model_id=bundle.manifest.model_id))
        assert answer.manifest_json == (bundle.path / "manifest.json").read_bytes()


@pytest.mark.parametrize("role", ["sensor", "ctl"])
def test_the_commands_speak_tls_and_are_told_nothing(
    server: Running, ours: Authority, bundle: Bundle, tmp_path: Path, role: str
) -> None:
    def run(pair: KeyPair) -> Done:
        options = ("--tls-ca", ours.ca, "--tls-cert", pair.certificate, "--tls-key", pair.key)
        if role == "ctl":
            return latentwire("ctl", "--server", server.address, *options, "sensors", "--json")
        return latentwire(
            "sensor", "--server", server.address, "--bundle", bundle.path, "--source", tmp_path / "images", "--name",
            "cam", "--no-progress", "--connect-timeout-s", "1", *options,
        )  # fmt: skip

    (tmp_path / "images").mkdir()
    Image.fromarray(factories.make_images(1)[0][0, :, :, 0]).save(tmp_path / "images" / "a.png")
    good = run(ours.pair(ADMIN if role == "ctl" else CAM))
    assert good.status == 0, good.err
    bad = run(ours.expired(ADMIN if role == "ctl" else CAM))
    assert "no server answers" in bad.error and "expired" not in bad.error


async def test_a_server_that_is_not_who_it_should_be_gets_nothing(
    bundle: Bundle, ours: Authority, tmp_path: Path
) -> None:
    """A certificate of the right authority, for another host."""
    path = certificates.issue(ours.folder, Identity("server", "else.example"), ["else.example"], out=tmp_path)
    settings = {"tls_cert": path, "tls_key": path.with_suffix(".key"), "tls_ca": ours.ca}
    async with serving(bundle.path, **settings) as (_, address):
        client = ControlClient(address, access=ours.access(ours.pair(ADMIN)), timeout_s=5)
        with client as control, pytest.raises(ServerUnavailableError, match="Hostname Verification Check failed"):
            await asyncio.to_thread(control.list_sensors)
