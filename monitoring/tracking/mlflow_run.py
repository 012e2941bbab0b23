"""One run of MLflow for each training: what is in its card, its plots, its model.

Each step may be repeated, and whoever is killed leaves nothing that the next one doubles: runs and
versions are found by their tags before they are made, a parameter, tag or file is replaced by
itself, and a metric with the same time, step and value is stored once. The tag `logged` comes last.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from monitoring.tracking import mlflow_trials, plots, tracked_model
from monitoring.tracking.mlflow_aliases import identity, with_tags
from utils.model_store.card import Card, encode_card
from utils.model_store.model import Model

NAMED = {"kind": "training"}  # the tag that trials do not have
MAX_TEXT = 4_000  # characters of a tag


class TrainingRun:
    """The run of one model's training in an experiment.

    card : what is logged; name : of the registered model. RuntimeError of MLflow's or OSError if
    the server, or the disk, fails.
    """

    def __init__(self, client: MlflowClient, experiment: str, name: str, card: Card) -> None:
        self.client, self.experiment, self.name, self.card = client, experiment, name, card
        self.end = milliseconds(card.created)
        self.identity = NAMED | identity(card)

    def log(
        self, model: Model | None, why_no_model: str, content_digest: str, folder: Path
    ) -> None:
        """Log everything that is missing. model : None if it can't be loaded any more.

        content_digest : of the card; folder : an empty one for temporary files.
        """
        run = self._run()
        is_deleted = run.info.lifecycle_stage != "active"  # its user does not want it
        if is_deleted or run.data.tags.get("logged") == content_digest:
            return
        run_id = run.info.run_id
        self._log_card(run_id)
        if model is not None:
            why_no_model = self._log_model(run, model, folder)
        mlflow_trials.log(self.client, run, self.card)
        if why_no_model:
            self.client.set_tag(run_id, "why_no_model", why_no_model[:MAX_TEXT])
        self.client.set_terminated(run_id, "FINISHED", end_time=self.end)
        self.client.set_tag(run_id, "logged", content_digest)

    def _run(self) -> Run:
        """Return the run, even if its user has deleted it; created if there is none."""
        found = find_runs(self.client, self.experiment, self.identity)
        for double in found[1:]:  # a request that seemed to fail was served later
            if double.info.lifecycle_stage == "active":
                self.client.delete_run(double.info.run_id)
        if found:
            return found[0]
        start = self.end - int(1000 * sum(self.card.durations.values()))
        name = f"model {self.card.model_id}"
        return self.client.create_run(self.experiment, start, self.identity, name)

    def _log_card(self, run_id: str) -> None:
        card = self.card
        data = Dataset(card.dataset or "original", card.digest_of_rows[:36], "local", "{}")
        if card.digest_of_rows:
            self.client.log_inputs(run_id, datasets=[DatasetInput(data)])
        self.client.log_dict(run_id, _as_dict(card), "card.json")
        params = [Param(name, str(value)) for name, value in parameters(card).items()]
        tags = [RunTag(name, value[:MAX_TEXT]) for name, value in tags_of(card).items()]
        points = [("learning_curve", loss, rounds) for rounds, loss in card.learning_curve]
        points += [(name, value, 0) for name, value in metrics(card).items()]
        self._log_metrics(run_id, points)
        self.client.log_batch(run_id, params=params, tags=tags)

    def _log_metrics(self, run_id: str, points: list[tuple[str, float, int]]) -> None:
        found = [Metric(name, float(value), self.end, step) for name, value, step in points]
        self.client.log_batch(run_id, metrics=found)

    def _log_model(self, run: Run, model: Model, folder: Path) -> str:
        """Log plots, test figures, and a version in the registry; return why there is none."""
        try:
            figures = plots.write(model, folder / "plots")
            saved = tracked_model.save(model, folder)
        except (ValueError, LookupError) as error:  # the same each time: it is not tried again
            return f"{type(error).__name__}: {error}"
        run_id = run.info.run_id
        self._log_metrics(run_id, [(f"test/{name}", v, 0) for name, v in figures.items()])
        self.client.log_artifacts(run_id, str(folder / "plots"), "plots")
        self.client.log_artifacts(run_id, str(saved), "model")
        self._register(run)
        return ""

    def _register(self, run: Run) -> None:
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            self.client.create_registered_model(self.name)
        found = self.client.search_model_versions(f"run_id = '{run.info.run_id}'")
        for double in sorted(found, key=lambda each: int(each.version))[1:]:
            self.client.delete_model_version(self.name, double.version)
        tags = self.identity | {"decision": decision(self.card)}
        if not found:
            source = f"{run.info.artifact_uri}/model"
            self.client.create_model_version(
                self.name, source, run.info.run_id, tags, description=self.card.why
            )


def find_runs(client: MlflowClient, experiment: str, tags: dict[str, str], limit: int = 10) -> list:
    """Return the runs with these tags: active ones first, and of these complete ones first."""
    found = client.search_runs([experiment], with_tags(tags), ViewType.ALL, limit)
    # "active" comes before "deleted".
    return sorted(found, key=lambda run: (run.info.lifecycle_stage, "logged" not in run.data.tags))


def decision(card: Card) -> str:
    """Return what the judge decided; "first" for a model without a predecessor."""
    return card.decision or "first"


def parameters(card: Card) -> dict[str, Any]:
    """Return what the training was given."""
    names = ("hyper", "seed", "rows", "observations", "evaluations", "model_cost", "target")
    names += ("split", "judge_rows_held_out", "experiment")
    return card.parameters | {name: getattr(card, name) for name in names}


def metrics(card: Card) -> dict[str, float]:
    """Return what came out of the training; the names before a slash group them."""
    found = {"tuning/loss": card.tuning_loss, "cost/trees": card.trees}
    found |= {"cost/us_per_row": card.us_per_row, "cost/decisions_per_row": card.decisions_per_row}
    found |= {"cost/file_bytes": card.file_bytes}
    found |= {f"seconds/{name}": value for name, value in card.durations.items()}
    if (judge := card.judge) is None:
        return found
    for name in ("rows", "observed", "estimate", "margin", "cost"):
        found[f"judge/{name}"] = getattr(judge, name)
    found |= {f"judge/challenger_{name}": value for name, value in judge.challenger.items()}
    found |= {f"judge/champion_{name}": value for name, value in judge.champion.items()}
    limits = [("difference", judge.difference), ("anchor_difference", judge.anchor_difference)]
    for name, interval in limits:
        if interval is not None:
            found[f"judge/{name}_low"], found[f"judge/{name}_high"] = interval
    return found


def tags_of(card: Card) -> dict[str, str]:
    """Return what describes the training: decision, ancestors, digests, versions."""
    known = {
        "decision": decision(card),
        "why": card.why,
        MLFLOW_RUN_NOTE: card.why,  # the run's description
        "finding": card.judge.finding if card.judge else "",
        "parent": _text(card.parent),
        "replaces": _text(card.replaces),
        "anchor": _text(card.anchor),
        "dataset": card.dataset,
        "data_digest": card.digest_of_rows,
        "code_digest": card.code_digest,
        "features": ", ".join(card.features),
        "libraries": ", ".join(f"{name} {number}" for name, number in card.libraries.items()),
    }
    return {name: value for name, value in known.items() if value}


def milliseconds(created: str) -> int:
    """Return a card's time as MLflow counts it; 0 if it is unknown."""
    try:
        return int(datetime.fromisoformat(created).timestamp() * 1000)
    except ValueError:
        return 0


def _as_dict(card: Card) -> dict:
    return json.loads(encode_card(card))


def _text(model_id: int | None) -> str:
    return "" if model_id is None else str(model_id)
