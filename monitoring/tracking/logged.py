"""What is logged to MLflow already, so that it is not asked for each model again."""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from utils.files import write_atomically
from utils.settings import settings

if TYPE_CHECKING:
    from mlflow.entities import Experiment

LOGGED = settings.data_dir / "mlflow_logged.json"


class Logged:
    """Which cards are logged as they are, by their digests.

    A cache: of another experiment, or damaged, it counts as empty.
    """

    def __init__(self, experiment: "Experiment") -> None:
        parts = (settings.mlflow_tracking_uri, experiment.experiment_id, experiment.creation_time)
        self._of = hashlib.sha256(repr(parts).encode()).hexdigest()
        self._cards: set[str] = set()
        with suppress(OSError, ValueError, RecursionError):
            known = msgspec.json.decode(LOGGED.read_bytes(), type=dict[str, list[str]])
            self._cards = set(known.get(self._of, ()))

    def __contains__(self, digest: str) -> bool:
        return digest in self._cards

    def add(self, digest: str) -> None:
        """Keep this digest too."""
        self._cards.add(digest)
        write_atomically(LOGGED, msgspec.json.encode({self._of: sorted(self._cards)}))

    def forget_others(self, digests: Iterable[str]) -> None:
        """Forget all but these digests: the cards of deleted models do not come back."""
        self._cards.intersection_update(digests)
