"""Logs to MLflow what is not logged yet: trainings, their models, live figures, the champion.

    python -m monitoring.tracking.log_to_mlflow    # once; monitor.py does it again and again

Where to: MLFLOW_TRACKING_URI, or data/mlflow.db. The cards of the models and the store of trials
are the truth; this program may be killed at any moment, and the next one completes its work. It
exits with 3 if there is more to do, with 1 and a sentence if MLflow can't be used.
"""

import hashlib
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from monitoring.tracking.address import DATABASES, OFF, SERVERS, check_address, reason
from monitoring.tracking.logged import Logged
from utils.console import drop_unwritable_output, printable
from utils.files import locked
from utils.model_store.archive import Archive
from utils.model_store.card import Card, ModelError, encode_card
from utils.model_store.registry import Registry
from utils.process import end_with_parent
from utils.script import command_line
from utils.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


NAME = f"{settings.topic_prefix}{settings.dataset}"  # of the experiment and the registered model
STORE = settings.data_dir / "mlflow.db"
NEW_STORE = settings.data_dir / "mlflow_new.db"
ARTIFACTS = settings.data_dir / "mlflow"  # if the server does not keep them
TEMPORARY = settings.data_dir / "mlflow_temporary"
LOCK = settings.data_dir / "mlflow.lock"
BUDGET = 120.0  # seconds after which no other training is begun
KIND = "custom_model_development"  # what MLflow's pages show: no language models
MORE = 3  # the exit code if there is more to do
NOTE = "MLflow: "  # how lines begin that monitor.py shows
REFUSED = "INVALID_PARAMETER_VALUE"  # MLflow's error code, for a single card
# Read by MLflow when it is imported. A frozen server would otherwise be waited for during minutes,
# and a request that is sent again could make a second run.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def cards(registry: Registry) -> list[Card]:
    """Return the cards that can be read, of the archived models too, the oldest models first."""
    found = {(card.model_id, card.digest): card for card in Archive(registry.place).cards()}
    for model_id in registry.ids():
        with suppress(ModelError):
            card = registry.card(model_id)
            found[card.model_id, card.digest] = card
    return sorted(found.values(), key=lambda card: (card.created, card.model_id))


def content(registry: Registry, card: Card) -> bytes:
    """Return a model's content, wherever it is by now; ModelError if it is nowhere."""
    with suppress(ModelError):
        return registry.content(card)
    return Archive(registry.place).content(card)


def connect() -> "tuple[MlflowClient, Experiment]":
    """Return MLflow, and the pipeline's experiment, which is created if it does not exist."""
    from mlflow import MlflowClient

    if not settings.mlflow_tracking_uri:
        check_store()
    uri = settings.mlflow_tracking_uri or f"sqlite:///{STORE}"
    scheme = uri.partition(":")[0]
    if scheme.partition("+")[0] in DATABASES:
        check_database(uri)
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        folder = None if scheme in SERVERS else ARTIFACTS.as_uri()
        created = client.create_experiment(NAME, folder, {"mlflow.experimentKind": KIND})
        experiment = client.get_experiment(created)
    if experiment.lifecycle_stage != "active":
        raise ModelError(f"the experiment {NAME} is deleted: restore it, or delete it for good")
    return client, experiment


def check_database(uri: str) -> None:
    """Connect to a database once, which MLflow would try for minutes; SQLAlchemyError."""
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    engine.connect().close()
    engine.dispose()


def check_store() -> None:
    """Create the SQLite store if there is none; sqlite3.Error if it can't be used.

    A file that can't be opened MLflow would try to open for minutes.
    """
    if not STORE.exists():
        create_store()
    with closing(sqlite3.connect(STORE)) as database:
        database.execute("SELECT * FROM alembic_version").fetchall()


def create_store() -> None:
    """Create the SQLite store, unless a server does at the same time.

    In another file: killed while it creates its tables, MLflow could never use them again.
    """
    from mlflow import MlflowClient

    NEW_STORE.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{NEW_STORE}").search_experiments(max_results=1)
    with suppress(FileExistsError):
        os.link(NEW_STORE, STORE)
    NEW_STORE.unlink()


def log_all() -> bool:
    """Log what is missing; return False if there is more to do."""
    client, experiment = connect()

    # isort: split
    from monitoring.tracking import mlflow_live
    from monitoring.tracking.mlflow_aliases import Versions

    registry, versions = Registry(), Versions(client, NAME)
    mlflow_live.take()  # before the cards are listed: each model in it has one
    found = cards(registry)
    late, refused = log_trainings(client, experiment, found)
    left = [*late, *(card for card, _ in refused)]
    known = {card.model_id: card for card in found}  # after make clean, ids begin again at 0
    waiting = {model_id for model_id, card in known.items() if card in left}
    logged = {model_id: card for model_id, card in known.items() if model_id not in waiting}
    mlflow_live.send(client, experiment.experiment_id, versions, logged, waiting)
    if not late:
        rejected = [card for card in logged.values() if card.decision == "rejected"]
        champion = logged.get(registry.champion_id())
        for alias in versions.set_aliases(champion, rejected[-1] if rejected else None):
            print(f"{NOTE}its alias {alias} is deleted: the model that it means has no version")
    for _, why in refused:
        raise why
    return not late


def log_trainings(
    client: "MlflowClient", experiment: "Experiment", found: list[Card]
) -> tuple[list[Card], list[tuple[Card, Exception]]]:
    """Log the trainings of these cards; return those for which there was no time, and the refused.

    One that can't be logged stops no other.
    """
    from mlflow.exceptions import MlflowException

    logged, deadline, late, refused = Logged(experiment), time.monotonic() + BUDGET, [], []
    digests = {hashlib.sha256(encode_card(card)).hexdigest(): card for card in found}
    logged.forget_others(digests)
    for digest, card in digests.items():
        if digest in logged:
            continue
        if time.monotonic() > deadline:
            late.append(card)
            continue
        try:
            log_training(client, experiment.experiment_id, card, digest)
            logged.add(digest)
        except (MlflowException, ValueError, LookupError, ModelError) as error:
            if getattr(error, "error_code", REFUSED) != REFUSED:
                raise
            refused.append((card, error))
    return late, refused


def log_training(client: "MlflowClient", experiment: str, card: Card, digest: str) -> None:
    """Log what is missing of one training."""
    # Here, as it takes a second, and most of the time there is no new model.
    from utils.model_store.model import decode

    # isort: split
    from monitoring.tracking.mlflow_run import TrainingRun

    model, why_no_model = None, ""
    try:
        model = decode(card, content(Registry(), card))
    except ModelError as error:
        why_no_model = str(error)
    shutil.rmtree(TEMPORARY, ignore_errors=True)  # of a child that was killed
    TEMPORARY.mkdir(mode=0o700)
    TrainingRun(client, experiment, NAME, card).log(model, why_no_model, digest, TEMPORARY)
    shutil.rmtree(TEMPORARY, ignore_errors=True)


def prepare_environment() -> None:
    """Set what MLflow reads from the environment, unless the user has."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def give_way() -> None:
    """End this process, as another one is logging; MLflow's server needs its store first."""
    if settings.mlflow_tracking_uri or STORE.exists():
        raise SystemExit(MORE)
    time.sleep(0.1)


def main() -> None:
    """Log what is missing, once."""
    parser = command_line(__doc__, "monitoring.tracking.log_to_mlflow")
    parser.add_argument("--child", action="store_true", help="end when standard input is closed")
    arguments = parser.parse_args()
    drop_unwritable_output()
    os.umask(0o077)
    if arguments.child:
        end_with_parent(lambda: None)
    prepare_environment()
    check_address()
    if settings.mlflow_tracking_uri == OFF:
        raise SystemExit("Nothing is logged: MLFLOW_TRACKING_URI is none")
    if not settings.data_dir.is_dir():
        raise SystemExit("There is nothing to log: run python initialize.py")
    try:
        # Several processes that create the SQLite store at once would break it.
        with locked(LOCK, give_way):
            is_done = log_all()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # MLflow, SQLAlchemy, requests, the disk
        raise SystemExit(printable(reason(error))) from None
    sys.exit(0 if is_done else MORE)


if __name__ == "__main__":
    main()
