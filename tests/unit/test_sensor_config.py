"""Settings are checked once, and a bad one says what to do."""

from pathlib import Path
from typing import Any

import pytest

from edge_sensor import SensorConfig
from edge_sensor.channel import Backoff
from latentwire.messages import RateControl
from latentwire.tls import Access

GOOD = {"bundle": "digits", "server": "localhost:50051", "source": "digits", "name": "mast-1"}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("server", "localhost", "HOST:PORT"),
        ("server", "localhost:0", "HOST:PORT"),
        ("server", "localhost:70000", "HOST:PORT"),
        ("server", "http://localhost:1", "HOST:PORT"),
        ("name", "", "printable"),
        ("name", "a\nb", "printable"),
        ("name", "x" * 129, "printable"),
        ("source", "", "source must name"),
        ("limit", 0, "leave it out"),
        ("images_per_message", 0, "at least 1"),
        ("encode_batch_images", 0, "at least 1"),
        ("threads", 0, "at least 1"),
        ("max_unanswered_images", 15, "no message fits"),
        ("delay_s", -0.1, "0 to 3600"),
        ("delay_s", float("nan"), "0 to 3600"),
        ("grace_s", float("inf"), "0 to 3600"),
        ("connect_timeout_s", -1.0, "0 to 3600"),
        ("max_backoff_s", 0.0, "above 0"),
        ("rate_control", RateControl(True, 0.05), "max_age must be 0.1 to 3600"),
        ("rate_control", RateControl(True, float("nan")), "max_age must be"),
        ("rate_control", RateControl(budget_bits_per_s=-1.0), "budget must be"),
        ("max_image_bits", 7.0, "at least 8"),
        ("max_message_bits", float("nan"), "at least 8"),
    ],
)
def test_a_bad_setting_says_what_to_do(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SensorConfig(**{**GOOD, setting: value})


def test_several_servers() -> None:
    config = SensorConfig(**{**GOOD, "server": "127.0.0.1:1, localhost:2,[::1]:3"})
    assert config.servers == ("127.0.0.1:1", "localhost:2", "[::1]:3")
    for wrong, says in (("localhost:1,", "HOST:PORT"), ("localhost:1,edge.example.org:2", "another machine")):
        with pytest.raises(ValueError, match=says):
            SensorConfig(**{**GOOD, "server": wrong})


@pytest.mark.parametrize("server", ["127.0.0.1:1", "[::1]:50051", "edge.example.org:443"])
def test_addresses(server: str) -> None:
    access = Access(authority=Path("ca.pem"))
    assert f"server={server}" in SensorConfig(**{**GOOD, "server": server, "access": access}).described()


def test_plain_text_stays_on_this_machine_unless_it_is_said_otherwise() -> None:
    away = {**GOOD, "server": "edge.example.org:443"}
    with pytest.raises(ValueError, match="another machine: give tls_ca, or insecure"):
        SensorConfig(**away)
    SensorConfig(**away, access=Access(insecure=True))
    with pytest.raises(ValueError, match="a token is not sent in plain text"):
        SensorConfig(**away, access=Access(token="t" * 40, insecure=True))


def test_a_token_is_not_shown_with_the_settings() -> None:
    assert "s3cret" not in SensorConfig(**GOOD, access=Access(token="s3cret" * 8)).described()


def test_pauses_double_up_to_the_ceiling_and_begin_anew_after_success() -> None:
    spans: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        spans.append((low, high))
        return low

    backoff = Backoff(first_s=1.0, ceiling_s=5.0, uniform=uniform)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 2.5, 2.5]
    backoff.reset()
    assert backoff.next_s() == 0.5
    assert all(high == 2 * low for low, high in spans)
