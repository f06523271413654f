"""A real HTTP server on loopback that serves files and fails on purpose.

    with FaultServer(folder) as server:
        server.faults = ["reset:1000", "ok", "503:Retry-After=1"]
        fetch(server.url + "/zips/val2017.zip", path)

Each GET takes the next fault of the list; with the list empty everything works. By hand, to try
a downloader against it: `python tests/fault_server.py FOLDER [FAULT ...]`.
"""

import email.utils
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from faults import FAULTS, Faults


class FaultServer(ThreadingHTTPServer):
    """Serves the files under `folder`; settings may be changed while it runs.

    Attributes:
        url: without a slash at the end.
        faults: used up from the front, one a GET.
        validators: "etag", "weak", "date" or "none": what answers carry.
        ranges: whether ranges are served.
        versions: by path, the contents that `change` switches to, in order.
        requests: of every request so far the method, path and headers.
        rate: bytes a second on one connection, 0 for no limit.
        redirect_to: where `redirect` leads, by default to the same file under /moved.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = Path(folder)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.faults: list[str] = []
        self.validators = "etag"
        self.ranges = True
        self.versions: dict[str, list[bytes]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.rate = 0
        self.redirect_to = ""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._served: dict[str, tuple[int, bytes]] = {}

    def __enter__(self) -> "FaultServer":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_) -> None:
        """A client that hangs up is what these tests are about."""

    def next_fault(self) -> tuple[str, str]:
        """The fault for one GET and its argument."""
        with self._lock:
            name, _, argument = (self.faults.pop(0) if self.faults else "ok").partition(":")
        assert name in FAULTS, name
        return name, argument

    def content(self, path: str, *, change: bool = False) -> tuple[int, bytes] | None:
        """Version number and bytes of a file as they are now served."""
        with self._lock:
            if path not in self._served:
                file = self.folder / path.lstrip("/")
                if not file.is_file():
                    return None
                self._served[path] = (0, file.read_bytes())
            if change and self.versions.get(path):
                number = self._served[path][0] + 1
                self._served[path] = (number, self.versions[path].pop(0))
            return self._served[path]


class _Handler(Faults, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self._note()
        found = self.server.content(self._path())
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(found[1]) if found else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        fault, argument = self.server.next_fault()
        found = self.server.content(self._path(), change=fault == "change")
        if found is None:
            self._send(404, b"not here")
            return
        self.number = int(argument) if argument.isdecimal() else 0
        self.fault, self.argument, (self.version, self.body) = fault, argument, found
        answer = getattr(self, "_fault_" + fault.replace("-", "_"), self._answer)
        try:
            answer()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _note(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))

    def _path(self) -> str:
        return self.path.removeprefix("/moved")

    def _range(self) -> tuple[int, int] | None:
        """The bytes [start, end) to send, None for all of them."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if not self.server.ranges or not asked:
            return None
        if condition and condition not in self._validators().values():
            return None
        start = int(asked[1])
        end = min(int(asked[2]) + 1, len(self.body)) if asked[2] else len(self.body)
        return start, end

    def _validators(self) -> dict[str, str]:
        date = email.utils.formatdate(1_600_000_000 + 86_400 * self.version, usegmt=True)
        return {
            "etag": {"ETag": f'"v{self.version}"', "Last-Modified": date},
            "weak": {"ETag": f'W/"v{self.version}"', "Last-Modified": date},
            "date": {"Last-Modified": date},
            "none": {},
        }[self.server.validators]

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        """A whole answer; `self` must know the fault for what happens to the body."""
        self.send_response(status)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self._send_body(body)

    def _send_body(self, body: bytes) -> None:
        if not self.server.rate:
            self.wfile.write(body)
            return
        step = max(1, self.server.rate // 50)
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            time.sleep(step / self.server.rate)

    def _answer(self, *, body: bytes | None = None, **headers: str) -> None:
        """What a good server answers, with the body or headers replaced."""
        part = self._range()
        headers = {**self._validators(), **headers}
        if part is None:
            self._send(200, self.body if body is None else body, **headers)
        elif part[0] >= len(self.body):
            self._send(416, b"", Content_Range=f"bytes */{len(self.body)}")
        else:
            start, end = part
            headers.setdefault("Content_Range", f"bytes {start}-{end - 1}/{len(self.body)}")
            self._send(206, self.body[start:end] if body is None else body, **headers)


def main() -> int:
    """Serve a folder until interrupted."""
    with FaultServer(Path(sys.argv[1])) as server:
        server.faults = sys.argv[2:]
        print(server.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    raise SystemExit(main())
