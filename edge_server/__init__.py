"""The server: a stream of payloads in, classes out; and the control service that turns sensors' knobs."""

from edge_server.config import ServerConfig
from edge_server.server import Server, run_server, run_server_blocking

__all__ = ["Server", "ServerConfig", "run_server", "run_server_blocking"]
