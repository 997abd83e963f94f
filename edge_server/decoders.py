"""Which decoders a server makes."""

from functools import partial
from importlib.util import find_spec

from edge_server.config import ServerConfig
from edge_server.decoder import Decoder, MakeDecoder
from latentwire.errors import InferenceError


def decoders_of(config: ServerConfig) -> MakeDecoder:
    """In this process, or in a pool on Ray; InferenceError where Ray is not installed."""
    if config.backend == "local":
        return partial(Decoder, provider=config.provider)
    if find_spec("ray") is None:
        raise InferenceError("--backend ray needs Ray: pip install 'latentwire[server,ray]'")
    from edge_server.ray_decoder import RayDecoder  # seconds, and hundreds of megabytes

    return partial(RayDecoder, max_replicas=config.max_replicas)
