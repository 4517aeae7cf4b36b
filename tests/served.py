"""A loopback HTTP server that behaves as servers do: ranges, broken connections, changed files, refusals."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server holds and how it behaves.

    Args:
        files: content by name.
        ranges: whether it answers ranges.
        etag: version of all files.
        break_after: bytes of the body after which the connection is cut, once for each entry.
        refuse: status of the next answers, once for each entry.
        length: what it says as Content-Length, if not the truth.
        requests: name and Range header of every request so far.
        sent: bytes of all bodies so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: str = '"1"'
    break_after: list[int] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    length: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    url: str = ""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Served]:
    """Serve files on a free port of this machine."""
    served = Served(files)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            served.requests.append((name, self.headers.get("Range", "")))
            if served.refuse or name not in served.files:
                self.send_error(served.refuse.pop(0) if served.refuse else 404)
                return
            body = served.files[name]
            start = self._start(len(body))
            if start is None:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", served.length or str(len(body) - start))
            self.send_header("ETag", served.etag)
            self.end_headers()
            rest = body[start : start + served.break_after.pop(0)] if served.break_after else body[start:]
            served.sent += len(rest)
            self.wfile.write(rest)

        def _start(self, size: int) -> int | None:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if not served.ranges or not found or self.headers.get("If-Range") not in (None, served.etag):
                return 0
            return int(found[1]) if int(found[1]) < size else None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
