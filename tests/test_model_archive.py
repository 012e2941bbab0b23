"""Models that are deleted are archived first, whole, for as long and as many as settings say."""

import json
import os
import shutil
import time
from contextlib import closing

import numpy as np
import pytest

from monitoring.figures.database import Database
from monitoring.figures.models_view import Models
from monitoring.figures.state import State
from tests.test_model_store import add_copy, cut
from tests.test_monitor_faults import Log, pair
from tools import models
from utils.model_store import archive, pruning
from utils.model_store.archive import Archive
from utils.model_store.model import decode, load, save
from utils.model_store.registry import ModelError, Registry
from utils.model_store.storage import Folder
from utils.settings import settings


@pytest.fixture
def folder(first_model, tmp_path):
    """Five models, which differ in their files' digests; the champion is model 0."""
    shutil.copytree(first_model / "models", tmp_path / "models")
    models = Registry(tmp_path / "models")
    for model_id in range(1, 5):
        model = load(models, 0)
        model.card.model_id, model.center = model_id, model_id / 1000
        save(model, models)
    return models.place


def limit(monkeypatch, **limits) -> None:
    monkeypatch.setattr(archive, "settings", settings.model_copy(update=limits))
    monkeypatch.setattr(pruning, "settings", settings.model_copy(update=limits))


def archived(folder) -> list[int]:
    return [card.model_id for card in Archive(folder).cards()]


def test_a_deleted_model_answers_as_before(folder, first_model):
    from utils.datasets import dataset

    frame, _ = dataset.test(first_model / "data")
    before = {model_id: load(Registry(folder), model_id) for model_id in (1, 2, 3)}
    assert Registry(folder).prune(keep=1) == [1, 2, 3]
    assert archived(folder) == [1, 2, 3]
    for model_id, model in before.items():
        card, content = Archive(folder).load(model.card.digest)
        assert card == model.card
        np.testing.assert_array_equal(decode(card, content).predict(frame), model.predict(frame))
        [found] = Archive(folder).cards(model_id)
        assert Archive(folder).load(found.digest[:12]) == (card, content)
    assert (folder / "archive").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder / "archive").iterdir())


def test_a_monitor_that_starts_later_shows_how_a_deleted_model_was_made(folder):
    card = Registry(folder).card(2)
    Registry(folder).prune(keep=1)
    with closing(Database(":memory:")) as database:
        Log(following := State(database)).send(*pair("a", model_id=2))
        shown = Models()
        shown._registry = Registry(folder)
        shown.update(following)
        [found] = [each for each in shown.states(following) if each.model_id == 2]
    assert (found.answers, found.created, found.rows) == (1, card.created, card.rows)
    assert found.trees == card.trees > 0


def test_the_card_of_a_deleted_model_can_be_shown(folder, capsys):
    Registry(folder).prune(keep=1)
    models.show(Registry(folder), 2)
    assert json.loads(capsys.readouterr().out)["model_id"] == 2
    with pytest.raises(SystemExit, match="model 9: model_9.json is missing"):
        models.show(Registry(folder), 9)


def test_two_models_of_one_id_are_both_kept(folder):
    Registry(folder).prune(keep=3)
    add_copy(folder, 1)
    Registry(folder).prune(keep=3)
    assert archived(folder) == [1, 1]
    assert len({card.digest for card in Archive(folder).cards(1)}) == 2
    assert [card.model_id for card in Archive(folder).cards(1, 7)] == [1, 1]


class Killed(BaseException):
    """As by kill -9: nothing is cleaned up."""


def test_killed_between_any_two_steps_no_model_is_lost(folder, tmp_path, monkeypatch):
    def killed_after(steps: int) -> bool:
        shutil.rmtree(tmp_path / "models")
        shutil.copytree(tmp_path / "kept", tmp_path / "models")
        with monkeypatch.context() as patched:
            for name in ("write", "delete"):
                patched.setattr(Folder, name, counting(getattr(Folder, name)))
            left[0] = steps
            try:
                Registry(folder).prune(keep=1)
            except Killed:
                return True
        return False

    def counting(step):
        def counted(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            step(*arguments)

        return counted

    shutil.copytree(folder, tmp_path / "kept")
    left, steps = [0], 0
    while killed_after(steps):
        assert {*Registry(folder).ids(), *archived(folder)} == {0, 1, 2, 3, 4}
        for card in Archive(folder).cards():
            Archive(folder).content(card)
        Registry(folder).prune(keep=1)
        assert (Registry(folder).ids(), archived(folder)) == ([0, 4], [1, 2, 3])
        assert len([*(folder / "archive").iterdir()]) == 6
        steps += 1
    assert steps == 12


def test_the_oldest_ones_are_deleted(folder, monkeypatch):
    limit(monkeypatch, audit_models=2)
    Registry(folder).prune(keep=1)
    assert archived(folder) == [2, 3]
    limit(monkeypatch, audit_days=0.5)
    [path] = (folder / "archive").glob("2-*.json")
    os.utime(path, (time.time() - 50_000,) * 2)
    Registry(folder).prune(keep=1)
    assert archived(folder) == [3]
    assert len([*(folder / "archive").iterdir()]) == 2
    limit(monkeypatch, audit_models=0)
    assert Registry(folder).prune(keep=0) == [4]
    assert not [*(folder / "archive").iterdir()]


def test_a_model_that_can_not_be_archived_is_kept(folder, monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert Registry(folder).prune(keep=0) == []
    assert "Replaced models are kept for now" in capsys.readouterr().out
    assert Registry(folder).ids() == [0, 1, 2, 3, 4]
    cut(folder / "model_1.p")  # nobody can use it any more
    assert Registry(folder).prune(keep=0) == [1, 2, 3, 4]
    assert archived(folder) == [2, 3, 4]


@pytest.mark.parametrize("suffix", [".p", ".json"])
def test_a_model_that_can_not_be_read_now_is_kept(folder, suffix, monkeypatch, capsys):
    def failing(storage, name):
        if name in (f"model_1{suffix}", f"model_2{suffix}"):
            raise OSError(24, "Too many open files")
        return read(storage, name)

    read = Folder.read
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", failing)
        assert Registry(folder).prune(keep=0) == [3, 4]
    assert "are kept for now: [Errno 24] Too many" in capsys.readouterr().out
    assert Registry(folder).prune(keep=0) == [1, 2]
    assert sorted(archived(folder)) == [1, 2, 3, 4]


def test_what_can_not_be_deleted_keeps_nothing_else(folder, capsys):
    for number in range(10):
        (folder / "archive" / f"folder{number}").mkdir(parents=True)
        (folder / "archive" / f"left{number}").touch()
    Registry(folder).prune(keep=0)
    assert capsys.readouterr().out == ""
    assert not list((folder / "archive").glob("left*"))


def test_a_damaged_archive_is_said(folder):
    Registry(folder).prune(keep=0)
    path = next((folder / "archive").glob("2-*.p.zst"))
    [card] = Archive(folder).cards(2)
    cut(path)
    with pytest.raises(ModelError, match="^model 2: 2-.*zst can't be read"):
        Archive(folder).content(card)
    path.write_bytes(archive.zstandard.compress(b"another"))
    with pytest.raises(ModelError, match="does not match its digest"):
        Archive(folder).content(card)
    path.write_bytes(b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8)  # says that it has 2**64 - 1 bytes
    with pytest.raises(ModelError, match="can't be read"):
        Archive(folder).content(card)
    path.with_name(path.name.replace(".p.zst", ".json")).write_text("{")
    assert archived(folder) == [1, 3, 4]
    with pytest.raises(ModelError, match="no archived model has the digest"):
        Archive(folder).load(card.digest)
