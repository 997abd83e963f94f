"""The decoder pool on Ray Serve: ready-made micro-batches go to replicas, wherever the cluster has them.

::

    worker thread -> handle -> a replica's Decoder, in ONNX Runtime -> labels and probabilities
                       \\ the replica died: once more, to another

A replica keeps the decoders it was asked for; one that it does not know it fetches from Ray's object store, where the
front end put the bundle's file. So replicas hold no state that counts, and front ends of different bundles share them.
"""

import hashlib
import logging
import os
import tempfile
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from edge_server.decoder import Decoder
from latentwire.errors import InferenceError

APPLICATION = "latentwire-decoders"
KEPT_DECODERS = 16  # of a replica
PATIENCE_S = 60.0  # with replicas that die, or none that starts
_PAUSE_S = 0.1

log = logging.getLogger("latentwire.server")


class Model(NamedTuple):
    """A decoder's file, as a replica is told of it: ``content`` holds one reference to the file's bytes."""

    sha256: str
    d: int
    classes: int
    content: list[Any]  # in a list, so that Ray hands on the reference and not the bytes


class Replica:
    """One process of the pool."""

    def __init__(self, threads: int) -> None:
        """``threads`` of ONNX Runtime."""
        self._threads = threads
        self._decoders: OrderedDict[str, Decoder] = OrderedDict()

    def run(
        self, model: Model, latent: NDArray[np.float32], conditions: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As ``Decoder.run``."""
        return self._decoder(model).run(latent, conditions)

    def _decoder(self, model: Model) -> Decoder:
        decoder = self._decoders.pop(model.sha256, None)
        if decoder is None:
            with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
                file.write(ray.get(model.content[0]))
                file.flush()
                decoder = Decoder(Path(file.name), model.d, model.classes, self._threads)
        self._decoders[model.sha256] = decoder
        while len(self._decoders) > KEPT_DECODERS:
            self._decoders.popitem(last=False)
        return decoder


class RayDecoder(Decoder):
    """A decoder whose micro-batches run in the pool. Threads may share it.

    It is loaded here as well, which refuses a file that is no decoder before any replica is asked.
    """

    def __init__(self, path: Path, d: int, classes: int, threads: int = 0, max_replicas: int = 1) -> None:
        """As ``Decoder``; joins the cluster that RAY_ADDRESS names, or starts one on this machine, and the pool of up
        to ``max_replicas`` if there is none yet. Raises InferenceError."""
        self._handle: Any = None  # the check of the file runs here
        super().__init__(path, d, classes, 1)
        content = path.read_bytes()
        self._handle = _pool(threads, max_replicas)
        self._model = Model(hashlib.sha256(content).hexdigest(), d, classes, [ray.put(content)])

    def run(
        self, latent: NDArray[np.float32], conditions: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As ``Decoder.run``; a micro-batch whose replica died is sent again. Raises InferenceError."""
        if self._handle is None:
            return super().run(latent, conditions)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                response = self._handle.run.remote(self._model, latent, conditions)
                labels, probabilities = response.result(timeout_s=max(deadline_s - time.monotonic(), 1.0))
                return labels, probabilities
            except RayTaskError as error:  # the decoder itself
                raise InferenceError(f"a replica of the decoder failed: {_reason(error)}") from error
            except (RayError, RayServeException, TimeoutError) as error:
                if time.monotonic() >= deadline_s:
                    raise InferenceError(
                        f"Ray answered nothing for {PATIENCE_S:g} s ({_reason(error)}): see 'ray status'"
                    ) from error
                log.warning("a replica of the decoder was lost, its images go to another: %s", _reason(error))
                time.sleep(_PAUSE_S)


@lru_cache(maxsize=1)
def _pool(threads: int, max_replicas: int) -> Any:
    """The handle of the pool, which is started if the cluster has none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports usage to its makers unless told not to
    own = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # a lost replica is said here, once
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, **own)
        serve.start(proxy_location="Disabled")  # it is asked through handles alone
        if APPLICATION in serve.status().applications:
            return serve.get_app_handle(APPLICATION)
        deployment = serve.deployment(Replica).options(
            max_ongoing_requests=2,  # one in ONNX Runtime, and the next
            ray_actor_options={"num_cpus": max(threads, 1)},
            health_check_period_s=2,
            autoscaling_config={"min_replicas": 1, "max_replicas": max_replicas, "target_ongoing_requests": 1},
        )
        return serve.run(deployment.bind(max(threads, 1)), name=APPLICATION, route_prefix=None)
    except (RayError, RayServeException, OSError, RuntimeError) as error:
        raise InferenceError(f"Ray cannot be used ({_reason(error)}): see 'ray status', or --backend local") from error


def _reason(error: Exception) -> str:
    """The last line's first sentence: what is above it is a traceback, what is behind it advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(". ")[0] if lines else type(error).__name__
