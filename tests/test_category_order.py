"""The order of categories by their outcomes: train/category_order.py."""

import numpy as np
import pytest

from train.category_order import OrderByOutcome
from utils.feature_tools import FeatureTools

ROWS = 2_000
RNG = np.random.default_rng(3)
HELD_OUT = np.arange(ROWS) % 5 == 0
RATES = {"ant": 0.9, "bee": 0.1, "cat": 0.5, "dog": 0.3}


def make_rows(rates: dict[str, float], rng=RNG) -> tuple[list[dict], np.ndarray]:
    names = rng.choice(list(rates), ROWS)
    outcomes = (rng.random(ROWS) < [rates[name] for name in names]).astype(float)
    return [{"pet": str(name)} for name in names], outcomes


def fit(rows: list[dict], outcomes: np.ndarray, **settings) -> FeatureTools:
    tools = FeatureTools([], ["pet"], **settings)
    return tools.fit(rows, order=OrderByOutcome(outcomes, HELD_OUT))


def codes(tools: FeatureTools, *pets: str | None) -> list[float]:
    return tools.transform([{"pet": pet} for pet in pets])[:, 0].tolist()


def test_categories_are_in_the_order_of_their_outcomes_and_unknown_is_where_the_mean_is():
    tools = fit(*make_rows(RATES))
    assert tools.categories_ == {"pet": ["bee", "dog", "cat", "ant"]}
    assert codes(tools, "bee", "dog", "elk", "cat", "ant") == [0, 1, 2, 3, 4]  # the mean is 0.45
    assert codes(tools, None) == [2]


def test_rare_categories_are_near_the_mean():
    rows, outcomes = make_rows(RATES)
    rows[1], outcomes[1] = {"pet": "fox"}, 1.0
    assert fit(rows, outcomes).categories_["pet"] == ["bee", "dog", "fox", "cat", "ant"]


def test_those_beyond_max_categories_have_the_place_of_their_own_rows():
    rows, outcomes = make_rows(RATES | {f"rare-{n}": 0.95 for n in range(50)})
    keep = np.array([row["pet"].startswith("rare") for row in rows])
    outcomes[~keep] = np.minimum(outcomes[~keep], RNG.random((~keep).sum()) < 0.5)
    tools = fit(rows, outcomes, max_categories=4)
    assert codes(tools, "rare-7", "never seen")[0] == codes(tools, "never seen")[0] == 4


@pytest.mark.parametrize("categories", [2, 40, 1_000])
def test_an_order_that_does_not_hold_on_other_rows_is_not_used(categories):
    rows, outcomes = make_rows(
        {f"{n:04}": 0.3 for n in range(categories)}, np.random.default_rng(5)
    )
    tools = fit(rows, outcomes)
    assert tools.categories_["pet"] == sorted({row["pet"] for row in rows})
    assert codes(tools, "never seen") == [len(tools.categories_["pet"])]


def test_held_out_outcomes_do_not_change_the_order():
    rows, outcomes = make_rows(RATES)
    changed = outcomes.copy()
    changed[HELD_OUT & (np.arange(ROWS) % 30 == 0)] = 1.0
    assert fit(rows, changed).categories_ == fit(rows, outcomes).categories_


def test_one_outcome_only_leaves_the_sorted_order():
    rows, outcomes = make_rows(RATES)
    assert fit(rows, np.zeros(ROWS)).categories_["pet"] == sorted(RATES)
