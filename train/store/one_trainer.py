"""One trainer at a time works on a store; another one waits, and takes over when it ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from train.store.database import StoreUnreachable
from train.store.observations import Observations
from train.store.place import Place, Server, connect, open_as_trainer
from utils.console import say
from utils.files import locked
from utils.process import only_one, patience
from utils.settings import settings

if TYPE_CHECKING:
    from train.store.postgres import Postgres

WAITING = "Another trainer is running; this one takes over when it ends."
ASK_EVERY = 0.5  # seconds between two attempts to get the lock of a server


@contextmanager
def only_trainer(place: Place, stop: Event) -> Iterator[Observations]:
    """Open the store as its trainer, as soon as no other process is that.

    The lock is the system's, on a file beside the store, or the PostgreSQL server's, of the
    connection that writes: it ends with this process. SystemExit if `stop` is set meanwhile.
    A server that can't be reached is waited for, BROKER_TIMEOUT at most.
    """
    if isinstance(place, Path):
        with (
            only_one(place.with_suffix(".lock"), stop, WAITING),
            closing(Observations(place)) as store,
        ):
            yield store
    else:
        with closing(Observations(place, database=_wait_for_lock(place, stop))) as store:
            yield store


@contextmanager
def no_trainer(place: Place, refuse: Callable[[], object]) -> Iterator[None]:
    """Keep trainers away in the block; refuse(), which has to raise, is called if one runs."""
    if isinstance(place, Path):
        with locked(place.with_suffix(".lock"), wait=refuse):
            yield
        return
    with closing(connect(place)) as database:
        if not database.try_lock():
            refuse()
        yield


def delete_store(place: Place) -> None:
    """Delete all that is in the store."""
    if isinstance(place, Path):
        for path in place.parent.glob(f"{place.name}*"):
            path.unlink(missing_ok=True)
        return
    with closing(connect(place)) as database:
        database.drop()


def _wait_for_lock(server: Server, stop: Event) -> "Postgres":
    said: set[str] = set()

    def wait(why: str = WAITING) -> None:
        if why not in said:
            say(why)
        said.add(why)
        if stop.wait(ASK_EVERY):
            raise SystemExit(0)

    longest = patience(settings.broker_timeout)
    deadline = time.monotonic() + longest
    while True:
        try:
            return open_as_trainer(server, wait)
        except StoreUnreachable as error:
            # Another trainer is connected, so the server will be back; or it is still starting.
            if WAITING not in said and time.monotonic() > deadline:
                waited = f"waited {longest:g} s (BROKER_TIMEOUT)"
                raise SystemExit(f"{error}; {waited}") from None
            wait(f"{error}. Trying again.")
