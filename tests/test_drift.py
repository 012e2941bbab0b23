"""Drift is found where there is one, and hardly ever where there is none."""

import numpy as np
import pytest

from monitoring.figures.control import Control
from monitoring.figures.drift import drift_of_columns, drift_of_loss, drift_of_scores
from monitoring.figures.drift_watch import lasting_rise
from train.reference import add_scores, of_categories, of_numbers, of_scores, reference_of
from utils.datasets import dataset
from utils.model_store.card import Card, Histogram, Reference, decode_card, encode_card


@pytest.fixture(scope="module")
def frame(first_model):
    return dataset.training(first_model / "data")[0].sample(frac=1, random_state=1)


def card_of(reference: Reference) -> Card:
    made = {"model_id": 0, "rows": 1, "hyper": "", "evaluations": 1, "experiment": "", "seed": 1}
    card = Card(**made, parameters={}, reference=reference)
    return decode_card(encode_card(card))


def rows_of(frame) -> list[dict]:
    return frame[list(dataset.names)].to_dict("records")


def test_a_numeric_column_has_bins_of_equally_many_rows_and_one_for_nulls():
    histogram = of_numbers(np.array([*range(100), np.nan, np.nan], float))
    assert histogram.edges == list(range(10, 100, 10))
    assert histogram.counts == [10] * 10 + [2]


def test_a_value_that_fills_most_of_a_column_has_a_bin_of_its_own():
    histogram = of_numbers(np.array([0] * 90 + list(range(1, 11)), float))
    assert histogram.edges == [0, 1]
    assert histogram.counts == [0, 90, 10, 0]


def test_rare_categories_share_a_bin():
    values = [f"{n:02}" for n in range(30) for _ in range(30 - n)]
    histogram = of_categories(values, 7)
    assert histogram.categories == [f"{n:02}" for n in range(20)]
    assert histogram.counts == [30 - n for n in range(20)] + [sum(range(1, 11)), 7]


def test_rows_like_those_of_the_training_set_have_not_drifted(frame):
    card = card_of(reference_of(frame[:20_000]))
    windows = [frame[first : first + 500] for first in range(20_000, 32_000, 500)]
    found = [each for window in windows for each in drift_of_columns(rows_of(window), card)]
    assert len(found) == len(windows) * len(dataset.names)
    assert sum(each.drifted for each in found) <= 1  # of 312; by chance 0.02


def test_a_column_that_changes_has_drifted_and_no_other_one(frame):
    card = card_of(reference_of(frame[:20_000]))
    rows = rows_of(frame[20_000:22_000])
    numeric, categorical = dataset.numeric[0], dataset.categorical[0]
    for row in rows:
        row[numeric] += 3
    for row in rows[::20]:
        row[categorical] = "a new one"
    found = {each.name for each in drift_of_columns(rows, card) if each.drifted}
    assert found == {numeric, categorical}


def test_a_visitor_who_comes_again_and_again_is_no_drift(frame):
    card = card_of(reference_of(frame[:20_000]))
    rows = rows_of(frame[20_000:20_200]) * 10
    assert not any(each.drifted for each in drift_of_columns(rows, card))
    few = card_of(reference_of(frame.iloc[:10].sample(2_000, replace=True)))
    assert few.reference.distinct < 0.01
    assert any(each.drifted for each in drift_of_columns(rows_of(frame[:1]) * 500, few))


@pytest.mark.parametrize("value", [None, "text", 10**14])
def test_values_that_do_not_fit_are_counted(frame, value):
    card = card_of(reference_of(frame[:2_000]))
    rows = [dict.fromkeys(dataset.names, value) | {dataset.numeric[0]: n} for n in range(300)]
    found = drift_of_columns(rows, card)
    assert all(each.drifted for each in found if each.name != dataset.numeric[0])


def test_scores_are_compared_with_those_of_rows_that_were_held_out(first_model, frame):
    from utils.model_store.model import load
    from utils.model_store.registry import Registry

    model = load(Registry(first_model / "models"), 0)
    known = model.card.reference
    assert sum(known.score.counts) == model.card.judge_rows_held_out
    assert {*known.columns} == {*dataset.names}
    scores = model.predict(dataset.read_test(first_model / "data")[:2_000])[:, None]
    assert not drift_of_scores(scores, model.card).drifted
    assert drift_of_scores(scores**0.5, model.card).drifted
    add_scores(model, frame[:0])
    assert model.card.reference == known


def test_a_card_without_histograms_tells_nothing():
    assert drift_of_scores(np.full((500, 1), 0.5), card_of(Reference())) is None
    assert drift_of_columns([{}] * 500, card_of(Reference())) == []
    for counts in ([], [1000], [0, 0]):
        damaged = Reference({dataset.numeric[0]: Histogram(counts)}, score=Histogram(counts))
        assert drift_of_columns([{}] * 500, card_of(damaged)) == []
    assert of_scores(np.array([])).counts == [0, 0]


def losses(chance: np.random.Generator, rows: int, wrong: float = 0.13) -> np.ndarray:
    """Return log losses like those of a model: mostly small, some large."""
    return np.where(chance.random(rows) < wrong, chance.exponential(1.5, rows), 0.1)


def test_a_loss_that_stays_has_not_drifted():
    chance, alarms = np.random.default_rng(1), 0
    for _ in range(300):
        stream = losses(chance, int(chance.integers(100, 5_000)))
        alarms += drift_of_loss(np.arange(len(stream)), stream).drifted
    assert alarms == 0


def test_a_rise_of_the_loss_is_found_and_a_fall_ends_it():
    chance = np.random.default_rng(1)
    before, after = losses(chance, 2_000), losses(chance, 100, wrong=0.9)
    both = np.concatenate([before, after])
    found = drift_of_loss(np.arange(len(both)) * 1000, both)
    assert found.drifted
    assert abs(found.since - 2_000) <= 32
    assert found.value == pytest.approx(after.mean() - before.mean(), abs=0.15)
    recovered = np.concatenate([both, losses(chance, 500)])
    assert not drift_of_loss(np.arange(len(recovered)), recovered).drifted


def test_a_rise_lasts_until_the_loss_is_as_before_or_another_model_answers():
    chance, control = np.random.default_rng(1), Control()
    good, bad = losses(chance, 2_500), losses(chance, 6_000, wrong=0.9)

    def is_risen(stream: np.ndarray, model_id: int = 3) -> bool:
        window = stream[-5_000:]
        return lasting_rise(control, np.arange(len(window)), window, model_id).drifted

    assert not is_risen(good)
    assert is_risen(np.concatenate([good, bad[:1_000]]))
    for rows in range(5_000, 6_001, 50):  # what was before is not in the window any more
        assert is_risen(bad[:rows])
    assert not is_risen(np.concatenate([bad, losses(chance, 4_000)]))
    assert is_risen(np.concatenate([good, bad[:1_000]]))
    assert is_risen(bad)
    assert not is_risen(bad, model_id=4)


def test_equal_losses_have_not_drifted():
    assert not drift_of_loss(np.arange(500), np.zeros(500)).drifted
    assert drift_of_loss(np.arange(10), np.zeros(10)) is None


def test_the_reference_of_a_card_is_small(first_model):
    assert (first_model / "models" / "model_0.json").stat().st_size < 40_000
