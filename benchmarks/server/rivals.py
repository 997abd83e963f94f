"""What people would pick instead, on the same decoder: each a server process that says where it listens.

    python -m benchmarks.server.rivals litserve|unary|jpeg BUNDLE RATE_SCALE

All run our own entropy decoding and decoder on what a request holds; what differs is the serving. LitServe batches, up
to 64 requests in 2 ms; the unary gRPC service and the one that takes JPEG files, on FastAPI, answer one by one.
"""

import asyncio
import io
import socket
import threading
import time
import urllib.request
from typing import Any

import grpc
import numpy as np
import typer
from PIL import Image

from benchmarks.server.missing import needed
from benchmarks.server.rival_paths import JPEG_PATH, UNARY_PATH
from edge_server.answering import answer_jobs
from edge_server.pipeline import Job, Pipeline, ServedPoint
from latentwire import wire
from latentwire.bundle import load_bundle
from latentwire.errors import LatentwireError
from latentwire.messages import LatentBatch
from latentwire.v1 import stream_pb2


def main(kind: str, bundle: str, rate_scale: float) -> None:
    """Serve until the process is ended."""
    if kind == "litserve":
        return _litserve(bundle, rate_scale)
    loaded = load_bundle(bundle)
    variant = loaded.manifest.default_variant
    served = Pipeline(loaded, decoder_threads=1).derive(variant, loaded.manifest.variant().default_model, rate_scale)
    if kind == "unary":
        asyncio.run(_unary(served))
    else:
        _jpeg(served)


async def _unary(served: ServedPoint) -> None:
    async def classify(request: stream_pb2.LatentBatch, _: object) -> stream_pb2.ServerMessage:
        job = Job(served, LatentBatch(0, request.images, 1, request.payload, request.crc32))
        (answered,) = answer_jobs([job])
        if isinstance(answered, LatentwireError):
            raise answered
        return wire.from_server_to_proto(answered.results)

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        classify, stream_pb2.LatentBatch.FromString, stream_pb2.ServerMessage.SerializeToString
    )
    service, _, method = UNARY_PATH[1:].partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _say(port)
    await server.wait_for_termination()


def _litserve(bundle: str, rate_scale: float) -> None:
    from benchmarks.server import rival_litserve

    port = _free_port()
    threading.Thread(target=_say_when_healthy, args=(port,), daemon=True).start()
    rival_litserve.serve(bundle, rate_scale, port)


def _jpeg(served: ServedPoint) -> None:
    fastapi, uvicorn = needed("fastapi"), needed("uvicorn")
    from starlette.requests import Request

    from training.inference import OnnxGraph

    encoder = OnnxGraph(served.bundle.encoder_path(), threads=1)
    if served.decoder.conditions:
        raise LatentwireError(
            "a decoder that is told of the code is half of no whole classifier: give another --bundle"
        )
    mode = served.bundle.manifest.input.channel_order
    app = fastapi.FastAPI()

    async def classify(request: Request) -> dict[str, Any]:
        image = np.asarray(Image.open(io.BytesIO(await request.body())).convert(mode))
        latent = encoder.run(image.reshape(1, *image.shape[:2], -1), 1)["latent"]
        label, probability = served.decoder.run(latent)
        return {"labels": label.tolist(), "probabilities": probability.tolist()}

    async def health() -> str:
        return "ok"

    app.add_api_route(JPEG_PATH, classify, methods=["POST"])
    app.add_api_route("/health", health)
    port = _free_port()
    threading.Thread(target=_say_when_healthy, args=(port,), daemon=True).start()
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical", access_log=False)


def _say(port: int) -> None:
    print(f"listening on 127.0.0.1:{port}", flush=True)


def _say_when_healthy(port: int) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
        except OSError:
            time.sleep(0.05)
    _say(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    typer.run(main)
