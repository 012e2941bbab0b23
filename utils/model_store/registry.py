"""The models in a folder or an object store: their ids, their cards, and which is the champion.

A model is two contents: its own (`model_<id>.p` in a folder) and its card, `model_<id>.json`. The
card is written last, so a model without a card is incomplete and does not count. `champion.json`
names the model that answers requests. Each is whole or absent (storage.py): readers see the old
content or the new one, never a part. This module imports neither LightGBM nor Kafka; what a model's
content means is in utils/model_store/model.py.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from utils.model_store import pruning
from utils.model_store.archive import FOLDER
from utils.model_store.card import Card, ModelError, ModelId
from utils.model_store.glance import Glance
from utils.model_store.patience import patiently
from utils.model_store.signing import Untrusted, refuse_untrusted, seal, unseal
from utils.model_store.storage import CHAMPION, StorageAway, open_storage
from utils.settings import settings

_CARD = re.compile(r"model_(0|[1-9][0-9]{0,14})\.json")  # messages and stores take no larger ids


class ChampionChanged(OSError):
    """Somebody else has changed the champion since it was read: decide again."""


class Champion(msgspec.Struct, omit_defaults=True):
    """The content of champion.json.

    deleting : models that prune() deletes, so that nobody promotes them meanwhile. write : unique,
    so that no two contents are equal. Where a lock protects the file, neither is needed.
    """

    model_id: ModelId | None = None  # None: no model is
    since: float = 0.0  # when it was promoted, seconds since 1970; 0: by an earlier version
    deleting: list[ModelId] = []
    write: str = ""


class Seen(msgspec.Struct):
    """champion.json as somebody has read it, and its mark."""

    champion: Champion
    mark: object

    @property
    def model_id(self) -> int | None:
        """The champion's id, None if there is none, or the file is damaged."""
        return self.champion.model_id


class Registry:
    """The models at a place, a folder or a URL; MODELS_DIR unless another one is given.

    In an object store, everything raises StorageAway while the store does not answer.
    """

    def __init__(self, place: Path | str | None = None) -> None:
        self.place = place or settings.models_dir
        self.storage = open_storage(self.place)
        self.glance = Glance(self.storage, self.champion_id)  # for loops
        self.state = Glance(self.storage, self._state)

    def ids(self) -> list[int]:
        """Return the ids of all complete models, ascending; other files are ignored."""
        return [*self.marks()]

    def marks(self) -> dict[int, object]:
        """Return the ids of all complete models, ascending, and what changes with their cards."""
        found = self.storage.list().items()
        named = ((_CARD.fullmatch(name), stored.mark) for name, stored in found)
        return dict(sorted((int(name[1]), mark) for name, mark in named if name))

    def newest_id(self) -> int:
        """Return the largest id, -1 if there is no model."""
        return max(self.ids(), default=-1)

    def exists(self) -> bool:
        """Return whether there is a model; waits as patiently() does.

        SystemExit if MODELS_KEY refuses all of them.
        """
        ids = patiently(self.ids)
        patiently(lambda: refuse_untrusted(self, ids[::-1]))
        return bool(ids)

    def card(self, model_id: int, verify: bool = True) -> Card:
        """Return a model's card; ModelError if it is missing, damaged or not to be trusted.

        verify : False reads a card that is not signed, in order to sign it.
        """
        name = card_name(model_id)
        try:
            card = unseal(self.storage.read(name), name, verify)
        except StorageAway:
            raise
        except Untrusted as error:
            raise Untrusted(f"model {model_id}: {error}") from None
        except FileNotFoundError:
            raise ModelError(f"model {model_id}: {name} is missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"model {model_id}: {name} can't be read ({error})") from error
        if card.model_id != model_id:
            raise ModelError(f"model {model_id}: its card is that of model {card.model_id}")
        return card

    def content(self, card: Card) -> bytes:
        """Return the content of the card's model; ModelError if it is missing or damaged."""
        name = self.storage.content_name(card)
        try:
            content = self.storage.read(name)
        except StorageAway:
            raise
        except FileNotFoundError:
            raise ModelError(f"model {card.model_id}: {name} is missing") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"model {card.model_id}: {name} can't be read ({error})") from error
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise ModelError(f"model {card.model_id}: {name} does not match the digest in its card")
        return content

    def publish(self, card: Card, content: bytes) -> None:
        """Write a model, then its card with the model's digest: from then on the model exists.

        May be repeated. ModelError if somebody else has published another model of this id.
        """
        card.digest, card.file_bytes = hashlib.sha256(content).hexdigest(), len(content)
        self.storage.write(self.storage.content_name(card), content)
        is_ours = self.storage.create(card_name(card.model_id), seal(card))
        if not is_ours and self.card(card.model_id).digest != card.digest:
            there = f"model {card.model_id} is in {self.storage} already, and another one"
            raise ModelError(f"{there}: is more than one trainer using it?")

    def write_card(self, card: Card) -> None:
        """Write or replace the card of a model."""
        self.storage.write(card_name(card.model_id), seal(card))

    def champion_id(self) -> int | None:
        """Return the champion's id, or None if champion.json is missing or damaged."""
        return self.see().model_id

    def see(self) -> Seen:
        """Return the champion, with what promote() needs to know that it is still the same."""
        content, mark = self.storage.read_marked(CHAMPION)
        champion = Champion()
        with suppress(ValueError, RecursionError):
            champion = msgspec.json.decode(content or b"", type=Champion)
        return Seen(champion, mark)

    def champion_since(self) -> float | None:
        """Return when the champion was promoted, in seconds since 1970; None if nobody knows."""
        stored = self.storage.list().get(CHAMPION)
        return self.see().champion.since or (stored.modified if stored else None)

    @contextmanager
    def locked(self) -> Iterator[Seen]:
        """Decide about the champion: gives the present one, which promote() takes.

        In a folder nobody else changes it meanwhile. In an object store others may: then promote()
        raises ChampionChanged.
        """
        with self.storage.locked():
            yield self.see()

    def promote(self, model_id: int, seen: Seen | None = None) -> None:
        """Make a model the champion: every predictor that starts from now on begins with it.

        seen : the champion that was read before the decision; by default it is read now.
        ChampionChanged if it is another one by now; ModelError if the model is being deleted.
        """
        seen = seen or self.see()
        if model_id in seen.champion.deleting:
            raise ModelError(f"model {model_id} is being deleted")
        if model_id != seen.model_id:
            self._replace(seen, model_id=model_id, since=time.time())

    def take_over(self) -> None:
        """Change champion.json, not the champion: who has read it before can't promote any more.

        For a trainer that succeeds one that may still be running on another machine. A folder has
        its lock instead.
        """
        if self.storage.is_shared:
            with suppress(ChampionChanged):  # then what it has read is out of date, too
                self._replace(self.see())

    def note_deleting(self, model_ids: list[int], seen: Seen) -> None:
        """Let nobody promote these models from now on; ChampionChanged as promote()."""
        there = set(self.ids())
        before = [each for each in seen.champion.deleting if each in there]
        self._replace(seen, deleting=sorted({*before, *model_ids}))

    def _replace(self, seen: Seen, **changes) -> None:
        new = msgspec.structs.replace(seen.champion, write=secrets.token_hex(8), **changes)
        if not self.storage.swap(CHAMPION, msgspec.json.encode(new), seen.mark):
            raise ChampionChanged("The champion was changed at the same moment")

    def is_rejected(self, model_id: int) -> bool:
        """Return True if the judge rejected the model, or its card can't be read."""
        try:
            return self.card(model_id).decision == "rejected"
        except ModelError:
            return True

    def by_preference(self, seen: Seen | None = None) -> list[int]:
        """Return all ids: the champion, then the newest, and the rejected ones last."""
        champion = (seen or self.see()).model_id
        others = [model_id for model_id in reversed(self.ids()) if model_id != champion]
        others.sort(key=self.is_rejected)
        return others if champion is None else [champion, *others]

    def prune(self, keep: int, up_to: int | None = None) -> list[int]:
        """Archive and delete old models, and return their ids; see pruning.py."""
        return pruning.prune(self, keep, up_to)

    def _state(self) -> object:
        """Return what changes whenever a model, a card, the champion or the archive does."""
        if self.storage.is_shared:  # prune() replaces champion.json when it archives something
            return self.storage.state()
        return self.storage.state(), self.storage.below(FOLDER).state()


def card_name(model_id: int) -> str:
    """Return the name of a model's card."""
    return f"model_{model_id}.json"
