"""Tokens, and files that change while the server runs: with the server in this process."""

import asyncio
import hashlib
import logging
import shutil
from pathlib import Path

import factories
import grpc
import pytest
from command import latentwire
from pki import ADMIN, CAM, SERVER, Authority
from raw_sensor import RawSensor, serving

from latentwire.bundle import Bundle
from latentwire.control_client import ControlClient
from latentwire.errors import CertificateError, NotAllowedError, NotAuthenticatedError, ServerUnavailableError
from latentwire.identity import Identity
from latentwire.tls import Access, read_token

CAM_TOKEN, ADMIN_TOKEN, UNKNOWN_TOKEN = "c" * 43, "a" * 43, "u" * 43


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return factories.make_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ours"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    write_tokens(path, {CAM: CAM_TOKEN, ADMIN: ADMIN_TOKEN})
    return path


def write_tokens(path: Path, known: dict[Identity, str]) -> None:
    lines = [f"{who.uri} sha256:{hashlib.sha256(token.encode()).hexdigest()}\n" for who, token in known.items()]
    path.write_text("# who is who\n" + "".join(lines))


async def list_sensors(address: str, access: Access) -> None:
    with ControlClient(address, timeout_s=5, access=access) as control:
        await asyncio.to_thread(control.list_sensors)


# tokens


async def test_a_token_is_one_name_s_and_no_other_s(
    bundle: Bundle, ours: Authority, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = ours.pair(SERVER)
    async with serving(bundle.path, tls_cert=pair.certificate, tls_key=pair.key, tokens=tokens) as (_, address):
        cam = ours.access(None, CAM_TOKEN)
        async with RawSensor(address, bundle, access=cam) as sensor:
            await sensor.join()
        async with RawSensor(address, bundle, "other", access=cam) as thief:
            await thief.send(thief.hello())
            refused = await thief.refusal()
    assert refused == (grpc.StatusCode.PERMISSION_DENIED, f"NotAllowedError: {NotAllowedError.told}")
    assert "sensor 'cam' says hello as sensor 'other'" in caplog.text
    assert CAM_TOKEN not in caplog.text


@pytest.mark.parametrize(("token", "reason"), [(None, "carries no token"), (UNKNOWN_TOKEN, "not in the tokens file")])
async def test_who_has_no_token_is_told_no_more_than_that(
    bundle: Bundle, tokens: Path, caplog: pytest.LogCaptureFixture, token: str | None, reason: str
) -> None:
    async with serving(bundle.path, tokens=tokens) as (_, address):
        async with RawSensor(address, bundle, access=Access(token=token)) as sensor:
            refused = await sensor.refusal()
        with pytest.raises(NotAuthenticatedError) as told:
            await list_sensors(address, Access(token=token))
    assert refused == (grpc.StatusCode.UNAUTHENTICATED, f"NotAuthenticatedError: {NotAuthenticatedError.told}")
    assert str(told.value) == NotAuthenticatedError.told
    assert reason in caplog.text and UNKNOWN_TOKEN not in caplog.text


async def test_control_is_for_the_admin_s_token(bundle: Bundle, tokens: Path) -> None:
    async with serving(bundle.path, tokens=tokens) as (_, address):
        await list_sensors(address, Access(token=ADMIN_TOKEN))
        with pytest.raises(NotAllowedError):
            await list_sensors(address, Access(token=CAM_TOKEN))


async def test_a_token_that_is_taken_out_is_refused_from_then_on(
    bundle: Bundle, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(bundle.path, tokens=tokens) as (_, address):
        await list_sensors(address, Access(token=ADMIN_TOKEN))
        write_tokens(tokens, {CAM: CAM_TOKEN})
        with pytest.raises(NotAuthenticatedError):
            await list_sensors(address, Access(token=ADMIN_TOKEN))
        write_tokens(tokens, {CAM: CAM_TOKEN, ADMIN: ADMIN_TOKEN})
        tokens.write_text(tokens.read_text() + f"{ADMIN.uri} {UNKNOWN_TOKEN}\n")  # by mistake
        with pytest.raises(NotAuthenticatedError):
            await list_sensors(address, Access(token=ADMIN_TOKEN))
    assert "line 4" in caplog.text and "going on with what was read before" in caplog.text
    assert UNKNOWN_TOKEN not in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "cam sha256:" + "0" * 64,
        "latentwire://sensor/cam " + "0" * 64,
        "latentwire://sensor/cam sha256:00",
        "latentwire://king/cam sha256:" + "0" * 64,
        "latentwire://sensor/a sha256:" + "0" * 64 + "\nlatentwire://sensor/b sha256:" + "0" * 64,
    ],
)
async def test_a_tokens_file_that_is_none_stops_the_start(bundle: Bundle, tmp_path: Path, line: str) -> None:
    (tmp_path / "tokens").write_text(line)
    with pytest.raises(CertificateError, match="line "):
        async with serving(bundle.path, tokens=tmp_path / "tokens"):
            pass


def test_a_token_made_by_the_command_is_known_by_the_line_it_prints(tmp_path: Path) -> None:
    made = latentwire("certs", "token", tmp_path / "secret", "--sensor", "cam")
    token = read_token(tmp_path / "secret")
    assert made.out.strip() == f"{CAM.uri} sha256:{hashlib.sha256(token.encode()).hexdigest()}"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert "is there already" in latentwire("certs", "token", tmp_path / "secret", "--sensor", "cam").error


async def test_the_command_takes_a_token_from_a_file_or_the_environment(
    bundle: Bundle, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(ADMIN_TOKEN + "\n")
    async with serving(bundle.path, tokens=tokens) as (_, address):
        by_file = ("ctl", "--server", address, "--token-file", tmp_path / "secret", "sensors")
        assert (await asyncio.to_thread(latentwire, *by_file)).status == 0
        bare = ("ctl", "--server", address, "sensors")
        assert (await asyncio.to_thread(latentwire, *bare)).error == NotAuthenticatedError.told
        monkeypatch.setenv("LATENTWIRE_CTL_TOKEN", ADMIN_TOKEN)
        assert (await asyncio.to_thread(latentwire, *bare)).status == 0


# files that change


def put(authority: Authority, folder: Path) -> dict[str, Path]:
    """The server's three files of that authority, in ``folder``, in place of those there."""
    pair = authority.pair(SERVER)
    files = {"tls_cert": pair.certificate, "tls_key": pair.key, "tls_ca": authority.ca}
    for name, path in files.items():
        shutil.copyfile(path, folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)
    return {name: folder / name for name in files}


async def test_new_certificates_are_used_without_a_restart_and_broken_ones_are_not(
    bundle: Bundle, ours: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "latentwire")
    other = Authority.make(tmp_path / "other")
    admin, new_admin = ours.access(ours.pair(ADMIN)), other.access(other.pair(ADMIN))
    (tmp_path / "files").mkdir()
    async with (
        serving(bundle.path, **put(ours, tmp_path / "files")) as (_, address),
        RawSensor(address, bundle, access=ours.access(ours.pair(CAM))) as sensor,
    ):
        await sensor.join()
        await list_sensors(address, admin)
        put(other, tmp_path / "files")
        await list_sensors(address, new_admin)
        with pytest.raises(ServerUnavailableError):
            await list_sensors(address, admin)
        assert "read anew" in caplog.text

        (tmp_path / "files" / "tls_key").write_text("no key")
        await list_sensors(address, new_admin)
        (tmp_path / "files" / "tls_cert").unlink()
        await list_sensors(address, new_admin)
        errors = [r.message for r in caplog.records if r.name == "latentwire.tls" and r.levelno == logging.ERROR]
        assert len(errors) == 2 and "no private key" in errors[0] and "cannot be read" in errors[1]

        await sensor.send(sensor.batch(0, 4))  # its connection is the one from before all that
        await sensor.hear_results(0, 4)


def test_bad_files_stop_the_start(ours: Authority, tmp_path: Path) -> None:
    pair = ours.pair(SERVER)
    options = ("server", "--listen", "127.0.0.1:0", "--tls-cert", pair.certificate, "--tls-key")
    assert "is not the key of" in latentwire(*options, ours.pair(CAM).key).error
    assert "cannot be read (No such file" in latentwire(*options, tmp_path / "none").error
    assert "no private key in PEM form" in latentwire(*options, ours.ca).error
