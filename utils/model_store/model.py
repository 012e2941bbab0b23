"""A model in memory: a fitted preprocessor and a booster, saved, loaded and replaced together.

A model's content is one pickle of what FeatureTools has learned and the booster in LightGBM's text
format. utils/model_store/unpickler.py reads it without running code that is in it. Whoever can
write to MODELS_DIR still decides what predictors answer, unless cards are signed (signing.py): the
digest in the card detects damage, not an attack.
"""

import pickle
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from utils.console import warn
from utils.datasets import dataset
from utils.feature_encoder import FeatureEncoder
from utils.model_store.card import Card
from utils.model_store.compatibility import (
    absent_columns,
    add_absent,
    check,
    class_matrix,
    of_classes,
)
from utils.model_store.registry import ModelError, Registry, Seen
from utils.model_store.unpickler import Unreadable, loads

# LightGBM imports scikit-learn, pandas and pyarrow if they are installed. A Booster, and a Dataset
# made of arrays, needs none of them, and without them a predictor starts a second sooner. None in
# sys.modules makes an import fail ("The import system", 5.3.1); imports after this one succeed.
_HIDDEN = {name: None for name in ("sklearn", "pandas", "pyarrow") if name not in sys.modules}
sys.modules.update(_HIDDEN)
try:
    import lightgbm as lgb
finally:
    for _name in _HIDDEN:
        del sys.modules[_name]

LIBRARIES = ("lightgbm", "scikit-learn", "numpy")


@dataclass
class Model:
    """A fitted preprocessor, the booster trained on its output, and their card.

    center, spread : a number is the booster's output * spread + center; see Target.scale().

    The columns and the classes may be those of an earlier state of the data set, see
    compatibility.py. ModelError if they don't fit to today's.
    """

    features: FeatureEncoder
    booster: lgb.Booster
    card: Card
    center: float = 0.0
    spread: float = 1.0

    def __post_init__(self) -> None:
        check(self.card, self.features)
        self.absent = absent_columns(self.features)
        self.to_today = class_matrix(self.card, self.booster.num_model_per_iteration())

    @property
    def model_id(self) -> int:
        """The model's id."""
        return self.card.model_id

    def predict(self, rows: Sequence[dict]) -> np.ndarray:
        """Return the scores of rows, dicts or a DataFrame; see utils/datasets/target.py.

        Uses one thread: a batch is too small to divide, and Kafka and the trainer need the other
        cores. ValueError for rows that FeatureTools can't transform.
        """
        if not len(rows):
            return np.empty(0)
        rows = add_absent(rows, self.absent)
        scores = self.booster.predict(self.features.transform(rows), num_threads=1)
        if self.to_today is not None:
            return of_classes(scores, self.to_today)
        is_scaled = (self.center, self.spread) != (0.0, 1.0)
        return scores * self.spread + self.center if is_scaled else scores

    def answers(self, rows: Sequence[dict]) -> Iterable[tuple]:
        """Return the fields of the reply to each row, without its request_id."""
        return dataset.target.answers(self.predict(rows), self.model_id) if rows else ()


def save(model: Model, registry: Registry) -> None:
    """Publish a model; adds its columns and the versions of the libraries to its card.

    ModelError if load() would not read it: a scaler of another kind, for example.
    """
    model.card.features = model.features.columns
    model.card.libraries = {name: version(name) for name in LIBRARIES}
    parts = {"features": model.features, "booster": model.booster.model_to_string()}
    parts |= {"center": model.center, "spread": model.spread}
    content = pickle.dumps(parts, protocol=4)
    decode_parts(model.card, content)
    registry.publish(model.card, content)


def load(registry: Registry, model_id: int) -> Model:
    """Return a model that has been checked and has made a first prediction.

    ModelError if the model or its card is missing or damaged, or if the model can't be used with
    the data set, or was made with another major version of a library.
    """
    card = registry.card(model_id)
    return decode(card, registry.content(card))


def decode(card: Card, content: bytes) -> Model:
    """Return the model with this card and this content; ModelError as load()."""
    features, booster, *scale = decode_parts(card, content)
    try:
        model = Model(features, booster, card, *scale)
        _warm_up(model)
    except ModelError:
        raise
    except Exception as error:  # a file that was made elsewhere can have anything in it
        raise _unusable(card, error) from error
    return model


def decode_parts(card: Card, content: bytes) -> tuple[FeatureEncoder, lgb.Booster, float, float]:
    """Return the fields of a Model, without its card, whatever the data set is now.

    ModelError if the content is not that of a model, or was made with another major version of a
    library.
    """
    _check_libraries(card)
    try:
        parts = loads(content)
        booster = lgb.Booster(model_str=parts["booster"])
        return parts["features"], booster, parts.get("center", 0.0), parts.get("spread", 1.0)
    except Unreadable as error:
        raise ModelError(f"model {card.model_id}: its file {error}") from None
    except Exception as error:
        raise _unusable(card, error) from error


def _unusable(card: Card, error: Exception) -> ModelError:
    return ModelError(f"model {card.model_id}: {type(error).__name__}: {error}")


def load_champion(registry: Registry) -> tuple[Model, list[str]]:
    """Return the model to start with, and the reasons why preferred ones can't be used.

    This is the champion, or the best replacement that loads; ModelError if no model loads.
    """
    seen = registry.see()
    model, warnings = _best(registry, seen)
    if warnings and registry.see() != seen:  # it was replaced, and may have been deleted, meanwhile
        return load_champion(registry)
    if model is None:
        raise ModelError("; ".join(warnings) or f"there is no model in {registry.storage}")
    return model, warnings


def _best(registry: Registry, seen: Seen) -> tuple[Model | None, list[str]]:
    warnings = []
    if seen.model_id is not None:
        try:  # before the others' cards are read: this is the usual case
            return load(registry, seen.model_id), warnings
        except ModelError as error:
            warnings.append(str(error))
    elif registry.ids():
        warnings.append("champion.json is missing or damaged")
    for model_id in registry.by_preference(seen):
        if model_id != seen.model_id:
            try:
                return load(registry, model_id), warnings
            except ModelError as error:
                warnings.append(str(error))
    return None, warnings


def load_anchor(registry: Registry, champion: Card) -> Model | None:
    """Return the model that the champion's card names as its anchor, None if there is none.

    Warns if it can't be used.
    """
    if champion.anchor is None:
        return None
    try:
        return load(registry, champion.anchor)
    except ModelError as error:
        warn(f"There is no anchor to judge with: {error}")
        return None


def _check_libraries(card: Card) -> None:
    for name, (made_by, installed) in other_versions(card).items():
        if made_by.split(".")[0] != installed.split(".")[0]:
            raise ModelError(
                f"model {card.model_id}: made by {name} {made_by}, installed is {installed}"
            )


def other_versions(card: Card) -> dict[str, tuple[str, str]]:
    """Return, of each library that has changed since the model was made, both versions."""
    both = {}
    for name in [name for name in LIBRARIES if name in card.libraries]:
        with suppress(PackageNotFoundError):  # predictors need no scikit-learn
            both[name] = card.libraries[name], version(name)
    return {name: (then, now) for name, (then, now) in both.items() if then != now}


def _warm_up(model: Model) -> None:
    scores = model.predict([dict.fromkeys(dataset.names)])
    if len(scores) != 1 or not dataset.target.are_scores(scores):
        raise ModelError(f"model {model.model_id}: its first prediction is {scores}")
