"""The load generator's own HTTP/2, and a short run of the server's benchmark against nothing but the bare loop."""

import pytest

from benchmarks.server import bench, http2
from benchmarks.server.cases import OURS
from benchmarks.server.peers import HttpCaller, http_post
from benchmarks.server.plan import Plan
from benchmarks.server.tables import tables, verdicts
from latentwire.errors import LatentwireError


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_frames_and_messages_are_found_however_a_socket_cuts_them(step: int) -> None:
    messages = [b"", b"a", b"bc" * 300]
    body = b"".join(http2.message(message) for message in messages)
    data = http2.frame(http2.SETTINGS, 0, 0) + http2.frame(http2.DATA, http2.END_STREAM, 5, body)
    frames, found = http2.Frames(), http2.Messages()
    heard = [f for i in range(0, len(data), step) for f in frames.feed(data[i : i + step])]
    assert [(f.kind, f.flags, f.stream) for f in heard] == [(http2.SETTINGS, 0, 0), (http2.DATA, http2.END_STREAM, 5)]
    assert [m for i in range(0, len(body), step) for m in found.feed(body[i : i + step])] == messages


@pytest.mark.parametrize(("number", "coded"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02")])
def test_varints_are_protobufs(number: int, coded: str) -> None:
    assert http2.varint(number).hex() == coded


def test_an_http_answer_is_taken_whole_and_a_refusal_is_one() -> None:
    caller = HttpCaller([http_post("/x", b"{}", "application/json", "here:1")])
    assert caller.request(0).endswith(b"content-length: 2\r\n\r\n{}")
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    assert [a for i in range(len(answer)) for a in caller.feed(answer[i : i + 1]).answers] == [b"abc"]
    with pytest.raises(LatentwireError, match="503"):
        caller.feed(b"HTTP/1.1 503 Busy\r\n\r\n")


@pytest.mark.slow
def test_a_short_run_measures_every_part_and_checks_what_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RIVALS", {"rival": {"no_such_package"}})
    monkeypatch.setattr(bench, "missing", lambda: ["no_such_package"])
    plan = Plan(1, 0.2, 0.1, streams=3, large_streams=2, idle_streams=5, active_images_per_s=20.0, paced_s=0.3)
    rows = bench.run_server_bench("digits", None, plan, lambda said: None)
    load = [row for row in rows if row["part"] == "full load"]
    assert {(row["server"], row["images_per_message"]) for row in load} == {("bare loop", 64), (OURS, 1), (OURS, 64)}
    assert all(row["images_per_s"] > 0 for row in load)
    assert all(row["ratio"] > 0 and row["latency_p99_ms"] > 0 for row in load if row["server"] == OURS)
    (idle,) = [row for row in rows if row["part"] == "idle streams"]
    assert idle["kib_a_stream"] > 0 and idle["latency_p99_ms"] > idle["latency_p50_ms"] > 0
    assert [row["server"] for row in rows if row["part"] == "missing"] == ["rival"]
    assert len(list(tables(rows))) == 2
    assert len(verdicts(rows)) == 3  # the others need a rival
