"""Download with several connections from a server that limits each: ours, curl and aria2c.

    apt-get install nginx aria2 curl
    python benchmarks/download_connections.py [--megabytes 48] [--rate 2] [--repeats 3]

nginx on loopback sends each answer at `--rate` MB/s, the data of the first second at once. Every
tool runs as a process of its own, so Python's start is included; the tools run in turn, the median
is printed, and the bytes are compared. The second table is the same without a limit: the cost of
the tool itself, in ours with a flush to the disk, which the others do not do.
"""

import argparse
import contextlib
import getpass
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
from pathlib import Path
from vision.download.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]), connections=int(sys.argv[3]), retries=3)
"""
CONFIG = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; user {user};
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {folder}; limit_rate {rate}; }}
}}
"""


def main() -> int:
    """Print the seconds for each number of connections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=48, help="size of the file")
    parser.add_argument("--rate", type=int, default=2, help="MB/s for one connection")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not (nginx and shutil.which("aria2c") and shutil.which("curl")):
        print("error: apt-get install nginx aria2 curl", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = os.urandom(1_000_000) * args.megabytes
        (folder / "f.zip").write_bytes(data)
        with _serve(nginx, folder, rate=f"{args.rate * 1000}k") as url:
            limited = _measure(url, folder, data, args.repeats)
        _report(f"{args.rate} MB/s for each connection", limited, args.megabytes)
        large = data * max(1, 512 // args.megabytes)
        (folder / "f.zip").write_bytes(large)
        with _serve(nginx, folder, rate="0") as url:
            free = _measure(url, folder, large, args.repeats)
        _report("no limit", free, len(large) / 1e6)
    print(
        f"8 connections against curl: {limited['curl'] / limited['ours, 8']:.2f} times as fast; "
        f"against aria2c -x8: {limited['aria2c, 8'] / limited['ours, 8']:.2f}; "
        f"one connection without limit against curl: {free['curl'] / free['ours, 1']:.2f}"
    )
    return 0


@contextlib.contextmanager
def _serve(nginx: str, folder: Path, *, rate: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = getpass.getuser()
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, user=user, port=port, rate=rate))
    server = subprocess.Popen([nginx, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/f.zip"
    finally:
        server.terminate()
        server.wait()


def _measure(url: str, folder: Path, data: bytes, repeats: int) -> dict[str, float]:
    """Median seconds of each tool."""
    out = folder / "out.zip"
    aria = f"aria2c -q --file-allocation=none -k1M -d {folder} -o out.zip {url}".split()
    commands = {"curl": ["curl", "-sf", "-o", str(out), url]}
    for count in (1, 4, 8):
        commands[f"ours, {count}"] = [sys.executable, "-c", PROGRAM, url, str(out), str(count)]
        commands[f"aria2c, {count}"] = [*aria, f"-x{count}", f"-s{count}"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            out.unlink(missing_ok=True)
            began = time.perf_counter()
            subprocess.run(command, check=True, cwd=ROOT)
            seconds[name].append(time.perf_counter() - began)
            if out.read_bytes() != data:
                raise SystemExit(f"{name}: wrong bytes")
    return {name: statistics.median(values) for name, values in seconds.items()}


def _report(title: str, seconds: dict[str, float], megabytes: float) -> None:
    print(f"{title}, {megabytes:.0f} MB:")
    for name, value in seconds.items():
        print(f"  {name:10} {value:7.2f} s  {megabytes / value:8.1f} MB/s")


if __name__ == "__main__":
    raise SystemExit(main())
