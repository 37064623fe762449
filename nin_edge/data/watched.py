"""HTTP(S) connections that end when their server is too slow.

A socket's timeout starts again with each byte, so a server can trickle the headers, the length of a
chunk or the TLS handshake, or send `100 Continue` for ever.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from functools import partial
from typing import Any, Self


class Watch:
    """Shuts its connections down at a deadline, which received bytes put off."""

    def __init__(self, seconds: float, at_most: float) -> None:
        """Start the clock.

        Args:
            seconds: until the deadline.
            at_most: until the latest deadline that it can be put off to.
        """
        self._began, self._seconds, self._most = time.monotonic(), seconds, at_most
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._release()

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() - self._began >= self._seconds

    def put_off(self, seconds: float) -> None:
        """Put the deadline off by some seconds."""
        self._seconds = min(self._seconds + seconds, self._most)

    def add(self, connected: socket.socket) -> None:
        """Watch a connection. Its socket is copied: TLS takes the original apart."""
        self._release()
        self._sockets.append(connected.dup())
        if self.expired:
            self._shut_down()

    def _run(self) -> None:
        while not self._ended.wait(max(0.01, self._began + self._seconds - time.monotonic())):
            if self.expired:
                self._shut_down()
                return

    def _shut_down(self) -> None:
        for connected in self._sockets:
            with suppress(OSError):  # the server closed it, or it is no longer needed
                connected.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        """Close the copies of earlier connections."""
        while self._sockets:
            self._sockets.pop().close()


class _Plain(http.client.HTTPConnection):
    """A connection whose socket is watched as soon as there is one."""

    watch: Watch

    def connect(self) -> None:
        super().connect()
        self.watch.add(self.sock)


class _Secure(http.client.HTTPSConnection, _Plain):
    """The same over TLS: `HTTPSConnection.connect` calls `_Plain.connect`, then starts TLS."""


class WatchedHTTP(urllib.request.HTTPHandler):
    """Opens HTTP connections under a watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """See urllib.request."""
        return self.do_open(partial(_connection, _Plain, self._watch), req)


class WatchedHTTPS(urllib.request.HTTPSHandler):
    """Opens HTTPS connections under a watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """See urllib.request."""
        return self.do_open(partial(_connection, _Secure, self._watch), req)


def _connection(form: type[_Plain], watch: Watch, host: str, **options: Any) -> _Plain:
    connection = form(host, **options)
    connection.watch = watch
    return connection
