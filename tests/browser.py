"""A headless Chromium over its DevTools pipe: what a page logs, what it requests from the network, how wide it is.

The protocol is JSON with a zero byte after each message, on file descriptors 3 and 4 of the browser; so no port is
opened and no driver or client package is needed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
TIMEOUT = 60.0
"""Seconds to wait for an answer: on a busy machine a browser starts slowly."""


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class PageView:
    """One page at one width.

    Args:
        width: of the window, CSS pixels.
        content: width that the page takes, CSS pixels.
        smallest: smallest font size of visible text, CSS pixels.
        complaints: errors and warnings of the console, exceptions, and what a policy blocked.
        requests: addresses that the page requested, except itself and data: addresses.
        picture: PNG of the whole page.
    """

    width: int
    content: int = 0
    smallest: float = 0.0
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    picture: bytes = b""


class Browser:
    """A running Chromium; see `open_browser`."""

    def __init__(self, process: subprocess.Popen[bytes], into: int, out: int) -> None:
        self._process, self._into = process, into
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(out,), daemon=True)
        self._reader.start()

    def view(self, page: Path, width: int, height: int = 900, script: str = "") -> tuple[PageView, Any]:
        """Open a page in a new tab, unfold everything, and measure it.

        Args:
            page: an HTML file.
            width: of the window, CSS pixels; below 500 it is a phone.
            height: of the window, CSS pixels.
            script: an expression to evaluate in the end; promises are waited for.

        Returns:
            The view, and the value of `script`.
        """
        view = PageView(width)
        self._events.clear()
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", {}, session)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._call("Emulation.setDeviceMetricsOverride", metrics, session)
        self._call("Page.navigate", {"url": page.as_uri()}, session)
        self._wait("Page.loadEventFired", session)
        found = self._evaluate(MEASURE, session)
        view.content, view.smallest = int(found["content"]), float(found["smallest"])
        value = self._evaluate(script, session) if script else None
        shot = {"captureBeyondViewport": True, "format": "png"}
        view.picture = base64.b64decode(self._call("Page.captureScreenshot", shot, session)["data"])
        for event in self._events:
            _record(event, page.as_uri(), view)
        self._call("Target.closeTarget", {"targetId": target})
        return view, value

    def close(self) -> None:
        """Stop the browser."""
        with contextlib.suppress(OSError, AssertionError):
            self._send("Browser.close", {}, "")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._into)

    def _evaluate(self, script: str, session: str) -> Any:
        parameters = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", parameters, session)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _send(self, method: str, parameters: dict[str, Any], session: str) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._into, data) :]
        return self._number

    def _call(self, method: str, parameters: dict[str, Any], session: str = "") -> Any:
        number = self._send(method, parameters, session)
        while True:
            message = self._next(method)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _wait(self, method: str, session: str) -> None:
        while not any(e["method"] == method and e.get("sessionId") == session for e in self._events):
            self._next(method)

    def _next(self, what: str) -> dict[str, Any]:
        try:
            message = self._messages.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"the browser said nothing for {TIMEOUT:g} s: {what}") from None
        assert message is not None, f"the browser ended: {what}"
        if "method" in message:
            self._events.append(message)
        return message

    def _read(self, out: int) -> None:
        rest = b""
        with open(out, "rb", buffering=0) as stream:
            while data := stream.read(1 << 20):
                *whole, rest = (rest + data).split(b"\0")
                for message in whole:
                    self._messages.put(json.loads(message))
        self._messages.put(None)


MEASURE = """(async () => {
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  await Promise.all([...document.images].map((image) => image.decode().catch(() => console.error("no picture"))));
  await new Promise((done) => setTimeout(done, 300));  // for late requests
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let smallest = Infinity;
  while (walk.nextNode()) {
    const around = walk.currentNode.parentElement;
    if (walk.currentNode.data.trim() && around.checkVisibility()) {
      smallest = Math.min(smallest, parseFloat(getComputedStyle(around).fontSize));
    }
  }
  return { content: document.documentElement.scrollWidth, smallest };
})()"""


def _record(event: dict[str, Any], page: str, view: PageView) -> None:
    """Add one event of the browser to the view."""
    method, about = event["method"], event.get("params", {})
    if method == "Runtime.exceptionThrown":
        view.complaints.append(str(about["exceptionDetails"].get("exception", {}).get("description")))
    elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
        view.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in about["args"]))
    elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
        view.complaints.append(about["entry"]["text"])
    elif method == "Network.requestWillBeSent":
        address = about["request"]["url"]
        if address != page and not address.startswith("data:"):
            view.requests.append(address)


@contextlib.contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own; stop it at the end of the block."""
    pipes = [[fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()] for _ in range(2)]

    def place_pipes() -> None:
        os.dup2(pipes[0][0], 3)
        os.dup2(pipes[1][1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command,
            pass_fds=(3, 4),
            preexec_fn=place_pipes,  # the browser reads fixed descriptors
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(pipes[0][0])
        os.close(pipes[1][1])
        browser = Browser(process, pipes[0][1], pipes[1][0])
        try:
            yield browser
        finally:
            browser.close()
            time.sleep(0.1)  # its children write into the profile until they end
