"""The models in a folder: their ids, their cards, and which one is the champion.

`models/model_<id>.p` is a model's content, `models/model_<id>.json` its card, written after it: no
card, no model. `models/champion.json` names the model that answers. Every file is written beside
its place, synced and renamed, so that a reader sees all of it or none. The registry knows neither
LightGBM nor Kafka: for the content of a model see utils/model_store/model.py.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.files import locked, write_atomically
from utils.model_store.card import Card, decode_card, encode_card
from utils.settings import settings

CHAMPION = "champion.json"


class ModelError(Exception):
    """A model that can't be used; the text says which one and why."""


class Registry:
    """The models in this folder, settings.models_dir if none is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or settings.models_dir

    def path(self, model_id: int) -> Path:
        """Return where the model of this id is; its card is the same name with .json."""
        return self.folder / f"model_{model_id}.p"

    def ids(self) -> list[int]:
        """Return the ids of all complete models (those with a card), ascending."""
        found = self.folder.glob("model_*.json")
        names = (re.fullmatch(r"model_(\d+)\.json", path.name) for path in found)
        return sorted(int(name[1]) for name in names if name)

    def newest_id(self) -> int:
        """Return the largest id there is, -1 where there is no model."""
        return max(self.ids(), default=-1)

    def card(self, model_id: int) -> Card:
        """Return what is known about a model; ModelError if there is none, or it is damaged."""
        path = self.path(model_id).with_suffix(".json")
        try:
            card = decode_card(path.read_bytes())
        except FileNotFoundError:
            raise ModelError(f"model {model_id}: {path.name} is missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"model {model_id}: {path.name} can't be read ({error})") from None
        if card.model_id != model_id:
            raise ModelError(f"model {model_id}: its card is that of model {card.model_id}")
        return card

    def content(self, card: Card) -> bytes:
        """Return the model of this card; ModelError if it is missing or not what the card says."""
        path = self.path(card.model_id)
        try:
            content = path.read_bytes()
        except OSError as error:
            problem = "is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
            raise ModelError(f"model {card.model_id}: {path.name} {problem}") from None
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise ModelError(
                f"model {card.model_id}: the file does not match the digest in its card"
            )
        return content

    def publish(self, card: Card, content: bytes) -> None:
        """Write a model, then its card with the digest; from then on the model exists."""
        card.digest = hashlib.sha256(content).hexdigest()
        write_atomically(self.path(card.model_id), content)
        self.write_card(card)

    def write_card(self, card: Card) -> None:
        """Write what is known about a model beside it."""
        write_atomically(self.path(card.model_id).with_suffix(".json"), encode_card(card))

    def champion_id(self) -> int | None:
        """Return the champion's id, or None where no champion.json names one."""
        try:
            return int(json.loads((self.folder / CHAMPION).read_bytes())["model_id"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def promote(self, model_id: int) -> None:
        """Make a model the champion: the one that every predictor starts with from now on."""
        write_atomically(self.folder / CHAMPION, json.dumps({"model_id": model_id}).encode())

    def is_rejected(self, model_id: int) -> bool:
        """Return True if a model was trained, but found worse than the champion of its time."""
        try:
            return self.card(model_id).decision == "rejected"
        except ModelError:
            return True  # a card that can't be read speaks for nothing

    def by_preference(self) -> list[int]:
        """Return all ids in the order to start with: the champion, the newest, the rejected."""
        champion = self.champion_id()
        others = [model_id for model_id in reversed(self.ids()) if model_id != champion]
        others.sort(key=self.is_rejected)
        return others if champion is None else [champion, *others]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of whoever changes the champion; it is freed when the process ends."""
        with locked(self.folder / "champion.lock"):
            yield

    def prune(self, keep: int) -> list[int]:
        """Delete old models; return their ids. The card goes first: no card, no model.

        The champion stays, and `keep` of those that are good to go back to: its parent and the
        newest ones; besides, the last one that was rejected, for inspection.
        """
        champion, *others = self.by_preference() or [None]
        rejected = sorted(filter(self.is_rejected, others))
        parent = None
        with suppress(ModelError):
            parent = self.card(champion).parent
        good = sorted(set(others) - set(rejected), key=lambda each: (each == parent, each))
        deleted = good[: max(len(good) - keep, 0)] + rejected[:-1]
        for model_id in deleted:
            for file in (self.path(model_id).with_suffix(".json"), self.path(model_id)):
                file.unlink(missing_ok=True)
        return deleted

    def remove_leftovers(self) -> None:
        """Remove what a killed writer left: temporary files, and models without a card."""
        for temporary in (*self.folder.glob(".champion.json.*"), *self.folder.glob(".model_*")):
            temporary.unlink(missing_ok=True)
        for model in self.folder.glob("model_*.p"):
            if not model.with_suffix(".json").exists():
                model.unlink(missing_ok=True)
