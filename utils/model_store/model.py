"""A model in memory: the fitted preprocessor and the booster, saved, loaded and used as one thing.

A model's file is one pickle: what FeatureTools has learned, and the booster in LightGBM's own text
format. The digest in its card detects damage, not attack: a pickle runs code when it is loaded.
Whoever can write to the models' folder can run code in every predictor.
"""

import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from utils.datasets import dataset
from utils.feature_encoder import FeatureEncoder
from utils.model_store.card import Card
from utils.model_store.registry import ModelError, Registry

# LightGBM imports scikit-learn and pandas where they are installed, and needs neither for a
# booster's predictions: hidden from it, a predictor starts a second sooner. None makes an import
# fail (the import system's reference, 5.3.1); who imports them later gets them.
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
    """A fitted preprocessor and its booster."""

    features: FeatureEncoder
    booster: lgb.Booster
    card: Card

    @property
    def model_id(self) -> int:
        """The id that the trainer gave this model."""
        return self.card.model_id

    def predict(self, rows: Sequence[dict]) -> np.ndarray:
        """Return P(outcome = 1) of each row, shape (n_rows,); rows are dicts or a DataFrame.

        One thread: a micro-batch is too small to share, and the other cores have work.
        """
        if not len(rows):
            return np.empty(0)
        return self.booster.predict(self.features.transform(rows), num_threads=1)


def save(model: Model, registry: Registry) -> None:
    """Publish the model, with its features and the library versions added to its card."""
    model.card.features = model.features.columns
    model.card.libraries = {name: version(name) for name in LIBRARIES}
    registry.publish(model.card, dumps(model))


def dumps(model: Model) -> bytes:
    """Return the model as the content of its file."""
    return pickle.dumps({"features": model.features, "booster": model.booster.model_to_string()})


def load(registry: Registry, model_id: int) -> Model:
    """Return a model, verified and warmed up by a first prediction.

    Raises ModelError when the model or its card is missing, damaged, made for other columns or by
    another major version of a library.
    """
    card = registry.card(model_id)
    content = registry.content(card)
    _check(card)
    try:
        parts = pickle.loads(content)  # noqa: S301 - see the module's docstring
        model = Model(parts["features"], lgb.Booster(model_str=parts["booster"]), card)
        _warm_up(model)
    except ModelError:
        raise
    except Exception as error:
        # Unpickling a file made elsewhere can raise anything; the caller keeps what it has.
        raise ModelError(f"model {model_id}: {type(error).__name__}: {error}") from error
    return model


def load_champion(registry: Registry) -> tuple[Model, list[str]]:
    """Return the model to start with, and a warning for each one that was to be preferred.

    ModelError if there is none.
    """
    warnings = []
    if registry.champion_id() is None and registry.ids():
        warnings.append("champion.json is missing or damaged")
    for model_id in registry.by_preference():
        try:
            return load(registry, model_id), warnings
        except ModelError as error:
            warnings.append(str(error))
    raise ModelError("; ".join(warnings) or f"there is no model in {registry.folder}/")


def _check(card: Card) -> None:
    columns = list(dataset.NUMERIC_COLUMNS + dataset.CATEGORICAL_COLUMNS)
    if card.features != columns:
        raise ModelError(f"model {card.model_id}: trained on other columns than the data set has")
    for name, made_by in card.libraries.items():
        if made_by.split(".")[0] != version(name).split(".")[0]:
            raise ModelError(
                f"model {card.model_id}: made by {name} {made_by}, here is {version(name)}"
            )


def _warm_up(model: Model) -> None:
    row = dict.fromkeys(dataset.NUMERIC_COLUMNS + dataset.CATEGORICAL_COLUMNS)
    probability = model.predict([row])
    if probability.shape != (1,) or not 0 <= probability[0] <= 1:
        raise ModelError(f"model {model.model_id}: its first prediction is {probability}")
