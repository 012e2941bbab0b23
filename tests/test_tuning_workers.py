"""One search on several hosts, on a real PostgreSQL: workers come, go, freeze and lie."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from psycopg import OperationalError
from pydantic import SecretStr
from sqlalchemy.exc import InvalidatePoolError

from tests.harness.pipeline import wait_until
from tests.test_train import make_optimizer
from tools.experiments import read_studies
from train import shared_study
from train.shared_study import (
    TASK,
    close_storage,
    evaluate_next,
    open_storage,
    reason,
    study_names,
)
from train.store.database import StoreError
from train.train_optuna import LGBOptimizer
from utils.files import ROOT
from utils.model_store.registry import Registry
from utils.process import lower_priority
from utils.settings import settings

EVALS = 24
POINT = {
    "learning_rate": 0.2,
    "num_leaves": 20,
    "min_child_weight": 1.0,
    "colsample_bytree": 0.9,
    "subsample": 1.0,
    "reg_alpha": 0.01,
    "reg_lambda": 0.01,
}


@pytest.fixture
def shared(postgres, monkeypatch):
    """This process searches in the database, as a pipeline that nobody else has."""
    changed = {
        "observations_url": SecretStr(postgres.url),
        "topic_prefix": f"t{os.urandom(4).hex()}-",
    }
    monkeypatch.setattr(shared_study, "settings", settings.model_copy(update=changed))
    return postgres


def search(trials_path: Path | None = None) -> LGBOptimizer:
    optimizer = make_optimizer(LGBOptimizer, trials_path=trials_path, shared_rows={"end": 0})
    optimizer.optimize(6, known_points=[POINT])
    return optimizer


# The training process


def test_a_search_without_workers_ends_and_leaves_no_study(shared, tmp_path):
    optimizer = search(tmp_path / "trials.db")
    assert [len(study) for study in read_studies(tmp_path / "trials.db")] == [6]
    assert optimizer.trials[0]["params"] == POINT
    assert len({trial["params"]["learning_rate"] for trial in optimizer.trials}) == 6
    with closing_storage() as storage:
        assert study_names(storage) == []


def test_what_a_worker_makes_up_does_not_win(shared, monkeypatch):
    """Each time the training process has evaluated a point, a worker is faster to take the next."""
    before = LGBOptimizer.run_trial

    def and_a_worker(optimizer: LGBOptimizer, params: dict) -> dict:
        measured = before(optimizer, params)
        with closing_storage() as storage:
            [name] = study_names(storage)
            study = optuna.load_study(study_name=name, storage=storage)
            evaluate_next(study, lambda trial: lie(trial, measured))
        return measured

    def lie(trial: optuna.Trial, measured: dict) -> dict:
        shared_study.suggest(trial)
        return measured | {"penalized_loss": 0.0, "loss": 0.0, "pruned": False}

    monkeypatch.setattr(LGBOptimizer, "run_trial", and_a_worker)
    optimizer = search()
    assert len(optimizer.trials) == 6
    best = optimizer.best_trial()
    again = optimizer.holdout.evaluate(best["params"], most_rounds=best["rounds"])[0]
    assert best["loss"] == optimizer.best_loss == again["loss"]
    assert all(trial["loss"] > 0 for trial in optimizer.trials)


def test_without_the_database_the_search_goes_on_where_it_was(shared, monkeypatch, capsys):
    before, gone = LGBOptimizer.run_trial, []

    def and_a_fault(optimizer: LGBOptimizer, params: dict) -> dict:
        if len(optimizer.trials) == 2 and not gone:
            shared.kill()
            gone.append(True)
        return before(optimizer, params)

    monkeypatch.setattr(LGBOptimizer, "run_trial", and_a_fault)
    try:
        optimizer = search()
    finally:
        shared.start()
    assert len(optimizer.trials) == 6
    assert len({trial["params"]["learning_rate"] for trial in optimizer.trials}) == 6
    said = capsys.readouterr()
    assert "Tuning continues without workers: OBSERVATIONS_URL" in said.out + said.err
    assert "pa55" not in said.out + said.err


@contextmanager
def closing_storage():
    storage = open_storage()
    try:
        yield storage
    finally:
        close_storage(storage)


# With real workers


class Site:
    """A training process and its workers, which have nothing in common but the settings."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.env = os.environ | {
            "DATA_DIR": str(folder / "data"),
            "MODELS_DIR": str(folder / "models"),
            "OBSERVATIONS_URL": url,
            "TOPIC_PREFIX": f"t{os.urandom(4).hex()}-",
            "TRAIN_WINDOW": "8000",
        }
        self.processes: list[subprocess.Popen] = []
        self.searches = 0
        store = "from train.store.place import *; open_database(STORE).close()"
        subprocess.run([sys.executable, "-c", store], cwd=ROOT, env=self.env, check=True)

    def start(self, name: str, *command: str, **env: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT, env=self.env | env, stdin=subprocess.PIPE, stdout=log, stderr=log,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def worker(self, name: str, **env: str) -> subprocess.Popen:
        process = self.start(name, "tools.tuning_worker", "--threads", "1", **env)
        wait_until(lambda: "waits for a search" in self.log(name), timeout=300, what="a worker")
        return process

    def training(self, timeout: float = 600) -> subprocess.Popen:
        result = self.folder / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        arguments = ["--folder", str(result), "--model-id", "1", "--hyper", "optuna"]
        limits = ["--max-evals", str(EVALS), "--timeout", str(timeout)]
        process = self.start("training", "train.retrain", *arguments, *limits)
        lower_priority(process.pid)  # as the trainer does
        return process

    def takes_part(self, name: str) -> None:
        wait_until(lambda: "Taking part" in self.log(name), timeout=300, what=f"{name} takes part")

    def check_result(self, training: subprocess.Popen) -> None:
        assert training.wait(700) == 0, self.log("training")
        card = Registry(self.folder / "result").card(1)
        assert card.evaluations == EVALS
        kept = read_studies(self.folder / "data" / "trials.db")[-1]
        self.searches += 1
        assert len(kept) == EVALS * self.searches  # on the same data: one study
        assert "without workers" not in self.log("training")

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()


@pytest.fixture
def site(first_model, postgres, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    site = Site(tmp_path, postgres.url)
    yield site
    site.stop()


def slowly(test):
    """Mark a test that takes long, and still longer where others need the cores."""
    return pytest.mark.slow(pytest.mark.timeout(900)(test))


@slowly
def test_two_workers_take_part_in_a_search_and_end_by_a_signal(site):
    workers = [site.worker(name) for name in ("first", "second")]
    assert all(os.getpriority(os.PRIO_PROCESS, each.pid) > 0 for each in workers)
    site.check_result(site.training())
    for name, worker in zip(("first", "second"), workers, strict=True):
        site.takes_part(name)
        # The study may be deleted before a worker has counted its trials.
        wait_until(lambda name=name: "Done: " in site.log(name), 300, "its end")
        assert not re.search(rf"Done: (0|{EVALS}) trials", site.log(name))
        worker.terminate()
        assert worker.wait(10) == 0
        assert site.log(name).endswith("The worker has ended.\n")


@slowly
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_trial_of_a_worker_that_ends_is_taken_up(site, number):
    worker, training = site.worker("worker"), site.training()
    site.takes_part("worker")
    wait_until(lambda: running_trials(site) >= 2, timeout=300, what="a trial of the worker")
    worker.send_signal(number)
    site.check_result(training)


@slowly
def test_a_worker_that_was_frozen_goes_on_with_the_next_search(site):
    worker, training = site.worker("worker"), site.training()
    wait_until(lambda: running_trials(site) >= 2, timeout=300, what="a trial of the worker")
    worker.send_signal(signal.SIGSTOP)
    site.check_result(training)
    worker.send_signal(signal.SIGCONT)
    # The study is deleted; the server may have closed the connection, too.
    ends = ("Done: the search has ended", "OBSERVATIONS_URL (")
    wait_until(lambda: any(end in site.log("worker") for end in ends), 300, "the end of the search")
    site.check_result(site.training())
    wait_until(lambda: re.search(r"Done: \d+ trials", site.log("worker")), 300, "the next one")
    assert "Traceback" not in site.log("worker")


@slowly
def test_a_worker_with_other_rows_or_settings_says_so_and_does_not_take_part(site):
    site.worker("rows", MAX_CATEGORIES="3")
    site.worker("cost", MODEL_COST="any")
    site.check_result(site.training())
    assert "the digest of the encoded rows is" in site.log("rows")
    assert "what is measured" in site.log("cost")
    assert "trials." not in site.log("rows") + site.log("cost")


@slowly
def test_a_worker_waits_for_the_database(site, postgres):
    postgres.stop()
    worker = site.start("worker", "tools.tuning_worker", "--threads", "1")
    wait_until(lambda: "OBSERVATIONS_URL (" in site.log("worker"), what="a warning")
    postgres.start()
    training = site.training()
    site.takes_part("worker")
    site.check_result(training)
    assert worker.poll() is None
    assert "pa55" not in site.log("worker")


@slowly
def test_the_study_of_a_killed_training_is_deleted_by_the_next_one(site, shared):
    shared_study.settings = shared_study.settings.model_copy(
        update={"topic_prefix": site.env["TOPIC_PREFIX"]}
    )
    training = site.training()
    with closing_storage() as storage:

        def task() -> bool:
            names = study_names(storage)
            return any(
                TASK in optuna.load_study(study_name=n, storage=storage).user_attrs for n in names
            )

        wait_until(task, timeout=300, what="a search")
        training.kill()
        (site.folder / "data" / "trials.db").unlink()
        site.check_result(site.training())
        assert study_names(storage) == []


def test_a_worker_without_a_database_says_which_setting_is_missing():
    command = [sys.executable, "-m", "tools.tuning_worker"]
    env = os.environ | {"OBSERVATIONS_URL": ""}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("OBSERVATIONS_URL: a worker needs")


def test_an_error_of_the_database_names_its_host_and_what_happened(monkeypatch):
    url = SecretStr("postgresql://u:pa55@db:5432/x")
    changed = settings.model_copy(update={"observations_url": url})
    monkeypatch.setattr(shared_study, "settings", changed)
    lost = OperationalError("the connection is lost\nand more")
    lost.__context__ = InvalidatePoolError()  # SQLAlchemy's, when the server was restarted
    assert str(lost.__context__) == "()"
    assert reason(lost) == "OBSERVATIONS_URL (db:5432): the connection is lost"
    invalid = StoreError("OBSERVATIONS_URL (db:5432): it is no valid URL")
    assert reason(invalid) == "OBSERVATIONS_URL (db:5432): it is no valid URL"


def running_trials(site: Site) -> int:
    """Return how many trials of the site's search are running."""
    import psycopg

    prefix = site.env["TOPIC_PREFIX"]
    sql = (
        "SELECT count(*) FROM tuning.trials JOIN tuning.studies USING (study_id) "
        "WHERE study_name LIKE %s AND state = 'RUNNING'"
    )
    with closing(psycopg.connect(site.env["OBSERVATIONS_URL"])) as database:
        try:
            return database.execute(sql, (f"search of '{prefix}'%",)).fetchone()[0]
        except psycopg.errors.UndefinedTable:
            return 0
