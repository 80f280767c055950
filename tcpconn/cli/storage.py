"""Where ``tcpconn receive`` puts what comes in.

The sender is not trusted: of its file names only the last part is used, and of that no character
that could hurt. A file is written under a temporary name beside its place, and moved there when it
is whole, so that nobody ever sees half of one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
from pathlib import Path
from typing import Protocol

from tcpconn.cli.exits import CommandError, ExitCode, printable, reason_of
from tcpconn.cli.transfer import Header, Store

# The name of what was sent without one: from standard input.
NAMELESS = "stdin"
# What common file systems allow, in bytes, and room in it for the temporary name's additions.
_NAME_LIMIT = 255
_TEMPORARY_EXTRA = len(".") + len(".") + 8 + len(".part")
_BINARY: int = getattr(os, "O_BINARY", 0)  # Windows only


class NotWanted(Exception):
    """The file cannot be put where it would go; the sender may know why."""


def safe_name(name: str | None) -> str:
    """The name to store a file under that its sender calls `name`.

    Never more than one path component, and never ``.`` or ``..``. A dot or a minus in front would
    hide the file, make it a configuration file of some program or look like an option: it becomes
    ``_``, and so does every character that cannot be printed.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    plain = "".join(character if character.isprintable() else "_" for character in last)
    if os.name == "nt":
        plain = re.sub(r'[<>:"|?*]', "_", plain).rstrip(". ")
    plain = re.sub(r"^[.\-]+", lambda front: "_" * len(front[0]), plain.strip())
    return _shortened(plain, _NAME_LIMIT - _TEMPORARY_EXTRA) or NAMELESS


def _shortened(name: str, limit: int) -> str:
    """`name` in at most `limit` bytes, its suffix kept if that is a short one."""
    if len(os.fsencode(name)) <= limit:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix) > 16:
        stem, dot, suffix = name, "", ""
    while stem and len(os.fsencode(stem + dot + suffix)) > limit:
        stem = stem[:-1]
    return stem + dot + suffix


class Destination(Protocol):
    """What the user said with ``--output``."""

    def open(self, header: Header) -> tuple[Store, str]:
        """Open the place for a file, and return it with its name for the user.

        Raises NotWanted if there is something that must not be overwritten, and OSError.
        """
        ...


def destination(output: str, *, force: bool) -> Destination:
    """Find what is meant by `output`: a directory, one file, or ``-`` for standard output.

    What cannot work is told here, before anybody has sent anything.
    """
    if output == "-":
        if sys.stdout is None:
            raise CommandError(ExitCode.WRITE, "standard output is closed; give an --output PATH")
        return _Stdout()
    path = Path(output)
    if output.endswith(("/", os.sep)):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(
                ExitCode.WRITE, f"could not create directory {output!r}: {reason_of(error)}"
            ) from error
    if path.is_dir():
        _check_directory(path)
        return _Directory(path, force)
    path = path.resolve()  # the user named a link, and means what is behind it
    if _is_special(path):
        return _Special(path)
    _check_directory(path.parent)
    if not force and os.path.lexists(path):
        raise CommandError(ExitCode.WRITE, f"{output!r} exists; give --force to overwrite it")
    return _SingleFile(path, force)


def _check_directory(path: Path) -> None:
    if not path.is_dir():
        raise CommandError(ExitCode.WRITE, f"there is no directory {str(path)!r}; create it")
    if not os.access(path, os.W_OK | os.X_OK):
        raise CommandError(
            ExitCode.WRITE, f"{str(path)!r} is not writable; choose another --output"
        )


class _Stdout:
    def open(self, _header: Header) -> tuple[Store, str]:
        return _StdoutStore(), "standard output"


class _Special:
    """A device or a named pipe: all files go into it, one after another, as to standard output."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, _header: Header) -> tuple[Store, str]:
        return _SpecialStore(self._path), str(self._path)


class _Directory:
    def __init__(self, path: Path, force: bool) -> None:
        self._path = path
        self._force = force

    def open(self, header: Header) -> tuple[Store, str]:
        path = self._path / safe_name(header.name)
        return _file_store(path, header, self._force), printable(str(path))


class _SingleFile:
    def __init__(self, path: Path, force: bool) -> None:
        self._path = path
        self._force = force
        self._store: _FileStore | None = None

    def open(self, header: Header) -> tuple[Store, str]:
        if self._store is not None and self._store.is_committed:
            raise NotWanted("one file is taken only: --output is not a directory")
        self._store = _file_store(self._path, header, self._force)
        return self._store, printable(str(self._path))


def _file_store(path: Path, header: Header, force: bool) -> _FileStore:
    if path.is_dir() and not path.is_symlink():
        raise NotWanted(f"{path.name!r} is a directory here")
    if not force and os.path.lexists(path):
        raise NotWanted(f"{path.name!r} exists already")
    return _FileStore(path, 0o666 if header.mode is None else header.mode, force)


def _is_special(path: Path) -> bool:
    """Whether `path` is a device, pipe or the like, which is written to and never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class _StdoutStore:
    """Standard output: what is written cannot be taken back."""

    def write(self, data: memoryview) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def commit(self) -> None:
        pass

    def discard(self) -> None:
        pass


class _SpecialStore:
    """A device, a named pipe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)

    def write(self, data: memoryview) -> None:
        _write_all(self._file.fileno(), data)

    def commit(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()


class _FileStore:
    """A file that comes to its place when it is whole."""

    def __init__(self, path: Path, mode: int, force: bool) -> None:
        self._path = path
        self._force = force
        name = _shortened(path.name, _NAME_LIMIT - _TEMPORARY_EXTRA)
        self._temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
        # The umask is applied by the system; set-user-id and the like are never taken over.
        self._descriptor = os.open(self._temporary, flags, mode & 0o777)
        self._open = True
        self.is_committed = False

    def write(self, data: memoryview) -> None:
        _write_all(self._descriptor, data)

    def commit(self) -> None:
        self._close()  # a network file system tells here that the disk is full
        if self._force:
            self._temporary.replace(self._path)
        else:
            _move_without_overwriting(self._temporary, self._path)
        self.is_committed = True

    def discard(self) -> None:
        try:
            self._close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)


def _move_without_overwriting(source: Path, target: Path) -> None:
    try:
        # Unlike a rename, a link fails if there is something by now.
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
    else:
        source.unlink()


def _write_all(descriptor: int, data: memoryview) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])
