"""Why a session ended, as an exception. Nothing in it is visible to Python."""

from tcpconn._frame import CODE_NAMES as CODE_NAMES
