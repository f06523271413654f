"""Fetching from nginx, where it is installed: what its real answers are like."""

import contextlib
import getpass
import gzip
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vision.download.download import DownloadError, fetch

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(not NGINX, reason="nginx is not installed")
DATA = random.Random(0).randbytes(6_000_000)
CONFIG = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; user {user};
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  limit_conn_zone $binary_remote_addr zone=each:1m;
  server {{ listen 127.0.0.1:{port}; root {folder}/files; {settings} }}
}}
"""


@contextlib.contextmanager
def running(folder: Path, port: int, settings: str) -> Iterator[None]:
    config = folder / "nginx.conf"
    user = getpass.getuser()
    config.write_text(CONFIG.format(folder=folder, user=user, port=port, settings=settings))
    process = subprocess.Popen([NGINX, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/f.zip").write_bytes(DATA)
    return tmp_path


def get(folder: Path, port: int, name: str = "f.zip", **options) -> bytes:
    out = folder / "out.zip"
    options = {"timeout": 2, "retries": 8, "first_pause": 0.02, **options}
    fetch(f"http://127.0.0.1:{port}/{name}", out, **options)
    return out.read_bytes()


def after(num_bytes: int, action: Callable[[], object]) -> Callable[[int, int | None], None]:
    """A progress callback that does something once, after so many bytes."""
    done = threading.Event()

    def progress(here: int, total: int | None) -> None:
        if here >= num_bytes and not done.is_set():
            done.set()
            action()

    return progress


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    "settings",
    [
        "",
        "etag off;",
        "max_ranges 0;",
        "etag off; if_modified_since off; max_ranges 0;",
        "gzip on;",
    ],
)
def test_settings(folder, port, settings, connections):
    with running(folder, port, settings):
        assert get(folder, port, connections=connections) == DATA


def test_a_limit_of_connections_is_lived_with(folder, port):
    with running(folder, port, "limit_conn each 2; limit_rate 2m;"):
        assert get(folder, port, connections=5) == DATA
    assert " 503 " in (folder / "access.log").read_text()


def test_the_server_dies_and_comes_back(folder, port):
    with (
        running(folder, port, "limit_rate 500k;"),
        pytest.raises(DownloadError, match="gave up after 0 retries"),
    ):
        get(folder, port, retries=0, progress=after(600_000, lambda: stop(folder)))
    with pytest.raises(DownloadError, match="Connection refused"):
        get(folder, port, retries=1)
    with running(folder, port, ""):
        assert get(folder, port) == DATA
    last = (folder / "access.log").read_text().rpartition(" 206 ")[2]
    assert int(last.split()[0]) < len(DATA)  # the rest only


def stop(folder: Path) -> None:
    os.kill(int((folder / "pid").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("connections", [1, 4])
def test_a_file_replaced_meanwhile(folder, port, connections):
    other = DATA[::-1]
    (folder / "new.zip").write_bytes(other)
    os.utime(folder / "new.zip", (1_000_000_000, 1_000_000_000))

    def replace() -> None:
        os.replace(folder / "new.zip", folder / "files/f.zip")

    with running(folder, port, "limit_rate 4m;"):
        found = get(folder, port, connections=connections, progress=after(1, replace))
    # one connection has the old file open and gets all of it
    assert found == (DATA if connections == 1 else other)


def test_a_server_that_compresses_whatever_is_asked(folder, port):
    (folder / "files/f.zip.gz").write_bytes(gzip.compress(DATA, 1))
    with running(folder, port, "gzip_static always;"):
        assert get(folder, port, connections=4) == DATA
    sent = (folder / "access.log").read_text().rpartition('" 200 ')[2]
    assert int(sent.split()[0]) == (folder / "files/f.zip.gz").stat().st_size
