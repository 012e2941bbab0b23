"""Models of an earlier state of the data set: which of them can be used, and how they answer."""

import numpy as np
import pytest

from train.fit import fit_model
from train.judge import judge, unlearned_class
from train.rows import LabeledRows
from utils.datasets import dataset
from utils.datasets.targets import Classes, Number, TwoClasses
from utils.model_store.compatibility import class_matrix, of_classes
from utils.model_store.model import load, save
from utils.model_store.registry import ModelError, Registry

NEGATIVE, POSITIVE = dataset.target.labels
ROWS = [dict.fromkeys(dataset.names)] * 3


@pytest.fixture
def registry(first_model, tmp_path):
    registry = Registry(tmp_path)
    model = load(Registry(first_model / "models"), 0)
    save(model, registry)
    return registry


def answer(registry: Registry) -> np.ndarray:
    return load(registry, 0).predict(ROWS)


@pytest.mark.parametrize(
    ("labels", "places"),
    [
        ([NEGATIVE, POSITIVE, "new"], (0, 1)),
        (["new", POSITIVE, "newer", NEGATIVE], (3, 1)),
        ([NEGATIVE, POSITIVE], (0, 1)),
    ],
)
def test_a_model_of_two_classes_answers_for_several(registry, monkeypatch, labels, places):
    before = answer(registry)
    monkeypatch.setattr(dataset, "target", Classes("x", labels))
    now = answer(registry)
    assert now.shape == (3, len(labels))
    np.testing.assert_allclose(now[:, places[1]], before)
    np.testing.assert_allclose(now.sum(axis=1), 1)


def test_two_classes_in_the_other_order_have_the_other_probability(registry, monkeypatch):
    before = answer(registry)
    monkeypatch.setattr(dataset, "target", TwoClasses("x", POSITIVE, NEGATIVE))
    np.testing.assert_allclose(answer(registry), 1 - before)


def test_a_class_that_became_an_alias_adds_to_its_class(registry, monkeypatch):
    before = answer(registry)
    target = Classes("x", [NEGATIVE, "rich", "new"], aliases={POSITIVE: "rich"})
    monkeypatch.setattr(dataset, "target", target)
    np.testing.assert_allclose(answer(registry)[:, 1], before)
    both = class_matrix(load(registry, 0).card, outputs=1)
    assert of_classes(np.array([0.25]), both).tolist() == [[0.75, 0.25, 0]]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Classes("x", [NEGATIVE, "new"]), f"predicts the class '{POSITIVE}', which x does not"),
        (Number("x"), "predicts a class, x is a number now"),
    ],
)
def test_a_model_that_predicts_something_else_is_refused(registry, monkeypatch, target, reason):
    monkeypatch.setattr(dataset, "target", target)
    with pytest.raises(ModelError, match=f"^model 0: {reason}"):
        load(registry, 0)


def test_a_model_of_another_data_set_is_refused(registry):
    card = registry.card(0)
    card.dataset = "shop"
    registry.write_card(card)
    with pytest.raises(ModelError, match=f"made for the data set shop, DATASET is {dataset.name}"):
        load(registry, 0)


def test_a_card_of_an_earlier_version_is_that_of_the_default_data_set(registry):
    card = registry.card(0)
    card.dataset, card.target, card.classes = "", "", []
    registry.write_card(card)
    assert load(registry, 0).predict(ROWS).shape == (3,)


def test_the_name_of_the_tuning_loss_in_the_file_is_that_of_earlier_versions(registry):
    text = (registry.place / "model_0.json").read_text()
    assert '"tuning_logloss": 0.' in text
    assert registry.card(0).tuning_loss > 0


def test_a_class_that_no_row_has_is_almost_impossible_and_stops_nothing(first_model, monkeypatch):
    target = Classes("x", [NEGATIVE, "never", POSITIVE])
    frame, outcomes = dataset.test(first_model / "data")
    monkeypatch.setattr(dataset, "target", target)
    frame, outcomes = frame[:2_000], 2 * outcomes[:2_000]
    model = fit_model(frame, outcomes, model_id=1, hyper="hyperopt", max_evals=1)
    scores = model.predict(frame)
    assert scores[:, 1].max() < 1e-9
    assert target.figures(outcomes, scores)["logloss"] < 0.4
    # 25 rows in which one more class is missing judge as others do.
    rows = LabeledRows(frame[:25], outcomes[:25] * 0)
    rows.outcomes[0] = 1
    verdict = judge(model, model, rows, np.ones(25, int))
    assert verdict.why.startswith("as good as model 1")
    # Now rows have the class, and the champion does not know it.
    outcomes[:5] = 1
    assert unlearned_class(model, LabeledRows(frame, outcomes)) == "never"
    assert unlearned_class(model, LabeledRows(frame[5:], outcomes[5:])) is None
