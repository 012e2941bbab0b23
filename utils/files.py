"""The project's folder, files that are written completely or not at all, and locks."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent  # the project's folder


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees either the old or the new content."""
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

    An existing folder becomes private if it is inside the project, as git creates folders that
    everybody may enter; elsewhere its mode is its owner's choice.
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
    """Hold an exclusive OS lock on this file, which is created if it is missing.

    The system releases the lock when the process ends, no matter how. wait : called repeatedly
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
