"""Deletes old models, after they are archived, and what killed writers have left."""

import math
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from utils.console import warn
from utils.model_store.archive import FOLDER, Archive
from utils.model_store.card import ModelError
from utils.model_store.signing import Untrusted
from utils.model_store.storage import CHAMPION
from utils.settings import settings

if TYPE_CHECKING:
    from utils.model_store.registry import Registry, Seen

_TEMPORARY = (".model_", f".{CHAMPION}.")  # how a killed writer's files begin
_OURS = re.compile(r"model_.*\.(p|json)", re.DOTALL)


def prune(registry: "Registry", keep: int, up_to: int | None = None) -> list[int]:
    """Archive and delete old models, and return their ids.

    Kept are the champion, its anchor (see train/judge.py), the newest rejected model for
    inspection, and besides these `keep` others: the champion's parent first, then the newest.
    A model that can't be read or archived now, with a full disk for example, is kept for now.
    up_to : the largest id that may be deleted; another trainer may be deciding about a newer model.
    """
    try:
        seen = registry.see()
        found = surplus(registry, seen, keep)
        deleted = _archived(registry, [each for each in found if up_to is None or each <= up_to])
        if deleted and registry.storage.is_shared:
            registry.note_deleting(deleted, seen)
        for model_id in deleted:
            _delete(registry, model_id)
    except OSError as error:  # of an object store, or the champion has changed
        warn(f"Replaced models are deleted next time: {error}")
        return []
    return deleted


def surplus(registry: "Registry", seen: "Seen", keep: int) -> list[int]:
    """Return the ids of the models that prune() does not keep."""
    champion, *others = registry.by_preference(seen) or [None]
    parent = anchor = None
    with suppress(ModelError):
        card = registry.card(champion)
        parent, anchor = card.parent, card.anchor
    others = [each for each in others if each != anchor]
    rejected = sorted(filter(registry.is_rejected, others))
    good = sorted(set(others) - set(rejected), key=lambda each: (each == parent, each))
    return good[: max(len(good) - keep, 0)] + rejected[:-1]


def _archived(registry: "Registry", model_ids: list[int]) -> list[int]:
    """Archive these models, unless AUDIT_MODELS is 0; return those that may be deleted.

    These are the archived ones, and those that are too damaged for it.
    """
    archive, done, problem = Archive(registry.place), [], None
    for model_id in model_ids:
        try:
            _archive(registry, model_id, archive)
            done.append(model_id)
        except (OSError, Untrusted) as error:
            problem = error
    if problem:
        warn(f"Replaced models are kept for now: {problem}")
    with suppress(OSError):
        archive.clean_up()
    return done


def _archive(registry: "Registry", model_id: int, archive: Archive) -> None:
    """Archive a model, unless it is damaged; OSError if it can't be read or written now.

    Untrusted if its card is not signed.
    """
    try:
        card = registry.card(model_id)
        if settings.audit_models:
            archive.add(card, registry.content(card))
    except Untrusted:  # its owner may have set MODELS_KEY just now
        raise
    except ModelError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None


def _delete(registry: "Registry", model_id: int) -> None:
    storage = registry.storage
    # The card first: without it the model does not exist, whenever this is interrupted.
    storage.delete(f"model_{model_id}.json")
    for name in storage.list():
        if name == f"model_{model_id}.p" or name.startswith(f"model_{model_id}-"):
            storage.delete(name)


def remove_leftovers(registry: "Registry") -> None:
    """Remove what a killed writer left: temporary files, and models without a card."""
    storage = registry.storage
    age, found = storage.leftover_age, storage.list()
    newest = time.time() - age if age else math.inf
    for name, stored in found.items():
        card = f"{name.removesuffix('.p').split('-')[0]}.json"
        has_no_card = name.startswith("model_") and name.endswith(".p") and card not in found
        if stored.modified < newest and (has_no_card or name.startswith(_TEMPORARY)):
            storage.delete(name)


def delete_all(registry: "Registry") -> None:
    """Delete all models, archived ones too; other files in a folder, and its lock, stay."""
    storage = registry.storage
    storage.delete(CHAMPION)
    for name in storage.list():
        if _OURS.fullmatch(name) or name.startswith(_TEMPORARY):
            storage.delete(name)
    storage.below(FOLDER).clear()
