"""Damaged files of models and stores: one sentence, and what is not the champion's stops nobody."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.harness.pipeline import wait_until
from tests.test_model_store import add_copy
from tools import models
from train.store.database import StoreError, StoreReplaced
from train.store.observations import Observations
from train.store.snapshot import read_snapshot
from utils import console
from utils.model_store.model import load_champion
from utils.model_store.pruning import remove_leftovers
from utils.model_store.registry import Registry

DEEP = b"[" * 100_000


@pytest.fixture(scope="module")
def two_models(first_model, tmp_path_factory) -> Path:
    """A folder with models 0, the champion, and 1."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(first_model / "models", folder, dirs_exist_ok=True)
    add_copy(folder, 1)
    return folder


@pytest.fixture
def folder(two_models, tmp_path) -> Path:
    return shutil.copytree(two_models, tmp_path / "models")


def content(value: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(value)

    write.__name__ = repr(value[:40])
    return write


def directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    (path / "inside").mkdir(parents=True)


def deleted(path: Path) -> None:
    path.unlink(missing_ok=True)


def without_permission(path: Path) -> None:
    path.touch()
    path.chmod(0)


DAMAGES = [directory, deleted, content(b""), content(b"[]"), content(b"null"), content(DEEP)]
DAMAGES += [content(b"\xff\x00" * 99)]
if os.geteuid():  # root may read everything
    DAMAGES += [without_permission]
CHAMPIONS = [b"1e999", b"1.5", b"-1", b"NaN", b"[0]", b'"0"', b"null", b"true", b"9" * 20]
CHAMPIONS += [b"9" * 5_000]
CHAMPIONS = [content(b'{"model_id": ' + value + b"}") for value in CHAMPIONS]
CARDS = [content(b"{}"), content(b'{"model_id": 1e999}')]
OTHERS = ["model_1.json", "model_1.p", f"model_{'9' * 20}.json", "model_007.json"]
OTHERS += ["model_\N{ARABIC-INDIC DIGIT SEVEN}.json", "model_-1.json", ".model_1.p.7", "model_5.p"]


def start_predictor(folder: Path) -> int:
    return load_champion(Registry(folder))[0].model_id


def start_trainer(folder: Path) -> int:
    """Do with the models what the trainer does from its start to the end of a training."""
    registry = Registry(folder)
    with closing(Observations(folder / "observations.db")) as store:
        remove_leftovers(registry)
        if (champion := registry.champion_id()) is not None:
            store.note_announced(champion)
        new = store.begin_training(0, at_least=registry.newest_id() + 1)
        assert new < 1_000
        store.end_training(0)
    registry.prune(keep=1)
    return load_champion(registry)[0].model_id


def list_models(folder: Path) -> int:
    models.show_list(Registry(folder))
    return 0


STARTS = [list_models, start_predictor, start_trainer]  # changes come last


@pytest.mark.parametrize("damage", [*DAMAGES, *CARDS])
def test_what_is_not_the_champions_stops_nobody(folder, damage):
    for name in OTHERS:
        damage(folder / name)
    for start in STARTS:
        assert start(folder) == 0


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("champion.json", damage) for damage in [*DAMAGES[1:], *CHAMPIONS]),
        *(("model_0.json", damage) for damage in [*DAMAGES, *CARDS]),
        *(("model_0.p", damage) for damage in DAMAGES),
    ],
)
def test_a_damaged_champion_is_replaced_by_another_model(folder, monkeypatch, capsys, name, damage):
    damage(folder / name)
    model, [warning] = load_champion(Registry(folder))
    assert model.model_id == 1
    assert len(console.printable(warning)) < 300
    for start in STARTS:
        assert start(folder) in (0, 1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (value)")


@pytest.mark.parametrize("use", [Observations, read_snapshot])
@pytest.mark.parametrize("damage", [cut, foreign, directory, content(b"no database" * 100)])
def test_a_damaged_store_of_observations_is_one_sentence(tmp_path, damage, use):
    path = tmp_path / "observations.db"
    with closing(Observations(path)) as store:
        store.add([(str(n), b"{}", 1.0) for n in range(1_000)], 0, {})
    damage(path)
    with pytest.raises(StoreError) as caught:
        use(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
    if damage not in (foreign, directory):
        assert "move it away" in str(caught.value)


def another_store(path: Path) -> None:
    """Put another store, with one observation, in its place."""
    other = path.with_name("other.db")
    with closing(Observations(other)) as store:
        store.add([("other", b"{}", 1.0)], 0, {})
    other.rename(path)


@pytest.mark.parametrize(("replace", "left"), [(deleted, 0), (another_store, 1)])
def test_a_store_that_is_replaced_while_in_use_is_written_no_more(tmp_path, replace, left):
    path = tmp_path / "observations.db"
    with closing(Observations(path)) as store:
        store.add([(str(n), b"{}", 1.0) for n in range(9)], 0, {})
        replace(path)
        for change in (lambda: store.add([], 0, {}), store.clean_up, store.ask_by_hand):
            with pytest.raises(StoreReplaced, match=f"^{path} was deleted or replaced while it"):
                change()
        # While the former file is still open, and after that.
        for _ in range(2):
            with closing(Observations(path)) as again:
                assert again.count() == left
                assert again._db.query("PRAGMA integrity_check") == [("ok",)]
            store.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("models/champion.json", CHAMPIONS[-2]),
        ("models/model_0.json", content(b"[]")),
        (f"models/model_{'9' * 20}.json", content(DEEP)),
        ("models/.model_1.p.7", directory),
    ],
)
def test_the_scripts_start_all_the_same(pipeline, name, damage):
    add_copy(pipeline.folder / "models", 1)
    damage(pipeline.folder / name)
    said = pipeline.run("initialize").stdout.decode().splitlines()
    assert said[-1].startswith("Keeping model ")
    assert len(said) <= 3
    pipeline.run("tools.models", "list")
    processes = pipeline.predictor(), pipeline.trainer()
    request_ids = pipeline.requests(25)
    assert [reply["request_id"] for reply in pipeline.wait_for_replies(25)] == request_ids
    pipeline.wait_for_output(processes[0], "Model 2 answers")
    for process in processes:
        assert process.poll() is None
        assert "Traceback" not in process.log.read_text()


@pytest.mark.slow
def test_a_damaged_store_ends_the_trainer_with_one_sentence(pipeline):
    (pipeline.folder / "data" / "observations.db").write_bytes(b"no database" * 100)
    trainer = pipeline.start("trainer.py")
    assert trainer.wait(timeout=60) == 1
    said = trainer.log.read_text().splitlines()
    assert "observations.db: file is not a database" in said[-1]
    assert "move it away" in said[-1]
    assert not any("Traceback" in line for line in said)


@pytest.mark.slow
def test_a_store_that_is_deleted_while_the_trainer_runs_is_made_again(pipeline):
    predictor, trainer = pipeline.predictor(), pipeline.trainer()
    pipeline.requests(25)
    pipeline.wait_for_output(predictor, "Model 1 answers")
    store = pipeline.folder / "data" / "observations.db"
    store.unlink()
    pipeline.wait_for_output(trainer, f"{store} was deleted or replaced while it was in use; rest")
    wait_until(lambda: trainer.log.read_text().count("waits for retrain requests") == 2)
    pipeline.requests(25)
    pipeline.wait_for_control(
        lambda messages: messages[-1].get("observations") == 50, timeout=120
    )  # what Kafka still has was read again
    assert trainer.poll() is None
    assert "Training failed" not in trainer.log.read_text()
