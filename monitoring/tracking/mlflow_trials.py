"""The trials of a training as nested runs, read from the store of trials (train/trials.py)."""

import json
import sqlite3
from contextlib import closing
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from utils.model_store.card import Card
from utils.settings import settings

STORE = settings.data_dir / "trials.db"
MAX_TRIALS = 100  # of a training, the best ones

_TRIALS = """
SELECT trial_id, state, datetime_start, datetime_complete, value FROM trials
JOIN studies USING (study_id) JOIN trial_values USING (trial_id)
WHERE study_name = ? AND trial_id BETWEEN ? AND ? ORDER BY value LIMIT ?
"""
_PARAMS = "SELECT param_name, param_value FROM trial_params WHERE trial_id = ?"
_KEPT = "SELECT key, value_json FROM trial_user_attributes WHERE trial_id = ?"


def log(client: MlflowClient, parent: Run, card: Card) -> None:
    """Log the trials of the card's tuning that are not logged yet, as runs below the parent."""
    experiment, found = parent.info.experiment_id, read(card)
    of_parent = f"tags.{MLFLOW_PARENT_RUN_ID} = '{parent.info.run_id}'"
    known = client.search_runs([experiment], of_parent, max_results=2 * MAX_TRIALS)
    runs = {run.data.tags.get("trial"): run for run in reversed(known)}
    for double in {run.info.run_id for run in known} - {run.info.run_id for run in runs.values()}:
        client.delete_run(double)
    for trial in found:
        run = runs.get(str(trial["id"]))
        if run is None:
            tags = {MLFLOW_PARENT_RUN_ID: parent.info.run_id, "trial": str(trial["id"])}
            name = f"trial {trial['id']}"
            run = client.create_run(experiment, trial["start"], tags, name)
        if run.info.status != "FINISHED":
            _log_trial(client, run.info.run_id, trial)


def _log_trial(client: MlflowClient, run_id: str, trial: dict) -> None:
    params = [Param(name, str(value)) for name, value in trial["params"].items()]
    metrics = [Metric(name, v, trial["end"], 0) for name, v in trial["metrics"].items()]
    client.log_batch(run_id, metrics, params)
    client.set_tag(run_id, "pruned", str(trial["pruned"]))
    client.set_terminated(run_id, "FINISHED", trial["end"])


def read(card: Card) -> list[dict]:
    """Return the trials of a card's tuning, the best first; [] if the store has none of them."""
    if card.trials is None:
        return []
    try:
        with closing(sqlite3.connect(f"{STORE.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(_TRIALS, (card.study, *card.trials, MAX_TRIALS)).fetchall()
            return [_trial(database, *row) for row in rows]
    except sqlite3.Error:  # no store, or a damaged one: the trainer says so
        return []


def _trial(
    database: sqlite3.Connection, number: int, state: str, start: str, end: str, loss: float
) -> dict:
    kept = {key: json.loads(value) for key, value in database.execute(_KEPT, (number,))}
    names = ("loss", "noise", "rounds", "decisions", "seconds")
    # Of a trial that a worker has measured the noise is not known.
    metrics = {name: kept[name] for name in names if kept[name] is not None}
    return {
        "id": number,
        "start": _milliseconds(start),
        "end": _milliseconds(end),
        "params": dict(database.execute(_PARAMS, (number,))),
        "metrics": {"penalized_loss": loss} | {name: float(v) for name, v in metrics.items()},
        "pruned": state == "PRUNED",
    }


def _milliseconds(local: str) -> int:
    return int(datetime.fromisoformat(local).timestamp() * 1000)
