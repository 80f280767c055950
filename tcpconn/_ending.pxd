"""Why a session ended, as an exception."""

from tcpconn._engine cimport Engine

cdef object ended_error(Engine engine)
