"""LitServe with batching. Its workers unpickle the API, so that it stands in a module of its own."""

import base64
from typing import Any

from benchmarks.server.missing import needed
from benchmarks.server.rival_paths import LITSERVE_PATH
from edge_server.answering import answer_jobs
from edge_server.pipeline import Answered, Job, Pipeline
from latentwire.bundle import load_bundle
from latentwire.errors import LatentwireError
from latentwire.messages import LatentBatch

litserve = needed("litserve")


BATCH_REQUESTS = 64
BATCH_DELAY_S = 0.002


class Api(litserve.LitAPI):  # type: ignore[misc, name-defined]  # untyped where it is not installed
    """Messages as JSON, their payloads in base64; a batch of them goes where our own micro-batches go."""

    def __init__(self, bundle: str, rate_scale: float) -> None:
        super().__init__(max_batch_size=BATCH_REQUESTS, batch_timeout=BATCH_DELAY_S, api_path=LITSERVE_PATH)
        self._bundle, self._rate_scale = bundle, rate_scale

    def setup(self, device: str) -> None:
        """In the worker's process."""
        bundle = load_bundle(self._bundle)
        variant = bundle.manifest.default_variant
        model = bundle.manifest.variant().default_model
        self.served = Pipeline(bundle, decoder_threads=1).derive(variant, model, self._rate_scale)

    def decode_request(self, request: dict[str, Any]) -> Job:
        """A request's message."""
        payload = base64.b64decode(request["payload"])
        return Job(self.served, LatentBatch(0, request["images"], 1, payload, request["crc32"]))

    def batch(self, inputs: list[Job]) -> list[Job]:
        """As they are."""
        return inputs

    def predict(self, jobs: list[Job]) -> list[Answered]:
        """All at once."""
        answers: list[Answered] = []
        for answered in answer_jobs(jobs):
            if isinstance(answered, LatentwireError):
                raise answered
            answers.append(answered)
        return answers

    def unbatch(self, output: list[Answered]) -> list[Answered]:
        """As they are."""
        return output

    def encode_response(self, output: Answered) -> dict[str, Any]:
        """Labels and probabilities as JSON."""
        return {"labels": output.results.labels, "probabilities": output.results.probabilities}


def serve(bundle: str, rate_scale: float, port: int) -> None:
    """On one core: one process that serves, one that works."""
    server = litserve.LitServer(Api(bundle, rate_scale), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="critical", generate_client_file=False)
