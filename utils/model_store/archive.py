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
from contextlib import suppress
from pathlib import Path

import zstandard

from utils.files import write_atomically
from utils.model_store.card import MOST_BYTES, Card, ModelError, decode_card, encode_card
from utils.settings import settings

FOLDER = "archive"  # in MODELS_DIR
LEVEL = 1  # higher ones take up to sixty times as long, and make a model 2 to 9 % smaller
_NAME = re.compile(r"(0|[1-9][0-9]{0,14})-([0-9a-f]{64})\.json")
_DAY = 86_400


class Archive:
    """The archive beside a folder's models; MODELS_DIR unless another one is given."""

    def __init__(self, models: Path | None = None) -> None:
        self.folder = (models or settings.models_dir) / FOLDER

    def add(self, card: Card, content: bytes) -> None:
        """Write a model, whose content matches the digest in its card; OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(card)
        write_atomically(path.with_suffix(".p.zst"), zstandard.compress(content, LEVEL))
        write_atomically(path, encode_card(card))

    def cards(self, model_id: int | None = None) -> Iterator[Card]:
        """Yield the cards of all models, or of those with this id, the first archived one first.

        Cards that can't be read are left out.
        """
        for path in self._paths():
            if model_id is None or path.name.startswith(f"{model_id}-"):
                with suppress(OSError, ValueError, RecursionError):
                    card = decode_card(path.read_bytes())
                    if self._path(card) == path:
                        yield card

    def load(self, digest: str) -> tuple[Card, bytes]:
        """Return card and content of the model whose digest begins so; ModelError if none does."""
        for card in self.cards():
            if card.digest.startswith(digest):
                return card, self.content(card)
        raise ModelError(f"no archived model has the digest {digest[:64]}")

    def content(self, card: Card) -> bytes:
        """Return the content of the card's model; ModelError if it is missing or damaged."""
        path = self._path(card).with_suffix(".p.zst")
        try:
            packed = path.read_bytes()
            if zstandard.frame_content_size(packed) > MOST_BYTES:
                raise OSError(f"it has more than {MOST_BYTES:,} bytes")
            content = zstandard.decompress(packed)
        except (OSError, zstandard.ZstdError) as error:
            raise ModelError(
                f"model {card.model_id}: {path.name} can't be read ({error})"
            ) from None
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise ModelError(f"model {card.model_id}: {path.name} does not match its digest")
        return content

    def clean_up(self) -> None:
        """Delete what AUDIT_MODELS and AUDIT_DAYS do not keep, and what a killed writer left."""
        oldest, paths = time.time() - settings.audit_days * _DAY, self._paths()
        surplus = len(paths) - settings.audit_models
        for place, path in enumerate(paths):
            if place < surplus or _age(path)[0] < oldest:
                _remove(path)
        kept = {path.stem for path in self._paths()}
        for path in self.folder.glob("*"):
            if path.name.split(".")[0] not in kept:
                _remove(path)

    def _path(self, card: Card) -> Path:
        return self.folder / f"{card.model_id}-{card.digest}.json"

    def _paths(self) -> list[Path]:
        found = [path for path in self.folder.glob("*.json") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_age)


def _remove(path: Path) -> None:
    """Delete a file; one that can't be deleted does not keep the others."""
    with suppress(OSError):
        path.unlink()


def _age(path: Path) -> tuple[float, int]:
    """Return when a model was archived, seconds since 1970 (0 if it is gone), and its id."""
    model_id = int(path.name.split("-")[0])
    try:
        return path.stat().st_mtime, model_id
    except FileNotFoundError:
        return 0.0, model_id
