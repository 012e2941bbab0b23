"""A trainer at the end of a training, when another one has taken over or was faster."""

import shutil
import socket
import time
from argparse import Namespace
from contextlib import closing

import pytest

import trainer
from tests.harness.pipeline import wait_until
from train import ingest as ingest_module
from train import training_process
from train.store.database import StoreReplaced
from train.store.observations import Observations
from train.training_process import TrainingProcess
from utils.model_store.registry import Registry
from utils.model_store.storage import StorageAway
from utils.settings import settings

TUNING = Namespace(hyper="hyperopt", max_evals=1, timeout=60, spark="")


@pytest.fixture
def registry(first_model, tmp_path, monkeypatch):
    """The models 0, the champion, and 1, which was trained to replace a model 7."""
    shutil.copytree(first_model / "models", tmp_path / "models")
    registry = Registry(tmp_path / "models")
    card = registry.card(0)
    content = registry.content(card)
    card.model_id, card.replaces, card.decision = 1, 7, "promoted"
    registry.publish(card, content)
    monkeypatch.setattr(trainer, "registry", registry)
    return registry


@pytest.fixture
def store(tmp_path):
    with closing(Observations(tmp_path / "store.db")) as store:
        yield store


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A training of model 1 whose process was killed."""
    changed = settings.model_copy(update={"data_dir": tmp_path})
    monkeypatch.setattr(training_process, "settings", changed)
    training = TrainingProcess(1, 1, TUNING)
    training._child.kill()
    training._child.wait()
    yield training
    training.close()


def replace_store(store: Observations, folder) -> None:
    (folder / "store.db").rename(folder / "former.db")
    Observations(folder / "store.db").close()


def test_a_trainer_that_was_succeeded_writes_no_card(registry, store, tmp_path):
    replace_store(store, tmp_path)
    with pytest.raises(StoreReplaced):
        trainer.conclude(1, 1, store, None)
    assert registry.card(1).decision == "promoted"
    assert registry.champion_id() == 0


def test_a_trainer_that_was_succeeded_ends_no_training(registry, training, store, tmp_path):
    replace_store(store, tmp_path)
    with pytest.raises(StoreReplaced):
        trainer.finish_training(training, store, None)


def test_a_model_of_another_trainer_is_not_taken_for_the_own_one(
    registry, training, store, object_store, tmp_path, monkeypatch
):
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    shared = Registry(f"s3://{object_store.bucket}/two-trainers")
    shared.publish(registry.card(1), b"the other one's")
    assert store.begin_training(1, at_least=1) == 1
    own = registry.card(1)
    Registry(tmp_path / "attempt-1").publish(own, registry.content(own))
    with pytest.raises(SystemExit, match="model 1 is in .* already, and another one"):
        training.publish(shared, store)
    assert store.unfinished_training() is None


def test_a_training_without_its_object_store_says_why(tmp_path, monkeypatch):
    with socket.socket() as closed:  # bound, and does not listen
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        place = {"MODELS_DIR": "s3://models/x", "AWS_ENDPOINT_URL": address}
        login = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        for name, value in (place | login | {"BROKER_TIMEOUT": "0.1"}).items():
            monkeypatch.setenv(name, value)
        changed = settings.model_copy(update={"data_dir": tmp_path})
        monkeypatch.setattr(training_process, "settings", changed)
        training = TrainingProcess(1, 1, TUNING)
        training._child.wait()
    assert training.failure().startswith("MODELS_DIR: s3://models/x can't be used: ")
    assert training.failure().endswith("; waited 0.1 s (BROKER_TIMEOUT)")
    training.close()


def test_after_a_long_wait_for_an_object_store_it_reads_first(pipeline, store, monkeypatch):
    topics = ("app_messages", "outcomes", "retrain_topic")
    for topic in topics:
        pipeline.create_topic(topic)
    names = tuple(f"{pipeline.prefix}{topic}" for topic in topics)
    monkeypatch.setattr(ingest_module, "READS", names)
    with closing(ingest_module.Ingest(store, None)) as ingest:
        ingest.step()
        ingest.retry(OSError("the disk is full"))
        assert not ingest.has_priority()
        ingest.step()
        began = time.monotonic()
        time.sleep(0.2)  # an object store that does not answer
        ingest.retry(StorageAway("it is away"))
        assert ingest.has_priority()
        ingest.step()
        wait_until(lambda: not ingest.has_priority(), 30, "the end of the pause")
        assert time.monotonic() - began >= 4 * 0.2
