"""A camera on loopback: Motion JPEG over HTTP, that can hang up, fall silent, or send torn pictures."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """An image (H, W, C) uint8 as a JPEG."""
    content = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(content, "JPEG", quality=quality)
    return content.getvalue()


@dataclass
class Camera:
    """Sends ``pictures`` over and over, ``gap_s`` apart; what is set applies from the next picture on.

    ``hang_up_after`` ends a connection after so many pictures; while ``silent``, nothing is sent.
    """

    pictures: Sequence[bytes]
    gap_s: float = 0.01
    hang_up_after: int | None = None
    silent: bool = False
    port: int = 0
    connections: int = 0
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.port}/live.mjpg?key=secret"


@contextmanager
def filming(camera: Camera, port: int = 0) -> Iterator[Camera]:
    """The camera on a free port, or on ``port``."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            camera.connections += 1
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            sent = 0
            try:
                while not camera.closed.wait(camera.gap_s) and sent != camera.hang_up_after:
                    if not camera.silent:
                        self._send(camera.pictures[sent % len(camera.pictures)])
                        sent += 1
            except OSError:
                pass  # whoever looked has gone
            self.close_connection = True

        def _send(self, picture: bytes) -> None:
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            self.wfile.write(head.encode() + picture + b"\r\n")

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    camera.port = server.server_port
    camera.closed.clear()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield camera
    finally:
        camera.closed.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
