"""Servers that never come to an end, and redirects and certificates that are refused."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fault_server import FaultServer

from vision.download.download import fetch
from vision.download.http_answer import DownloadError
from vision.download.http_range import remote_length

DATA = bytes(range(256)) * 4000
QUICK = {"timeout": 0.5, "retries": 1, "first_pause": 0.01}
SECONDS = 20  # far more than two tries take
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer each connection with bytes of one's own; yields `127.0.0.1:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection):
            with connection, contextlib.suppress(OSError):
                answer(connection)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def for_ever(connection: socket.socket, first: bytes, again: bytes) -> None:
    connection.recv(1000)
    connection.sendall(first)
    while True:  # until the client hangs up
        time.sleep(0.02)
        connection.sendall(again)


HEADERS = "no whole answer within 0.5 s"
ENDLESS = {  # first bytes, what follows again and again, what is said
    "a header, a byte at a time": (OK + b"X-Header: ", b"x", HEADERS),
    "headers": (OK, b"X: y\r\n", HEADERS),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", HEADERS),
    "the length of a chunk": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", "stalled: no data in 0.5 s"
    ),
    "a body, a byte at a time": (
        OK + b"ETag: \"1\"\r\nContent-Length: 1000000\r\n\r\n", b"x", "stalled: 2"
    ),
}  # fmt: skip


def refusal(url: str, folder, **options) -> str:
    """The error of a fetch; one that waits for ever is none."""
    begin = time.monotonic()
    with pytest.raises(DownloadError) as raised:
        fetch(url, folder / "f.zip", **{**QUICK, **options})
    assert time.monotonic() - begin < SECONDS
    return str(raised.value)


@pytest.mark.parametrize("name", ENDLESS)
def test_an_answer_without_end_is_given_up(tmp_path, caplog, name):
    *answer, words = ENDLESS[name]
    with raw_server(lambda connection: for_ever(connection, *answer)) as address:
        problem = refusal(f"http://{address}/f.zip", tmp_path)
        assert f"gave up after 1 retries: {words}" in problem or words in caplog.text


def test_what_follows_the_last_chunk_is_not_waited_for(tmp_path):
    whole = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
    with raw_server(lambda connection: for_ever(connection, whole, b"X: y\r\n")) as address:
        fetch(f"http://{address}/f.zip", tmp_path / "f.zip", **QUICK)
    assert (tmp_path / "f.zip").read_bytes() == b"abc"


def test_a_handshake_without_end_is_given_up(tmp_path):
    record = b"\x16\x03\x03\x3f\xff\x02"  # the beginning of a hello of 16 kB
    with raw_server(lambda connection: for_ever(connection, record, b"\0")) as address:
        problem = refusal(f"https://{address}/f.zip", tmp_path)
    # Two clocks of half a second run: the handshake's own, and that of the whole answer.
    assert any(words in problem for words in (HEADERS, "no data within the time limit"))


def test_a_length_that_is_asked_for_is_not_waited_for(tmp_path):
    again = ENDLESS["100 Continue"][1]
    with raw_server(lambda connection: for_ever(connection, b"", again)) as address:
        begin = time.monotonic()
        assert remote_length(f"http://{address}/f.zip", timeout=0.5) is None
        assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    "headers",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1" + b"0" * 15,
        b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-9/" + b"9" * 5000,
        b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-" + b"9" * 5000 + b"/*",
        b"HTTP/1.1 416 X\r\nContent-Range: bytes */" + b"9" * 5000,
    ],
)
def test_absurd_lengths_are_refused(tmp_path, headers):
    def answer(connection):
        connection.recv(1000)
        connection.sendall(headers + b"\r\n\r\n0123456789")

    with raw_server(answer) as address:
        problem = refusal(f"http://{address}/f.zip", tmp_path, retries=0)
        assert "f.zip: " in problem and len(problem) < 300


@pytest.fixture
def plain(tmp_path):
    """A server without TLS."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server/f.zip").write_bytes(DATA)
    with FaultServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out only.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    file = tmp_path / "certificate.pem"
    file.write_bytes((tmp_path / "only.pem").read_bytes() + (tmp_path / "key.pem").read_bytes())
    return file


@pytest.fixture
def secure(plain, certificate):
    """A server with TLS, of the same files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultServer(plain.folder) as server:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.url = server.url.replace("http:", "https:")
        yield server


@pytest.fixture
def trusted(certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("connections", [1, 3])
def test_tls_is_fetched_and_continued(secure, tmp_path, connections):
    secure.faults = ["close:300000", "ok", "stall:100"]
    fetch(secure.url + "/f.zip", tmp_path / "f.zip", **QUICK, connections=connections)
    assert (tmp_path / "f.zip").read_bytes() == DATA
    assert remote_length(secure.url + "/f.zip", timeout=5) == len(DATA)


@pytest.mark.usefixtures("trusted")
def test_a_redirect_to_tls_is_followed_and_one_away_from_it_is_not(plain, secure, tmp_path):
    plain.faults, plain.redirect_to = ["redirect"], secure.url + "/moved/f.zip"
    fetch(plain.url + "/f.zip", tmp_path / "f.zip", **QUICK)
    assert (tmp_path / "f.zip").read_bytes() == DATA
    plain.requests.clear()
    secure.faults, secure.redirect_to = ["redirect"], plain.url + "/f.zip"
    problem = refusal(secure.url + "/f.zip", tmp_path / "server", retries=9)
    assert "redirects from https to http://127" in problem and plain.requests == []


def test_other_redirects_that_are_refused(plain, tmp_path):
    plain.faults, plain.redirect_to = ["redirect"], "file:///etc/passwd"
    assert "file:///etc/passwd, which is no address of the web" in refusal(
        plain.url + "/f.zip", tmp_path
    )
    plain.faults = ["loop"]
    assert "more than 20 redirects" in refusal(plain.url + "/f.zip", tmp_path, timeout=5)


def test_the_body_of_a_redirect_is_not_read(plain, tmp_path):
    head = f"HTTP/1.1 302 Found\r\nLocation: {plain.url}/f.zip\r\nContent-Length: 9999999\r\n\r\n"
    with raw_server(lambda connection: for_ever(connection, head.encode(), b"x")) as address:
        fetch(f"http://{address}/f.zip", tmp_path / "f.zip", timeout=SECONDS, retries=0)
    assert (tmp_path / "f.zip").read_bytes() == DATA


def test_a_certificate_that_nobody_trusts_is_no_reason_to_try_again(secure, tmp_path):
    again = {"retries": 9, "first_pause": SECONDS, "timeout": SECONDS}
    problem = refusal(secure.url + "/f.zip", tmp_path, **again)
    assert "certificate is refused: self" in problem and "REQUESTS_CA_BUNDLE" in problem
