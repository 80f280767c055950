"""Messages over TCP: many connections on one socket, pooled, thread-safe, as fast as the kernel.

A server runs a function for each connection, in a thread:

    def echo(connection):
        for message in connection:
            connection.send(message)

    with tcpconn.serve(echo, "127.0.0.1:9000") as server:
        server.wait()

A client:

    with tcpconn.connect("127.0.0.1:9000") as connection:
        connection.send(b"hello")
        reply = connection.receive(timeout=5)
"""

import logging as _logging
from importlib import metadata as _metadata

from tcpconn._buffer import Lease
from tcpconn.connection import Connection
from tcpconn.errors import (
    AddressError,
    AuthenticationError,
    BufferTooSmall,
    CertificateError,
    ConnectError,
    ConnectionClosed,
    ConnectionReset,
    LinkLost,
    MessageTooLarge,
    NotABuffer,
    NotTcpconn,
    OptionError,
    ProtocolError,
    ResolveError,
    SessionLost,
    TcpconnError,
    Timeout,
    TlsError,
    VersionMismatch,
    WrongLoop,
)
from tcpconn.facts import ConnectionStats, MultiplexerStats
from tcpconn.multiplexer import Multiplexer, wrap
from tcpconn.options import Options
from tcpconn.pool import ConnectionPool, PoolStats, connect, default_pool
from tcpconn.server import Listener, Server, listen, serve

try:
    __version__ = _metadata.version("tcpconn")
except _metadata.PackageNotFoundError:  # used from a source tree, built in place
    __version__ = "0+source"

# A library says nothing of its own accord: it is for the program to send its log somewhere.
_logging.getLogger("tcpconn").addHandler(_logging.NullHandler())

__all__ = [
    "AddressError",
    "AuthenticationError",
    "BufferTooSmall",
    "CertificateError",
    "ConnectError",
    "Connection",
    "ConnectionClosed",
    "ConnectionPool",
    "ConnectionReset",
    "ConnectionStats",
    "Lease",
    "LinkLost",
    "Listener",
    "MessageTooLarge",
    "Multiplexer",
    "MultiplexerStats",
    "NotABuffer",
    "NotTcpconn",
    "OptionError",
    "Options",
    "PoolStats",
    "ProtocolError",
    "ResolveError",
    "Server",
    "SessionLost",
    "TcpconnError",
    "Timeout",
    "TlsError",
    "VersionMismatch",
    "WrongLoop",
    "connect",
    "default_pool",
    "listen",
    "serve",
    "wrap",
]
