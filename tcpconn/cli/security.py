"""The options that say whom to trust: TLS and the key of ``--authkey-file``."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tcpconn.cli import terminal
from tcpconn.cli.exits import CommandError, ExitCode, reason_of
from tcpconn.options import LEAST_AUTHKEY

if TYPE_CHECKING:  # quick to load, for who uses no TLS
    import ssl

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def listener_options(command: Command) -> Command:
    """Add the options of a command that listens; it gets them as `security`, for the core."""
    cert = click.option(
        "--tls-cert",
        type=_FILE,
        metavar="FILE",
        help="Listen through TLS, with the certificate in this PEM file, and what leads from it to "
        "an authority. Its key may be in the same file.",
    )
    key = click.option(
        "--tls-key", type=_FILE, metavar="FILE", help="The certificate's key, from a PEM file."
    )
    authority = click.option(
        "--tls-ca",
        type=_FILE,
        metavar="FILE",
        help="Let in only clients with a certificate that an authority in this PEM file signed.",
    )

    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_ca: Path | None,
        authkey_file: Path | None,
        **others: Any,
    ) -> Any:
        security = _authkey(authkey_file)
        if tls_cert is None and (tls_key or tls_ca):
            raise click.UsageError("--tls-key and --tls-ca need --tls-cert, for a server has one")
        if tls_cert is not None:
            security["ssl"] = _server_context(tls_cert, tls_key, tls_ca)
        return command(*arguments, security=security, **others)

    return cert(key(authority(_authkey_option(wrapped))))  # type: ignore[return-value]


def caller_options(command: Command) -> Command:
    """Add the options of a command that connects; it gets them as `security`, for the core."""
    tls = click.option(
        "--tls",
        is_flag=True,
        help="Connect through TLS. The server's certificate must name the host in ADDR, and be "
        "signed by an authority that this system trusts, or one of --tls-ca.",
    )
    authority = click.option(
        "--tls-ca",
        type=_FILE,
        metavar="FILE",
        help="Connect through TLS, and trust the authorities in this PEM file, and no others.",
    )
    cert = click.option(
        "--tls-cert",
        type=_FILE,
        metavar="FILE",
        help="Connect through TLS, and show the certificate in this PEM file, for a server that "
        "wants one. Its key may be in the same file.",
    )
    key = click.option(
        "--tls-key", type=_FILE, metavar="FILE", help="The certificate's key, from a PEM file."
    )
    name = click.option(
        "--tls-name",
        metavar="NAME",
        help="The name that the server's certificate must have, if not the host in ADDR.",
    )

    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        tls: bool,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_ca: Path | None,
        tls_name: str | None,
        authkey_file: Path | None,
        **others: Any,
    ) -> Any:
        security = _authkey(authkey_file)
        if tls_key and not tls_cert:
            raise click.UsageError("--tls-key is the key of --tls-cert, which is not there")
        if tls or tls_cert or tls_ca:
            security["ssl"] = _client_context(tls_cert, tls_key, tls_ca)
        elif tls_name:
            raise click.UsageError("--tls-name says what a certificate must name: it needs --tls")
        if tls_name:
            security["server_hostname"] = tls_name
        return command(*arguments, security=security, **others)

    return tls(authority(cert(key(name(_authkey_option(wrapped))))))  # type: ignore[return-value]


def _authkey_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--authkey-file",
        type=_FILE,
        metavar="FILE",
        help="Talk only to who has the same secret, which is in this file: 16 bytes at least. "
        '"openssl rand -hex 32 > FILE" makes one.',
    )(command)


def _authkey(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            terminal.note(f"{path}: others can read this key, too (chmod 600 {path})")
        # Whoever writes one with an editor has a line's end behind it, and others have not.
        key = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise CommandError(ExitCode.CREDENTIALS, f"{path}: {reason_of(error)}") from error
    if len(key) < LEAST_AUTHKEY:
        raise CommandError(
            ExitCode.CREDENTIALS,
            f"{path}: a key has {LEAST_AUTHKEY} bytes or more, and this one {len(key)}",
        )
    return {"authkey": key}


def _server_context(cert: Path, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load_certificate(context, cert, key)
    if authority is not None:
        _load_authority(context, authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _client_context(cert: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext:
    import ssl

    if authority is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_authority(context, authority)
    if cert is not None:
        _load_certificate(context, cert, key)
    return context


def _load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:  # which ssl.SSLError is, too
        files = f"{cert} and {key}" if key else str(cert)
        raise CommandError(
            ExitCode.CREDENTIALS,
            f"{files}: no certificate with its key, in PEM ({_words(error)})",
        ) from error


def _load_authority(context: ssl.SSLContext, authority: Path) -> None:
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise CommandError(
            ExitCode.CREDENTIALS, f"{authority}: no certificates in PEM ({_words(error)})"
        ) from error


def _words(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else reason_of(error)
