"""Options that several commands have, and how sizes and times are written in them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:  # click's types took parameters only later than the oldest click that will do
    IntType = click.ParamType[int]
    FloatType = click.ParamType[float]
else:
    IntType = FloatType = click.ParamType

Command = TypeVar("Command", bound=Callable[..., Any])

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|h)?")
_DURATION_FACTORS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class SizeType(IntType):
    """A number of bytes: ``4096``, ``64K``, ``1.5MiB``. The units are powers of 1024."""

    name = "size"

    def __init__(self, minimum: int = 1, maximum: int | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return `value` in bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a size; write it like 4096, 64K or 1.5M", param, ctx)
        size = int(float(match[1]) * _SIZE_FACTORS[(match[2] or "").lower()])
        if size < self.minimum:
            self.fail(f"{value!r} is less than {self.minimum} bytes", param, ctx)
        if self.maximum is not None and size > self.maximum:
            self.fail(f"{value!r} is more than {self.maximum} bytes", param, ctx)
        return size


class DurationType(FloatType):
    """A time in seconds: ``2``, ``0.5``, ``500ms``, ``2m``."""

    name = "time"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return `value` in seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            self.fail(f"{value!r} is not a time; write it like 2, 0.5, 500ms or 2m", param, ctx)
        return float(match[1]) * _DURATION_FACTORS[match[2] or "s"]


def debug_option(command: Command) -> Command:
    """Add ``--debug``, here for the log; the traceback is the matter of `app.run`."""

    def turn_on(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            logging.basicConfig(
                level=logging.DEBUG, format="%(asctime)s %(name)s %(levelname)s %(message)s"
            )

    option = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=turn_on,
        help="Show the log, and errors with their traceback.",
    )
    return option(command)


def link_options(command: Command) -> Command:
    """Add the options that go to the core: ``--link``, ``--max-message-size``."""
    link = click.option(
        "--link",
        type=click.Choice(["auto", "native", "stdlib"]),
        default="auto",
        show_default=True,
        envvar="TCPCONN_LINK",
        help="What drives the socket: the compiled link for this system, or the portable one.",
    )
    max_message_size = click.option(
        "--max-message-size",
        type=SizeType(),
        metavar="SIZE",
        default="16M",
        show_default=True,
        help="The largest message that this side takes.",
    )
    return link(max_message_size(command))


def busy_poll_option(command: Command) -> Command:
    """Add ``--busy-poll``."""
    option = click.option(
        "--busy-poll",
        type=DurationType(),
        metavar="TIME",
        default="0",
        help="Spin this long for the next message before sleeping: less latency for more CPU.",
    )
    return option(command)


def connect_timeout_option(command: Command) -> Command:
    """Add ``--connect-timeout``."""
    option = click.option(
        "--connect-timeout",
        type=DurationType(),
        metavar="TIME",
        default="10",
        show_default=True,
        help="Give up connecting after this long.",
    )
    return option(command)


def print_address_option(command: Command) -> Command:
    """Add ``--print-address``."""
    option = click.option(
        "--print-address",
        is_flag=True,
        help="Print the address, and nothing else, as the first line of standard output: "
        "for scripts that listen on port 0.",
    )
    return option(command)


def quiet_option(command: Command) -> Command:
    """Add ``--quiet``."""
    option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
    return option(command)
