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


class Destination:
    """What the user said with ``--output``: a directory, one file, or ``-`` for standard output."""

    def __init__(self, output: str, *, force: bool) -> None:
        """Check `output`, so that what cannot work is told before anybody has sent anything."""
        self._force = force
        self._is_stdout = output == "-"
        self._directory: Path | None = None
        self._file: Path | None = None
        self._file_taken = False
        if self._is_stdout:
            return
        path = Path(output)
        if output.endswith(("/", os.sep)):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CommandError(
                    ExitCode.WRITE, f"could not create directory {output!r}: {reason_of(error)}"
                ) from error
        if path.is_dir():
            self._directory = path
            parent = path
        else:
            # Through symbolic links: the user named the path, and means what is behind it.
            self._file = path.resolve()
            parent = self._file.parent
        if not parent.is_dir():
            raise CommandError(
                ExitCode.WRITE, f"{output!r}: there is no directory {str(parent)!r}; create it"
            )
        if self._file is not None and _is_special(self._file):
            return
        if not os.access(parent, os.W_OK | os.X_OK):
            raise CommandError(
                ExitCode.WRITE, f"{str(parent)!r} is not writable; choose another --output"
            )
        if self._file is not None and not force and os.path.lexists(self._file):
            raise CommandError(ExitCode.WRITE, f"{output!r} exists; give --force to overwrite it")

    @property
    def is_stdout(self) -> bool:
        """Whether the contents go to standard output."""
        return self._is_stdout

    def open(self, header: Header) -> tuple[Store, str]:
        """Open the place for a file, and return it with its name for the user.

        Raises NotWanted if there is something that must not be overwritten, and OSError.
        """
        if self._is_stdout:
            return _StdoutStore(), "standard output"
        if self._directory is not None:
            path = self._directory / safe_name(header.name)
        else:
            assert self._file is not None
            if self._file_taken:
                raise NotWanted("one file is taken only: --output is not a directory")
            path = self._file
        shown = printable(str(path))
        if self._file is not None and _is_special(path):
            self._file_taken = True
            return _SpecialStore(path), shown
        if path.is_dir() and not path.is_symlink():
            raise NotWanted(f"{path.name!r} is a directory here")
        if not self._force and os.path.lexists(path):
            raise NotWanted(f"{path.name!r} exists already")
        store = _FileStore(path, 0o666 if header.mode is None else header.mode, self._force)
        self._file_taken = True
        return store, shown


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

    def write(self, data: memoryview) -> None:
        _write_all(self._descriptor, data)

    def commit(self) -> None:
        self._close()  # a network file system tells here that the disk is full
        if self._force:
            os.replace(self._temporary, self._path)
        else:
            _move_without_overwriting(self._temporary, self._path)

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
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(source, target)
    else:
        os.unlink(source)


def _write_all(descriptor: int, data: memoryview) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])
