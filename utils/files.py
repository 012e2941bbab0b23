"""Files that are whole or not there, whatever happens while they are written; and locks."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def make_private(folder: Path, project: Path) -> None:
    """Make a folder that only its owner can enter.

    One that is there already is made private if it is the project's (git makes them for everyone);
    elsewhere its mode is somebody's choice.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if project in folder.parents:
        folder.chmod(0o700)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold an exclusive OS lock on this file, which is made if it is missing.

    The system frees the lock when the process ends, however it ends. wait : called again and again
    while another process holds the lock, instead of blocking; it may raise to give up.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "a", opener=_private) as file:
        if wait is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            while not _try_lock(file):
                wait()
        yield


def _try_lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
