"""What a process that only senses, serves or asks must not load. import-linter reads the text; this runs it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "onnx", "matplotlib")  # training's, in no sensor's install
ON_DEMAND = ("av", "cryptography", "opentelemetry", "prometheus_client")  # a sensor's, where its settings ask for them
SERVERS_OWN = ("av", "opentelemetry", "prometheus_client")  # a server's, likewise
RUNTIME = (*HEAVY, "onnxruntime", "av")  # nor needed to ask a server, or to look at a bundle
EDGE = ("edge_sensor", "edge_server", "training", "benchmarks")


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after ``statement``."""
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "without"),
    [
        ("import edge_sensor, edge_sensor.run, edge_sensor.encoder", (*HEAVY, *ON_DEMAND, "edge_server", "training")),
        ("import edge_server, edge_server.decoder", (*HEAVY, *SERVERS_OWN, "edge_sensor", "training")),
        ("import latentwire.cli", (*RUNTIME, *ON_DEMAND, *EDGE, "grpc")),
        ("import latentwire.demo, latentwire.control_client, latentwire.wire", (*RUNTIME, *EDGE)),
        ("import latentwire.codec.latent_codec, latentwire.operating_point", (*RUNTIME, *EDGE, "grpc", "google")),
        ("import training.evaluation, training.inference", ("torch", "torchvision", "edge_sensor", "edge_server")),
    ],
)
def test_it_loads_no_more_than_it_needs(statement: str, without: tuple[str, ...]) -> None:
    loaded = loaded_after(statement)
    assert "latentwire" in loaded
    assert loaded.isdisjoint(without), sorted(loaded & set(without))


def test_the_codec_works_without_constriction() -> None:
    loaded = loaded_after(
        "sys.modules['constriction'] = None\n"
        "import latentwire.codec.latent_codec\n"
        "from latentwire.codec import coder\n"
        "assert coder.in_use() == 'portable'"
    )
    assert "latentwire" in loaded
