"""The model that gave an answer, and its prediction computed again, bit for bit.

An answer names its model by its id, and ids are given out again after `make clean`: so more than
one model may have it, in models/ or in the archive, and those of the right time are tried first.

What a predictor computed depends on the model and on the data set at that time. So a prediction is
computed as a predictor would now, and, if that gives something else, as one whose data set has the
columns and the classes of the model.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from monitoring.audit.message_blocks import content_of
from utils.datasets import dataset
from utils.datasets.target import REPLY, Target
from utils.datasets.targets import restore_target
from utils.messages import decode_request
from utils.model_store.archive import Archive
from utils.model_store.card import Card, ModelError
from utils.model_store.model import Model, decode, decode_parts, other_versions
from utils.model_store.registry import Registry

MODELS_IN_MEMORY = 8


@dataclass(frozen=True)
class PastModel:
    """A model that is kept: where it is, and its card."""

    card: Card
    where: str
    source: Registry | Archive

    def __hash__(self) -> int:
        return hash(self.card.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PastModel) and self.card == other.card

    def notes(self) -> list[str]:
        """Return what has changed since the model was made, in words."""
        versions = other_versions(self.card).items()
        return [f"{name} {then} made the model, {now} computes" for name, (then, now) in versions]


def past_models(registry: Registry, model_id: int, time: float) -> list[PastModel]:
    """Return the models that have, or had, this id.

    time : of the answer, in ms since 1970; the newest model that is older than that comes first.
    """
    archive, found = Archive(registry.place), {}
    for card in archive.cards(model_id):
        found[card.digest] = PastModel(card, "the archive", archive)
    try:
        card = registry.card(model_id)
        found[card.digest] = PastModel(card, registry.storage.name, registry)
    except ModelError:
        pass
    newest_first = sorted(found.values(), key=lambda each: each.card.created, reverse=True)
    then = str(np.datetime64(int(min(time, 2**53)), "ms"))[:19]  # as the begin of card.created
    return sorted(newest_first, key=lambda each: each.card.created[:19] > then)


@lru_cache(MODELS_IN_MEMORY)
def _parts(model: PastModel) -> tuple:
    return decode_parts(model.card, model.source.content(model.card))


@lru_cache(MODELS_IN_MEMORY)
def _as_now(model: PastModel) -> Model:
    return decode(model.card, model.source.content(model.card))


def computed_again(model: PastModel, request: bytes) -> Iterator[tuple[dict, str]]:
    """Yield a reply's fields, and how the data set differs from that of the model ("": not at all).

    First as a predictor computes now, then as one did when the data set was that of the model.
    ModelError if the model can't be read; ValueError if the request was none for it.
    """
    changes = changes_since(model.card)
    try:
        now = decode_request(request)
        if now is None:
            raise ValueError("it is a reply")
        yield _fields(_as_now(model).answers([now.data])), changes
    except (ValueError, ModelError):
        if not changes:
            raise
    if changes:
        scores = _scores(model, then_row(model, request))
        yield _fields(_target(model).answers(scores, model.card.model_id)), changes


def _fields(answers: Iterable[tuple]) -> dict:
    values = zip(REPLY, next(iter(answers)), strict=False)
    return {name: value for name, value in values if value is not None}


def changes_since(card: Card) -> str:
    """Return how the data set has changed since the model was made; "" if it has not."""
    added = [name for name in dataset.names if name not in card.features] if card.features else []
    dropped = [name for name in card.features if name not in dataset.names]
    parts = [f"without the column {name}" for name in added]
    parts += [f"with the column {name}" for name in dropped]
    if card.classes and card.classes != list(dataset.target.labels):
        parts.append(f"with the classes {', '.join(map(str, card.classes))}"[:200])
    if card.target and card.target != dataset.target.kind:
        parts.append(f"with a target of {card.target}")
    return ", ".join(parts)


def then_row(model: PastModel, request: bytes) -> dict[str, Any]:
    """Return the columns of the model from a request's bytes; ValueError if it is not a request."""
    try:
        data = dict(content_of(request)["data"])
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"not a request: {error}") from None
    defaults = dataset.defaults | (model.card.split_defaults or {})
    return {name: data.get(name, defaults.get(name)) for name in _parts(model)[0].columns}


def _scores(model: PastModel, row: dict) -> np.ndarray:
    features, booster, center, spread = _parts(model)
    scores = booster.predict(features.transform([row]), num_threads=1)
    return scores if (center, spread) == (0.0, 1.0) else scores * spread + center


def _target(model: PastModel) -> Target:
    """Return the target that the model was made for."""
    labels = model.card.classes or dataset.target.labels[:2]
    outputs = _parts(model)[1].num_model_per_iteration()
    return restore_target(model.card.target, dataset.target.name, labels, outputs)


def labels_of(model: PastModel) -> tuple:
    """Return the labels of the model's outputs, () of a number."""
    return _target(model).labels


def contributions(model: PastModel, row: dict) -> tuple[np.ndarray, dict[str, Any]]:
    """Return what each feature adds to a row's score, (outputs, features + 1), and their values.

    The last column is the score without any feature. Scores are log-odds of two classes, logs of
    several, and numbers in their own unit (Lundberg and Lee, 2017; LightGBM's pred_contrib).
    """
    features, booster, center, spread = _parts(model)
    found = booster.predict(features.transform([row]), pred_contrib=True, num_threads=1)
    found = np.asarray(found).reshape(booster.num_model_per_iteration(), -1) * spread
    found[:, -1] += center
    crossed = {"_".join(parts): parts for parts in features.crossed_categories}
    values = {name: " ".join(str(row[n]) for n in parts) for name, parts in crossed.items()}
    return found, {name: values.get(name, row.get(name)) for name in features.names_out}
