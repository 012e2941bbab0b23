"""Replaced models, compressed, so that what they answered can be explained and computed again.

A model is archived under its id and the SHA-256 digest of its content, as ids are given out again
after `make clean`: `ID-DIGEST.p.zst`, its content, and then `ID-DIGEST.json`, its card, without
which it does not count. Registry.prune() deletes a model only when it is here. Kept are the newest
AUDIT_MODELS, at most AUDIT_DAYS old, counted from when they were archived.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard

from utils.model_store.card import MOST_BYTES, Card, ModelError
from utils.model_store.signing import seal, unseal
from utils.model_store.storage import StorageAway, Stored, open_storage
from utils.settings import settings

FOLDER = "archive"  # in MODELS_DIR
LEVEL = 1  # higher ones take up to sixty times as long, and make a model 2 to 9 % smaller
_NAME = re.compile(r"(0|[1-9][0-9]{0,14})-([0-9a-f]{64})\.json")
_DAY = 86_400


class Archive:
    """The archive beside the models at a place; MODELS_DIR unless another one is given.

    In an object store, everything raises StorageAway while the store does not answer.
    """

    def __init__(self, models: Path | str | None = None) -> None:
        self.storage = open_storage(models or settings.models_dir).below(FOLDER)

    def add(self, card: Card, content: bytes) -> None:
        """Write a model, whose content matches the digest in its card; OSError."""
        self.storage.write(f"{_stem(card)}.p.zst", zstandard.compress(content, LEVEL))
        self.write_card(card)

    def write_card(self, card: Card) -> None:
        """Write or replace the card of a model; OSError."""
        self.storage.write(f"{_stem(card)}.json", seal(card))

    def cards(self, *model_ids: int, verify: bool = True) -> Iterator[Card]:
        """Yield the cards of all models, or of those with these ids, the first archived one first.

        Cards that can't be read, or are not to be trusted, are left out. verify : as unseal().
        """
        chosen = {str(each) for each in model_ids}
        for name in _cards(self.storage.list()):
            if not chosen or name.partition("-")[0] in chosen:
                card = self._card(name, verify)
                if card is not None and name == f"{_stem(card)}.json":
                    yield card

    def _card(self, name: str, verify: bool) -> Card | None:
        try:
            return unseal(self.storage.read(name), name, verify)
        except StorageAway:
            raise
        except (OSError, ValueError, RecursionError, ModelError):
            return None

    def ids(self) -> list[int]:
        """Return the ids of all models, the first archived one first."""
        return [int(name.split("-")[0]) for name in _cards(self.storage.list())]

    def load(self, digest: str) -> tuple[Card, bytes]:
        """Return card and content of the model whose digest begins so; ModelError if none does."""
        for card in self.cards():
            if card.digest.startswith(digest):
                return card, self.content(card)
        raise ModelError(f"no archived model has the digest {digest[:64]}")

    def content(self, card: Card) -> bytes:
        """Return the content of the card's model; ModelError if it is missing or damaged."""
        name = f"{_stem(card)}.p.zst"
        try:
            packed = self.storage.read(name)
            if zstandard.frame_content_size(packed) > MOST_BYTES:
                raise OSError(f"it has more than {MOST_BYTES:,} bytes")
            content = zstandard.decompress(packed)
        except StorageAway:
            raise
        except (OSError, ValueError, zstandard.ZstdError) as error:
            raise ModelError(f"model {card.model_id}: {name} can't be read ({error})") from None
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise ModelError(f"model {card.model_id}: {name} does not match its digest")
        return content

    def clean_up(self) -> None:
        """Delete what AUDIT_MODELS and AUDIT_DAYS do not keep, and what a killed writer left."""
        found = self.storage.list()
        names, now = _cards(found), time.time()
        cards = set(names)
        surplus, oldest = len(names) - settings.audit_models, now - settings.audit_days * _DAY
        kept = {
            name.split(".")[0]
            for place, name in enumerate(names)
            if place >= surplus and found[name].modified >= oldest
        }
        for name, stored in found.items():
            is_old = name in cards or now - stored.modified >= self.storage.leftover_age
            if name.split(".")[0] not in kept and is_old:
                self.storage.delete(name)


def _stem(card: Card) -> str:
    return f"{card.model_id}-{card.digest}"


def _cards(found: dict[str, Stored]) -> list[str]:
    """Return the names of the cards, the first archived one first."""
    cards = [name for name in found if _NAME.fullmatch(name)]
    return sorted(cards, key=lambda name: (found[name].modified, int(name.split("-")[0])))
