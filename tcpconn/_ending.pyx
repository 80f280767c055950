"""Why a session ended, as the exception that its users get."""

from tcpconn._engine cimport Engine
from tcpconn._process cimport current_generation
from tcpconn._state cimport State
from tcpconn._wire cimport CODE_ABORTED, CODE_AUTHENTICATION, CODE_TIMEOUT, CODE_VERSION

import os

from tcpconn import errors
from tcpconn._frame import CODE_NAMES


cdef object ended_error(Engine engine):
    """The exception that says why the session ended."""
    cdef State* s = engine.s
    where = f"the link to {engine.peer_address}"
    trouble = engine.link.trouble
    why = f": {os.strerror(engine.link.error)}" if engine.link.error else ""
    if trouble is not None:
        why = f": {trouble}"
    if engine.generation != current_generation():
        return errors.ConnectionClosed(f"{where} belongs to the process that forked this one")
    reason = engine.session.end
    if engine.closed_here:
        return errors.ConnectionClosed(f"{where} was closed here")
    if reason is None:
        return errors.ConnectionClosed(f"{where} is closed")
    kind, code, section, text = reason
    if kind == "lost":
        if s.goaway_received:
            return errors.ConnectionClosed(f"the peer closed {where}")
        if s.renewals != 0:
            return errors.LinkLost(f"the session of {where} was lost")
        if s.sequence == 0 and s.frames_received == 0:
            if trouble is not None:
                return type(trouble)(f"{where} did not come about{why}")
            hint = "" if engine.link.layered else "; does it want TLS?"
            return errors.LinkLost(
                f"{where} ended before the peer said a word of tcpconn{why}{hint}"
            )
        return errors.LinkLost(f"{where} broke{why}")
    name = CODE_NAMES.get(code, "PROTOCOL")
    if kind == "told":
        if code == CODE_VERSION:
            return errors.VersionMismatch(
                f"{where} was refused: {text} ({name})", code, section
            )
        if code == CODE_AUTHENTICATION:
            return errors.AuthenticationError(f"{where} was refused: {text}")
        if code == CODE_ABORTED:
            return errors.ConnectionReset(f"the peer aborted {where}: {text} ({name})", code)
        return errors.ProtocolError(f"the peer ended {where}: {text} ({name})", code, section)
    if code == CODE_TIMEOUT and s.frames_received == 0:     # the handshake's
        return errors.Timeout(f"{where}: {text}")
    if code == CODE_VERSION:
        return errors.VersionMismatch(f"{where}: {text}", code, section)
    if code == CODE_AUTHENTICATION:
        return errors.AuthenticationError(f"{where}: {text}")
    if section == "2":
        return errors.NotTcpconn(f"{where}: {text}; check address and port", code, section)
    return errors.ProtocolError(
        f"{where} was closed, the peer broke the protocol: {text}", code, section
    )
