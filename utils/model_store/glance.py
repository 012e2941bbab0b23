"""What a loop looks at again and again, without asking an object store each time."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from utils.console import say, warn
from utils.model_store.storage import Folder, StorageAway

if TYPE_CHECKING:
    from utils.model_store.bucket import Bucket

Found = TypeVar("Found")


class Glance(Generic[Found]):
    """What `look` returned at most storage.look_interval seconds ago.

    While an object store is away that is said once, and the last finding counts (None before the
    first one). A look that has waited for it is repeated after three times as long: the loop has
    other work.
    """

    def __init__(self, storage: "Folder | Bucket", look: Callable[[], Found]) -> None:
        self._storage, self._look = storage, look
        self._found: Found | None = None
        self._next = 0.0

    def __call__(self, at_once: bool = False) -> Found | None:
        """Return what is there; at_once: look now, whenever the last look was."""
        began = time.monotonic()
        if at_once or began >= self._next:
            self._try()
            took = time.monotonic() - began
            self._next = (
                began + took + max(self._storage.look_interval, 3 * took * self._storage.is_away)
            )
        return self._found

    def _try(self) -> None:
        try:
            self._found = self._look()
        except StorageAway as error:
            if not self._storage.is_away:
                warn(f"{error}. Going on with what is known.")
            self._storage.is_away = True
        else:
            if self._storage.is_away:
                say(f"{self._storage} answers again.", "green")
            self._storage.is_away = False
