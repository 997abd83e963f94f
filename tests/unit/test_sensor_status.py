"""What a sensor tells an operator on its machine."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_sensor_metrics import VITALS

from edge_sensor import status
from edge_sensor.vitals import Vitals


@asynccontextmanager
async def telling(folder: Path, gather: Callable[[], Vitals] = lambda: VITALS) -> AsyncIterator[None]:
    before = set(folder.glob("*.sensor")) if folder.exists() else set()
    task = asyncio.create_task(status.serve_status(folder, gather))
    async with asyncio.timeout(10):
        while not set(folder.glob("[!.]*.sensor")) - before:
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(folder: Path) -> list[dict[str, object]]:
    return await asyncio.to_thread(status.running, folder)


async def test_a_sensor_tells_its_vitals_as_they_are(tmp_path: Path) -> None:
    rates = iter((0.5, 2.0))
    async with telling(tmp_path, lambda: replace(VITALS, rate_scale=next(rates))):
        (first,), (second,) = await ask(tmp_path), await ask(tmp_path)
    assert (first["sensor"], first["rate_scale"], second["rate_scale"]) == ("mast", 0.5, 2.0)
    assert first["images_skipped"] == {"unchanged": 77, "fps": 3}
    assert isinstance(first["report"], dict) and first["report"]["images_answered"] == 990
    assert await ask(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


async def test_every_sensor_answers_for_itself(tmp_path: Path) -> None:
    async with telling(tmp_path), telling(tmp_path, lambda: replace(VITALS, sensor="a")):
        assert [found["sensor"] for found in await ask(tmp_path)] == ["a", "mast"]


def dead(folder: Path, name: str = "1-x.sensor") -> Path:
    """A socket whose process was killed."""
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as link:
        link.bind(str(folder / name))
    return folder / name


def test_what_a_dead_sensor_left_is_removed(tmp_path: Path) -> None:
    path = dead(tmp_path)
    assert status.running(tmp_path) == []
    assert not path.exists()
    assert status.running(tmp_path / "nowhere") == []


async def test_a_new_sensor_removes_it_too(tmp_path: Path) -> None:
    path = dead(tmp_path)
    async with telling(tmp_path):
        assert not path.exists()
        assert len(await ask(tmp_path)) == 1


@pytest.mark.parametrize("answer", [b"", b"junk", b"[1]", b'{"a": 1}', b"x" * (2 << 20)])
async def test_an_answer_that_is_none_is_left_out(tmp_path: Path, answer: bytes) -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(speak, tmp_path / "2-x.sensor"):
        assert await ask(tmp_path) == []


async def test_a_sensor_that_hangs_does_not_hang_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PATIENCE_S", 0.1)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "3-x.sensor"))
        hung.listen()
        assert await ask(tmp_path) == []
        assert (tmp_path / "3-x.sensor").exists(), "it is alive"


async def test_without_a_folder_the_sensor_does_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    task = asyncio.create_task(status.serve_status(tmp_path / "file" / "below", lambda: VITALS))
    async with asyncio.timeout(10):
        while "see --run-dir" not in caplog.text:
            await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(status.serve_status(tmp_path / ("x" * 120), lambda: VITALS))
    async with asyncio.timeout(10):
        while "the sensor does without" not in caplog.text:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def told(**changes: object) -> str:
    vitals = json.loads(json.dumps(asdict(replace(VITALS, **changes))))  # type: ignore[arg-type]  # names of fields
    return status.in_words(vitals)


def test_in_words() -> None:
    words = told()
    for fact in (
        "mast (process 7, 1, up ",
        "127.0.0.1:1, connected for 5.0 s, 3 reconnects",
        "a camera, away, lost 4 times",
        "toy, full, anchored, rate scale 0.5",
        "1020 captured, 1000 coded, 990 answered",
        "6 to be coded, 14 for the link (140 bytes), 10 for an answer",
        "ImageError 2, behind 8",
        "fps 3, unchanged 77",
        "8.0 payload, 17.0 gRPC",
        "2.50 ms an image",
        "12 ms median, 40 ms p95",
    ):
        assert fact in words


def test_in_words_before_the_first_image_and_with_a_name_that_draws() -> None:
    report = replace(VITALS.report, payload_bits=None, latency_p50_ms=None, dropped={}, elapsed_s=7200.0)
    words = told(
        sensor="a\x1b[31m", connected=False, source_lost=False, source_silent_s=None, encode_images=0, report=report
    )
    assert words.startswith("a?[31m (process 7, 1, up 2.0 h)")
    assert "not connected" in words
    assert "no image yet" in words
    assert "dropped       none" in words


def test_where_sockets_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert [str(folder) for folder in status.run_folders()] == [
        "/run/user/7/latentwire",
        "/run/latentwire",
        f"/tmp/latentwire-{os.getuid()}",
    ]
    assert status.run_folders(Path("/x")) == [Path("/x")]
