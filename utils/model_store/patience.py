"""How a script that starts waits for an object store that is away."""

import time
from collections.abc import Callable
from typing import TypeVar

from utils.console import warn
from utils.model_store.storage import StorageAway
from utils.process import patience, stopping
from utils.settings import settings

Result = TypeVar("Result")


def patiently(work: Callable[[], Result]) -> Result:
    """Return what work() returns; while the object store is away, call it again.

    SystemExit after BROKER_TIMEOUT seconds.
    """
    longest = patience(settings.broker_timeout)
    deadline, has_said = time.monotonic() + longest, False
    while True:
        try:
            return work()
        except StorageAway as error:
            if not has_said:
                warn(f"Waiting for the models: {error} ...")
            has_said = True
            if stopping():
                raise SystemExit(0) from None
            if time.monotonic() > deadline:
                waited = f"waited {longest:g} s (BROKER_TIMEOUT)"
                raise SystemExit(f"MODELS_DIR: {error}; {waited}") from None
            time.sleep(0.5)
