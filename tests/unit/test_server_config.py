"""Settings are checked when they are made."""

from pathlib import Path
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
        {"backend": "cluster"},
        {"provider": "CUDAExecutionProvider", "backend": "ray"},
        {"max_replicas": 0},
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
    assert "batch_delay_s=None" in text


PAIR = {"tls_cert": Path("s.pem"), "tls_key": Path("s.key")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"listen": "0.0.0.0:1"}, "plain text on 0.0.0.0:1"),
        ({"listen": "[::]:1", "tokens": Path("t")}, "plain text on"),
        ({"listen": "10.0.0.1:1", **PAIR}, "anyone could control all sensors"),
        ({"tls_cert": Path("s.pem")}, "go together"),
        ({"tls_key": Path("s.key")}, "go together"),
        ({"tls_ca": Path("ca.pem")}, "tls_ca needs tls_cert"),
        ({**PAIR, "tls_ca": Path("ca.pem"), "tokens": Path("t")}, "give one"),
    ],
)
def test_nobody_from_outside_is_let_in_by_oversight(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig("digits", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "127.0.0.2:1"},
        {"listen": "[::1]:1"},
        {"listen": "localhost:1", "tokens": Path("t")},
        {"listen": "0.0.0.0:1", "insecure": True},
        {"listen": "0.0.0.0:1", **PAIR, "tls_ca": Path("ca.pem")},
        {"listen": "0.0.0.0:1", **PAIR, "tokens": Path("t")},
        {"listen": "0.0.0.0:1", **PAIR, "insecure": True},
    ],
)
def test_what_is_on_purpose_is_taken(settings: dict[str, Any]) -> None:
    ServerConfig("digits", **settings)
