"""Settings are checked when they are made."""

from typing import Any

import pytest

from edge_server.config import ServerConfig, parse_address
from latentwire.messages import Limits


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("[::1]:0", ("[::1]", 0)),
        ("my-host.lan:1", ("my-host.lan", 1)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize(
    "setting",
    [
        {"listen": "localhost"},
        {"listen": ":50051"},
        {"listen": "::1:50051"},
        {"listen": "host:70000"},
        {"listen": "unix:/tmp/socket"},
        {"workers": 0},
        {"max_batch_images": 0},
        {"decoder_threads": -1},
        {"batch_delay_s": -0.1},
        {"batch_delay_s": float("nan")},
        {"hello_timeout_s": 0},
        {"command_timeout_s": float("inf")},
        {"limits": Limits(max_images_per_message=0)},
        {"limits": Limits(max_images_per_message=100, max_unanswered_images=99)},
    ],
)
def test_a_bad_setting_is_a_value_error_that_names_it(setting: dict[str, Any]) -> None:
    name = "max_unanswered" if "99" in str(setting) else next(iter(setting))
    with pytest.raises(ValueError, match=name):
        ServerConfig("digits", **setting)


def test_the_description_names_every_setting() -> None:
    text = ServerConfig("digits", listen="127.0.0.1:9").described()
    assert text.startswith("bundle=digits listen=127.0.0.1:9 decoder_threads=0 ")
    assert "batch_delay_s=0.002" in text
