"""Where models are kept: a folder, or a prefix in an object store (bucket.py).

Both keep named contents, each of them whole or absent, and replace one if it is still what the
writer has read (compare and swap). What the contents mean is in registry.py and archive.py.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.files import ROOT, locked, make_private, write_atomically
from utils.model_store.card import MOST_BYTES, Card

if TYPE_CHECKING:
    from utils.model_store.bucket import Bucket

CHAMPION = "champion.json"


class StorageAway(OSError):
    """An object store that does not answer, or refuses; the text names it and says why."""


class Stored(NamedTuple):
    """What is known of a content without reading it."""

    modified: float  # seconds since 1970
    mark: object  # another one whenever the content is replaced


class Folder:
    """Contents are files, replaced by renaming; an OS lock is held by whoever changes a champion.

    All methods raise OSError.
    """

    look_interval = 0.0  # seconds between two looks for a new champion: a look costs nothing
    leftover_age = 0.0  # seconds after which a content that nothing names is a killed writer's
    is_shared = False  # with writers on other machines
    is_away = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = f"{path.name}/"

    def __str__(self) -> str:
        return f"{os.path.relpath(self.path)}/"

    def below(self, name: str) -> "Folder":
        """Return the folder of this name in this one."""
        return Folder(self.path / name)

    def prepare(self) -> None:
        """Create it, for its owner only."""
        make_private(self.path, ROOT)

    def content_name(self, card: Card) -> str:
        """Return the name of the file with the card's model."""
        return f"model_{card.model_id}.p"

    def read(self, name: str) -> bytes:
        """Return a content; FileNotFoundError, ValueError if it has more than MOST_BYTES."""
        path = self.path / name
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        return path.read_bytes()

    def read_marked(self, name: str) -> tuple[bytes | None, object]:
        """Return a content, None if it can't be read, and what swap() compares."""
        try:
            content = self.read(name)
        except (OSError, ValueError):
            content = None
        return content, content

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a content."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self.path / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a content; True: the one writer of a folder may write it again."""
        self.write(name, content)
        return True

    def swap(self, name: str, content: bytes, mark: object) -> bool:
        """Replace a content if its mark is still this one; the caller holds locked()."""
        if self.read_marked(name)[1] != mark:
            return False
        self.write(name, content)
        return True

    def list(self) -> dict[str, Stored]:
        """Return what is here, by name, without what is below; other files than ours too."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    state = entry.stat()
                    found[entry.name] = Stored(state.st_mtime, state.st_mtime_ns)
        return found

    def state(self) -> object:
        """Return what changes whenever something is written or deleted here."""
        return self.path.stat().st_mtime_ns if self.path.exists() else 0

    def delete(self, name: str) -> None:
        """Delete a content; one that can't be deleted is not worth stopping for."""
        with suppress(OSError):
            (self.path / name).unlink()

    def clear(self) -> None:
        """Delete all that is here."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that everyone who changes the champion holds; waits until it is free."""
        with locked(self.path / "champion.lock"):
            yield


@lru_cache
def open_storage(place: Path | str) -> "Folder | Bucket":
    """Return the storage at a folder or a URL; it is connected to when it is first used."""
    if "://" not in str(place):
        return Folder(Path(place))
    from utils.model_store.bucket import Bucket

    return Bucket(str(place))
