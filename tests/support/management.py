"""A management API with answers of a test's choice, for facts that no test can bring about."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["fake_api"]


@contextmanager
def fake_api(
    answers: Mapping[str, Any], *, date: datetime | None = None, status: int = 200
) -> Iterator[str]:
    """
    Serve *answers* by path, such as ``queues/%2F``, and ``[]`` for other paths. Yield the URL.

    Args:
        date: the date of the answers; by default, none.
        status: of all answers.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/api/").partition("?")[0]
            body = answers.get(path, [])
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response_only(status)
            if date is not None:
                self.send_header("Date", format_datetime(date, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
