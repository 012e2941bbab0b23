"""The three kinds of target, against scikit-learn's figures."""

import msgspec
import numpy as np
import pytest
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, r2_score

from train.category_order import first_component
from train.split import number_of_folds, split_rows
from utils.datasets.targets import Classes, Number, TwoClasses
from utils.messages import Prediction, encode

TWO = TwoClasses("paid", negative=0, positive=1)
SHOP = Classes("reaction", ["ignored", "liked", "bought"], aliases={"seen": "ignored"})
NUMBER = Number("price")
RNG = np.random.default_rng(1)
SHARES = RNG.dirichlet([1, 2, 3], 200)
PLACES = RNG.integers(0, 3, 200).astype(float)


def test_the_reply_for_two_classes_has_the_tutorials_fields_byte_for_byte():
    [fields] = TWO.answers(np.array([0.75]), 3)
    reply = Prediction("a", *fields)
    expected = b'{"request_id":"a","prediction":1.0,"probability":0.75,"model_id":3}'
    assert encode(reply) == expected


def test_the_reply_for_several_classes_names_each_class():
    [fields] = SHOP.answers(np.array([[0.25, 0.25, 0.5]]), 3)
    assert fields == ("bought", None, 3, {"ignored": 0.25, "liked": 0.25, "bought": 0.5})
    [fields] = Classes("x", [0, 1, 7]).answers(np.array([[0.25, 0.25, 0.5]]), 3)
    assert fields == (7, None, 3, {"0": 0.25, "1": 0.25, "7": 0.5})


def test_the_reply_for_a_number_is_the_number():
    assert list(NUMBER.answers(np.array([1.5, -2.0]), 3)) == [(1.5, None, 3), (-2.0, None, 3)]


@pytest.mark.parametrize("target", [TWO, SHOP, Classes("x", [3, 1, "2"])])
def test_each_label_has_an_outcome(target):
    outcomes = [target.outcome_of(label) for label in target.labels]
    assert outcomes == list(range(len(target.labels)))
    for label in target.labels:
        assert msgspec.convert(label, target.label_type) == label
        assert target.outcome_of(target.changed(label)) != target.outcome_of(label)


@pytest.mark.parametrize("wrong", ["", "Bought", None, 0, True, 2.0, [], {}, b"liked", "x" * 999])
def test_another_label_is_refused_and_named(wrong):
    with pytest.raises(ValueError, match="^reaction: expected one of ignored, liked, bought, got "):
        SHOP.outcome_of(wrong)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, SHOP.label_type)


def test_an_alias_stands_for_its_class():
    assert SHOP.outcome_of("seen") == SHOP.outcome_of("ignored")
    assert msgspec.convert("seen", SHOP.label_type) == "seen"


@pytest.mark.parametrize("wrong", ["1", None, True, float("nan"), float("inf"), 2e15, [1]])
def test_what_is_no_finite_number_is_refused(wrong):
    with pytest.raises(ValueError, match="^price: expected a number, got "):
        NUMBER.outcome_of(wrong)


@pytest.mark.parametrize(
    ("labels", "aliases", "problem"),
    [
        ([], {}, "needs 2 to 200 classes, it has 0"),
        (["a"], {}, "needs 2 to 200 classes, it has 1"),
        (range(201), {}, "needs 2 to 200 classes, it has 201"),
        (["a", 2**53], {}, "a class is a string or an integer, not 9007199254740992"),
        (["a", "a"], {}, "the class 'a' is there twice"),
        (["1", 1], {}, "the class '1' is there twice"),
        (["a", "b"], {"b": "a"}, "the class 'b' is there twice"),
        (["a", "b"], {"c": "d"}, "an alias stands for 'd', which is no class"),
        (["a", 1.0], {}, "a class is a string or an integer, not 1.0"),
        (["a", True], {}, "a class is a string or an integer, not True"),
    ],
)
def test_classes_that_contradict_each_other_are_refused(labels, aliases, problem):
    with pytest.raises(ValueError, match=f"^x: {problem}$"):
        Classes("x", labels, aliases)


def test_labels_of_numpy_and_spellings_of_an_integer_are_accepted():
    target = Classes("x", np.array([0, 1]), aliases={"0": 0, "1": 1})
    assert target.labels == (0, 1)
    assert [target.outcome_of(label) for label in (0, "0", 1, "1")] == [0, 0, 1, 1]


def test_losses_and_figures_are_those_of_scikit_learn():
    losses = SHOP.losses(PLACES, SHARES)
    assert losses.mean() == pytest.approx(log_loss(PLACES, SHARES))
    assert SHOP.figures(PLACES, SHARES)["logloss"] == pytest.approx(losses.mean())
    ones = (PLACES == 1).astype(float)
    assert TWO.losses(ones, SHARES[:, 1]).mean() == pytest.approx(log_loss(ones, SHARES[:, 1]))
    numbers, guesses = 100 * SHARES[:, 0], 90 * SHARES[:, 0] + 3
    figures = NUMBER.figures(numbers, guesses)
    assert figures["squared_error"] == pytest.approx(mean_squared_error(numbers, guesses))
    assert figures["absolute_error"] == pytest.approx(mean_absolute_error(numbers, guesses))
    assert figures["r2"] == pytest.approx(r2_score(numbers, guesses))


@pytest.mark.parametrize(
    ("target", "outcomes"), [(TWO, PLACES % 2), (SHOP, PLACES), (NUMBER, SHARES[:, 0])]
)
def test_no_constant_has_a_lower_loss_than_the_mean_outcome(target, outcomes):
    best = target.constant(outcomes)
    assert target.are_scores(best)
    other = np.full_like(best, 1 / 3) if target is SHOP else best * 0.9
    assert target.losses(outcomes, best).mean() < target.losses(outcomes, other).mean()


def test_scores_of_another_kind_are_noticed():
    assert SHOP.are_scores(SHARES)
    assert not SHOP.are_scores(SHARES[:, :2])
    assert not SHOP.are_scores(SHARES * 2)
    assert not TWO.are_scores(SHARES)
    assert not NUMBER.are_scores(np.array([np.nan]))


def test_the_first_component_of_two_shares_is_the_order_of_one():
    share = RNG.random(20)
    component = first_component(np.column_stack([share, 1 - share]), np.ones(20))
    order = np.argsort(component).tolist()
    assert order in (np.argsort(share).tolist(), np.argsort(-share).tolist())


# Folds of several classes


def test_each_class_with_two_rows_is_on_both_sides():
    strata = np.array([0] * 90 + [1] * 8 + [2] * 2, np.int16)
    fitted, measured = split_rows(np.arange(100, dtype=np.uint64), strata, 5, 1)
    for rows in (fitted, measured):
        assert set(strata[rows]) == {0, 1, 2}


def test_the_only_row_of_a_class_is_fitted_on():
    strata = np.array([0] * 50 + [1] * 49 + [2], np.int16)
    fitted, measured = split_rows(np.arange(100, dtype=np.uint64), strata, 5, 1)
    assert 2 in strata[fitted]
    assert set(strata[measured]) == {0, 1}


def test_folds_need_two_classes_with_two_rows():
    assert number_of_folds(np.array([0] * 9 + [1] * 9 + [2], np.int16), 4) == 5
    assert number_of_folds(np.zeros(9, np.int16), 1) == 5
    with pytest.raises(ValueError, match="9 of class 0, 1 of class 1, 1 of class 2$"):
        number_of_folds(np.array([0] * 9 + [1, 2], np.int16), 3)
