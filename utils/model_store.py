"""The models on disk: one file and one card each, and the name of the champion.

`models/model_<id>.p` is one pickle: what FeatureTools has learned and the booster in LightGBM's own
text format. `models/model_<id>.json` is its card; it is written after the model: no card, no model.
`models/champion.json` names the model that answers. Every file is written beside its place, synced
and renamed, so that a reader sees all of it or none.

    python -m utils.model_store list          # every model, the champion with an asterisk
    python -m utils.model_store show 3        # its card: data, parameters, figures, decision
    python -m utils.model_store promote 3     # every predictor answers with it in a moment

The digest in the card detects damage, not attack: a pickle runs code when it is loaded. Whoever can
write to the models' folder can run code in every predictor.
"""

import argparse
import fcntl
import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":  # a promotion is there in a moment
    import utils.quick_start  # noqa: F401
import lightgbm as lgb
import numpy as np

from utils import dataset
from utils.console import say
from utils.feature_encoder import FeatureEncoder
from utils.files import write_atomically
from utils.settings import settings

CHAMPION = "champion.json"
LIBRARIES = ("lightgbm", "scikit-learn", "numpy")


class ModelError(Exception):
    """A model that can't be used; the text says which one and why."""


@dataclass
class Model:
    """A fitted preprocessor and its booster: one thing, saved, loaded and swapped together."""

    features: FeatureEncoder
    booster: lgb.Booster
    card: dict = field(default_factory=dict)

    @property
    def model_id(self) -> int:
        """The id that the trainer gave this model."""
        return self.card["model_id"]

    def predict(self, rows: Sequence[dict]) -> np.ndarray:
        """Return P(outcome = 1) of each row, shape (n_rows,); rows are dicts or a DataFrame.

        One thread: a micro-batch is too small to share, and the other cores have work.
        """
        if not len(rows):
            return np.empty(0)
        return self.booster.predict(self.features.transform(rows), num_threads=1)


def model_path(folder: Path, model_id: int) -> Path:
    """Where the model of this id is; its card is the same name with .json."""
    return folder / f"model_{model_id}.p"


def save(model: Model, folder: Path) -> None:
    """Write the model, then its card with digest and library versions added."""
    content = pickle.dumps({"features": model.features, "booster": model.booster.model_to_string()})
    model.card |= {
        "digest": hashlib.sha256(content).hexdigest(),
        "features": model.features.columns,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    write_atomically(model_path(folder, model.model_id), content)
    write_card(folder, model.card)


def load(folder: Path, model_id: int) -> Model:
    """Return a model, verified and warmed up by a first prediction.

    Raises ModelError when the model or its card is missing, damaged, made for other columns or by
    another major version of a library.
    """
    path = model_path(folder, model_id)
    try:
        card = read_card(folder, model_id)
        content = path.read_bytes()
        _check(card, content, model_id)
        parts = pickle.loads(content)  # noqa: S301 - see the module's docstring
        model = Model(parts["features"], lgb.Booster(model_str=parts["booster"]), card)
        _warm_up(model)
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelError(f"model {model_id}: {Path(error.filename).name} is missing") from None
    except Exception as error:
        # Unpickling a file made elsewhere can raise anything; the caller keeps what it has.
        raise ModelError(f"model {model_id}: {type(error).__name__}: {error}") from error
    return model


def read_card(folder: Path, model_id: int) -> dict:
    """Return what is known about a model; FileNotFoundError if there is no such model."""
    return json.loads(model_path(folder, model_id).with_suffix(".json").read_bytes())


def write_card(folder: Path, card: dict) -> None:
    """Write what is known about a model beside it; from then on the model exists."""
    path = model_path(folder, card["model_id"]).with_suffix(".json")
    write_atomically(path, json.dumps(card, indent=2).encode())


def _check(card: dict, content: bytes, model_id: int) -> None:
    if card["model_id"] != model_id:
        raise ModelError(f"model {model_id}: its card is that of model {card['model_id']}")
    if hashlib.sha256(content).hexdigest() != card["digest"]:
        raise ModelError(f"model {model_id}: the file does not match the digest in its card")
    columns = list(dataset.NUMERIC_COLUMNS + dataset.CATEGORICAL_COLUMNS)
    if card["features"] != columns:
        raise ModelError(f"model {model_id}: trained on other columns than utils/dataset.py has")
    for name, made_by in card["libraries"].items():
        if made_by.split(".")[0] != version(name).split(".")[0]:
            raise ModelError(f"model {model_id}: made by {name} {made_by}, here is {version(name)}")


def _warm_up(model: Model) -> None:
    row = dict.fromkeys(dataset.NUMERIC_COLUMNS + dataset.CATEGORICAL_COLUMNS)
    probability = model.predict([row])
    if probability.shape != (1,) or not 0 <= probability[0] <= 1:
        raise ModelError(f"model {model.model_id}: its first prediction is {probability}")


def model_ids(folder: Path) -> list[int]:
    """Return the ids of all complete models (those with a card), ascending."""
    names = (re.fullmatch(r"model_(\d+)\.json", path.name) for path in folder.glob("model_*.json"))
    return sorted(int(name[1]) for name in names if name)


def champion_id(folder: Path) -> int | None:
    """Return the champion's id, or None where no champion.json names one."""
    try:
        return int(json.loads((folder / CHAMPION).read_bytes())["model_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_champion(folder: Path) -> tuple[Model, list[str]]:
    """Return the model to start with, and a warning for each one that was to be preferred.

    That is the champion, or the newest model that loads where the champion can't be used. Raises
    ModelError if there is none.
    """
    champion, warnings = champion_id(folder), []
    others = [model_id for model_id in reversed(model_ids(folder)) if model_id != champion]
    others.sort(key=lambda model_id: is_rejected(folder, model_id))  # those last of all
    if champion is None and others:
        warnings.append(f"{CHAMPION} is missing or damaged")
    for model_id in ([] if champion is None else [champion]) + others:
        try:
            return load(folder, model_id), warnings
        except ModelError as error:
            warnings.append(str(error))
    raise ModelError("; ".join(warnings) or f"there is no model in {folder}/")


def is_rejected(folder: Path, model_id: int) -> bool:
    """True if a model was trained, but found worse than the champion of its time."""
    try:
        return read_card(folder, model_id).get("decision") == "rejected"
    except (OSError, ValueError):
        return True  # a card that can't be read speaks for nothing


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of whoever changes the champion; the system frees it when the process ends."""
    with open(folder / "champion.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def promote(folder: Path, model_id: int) -> None:
    """Make a model the champion: the one that every predictor starts with from now on."""
    write_atomically(folder / CHAMPION, json.dumps({"model_id": model_id}).encode())


def prune(folder: Path, keep: int) -> list[int]:
    """Delete old models; return their ids. The card goes first: no card, no model.

    The champion stays, and of those that are good to go back to its parent and the newest ones,
    `keep` in all; besides, the last one that was rejected, for inspection.
    """
    champion = champion_id(folder)
    others = [model_id for model_id in model_ids(folder) if model_id != champion]
    rejected = [model_id for model_id in others if is_rejected(folder, model_id)]
    parent = None
    with suppress(OSError, ValueError):
        parent = read_card(folder, champion).get("parent")
    good = sorted(set(others) - set(rejected), key=lambda model_id: (model_id == parent, model_id))
    deleted = good[: max(len(good) - keep, 0)] + rejected[:-1]
    for model_id in deleted:
        path = model_path(folder, model_id)
        for file in (path.with_suffix(".json"), path):
            file.unlink(missing_ok=True)
    return deleted


def show_list() -> None:
    """Print one line for each model; the champion has an asterisk."""
    from rich.console import Console  # here, as it would slow down each start of a predictor
    from rich.table import Table

    table = Table("model", "created (UTC)", "rows", "CV", "held out", "decision", title="logloss")
    champion = champion_id(settings.models_dir)
    for model_id in model_ids(settings.models_dir):
        try:
            card = read_card(settings.models_dir, model_id)
        except (OSError, ValueError):
            continue  # damaged, or just pruned
        judged = card.get("judge", {}).get("challenger", {}).get("logloss")
        table.add_row(
            f"{model_id}{' *' if model_id == champion else ''}",
            card["created"][:19],
            f"{card['rows']:,}",
            f"{card['cv_logloss']:.4f}",
            f"{judged:.4f}" if judged else "",
            card.get("decision", ""),
        )
    Console().print(table)


def promote_by_hand(model_id: int) -> None:
    """Make a model the champion and tell every predictor; SystemExit if it can't be used."""
    from utils.access import prepare_topics
    from utils.announcements import announce
    from utils.kafka_client import RETRAIN_TOPIC, make_producer

    prepare_topics(write=(RETRAIN_TOPIC,))
    with closing(make_producer()) as producer, locked(settings.models_dir):
        try:
            load(settings.models_dir, model_id)
        except ModelError as error:
            raise SystemExit(f"Not promoted: {error}") from None
        promote(settings.models_dir, model_id)
        announce(producer, model_id, training_completed=True)
    say(f"Model {model_id} is the champion; the predictors were told.", "bold green")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.model_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every model, the champion marked")
    commands.add_parser("show", help="a model's card").add_argument("model_id", type=int)
    promotion = commands.add_parser("promote", help="make it the champion, now")
    promotion.add_argument("model_id", type=int)
    arguments = parser.parse_args()
    if arguments.command == "list":
        return show_list()
    if arguments.model_id not in model_ids(settings.models_dir):
        raise SystemExit(f"There is no model {arguments.model_id}: see list")
    if arguments.command == "promote":
        return promote_by_hand(arguments.model_id)
    print(json.dumps(read_card(settings.models_dir, arguments.model_id), indent=2))


if __name__ == "__main__":
    from utils.watchdog import run

    run(main)
