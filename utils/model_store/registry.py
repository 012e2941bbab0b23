"""The models in a folder: their ids, their cards, and which one is the champion.

A model is two files: `model_<id>.p`, its content, and `model_<id>.json`, its card. The card is
written last, so a model without a card is incomplete and does not count. `champion.json` names the
model that answers requests. Every file is replaced atomically (utils/files.py): readers see the old
content or the new one, never a part. This module imports neither LightGBM nor Kafka; what a model's
content means is in utils/model_store/model.py.
"""

import hashlib
import re
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import msgspec

from utils.console import warn
from utils.files import locked, write_atomically
from utils.model_store.archive import Archive
from utils.model_store.card import (
    MOST_BYTES,
    Card,
    ModelError,
    ModelId,
    decode_card,
    encode_card,
)
from utils.settings import settings

CHAMPION = "champion.json"


class Champion(msgspec.Struct):
    """The content of champion.json."""

    model_id: ModelId


class Registry:
    """The models in a folder; MODELS_DIR unless another one is given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or settings.models_dir

    def path(self, model_id: int) -> Path:
        """Return the path of a model's content; its card has the suffix .json instead."""
        return self.folder / f"model_{model_id}.p"

    def card_path(self, model_id: int) -> Path:
        """Return the path of a model's card."""
        return self.path(model_id).with_suffix(".json")

    def ids(self) -> list[int]:
        """Return the ids of all complete models, ascending; other files are ignored."""
        found = self.folder.glob("model_*.json")
        # At most 15 digits: messages and the trainer's store take no larger ids.
        names = (re.fullmatch(r"model_(0|[1-9][0-9]{0,14})\.json", path.name) for path in found)
        return sorted(int(name[1]) for name in names if name)

    def newest_id(self) -> int:
        """Return the largest id, -1 if there is no model."""
        return max(self.ids(), default=-1)

    def card(self, model_id: int) -> Card:
        """Return a model's card; ModelError if it is missing or damaged."""
        path = self.card_path(model_id)
        try:
            card = decode_card(_read(path))
        except FileNotFoundError:
            raise ModelError(f"model {model_id}: {path.name} is missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"model {model_id}: {path.name} can't be read ({error})") from error
        if card.model_id != model_id:
            raise ModelError(f"model {model_id}: its card is that of model {card.model_id}")
        return card

    def content(self, card: Card) -> bytes:
        """Return the content of the card's model; ModelError if it is missing or damaged."""
        path = self.path(card.model_id)
        try:
            content = _read(path)
        except FileNotFoundError:
            raise ModelError(f"model {card.model_id}: {path.name} is missing") from None
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model {card.model_id}: {path.name} can't be read ({error})"
            ) from error
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise ModelError(
                f"model {card.model_id}: {path.name} does not match the digest in its card"
            )
        return content

    def publish(self, card: Card, content: bytes) -> None:
        """Write a model, then its card with the model's digest: from then on the model exists."""
        card.digest, card.file_bytes = hashlib.sha256(content).hexdigest(), len(content)
        write_atomically(self.path(card.model_id), content)
        self.write_card(card)

    def write_card(self, card: Card) -> None:
        """Write or replace the card of a model."""
        write_atomically(self.card_path(card.model_id), encode_card(card))

    def champion_id(self) -> int | None:
        """Return the champion's id, or None if champion.json is missing or damaged."""
        try:
            content = (self.folder / CHAMPION).read_bytes()
            return msgspec.json.decode(content, type=Champion).model_id
        except (OSError, ValueError, RecursionError):
            return None

    def promote(self, model_id: int) -> None:
        """Make a model the champion: every predictor that starts from now on begins with it."""
        write_atomically(self.folder / CHAMPION, msgspec.json.encode(Champion(model_id)))

    def is_rejected(self, model_id: int) -> bool:
        """Return True if the judge rejected the model, or its card can't be read."""
        try:
            return self.card(model_id).decision == "rejected"
        except ModelError:
            return True

    def by_preference(self) -> list[int]:
        """Return all ids: the champion, then the newest, and the rejected ones last."""
        champion = self.champion_id()
        others = [model_id for model_id in reversed(self.ids()) if model_id != champion]
        others.sort(key=self.is_rejected)
        return others if champion is None else [champion, *others]

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock that everyone who changes the champion holds; waits until it is free."""
        return locked(self.folder / "champion.lock")

    def prune(self, keep: int) -> list[int]:
        """Archive and delete old models, and return their ids.

        Kept are the champion, its anchor (see train/judge.py), the newest rejected model for
        inspection, and besides these `keep` others: the champion's parent first, then the newest.
        A model that can't be read or archived now, with a full disk for example, is kept for now.
        """
        champion, *others = self.by_preference() or [None]
        parent = anchor = None
        with suppress(ModelError):
            card = self.card(champion)
            parent, anchor = card.parent, card.anchor
        others = [each for each in others if each != anchor]
        rejected = sorted(filter(self.is_rejected, others))
        good = sorted(set(others) - set(rejected), key=lambda each: (each == parent, each))
        surplus = good[: max(len(good) - keep, 0)] + rejected[:-1]
        deleted = self._archived(surplus)
        for model_id in deleted:
            # The card first: without it the model does not exist, whenever this is interrupted.
            _remove(self.card_path(model_id))
            _remove(self.path(model_id))
        return deleted

    def _archived(self, model_ids: list[int]) -> list[int]:
        """Archive these models; return those that are archived, or too damaged for it."""
        archive, done, problem = Archive(self.folder), [], None
        for model_id in model_ids:
            try:
                if settings.audit_models:
                    self._archive(model_id, archive)
                done.append(model_id)
            except OSError as error:
                problem = error
        if problem:
            warn(f"Replaced models are kept until they can be archived: {problem}")
        with suppress(OSError):
            archive.clean_up()
        return done

    def _archive(self, model_id: int, archive: Archive) -> None:
        """Archive a model, unless it is damaged; OSError if it can't be read or written now."""
        try:
            card = self.card(model_id)
            archive.add(card, self.content(card))
        except ModelError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None

    def remove_leftovers(self) -> None:
        """Remove what a killed writer left: temporary files, and models without a card."""
        for temporary in (*self.folder.glob(".champion.json.*"), *self.folder.glob(".model_*")):
            _remove(temporary)
        for model in self.folder.glob("model_*.p"):
            if not model.with_suffix(".json").exists():
                _remove(model)


def _read(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    return path.read_bytes()


def _remove(path: Path) -> None:
    """Delete a file; one that can't be deleted, such as a directory, is not worth stopping for."""
    with suppress(OSError):
        path.unlink()
