"""Hyperopt's trials on Spark. The slow tests need pyspark, which is not in the lock."""

import os
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.harness.pipeline import wait_until
from tests.test_train import make_optimizer
from tools.experiments import read_studies
from tools.local_kafka import free_port
from train import check_spark
from train.space import START
from train.train_hyperopt import LGBOptimizer
from utils.files import ROOT

EVALS = 8


@pytest.mark.parametrize(
    ("url", "hyper", "said"),
    [
        ("local[2]", "optuna", "--spark: it is for --hyper hyperopt, not for optuna"),
        ("http://host", "hyperopt", "--spark: expected local[2] or spark://host:port, got 'http"),
        ("spark://host:7077", "hyperopt", "--spark: it needs pyspark: pip install"),
    ],
)
def test_what_spark_can_not_be_is_one_sentence(url, hyper, said, monkeypatch):
    monkeypatch.setattr("train.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^--spark: ") as caught:
        check_spark(url, hyper)
    assert str(caught.value).startswith(said)


def test_without_the_master_the_search_goes_on(tmp_path, capsys):
    url = f"spark://127.0.0.1:{free_port()}"
    optimizer = make_optimizer(LGBOptimizer, trials_path=tmp_path / "trials.db", spark=url)
    optimizer.optimize(4, known_points=[START])
    assert len(optimizer.trials) == 4
    said = capsys.readouterr()
    assert f"Tuning continues without Spark: --spark {url}: " in said.out + said.err


with_spark = pytest.mark.skipif(not find_spec("pyspark"), reason="pyspark is not installed")


def slowly(test):
    """Mark a test that starts Spark, which takes long where others need the cores."""
    return pytest.mark.slow(pytest.mark.timeout(900)(with_spark(test)))


def search(url: str, folder: Path) -> None:
    """Search in a process of its own: a session of Spark is its process's."""
    program = f"from tests.test_spark import check_search; check_search({url!r}, {str(folder)!r})"
    env = os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "without Spark" not in ended.stdout + ended.stderr


def check_search(url: str, folder: str) -> None:
    """Check a search: all trials are kept, and the best one was measured in this process."""
    trials, here = Path(folder) / "trials.db", []
    optimizer = make_optimizer(LGBOptimizer, trials_path=trials, spark=url)
    before = optimizer.run_trial
    optimizer.run_trial = lambda params: here.append(params) or before(params)
    optimizer.optimize(EVALS, known_points=[START])
    assert here == [START]
    assert len(optimizer.trials) == EVALS
    assert [len(study) for study in read_studies(trials)] == [EVALS]
    lowest = optimizer.lowest_trial()
    again = optimizer.holdout.evaluate(lowest["params"], most_rounds=lowest["rounds"])[0]
    assert lowest["loss"] == again["loss"]


@slowly
def test_a_search_in_a_local_session(tmp_path):
    search("local[2]", tmp_path)


@slowly
def test_a_search_on_a_standalone_cluster(tmp_path):
    with cluster(tmp_path) as url:
        search(url, tmp_path)


@contextmanager
def cluster(folder: Path):
    """Run a master and a worker of Spark on loopback; the value is the master's URL."""
    import pyspark

    home, port = Path(pyspark.__file__).parent, free_port()
    url = f"spark://127.0.0.1:{port}"
    env = os.environ | {
        "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable,
    }  # fmt: skip
    program = [home / "bin" / "spark-class", "org.apache.spark.deploy"]
    common = ["--host", "127.0.0.1", "--webui-port", "0"]
    master = ["master.Master", *common, "--port", str(port)]
    worker = ["worker.Worker", *common, "--cores", "2", "--memory", "1g", "--work-dir", str(folder)]
    processes, log = [], folder / "spark.log"
    try:
        for (name, *options), said in ((master, "ALIVE"), ([*worker, url], "Successfully reg")):
            with open(log, "ab") as output:
                command = [program[0], f"{program[1]}.{name}", *options]
                processes.append(subprocess.Popen(command, env=env, stdout=output, stderr=output))
            wait_until(lambda said=said: said in log.read_text(), 300, name)
        yield url
    finally:
        for process in processes:
            process.terminate()
            process.wait(60)
