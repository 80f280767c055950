"""Stands between a plain peer and one that speaks TLS, and does to the latter what Python's `ssl`
has no call for: asks for new keys, renegotiates.

OpenSSL's functions are called through ctypes, on the pointer in CPython's own record of an SSL
object: where that is not as expected, the tests that need it are skipped.
"""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import pytest

from support import PATIENCE

REQUESTED = 1  # SSL_KEY_UPDATE_REQUESTED


def openssl() -> ctypes.CDLL:
    """The library that Python's `ssl` uses."""
    try:
        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_version.argtypes = [ctypes.c_void_p]
        library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.SSL_renegotiate.argtypes = [ctypes.c_void_p]
        library.SSL_renegotiate_pending.argtypes = [ctypes.c_void_p]
        library.SSL_do_handshake.argtypes = [ctypes.c_void_p]
    except (AttributeError, OSError):
        pytest.skip("OpenSSL's functions cannot be called here")
    return library


class Terminator:
    """Carries one link between whoever connects to `address` and `target`.

    `server`: it speaks TLS to who connects; else to the target. A context manager.
    """

    def __init__(self, target: str, context: ssl.SSLContext, *, server: bool) -> None:
        host, port = target.split(":")
        self._target = (host, int(port))
        self._server = server
        self._openssl = openssl()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server,
            server_hostname=None if server else "localhost",
        )
        self.renegotiations = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._listening.getsockname())
        self._calls: list[Callable[[], None]] = []
        self._woken, self._waker = socket.socketpair()
        self._begun = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="terminator", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping = True
        self._waker.send(b"\0")
        with contextlib.suppress(OSError):
            socket.create_connection(self._listening.getsockname()).close()
        self._thread.join(PATIENCE)
        for sock in (self._listening, self._woken, self._waker):
            sock.close()

    def update_keys(self, times: int = 1) -> None:
        """Takes new keys, and asks the peer to do so."""

        def update() -> None:
            for _ in range(times):
                assert self._openssl.SSL_key_update(self._pointer(), REQUESTED) == 1
                assert self._openssl.SSL_do_handshake(self._pointer()) == 1

        self._call(update)

    def renegotiate(self) -> None:
        """Has the peer begin a handshake anew, unless one is under way."""

        def begin() -> None:
            if not self._openssl.SSL_renegotiate_pending(self._pointer()):
                assert self._openssl.SSL_renegotiate(self._pointer()) == 1
                self._openssl.SSL_do_handshake(self._pointer())
                self.renegotiations += 1

        self._call(begin)

    def _call(self, function: Callable[[], None]) -> None:
        done = threading.Event()

        def call() -> None:
            function()
            done.set()

        assert self._begun.wait(PATIENCE)
        self._calls.append(call)
        self._waker.send(b"\0")
        assert done.wait(PATIENCE)

    def _pointer(self) -> int:
        record: Any = self._tls._sslobj  # type: ignore[attr-defined]
        place = id(record) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        pointer: int = ctypes.c_void_p.from_address(place).value or 0
        return pointer

    # The thread

    def _run(self) -> None:
        near, _ = self._listening.accept()
        if self._stopping:
            near.close()
            return
        far = socket.create_connection(self._target)
        with near, far:
            plain, secure = (far, near) if self._server else (near, far)
            with contextlib.suppress(OSError, ssl.SSLError):
                self._carry(plain, secure)

    def _carry(self, plain: socket.socket, secure: socket.socket) -> None:
        to_plain, to_secure, unwritten = b"", b"", b""
        for sock in (plain, secure):
            sock.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(plain, selectors.EVENT_READ)
            selector.register(secure, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping:
                while self._calls:
                    self._calls.pop()()
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                    self._begun.set()
                    while unwritten:
                        unwritten = unwritten[self._tls.write(unwritten) :]
                with contextlib.suppress(ssl.SSLWantReadError):
                    while data := self._tls.read(65536):
                        to_plain += data
                to_secure += self._outgoing.read()
                to_plain = to_plain[self._send(plain, to_plain) :]
                to_secure = to_secure[self._send(secure, to_secure) :]
                for sock, waiting in ((plain, to_plain), (secure, to_secure)):
                    writes = selectors.EVENT_WRITE if waiting else 0
                    selector.modify(sock, selectors.EVENT_READ | writes)
                for key, events in selector.select():
                    if not events & selectors.EVENT_READ:
                        continue
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is plain:
                        unwritten += data
                    elif key.fileobj is secure:
                        self._incoming.write(data)

    @staticmethod
    def _send(sock: socket.socket, data: bytes) -> int:
        try:
            return sock.send(data) if data else 0
        except BlockingIOError:
            return 0
