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
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import msgspec

from utils.console import drop_unwritable_output, printable
from utils.files import locked, write_atomically
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
LOGGED = settings.data_dir / "mlflow_logged.json"
TEMPORARY = settings.data_dir / "mlflow_temporary"
LOCK = settings.data_dir / "mlflow.lock"
BUDGET = 120.0  # seconds after which no other training is begun
KIND = "custom_model_development"  # what MLflow's pages show: no language models
MORE = 3  # the exit code if there is more to do
# Read by MLflow when it is imported. A frozen server would otherwise be waited for during minutes,
# and a request that is sent again could make a second run.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class Logged:
    """Which cards are logged as they are, so that MLflow is not asked for each of them again.

    A cache: of another experiment, or damaged, it counts as empty.
    """

    def __init__(self, experiment: "Experiment") -> None:
        parts = (settings.mlflow_tracking_uri, experiment.experiment_id, experiment.creation_time)
        self._of = hashlib.sha256(repr(parts).encode()).hexdigest()
        self._cards: set[str] = set()
        with suppress(OSError, ValueError, RecursionError):
            known = msgspec.json.decode(LOGGED.read_bytes(), type=dict[str, list[str]])
            self._cards = set(known.get(self._of, ()))

    def __contains__(self, digest: str) -> bool:
        return digest in self._cards

    def add(self, digest: str) -> None:
        """Keep this digest too."""
        self._cards.add(digest)
        write_atomically(LOGGED, msgspec.json.encode({self._of: sorted(self._cards)}))

    def forget_others(self, digests: Iterable[str]) -> None:
        """Forget all but these digests: the cards of deleted models do not come back."""
        self._cards.intersection_update(digests)


def cards(registry: Registry) -> list[Card]:
    """Return the cards that can be read, of the archived models too, the oldest models first."""
    found = {(card.model_id, card.digest): card for card in Archive(registry.folder).cards()}
    for model_id in registry.ids():
        with suppress(ModelError):
            card = registry.card(model_id)
            found[card.model_id, card.digest] = card
    return sorted(found.values(), key=lambda card: (card.created, card.model_id))


def content(registry: Registry, card: Card) -> bytes:
    """Return a model's content, wherever it is by now; ModelError if it is nowhere."""
    with suppress(ModelError):
        return registry.content(card)
    return Archive(registry.folder).content(card)


def connect() -> "tuple[MlflowClient, Experiment]":
    """Return MLflow, and the pipeline's experiment, which is created if it does not exist."""
    from mlflow import MlflowClient

    if not settings.mlflow_tracking_uri:
        check_store()
    uri = settings.mlflow_tracking_uri or f"sqlite:///{STORE}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(NAME)
    if experiment is None:
        is_served = uri.startswith(("http:", "https:"))
        folder = None if is_served else ARTIFACTS.as_uri()
        created = client.create_experiment(NAME, folder, {"mlflow.experimentKind": KIND})
        experiment = client.get_experiment(created)
    if experiment.lifecycle_stage != "active":
        raise ModelError(f"the experiment {NAME} is deleted: restore it, or delete it for good")
    return client, experiment


def check_store() -> None:
    """Create the SQLite store if there is none; sqlite3.Error if it can't be used.

    In another file: killed while it creates its tables, MLflow could never use them again. A file
    that can't be opened MLflow would try to open for minutes.
    """
    if STORE.exists():
        with closing(sqlite3.connect(STORE)) as database:
            database.execute("SELECT * FROM alembic_version").fetchall()
        return
    from mlflow import MlflowClient

    NEW_STORE.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{NEW_STORE}").search_experiments(max_results=1)
    NEW_STORE.replace(STORE)


def log_all() -> bool:
    """Log what is missing; return False if there is more to do."""
    client, experiment = connect()

    # isort: split
    from monitoring.tracking import mlflow_live
    from monitoring.tracking.mlflow_aliases import Versions

    registry = Registry()
    found = cards(registry)
    is_done, refused = log_trainings(client, experiment, found)
    versions = Versions(client, NAME)
    mlflow_live.send(client, experiment.experiment_id, versions)
    rejected = [card.model_id for card in found if card.decision == "rejected"]
    versions.set_aliases(registry.champion_id(), rejected[-1] if rejected else None)
    if refused:
        raise refused
    return is_done


def log_trainings(
    client: "MlflowClient", experiment: "Experiment", found: list[Card]
) -> tuple[bool, Exception | None]:
    """Log the trainings of these cards; return whether none is left, and what MLflow refused."""
    from mlflow.exceptions import MlflowException

    logged, deadline, refused = Logged(experiment), time.monotonic() + BUDGET, None
    digests = {hashlib.sha256(encode_card(card)).hexdigest(): card for card in found}
    logged.forget_others(digests)
    for digest, card in digests.items():
        if digest in logged:
            continue
        if time.monotonic() > deadline:
            return False, refused
        try:
            log_training(client, experiment.experiment_id, card, digest)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            refused = error  # the others are logged all the same
        else:
            logged.add(digest)
    return True, refused


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


def wait_for_nobody() -> None:
    """End this process: another one is logging."""
    raise SystemExit(0)


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
    if not settings.data_dir.is_dir():
        raise SystemExit("There is nothing to log: run python initialize.py")
    try:
        # Several processes that create the SQLite store at once would break it.
        with locked(LOCK, wait_for_nobody):
            is_done = log_all()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:  # MLflow, SQLAlchemy, requests, the disk
        raise SystemExit(printable(in_one_line(error))) from None
    sys.exit(0 if is_done else MORE)


def in_one_line(error: Exception) -> str:
    """Return an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if settings.mlflow_tracking_uri:  # it may contain a password
        text = text.replace(settings.mlflow_tracking_uri, "MLFLOW_TRACKING_URI")
    return f"{type(error).__name__}: {text[:300]}"


if __name__ == "__main__":
    main()
