"""Files that are whole or not there, whatever happens while they are written, and nobody else's."""

import contextlib
import os
from pathlib import Path


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

    One that is there already is made so if it is the project's (git makes them for everyone);
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


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
