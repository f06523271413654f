"""HTTP requests that end: a deadline for each answer, redirects that stay safe and are few.

A socket's timeout begins anew with each byte. A handshake, headers or the length of a chunk that
come a byte at a time, or `100 Continue` without end, would outlast it.
"""

import contextlib
import math
import socket
import threading
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from vision.download.http_answer import DownloadError

MAX_REDIRECTS = 20


class _Watch:
    """The socket that one session waits for, and when it is to be cut.

    Attributes:
        timeout: seconds.
        socket: in use; None while there is none.
        deadline: of `time.monotonic()`.
        is_late: whether the deadline has passed.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.socket: socket.socket | None = None
        self.deadline = math.inf
        self.is_late = False

    def expect(self) -> None:
        """Something is to come within `timeout` from now on."""
        self.is_late, self.deadline = False, time.monotonic() + self.timeout

    def look(self) -> None:
        """Cut the connection if its deadline has passed; who waits for it then gets an error."""
        if time.monotonic() > self.deadline:
            self.is_late, in_use = True, self.socket
            if in_use is not None:
                with contextlib.suppress(OSError):  # it has been closed already
                    socket.socket.shutdown(in_use, socket.SHUT_RDWR)  # TLS's own would say goodbye


class WatchedSession(requests.Session):
    """Requests over one connection at a time, which is cut when it is late.

    Args:
        timeout: seconds for the headers of an answer, and again for each next part of its body.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._watch, self._ended = _Watch(timeout), threading.Event()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self._watch))
        threading.Thread(target=self._look_on, daemon=True).start()

    @property
    def timeout(self) -> float:
        """Seconds until something is late."""
        return self._watch.timeout

    @property
    def is_late(self) -> bool:
        """Whether the last answer, or a part of it, did not come in time."""
        return self._watch.is_late

    def expect(self) -> None:
        """Something is to come within `timeout` from now on."""
        self._watch.expect()

    def expect_nothing(self) -> None:
        """Nobody waits for the connection."""
        self._watch.deadline = math.inf

    def open(self, method: str, url: str, **options: Any) -> requests.Response:
        """Send a request, follow redirects, and return the answer with its body still to be read.

        Raises:
            DownloadError: a redirect from https to http, to no web address, or too many of them.
            requests.RequestException: as `requests.Session.request`.
        """
        for _ in range(MAX_REDIRECTS):
            self.expect()
            response = self.request(method, url, stream=True, timeout=self.timeout, **options)
            self.expect_nothing()
            if self.is_late:  # http.client takes headers that are cut off for all there are
                raise requests.ConnectionError("the headers are cut off")
            if not response.is_redirect:
                return response
            response.close()  # its body may be endless
            url = _redirected(url, response.headers["Location"])
        raise DownloadError(f"more than {MAX_REDIRECTS} redirects")

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow none in `request`: it would read their bodies to the end."""

    def drop_connections(self) -> None:
        """Close what is connected; the next request connects anew."""
        super().close()

    def close(self) -> None:
        """End all connections, and the watch over them."""
        self._ended.set()
        super().close()

    def _look_on(self) -> None:
        while not self._ended.wait(min(1.0, self.timeout / 8)):
            self._watch.look()


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if after not in ("http", "https"):
        raise DownloadError(f"it redirects to {target[:200]}, which is no address of the web")
    if (before, after) == ("https", "http"):
        raise DownloadError(
            f"it redirects from https to {target[:200]}, which anyone on the way can change"
        )
    return target


class _Watched:
    """Mixed into urllib3's connections: tells a watch which socket is in use."""

    watch: _Watch
    _handle: socket.socket | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request; the watch gets the socket that it is sent over."""
        self.watch.socket = self.sock  # None where it is still to be connected
        super().request(*args, **kwargs)

    def connect(self) -> None:
        """Connect; the watch gets the new socket, also where TLS has wrapped it."""
        try:
            super().connect()
        finally:
            self.watch.socket = self.sock
            if self._handle is not None:
                self._handle.close()

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self.watch.expect()  # it may have tried several addresses until now, each with a timeout
        # TLS takes the socket away for its handshake: the watch gets a second handle until then.
        self.watch.socket = self._handle = made.dup()
        return made


class _Adapter(HTTPAdapter):
    """Makes requests over connections that a watch knows."""

    def __init__(self, watch: _Watch) -> None:
        self._pools = {
            "http": _watched(HTTPConnectionPool, HTTPConnection, watch),
            "https": _watched(HTTPSConnectionPool, HTTPSConnection, watch),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> object:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # those have connections of their own
            manager.pool_classes_by_scheme = self._pools
        return manager


def _watched(pool: type, connection: type, watch: _Watch) -> type:
    """Make a pool of connections that tell `watch` of their sockets."""
    watched = type(connection.__name__, (_Watched, connection), {"watch": watch})
    return type(pool.__name__, (pool,), {"ConnectionCls": watched})
