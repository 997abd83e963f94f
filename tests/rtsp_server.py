"""A camera on loopback: H.264 over RTSP, interleaved in the one TCP connection. FFmpeg's RTP packets, our handshake."""

import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import av
import numpy as np
from numpy.typing import NDArray

_SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
c=IN IP4 0.0.0.0
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
"""


@contextmanager
def filming_rtsp(pictures: Sequence[NDArray[np.uint8]], rounds: int, fps: int = 50) -> Iterator[str]:
    """The URL of a camera that sends ``pictures``, each (H, W, 3) uint8, so many rounds a connection, and hangs up."""
    closed = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while (request := self._request()) is not None:
                    method, sequence = request
                    self._answer(method, sequence)
                    if method == "PLAY":
                        self._play()
                        return

        def _request(self) -> tuple[str, str] | None:
            lines = iter(lambda: self.rfile.readline().decode().strip(), "")
            head = list(lines)
            if not head:
                return None
            sequence = next(line.partition(":")[2].strip() for line in head if line.lower().startswith("cseq"))
            return head[0].split()[0], sequence

        def _answer(self, method: str, sequence: str) -> None:
            head, body = [f"RTSP/1.0 200 OK\r\nCSeq: {sequence}"], ""
            if method == "OPTIONS":
                head.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif method == "DESCRIBE":
                body = _SDP.replace("\n", "\r\n")
                head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif method in ("SETUP", "PLAY"):
                head.append("Session: 1")
                head += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1"] if method == "SETUP" else []
            self.wfile.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())

        def _play(self) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
                packets.bind(("127.0.0.1", 0))
                packets.settimeout(0)
                for _ in _encoded(pictures, rounds, fps, packets.getsockname()[1]):
                    self._forward(packets)
                    if closed.wait(1 / fps):
                        return
                self._forward(packets)

        def _forward(self, packets: socket.socket) -> None:
            with suppress(BlockingIOError):
                while packet := packets.recv(1 << 16):
                    self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera"
        finally:
            closed.set()
            server.shutdown()
            thread.join(5)


def _encoded(pictures: Sequence[NDArray[np.uint8]], rounds: int, fps: int, port: int) -> Iterator[None]:
    """Send each picture as RTP to a port of this machine, then yield."""
    with av.open(f"rtp://127.0.0.1:{port}", "w", format="rtp") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "tune": "zerolatency", "g": "10"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for _ in range(rounds):
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                yield
        container.mux(stream.encode())
