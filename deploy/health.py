"""Exit status 0 if the server in this container says, over gRPC, that it is serving; 1 if not.

The address is the one it was told to listen on (LATENTWIRE_SERVER_LISTEN), reached over loopback. Where the server has
TLS (LATENTWIRE_SERVER_TLS_…), it is asked with its own certificate, which has to be good for localhost.
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3

port = os.environ.get("LATENTWIRE_SERVER_LISTEN", "127.0.0.1:50051").rpartition(":")[2]
certificate, key, authority = (os.environ.get(f"LATENTWIRE_SERVER_TLS_{name}") for name in ("CERT", "KEY", "CA"))
try:
    if certificate and key:
        own = Path(certificate).read_bytes()
        trusted = Path(authority).read_bytes() if authority else own
        credentials = grpc.ssl_channel_credentials(trusted, Path(key).read_bytes(), own)
        channel = grpc.secure_channel(f"localhost:{port}", credentials)
    else:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    with channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
except grpc.RpcError as error:
    sys.exit(f"port {port}: {error.code().name}: {error.details()}")
name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
print(name)
sys.exit(0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1)
