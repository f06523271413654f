"""What a server can do wrong, for tests/fault_server.py."""

import email.utils
import gzip
import socket
import struct
import time

# name:argument; the argument is a number of bytes unless said otherwise
FAULTS = {
    "ok": "no fault",
    "reset": "the connection is reset after so many bytes of the body",
    "close": "the connection ends after so many bytes, too early",
    "stall": "nothing more comes after so many bytes, the connection stays open",
    "drip": "a byte every 20 ms after so many bytes",
    "refuse": "the connection ends without an answer",
    "garbage": "the answer is no HTTP",
    "status": "this status, for example status:500",
    "retry-after": "503 and these seconds (a number, or `date` for two seconds as a date)",
    "416": "416 though the range is right, of a file of so many bytes (0: its own)",
    "whole": "200 and the whole file although a range was asked for",
    "redirect": "302 to the same file under another path",
    "loop": "302 to itself, always",
    "html": "200 and a login page",
    "gzip": "the body compressed, 200",
    "gzip-part": "the part compressed, 206",
    "chunked": "200 in chunks, no length",
    "chunked-cut": "200 in chunks, cut after so many bytes",
    "no-length": "200, no length, ends with the connection",
    "too-much": "so many bytes more than announced",
    "short-part": "206 with only so many bytes of the range (allowed)",
    "shifted": "206 of a range that begins one byte later, and says so",
    "lie": "206 that says the right range and sends bytes one further on",
    "flip": "one bit wrong in the body",
    "other-length": "a length that is so many bytes less than the file's, and a body like it",
    "change": "from here on the file's next version is served",
}


class Faults:
    """The faults as methods of a request handler that has `_answer`, `_send` and `_range`.

    `body` is the whole file, `argument` the fault's text, `number` the same as a number.
    """

    def _wanted(self) -> bytes:
        start, end = self._range() or (0, len(self.body))
        return self.body[start:end]

    def _begin(self) -> bytes:
        """Announce everything and send the first bytes; returns the rest."""
        wanted = self._wanted()
        self._answer(body=wanted[: self.number], Content_Length=str(len(wanted)))
        self.wfile.flush()
        self.close_connection = True
        return wanted[self.number :]

    def _fault_reset(self) -> None:
        self._begin()
        # With a linger time of zero, close sends RST and drops what was not yet sent.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _fault_close(self) -> None:
        self._begin()

    def _fault_stall(self) -> None:
        self._begin()
        self.connection.settimeout(0.05)
        while not self.server.closing.is_set():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue

    def _fault_drip(self) -> None:
        for byte in self._begin():
            if self.server.closing.wait(0.02):
                return
            self.wfile.write(bytes([byte]))

    def _fault_refuse(self) -> None:
        self.close_connection = True

    def _fault_garbage(self) -> None:
        self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")
        self.close_connection = True

    def _fault_status(self) -> None:
        self._send(self.number, b"no")

    def _fault_retry_after(self) -> None:
        date = email.utils.formatdate(time.time() + 2, usegmt=True)
        self._send(503, b"later", Retry_After=date if self.argument == "date" else self.argument)

    def _fault_416(self) -> None:
        self._send(416, b"", Content_Range=f"bytes */{self.number or len(self.body)}")

    def _fault_whole(self) -> None:
        self._send(200, self.body, **self._validators())

    def _fault_redirect(self) -> None:
        self._send(302, b"", Location=self.server.redirect_to or f"/moved{self._path()}")

    def _fault_loop(self) -> None:
        self.server.faults.insert(0, "loop")
        self._send(302, b"", Location=self.path)

    def _fault_html(self) -> None:
        self._send(200, b"<html>log in</html>", Content_Type="text/html; charset=utf-8")

    def _fault_gzip(self) -> None:
        body = gzip.compress(self.body, 1)
        self._send(200, body, Content_Encoding="gzip", **self._validators())

    def _fault_gzip_part(self) -> None:
        self._answer(body=gzip.compress(self._wanted(), 1), Content_Encoding="gzip")

    def _fault_chunked(self, cut: int | None = None) -> None:
        self.send_response(200)
        for name, value in {"Transfer-Encoding": "chunked", **self._validators()}.items():
            self.send_header(name, value)
        self.end_headers()
        body = self.body[:cut]
        for start in range(0, len(body), 50_000):
            chunk = body[start : start + 50_000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if cut is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def _fault_chunked_cut(self) -> None:
        self._fault_chunked(cut=self.number)

    def _fault_no_length(self) -> None:
        self.close_connection = True
        self._send(200, self.body, Content_Length=None, Connection="close", **self._validators())

    def _fault_too_much(self) -> None:
        self._answer()
        self.wfile.write(b"x" * self.number)
        self.close_connection = True

    def _fault_short_part(self) -> None:
        start, end = self._range() or (0, 0)
        if end == 0:
            self._answer()
            return
        end = min(end, start + max(1, self.number))
        self._answer(
            body=self.body[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(self.body)}"
        )

    def _fault_shifted(self) -> None:
        start, end = self._range() or (0, 0)
        if end <= start + 1:
            self._answer()
            return
        shown = f"bytes {start + 1}-{end - 1}/{len(self.body)}"
        self._answer(body=self.body[start + 1 : end], Content_Range=shown)

    def _fault_lie(self) -> None:
        wanted = self._wanted()
        self._answer(body=wanted[1:] + wanted[:1])

    def _fault_flip(self) -> None:
        body = bytearray(self._wanted())
        body[len(body) // 2] ^= 1
        self._answer(body=bytes(body))

    def _fault_other_length(self) -> None:
        self._send(200, self.body[: -self.number or None], **self._validators())
