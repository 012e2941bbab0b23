import hashlib
import json
import os
import pickle
import shutil

import pytest

from utils.datasets.adult import read_test_requests
from utils.files import write_atomically
from utils.model_store.model import load, load_anchor, load_champion, save
from utils.model_store.registry import ModelError, Registry


@pytest.fixture
def folder(first_model, tmp_path):
    shutil.copytree(first_model / "models", tmp_path / "models")
    return tmp_path / "models"


def add_copy(folder, model_id, anchor=None):
    """Save the first model once more, under another id."""
    model = load(Registry(folder), 0)
    model.card.model_id, model.card.anchor = model_id, anchor
    save(model, Registry(folder))


def test_a_model_and_its_preprocessor_come_back_as_they_were(folder, first_model):
    from utils.datasets import dataset

    frame, _ = dataset.test(first_model / "data")
    first = load(Registry(folder), 0)
    add_copy(folder, 1)
    again = load(Registry(folder), 1)
    assert (first.predict(frame) == again.predict(frame)).all()


def test_online_and_offline_predictions_are_the_same_bits(folder, first_model):
    from utils.datasets import dataset

    model = load(Registry(folder), 0)
    frame, _ = dataset.test(first_model / "data")
    rows = read_test_requests(first_model / "data")
    offline = model.predict(frame)
    assert (model.predict(rows) == offline).all()
    assert [model.predict([row])[0] for row in rows[:600]] == offline[:600].tolist()


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_card(**changes):
    def edit(path):
        card = path.with_suffix(".json")
        card.write_text(json.dumps(json.loads(card.read_text()) | changes))

    return edit


def other_pickle(path):
    path.write_bytes(pickle.dumps({"features": None, "booster": "tree"}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_card(digest=digest)(path)


def hostile_pickle(path):
    path.write_bytes(pickle.dumps({"features": Hostile(), "booster": "tree"}))
    edit_card(digest=hashlib.sha256(path.read_bytes()).hexdigest())(path)


class Hostile:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "does not match the digest"),
        (flip, "does not match the digest"),
        (lambda path: path.unlink(), "model_0.p is missing"),
        (lambda path: path.with_suffix(".json").unlink(), "model_0.json is missing"),
        (lambda path: path.with_suffix(".json").write_text("{"), "Input data was truncated"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "Expected `object`"),
        (edit_card(features=["age"]), "other columns"),
        (edit_card(libraries={"lightgbm": "3.3.5"}), "made by lightgbm 3.3.5"),
        (edit_card(model_id=5), "card is that of model 5"),
        (other_pickle, "LightGBMError"),
        (hostile_pickle, "its file contains posix.system, which no model has"),
    ],
)
def test_a_model_that_can_not_be_used_is_refused_with_the_reason(folder, damage, reason):
    damage(folder / "model_0.p")
    with pytest.raises(ModelError, match=f"^model 0: .*{reason}"):
        load(Registry(folder), 0)


def test_the_start_takes_the_champion_not_the_newest(folder):
    add_copy(folder, 1)
    model, warnings = load_champion(Registry(folder))
    assert (model.model_id, warnings) == (0, [])
    Registry(folder).promote(1)
    assert load_champion(Registry(folder))[0].model_id == 1


def test_the_start_takes_the_newest_that_loads_where_the_champion_does_not(folder):
    for model_id in (1, 2, 3):
        add_copy(folder, model_id)
    Registry(folder).promote(1)
    cut(folder / "model_1.p")
    cut(folder / "model_3.p")
    model, warnings = load_champion(Registry(folder))
    assert model.model_id == 2
    assert len(warnings) == 2


def test_a_lost_champion_file_is_a_warning(folder):
    (folder / "champion.json").unlink()
    model, warnings = load_champion(Registry(folder))
    assert model.model_id == 0
    assert warnings == ["champion.json is missing or damaged"]


def test_without_any_model_there_is_none_to_start_with(tmp_path):
    with pytest.raises(ModelError, match="there is no model"):
        load_champion(Registry(tmp_path))


def test_pruning_keeps_the_champion_and_the_newest_others(folder):
    for model_id in range(1, 6):
        add_copy(folder, model_id)
    assert Registry(folder).prune(keep=2) == [1, 2, 3]
    assert Registry(folder).ids() == [0, 4, 5]
    assert not list(folder.glob("model_[123].*"))
    assert Registry(folder).prune(keep=0) == [4, 5]


def test_pruning_keeps_the_anchor_besides(folder, capsys):
    for model_id, anchor in ((1, 0), (2, 0), (3, 1), (4, 3), (5, 1)):
        add_copy(folder, model_id, anchor)
    registry = Registry(folder)
    registry.promote(5)
    assert registry.prune(keep=1) == [0, 2, 3]
    assert registry.ids() == [1, 4, 5]
    assert load_anchor(registry, registry.card(5)).model_id == 1
    assert not capsys.readouterr().out
    for champion, anchor in ((1, 0), (4, 3)):
        assert load_anchor(registry, registry.card(champion)) is None
        said = f"There is no anchor to judge with: model {anchor}: model_{anchor}.json is missing\n"
        assert capsys.readouterr().out == said


def test_an_anchor_among_the_newest_is_kept_besides_too(folder):
    for model_id, anchor in ((1, 0), (2, 0), (3, 2)):
        add_copy(folder, model_id, anchor)
    Registry(folder).promote(3)
    assert Registry(folder).prune(keep=1) == [0]
    assert Registry(folder).ids() == [1, 2, 3]
    assert Registry(folder).prune(keep=0) == [1]


def test_a_card_of_an_older_version_is_read(folder):
    registry = Registry(folder)
    card = json.loads((registry.place / "model_0.json").read_text())
    for name in ("trees", "decisions_per_row", "us_per_row", "file_bytes", "anchor"):
        del card[name]
    figures = {"logloss": 0.27, "auc": 0.9, "accuracy": 0.87, "calibration_error": 0.01}
    judge = {"rows": 9, "observed": 0, "champion": figures, "challenger": figures}
    card["judge"] = judge | {"difference": [0, 0]}
    (registry.place / "model_0.json").write_text(json.dumps(card))
    read = load(registry, 0).card
    assert (read.trees, read.anchor, read.judge.finding) == (0, None, "")


def test_a_disk_that_is_full_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "champion.json"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_models_are_readable_by_their_owner_only(folder):
    add_copy(folder, 1)
    assert (folder / "model_1.p").stat().st_mode & 0o077 == 0
