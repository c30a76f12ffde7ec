"""A small HTTP server on this machine for tests of downloads: it answers, cuts an answer short, or stalls."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Answer:
    """What a path gives. `sent` bytes of the body are sent (None: all), then the connection is cut or `stalls`."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None
    stalls: bool = False


@contextlib.contextmanager
def serve(answer: Callable[[str], Answer]) -> Iterator[tuple[str, list[str]]]:
    """The server's address, and the paths asked for so far; `answer` maps a path to what it gives."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._head(answer(self.path))

        def do_GET(self) -> None:
            asked.append(self.path)
            found = answer(self.path)
            self._head(found)
            self.wfile.write(found.body if found.sent is None else found.body[: found.sent])
            self.wfile.flush()
            if found.stalls:
                over.wait(60)

        def _head(self, found: Answer) -> None:
            self.send_response(found.status)
            for name, value in {"Content-Length": str(len(found.body)), **found.headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
