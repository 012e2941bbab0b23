"""Trainings, models and live figures in MLflow: a real SQLite store, and processes that die."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from monitoring.tracking.log_to_mlflow import MORE
from tests.harness.brokers import QUICK, initialize
from tests.harness.mlflow_programs import folders, log, replies, replies_elsewhere
from tests.harness.pipeline import wait_until
from tests.harness.project import add_dataset, copy_project
from tests.test_schema_changes import COLOR, PRICE, TWO
from tests.test_schema_changes import SOURCE as FRUIT
from tools import ui
from utils.datasets.adult import read_test_requests
from utils.files import ROOT
from utils.model_store.archive import Archive
from utils.model_store.registry import Registry

pytest.importorskip("mlflow", reason="requirements-monitoring.txt is not installed")

PARENT = "mlflow.parentRunId"
SAMPLES = [
    {"time": 1_000.0, "champion": 0, "since": 990.0},
    {"time": 1_030.9, "models": {"0": {"answers": 5, "mean_loss": 0.3}, "77": {"answers": 1}}},
    {"time": 1_061.2, "models": {"0": {"answers": 9, "mean_loss": 0.2}}},
]


class Logged(NamedTuple):
    """A pipeline's folder, and what MLflow has of it, see CONTENT."""

    folder: Path
    content: dict


@pytest.fixture(scope="module")
def logged(first_model, tmp_path_factory) -> Logged:
    """A pipeline whose first model is logged, by a child that first has no time and dies twice."""
    folder = tmp_path_factory.mktemp("logged")
    shutil.copytree(first_model, folder, dirs_exist_ok=True)
    lines = [json.dumps(sample) for sample in SAMPLES]
    (folder / "data" / "mlflow_live.jsonl").write_text("\n".join([*lines, '{"time": 1_0']))
    codes, content = log(folder, "late", "log_batch", "set_model_version_tag", "-")
    assert codes == [MORE, -signal.SIGKILL, -signal.SIGKILL, 0]
    return Logged(folder, content)


def card_of(folder: Path, model_id: int = 0) -> dict:
    return json.loads((folder / "models" / f"model_{model_id}.json").read_text())


@pytest.mark.slow
def test_a_training_is_one_run_with_its_trial_whatever_is_killed(logged):
    trial, training = logged.content["runs"]
    card = card_of(logged.folder)
    assert training["name"] == "model 0"
    assert trial["tags"][PARENT] == training["id"]
    assert {training["status"], trial["status"]} == {"FINISHED"}
    assert training["tags"]["model_digest"] == card["digest"]
    assert training["tags"]["data_digest"] == card["digest_of_rows"] != ""
    assert training["tags"]["code_digest"] == card["code_digest"] != ""
    assert training["tags"]["decision"] == "first"
    assert training["params"]["num_leaves"] == str(card["parameters"]["num_leaves"])
    assert training["metrics"]["tuning/loss"] == [[0, card["tuning_logloss"]]]
    assert training["metrics"]["learning_curve"] == card["learning_curve"]
    assert training["metrics"]["seconds/tuning"] == [[0, card["durations"]["tuning"]]]
    assert 0.26 < training["metrics"]["test/logloss"][0][1] < 0.29
    pictures = {f"plots/{name}.png" for name in ("calibration", "roc", "importance", "shap")}
    assert {"card.json", "model"} | pictures <= {*training["files"]}


@pytest.mark.slow
def test_make_ui_opens_the_trainings(logged, tmp_path):
    runs = "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
    assert ui.mlflow_page(logged.folder / "data" / "mlflow.db") == runs
    assert ui.mlflow_page(tmp_path / "none.db") == "http://127.0.0.1:5000"


@pytest.mark.slow
def test_live_figures_are_metrics_of_the_models_run_once(logged):
    _, training = logged.content["runs"]
    (first, five), (second, nine) = training["metrics"]["live/answers"]
    assert (five, nine, second - first) == (5, 9, 31)
    assert training["metrics"]["live/mean_loss"] == [[first, 0.3], [second, 0.2]]
    assert not [*(logged.folder / "data").glob("mlflow_*.jsonl")]


@pytest.mark.slow
def test_a_model_is_one_version_with_an_alias_and_the_date(logged):
    [version] = logged.content["versions"]
    assert version["run"] == logged.content["runs"][1]["id"]
    assert version["tags"]["champion 1970-01-01 00:16:30 UTC"] == "model 0"
    assert version["tags"]["model_id"] == "0"
    assert logged.content["models"] == {"adult": {"champion": version["version"]}}


@pytest.mark.slow
def test_a_champion_without_a_version_has_no_alias(logged, tmp_path):
    """As after `make clean`: it has the id of a model that is logged, and is another one."""
    shutil.copytree(logged.folder, tmp_path, dirs_exist_ok=True)
    card = card_of(tmp_path) | {"created": "2031-01-01T00:00:00+00:00", "digest": 64 * "0"}
    (tmp_path / "models" / "model_0.json").write_text(json.dumps(card))
    codes, content = log(tmp_path, "-", "-")
    assert codes == [0, 0]
    assert len(content["versions"]) == 1
    assert content["models"] == {"adult": {}}
    said = (tmp_path / "data" / "said").read_text()
    assert said.count("MLflow: its alias champion is deleted") == 1


@pytest.mark.slow
def test_a_logged_model_answers_elsewhere_as_the_predictor_does(logged):
    """In a process that does not know this project, but has another package `utils`."""
    rows = read_test_requests(logged.folder / "data")[:300]
    for row, changes in enumerate(
        [{"age": None}, {"age": 25.5}, {"workclass": None}, {"occupation": "Astronaut"}]
        + [dict.fromkeys(rows[0]), {"income_bracket": None, "unknown field": [1]}]
    ):
        rows[row] |= changes
    (file := logged.folder / "rows.json").write_text(json.dumps(rows))
    expected = replies(logged.folder, file, model_id=0)
    assert len(expected) == 300
    assert expected[0].keys() == {"prediction", "probability", "model_id"}
    uris = ("models:/adult@champion", "models:/adult/1")
    assert replies_elsewhere(logged.folder, file, *uris) == [expected, expected]


def without_ids(content: dict) -> dict:
    """Return what is logged without what is different each time."""
    runs = [run | {"id": "", "tags": run["tags"] | {PARENT: ""}} for run in content["runs"]]
    return content | {"runs": runs, "versions": [v | {"run": ""} for v in content["versions"]]}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_before_any_call_the_store_is_the_same_in_the_end(first_model, tmp_path):
    stores = {}
    for name, killed_at in (("once", ()), ("killed", map(str, range(1, 30)))):
        folder = tmp_path / name
        shutil.copytree(first_model, folder)
        (folder / "data" / "mlflow_live.jsonl").write_text("\n".join(map(json.dumps, SAMPLES)))
        codes, content = log(folder, *killed_at, "-")
        stores[name] = without_ids(content)
    assert codes.count(-signal.SIGKILL) > 15
    assert codes[-1] == 0
    assert stores["killed"] == stores["once"]


@pytest.mark.slow
def test_killed_while_it_creates_the_store_it_begins_anew(first_model, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    new, store = (tmp_path / "data" / name for name in ("mlflow_new.db", "mlflow.db"))
    with subprocess.Popen(
        [sys.executable, "-m", "monitoring.tracking.log_to_mlflow"],
        cwd=ROOT,
        env=os.environ | folders(tmp_path),
        stderr=subprocess.DEVNULL,
    ) as child:
        wait_until(lambda: new.exists() and new.stat().st_size > 100_000, 120, "some tables")
        child.kill()
    assert not store.exists()
    codes, content = log(tmp_path, "-")
    assert codes == [0]
    assert len(content["versions"]) == 1


@pytest.mark.slow
def test_an_archived_model_is_logged_and_a_deleted_run_is_not_logged_again(first_model, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    registry = Registry(tmp_path / "models")
    card = registry.card(0)
    Archive(registry.place).add(card, registry.content(card))
    (registry.place / "model_0.json").unlink()
    (registry.place / "model_0.p").unlink()
    codes, content = log(tmp_path, "-")
    assert codes == [0]
    assert [version["tags"]["model_digest"] for version in content["versions"]] == [card.digest]
    (tmp_path / "data" / "mlflow_logged.json").unlink()  # the cache
    store = sqlite3.connect(tmp_path / "data" / "mlflow.db")
    with closing(store), store:  # as MLflow's page deletes it
        store.execute("UPDATE runs SET lifecycle_stage = 'deleted'")
    codes, content = log(tmp_path, "-")
    assert codes == [0]
    assert content["runs"] == []


@pytest.mark.slow
def test_a_card_that_can_not_be_logged_stops_no_other(tmp_path):
    """The first model has a column that the data set does not have any more."""
    project = copy_project(tmp_path / "project")
    for column in PRICE, "":
        add_dataset(project, "fruit", FRUIT.format(columns=column + COLOR, target=TWO))
        again = () if column else ("--again",)
        initialize(tmp_path, *QUICK, *again, project=project, DATASET="fruit")
    trials = tmp_path / "data" / "trials.db"
    shutil.copy(trials, kept := tmp_path / "trials.db")
    store = sqlite3.connect(trials)
    with closing(store), store:  # damaged trials of the first model
        store.execute("UPDATE trial_user_attributes SET value_json = '{' WHERE trial_id = 1")
    codes, content = log(tmp_path, "-", project=project, DATASET="fruit")
    assert codes == [1]
    assert {"model 1"} == {run["name"] for run in content["runs"] if "logged" in run["tags"]}
    shutil.copy(kept, trials)
    codes, content = log(tmp_path, "-", project=project, DATASET="fruit")
    assert codes == [0]
    [first] = [run for run in content["runs"] if run["name"] == "model 0"]
    assert "plots/shap.png" in first["files"]
    assert "why_no_model" not in first["tags"]
    found = {version["tags"]["model_id"]: version["version"] for version in content["versions"]}
    assert found.keys() == {"0", "1"}
    assert content["models"] == {"fruit-fruit": {"champion": found["1"]}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "row", "picture"),
    [
        ("levels", {"size": 1500, "color": "red"}, "plots/confusion.png"),
        ("rents", {"area": 60, "floor": 3}, "plots/predicted.png"),
    ],
)
def test_several_classes_and_a_number_are_answered_elsewhere(name, row, picture, tmp_path):
    """With absent optional columns, nulls, and categories that were never seen."""
    project = copy_project(tmp_path / "project")
    add_dataset(project, name, (ROOT / "tests" / "datasets" / f"{name}.py").read_text())
    initialize(tmp_path, *QUICK, project=project, DATASET=name)
    codes, content = log(tmp_path, "-", project=project, DATASET=name)
    assert codes == [0]
    assert picture in content["runs"][1]["files"]
    rows = [row, dict.fromkeys(row), row | {"color": "mauve", "weight": None}, row | {"weight": 7}]
    (file := tmp_path / "rows.json").write_text(json.dumps(rows))
    expected = replies(tmp_path, file, 0, project=project, DATASET=name)
    assert replies_elsewhere(tmp_path, file, f"models:/{name}-{name}@champion") == [expected]
