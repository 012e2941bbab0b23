"""Which rows are for the judge, while a data set changes or has few possible rows."""

import numpy as np
import pandas as pd
import pytest

from train.held_out import BY_ROWS, BY_VALUES, Split, is_for_judge
from train.row_hash import has_few_values
from utils.datasets import dataset
from utils.datasets.base import Numeric
from utils.model_store.card import Card


def zones(rows: int, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    names = [f"zone-{number}" for number in range(20)]
    zone = pd.Categorical(rng.choice(names, rows), names)
    return pd.DataFrame({"zone": zone} | {name: of(rng, rows) for name, of in columns.items()})


@pytest.mark.parametrize(
    ("frame", "few"),
    [
        (zones(4_000), True),
        (zones(4_000, size=lambda rng, rows: rng.integers(0, 3, rows)), True),
        (zones(4_000, size=lambda rng, rows: rng.random(rows)), False),
        (zones(15), False),
        (pd.DataFrame({"size": np.arange(100.0)}), False),
        (pd.DataFrame({"size": np.arange(100) % 9}), True),
        (pd.DataFrame({"size": np.arange(100.0), "price": np.arange(100.0)}), False),
    ],
)
def test_there_are_few_values_where_rows_outnumber_the_possible_ones(frame, few):
    assert has_few_values(frame) == few


def test_where_values_are_few_each_of_them_is_trained_on():
    frame = zones(4_000)
    split = Split(BY_ROWS, ["zone"], {})
    held_out = is_for_judge(split.hashes(frame, np.arange(4_000)))
    assert held_out.mean() == pytest.approx(0.1, abs=0.02)
    assert set(frame["zone"][~held_out]) == set(frame["zone"][held_out]) == set(frame["zone"])
    # The place of a row never changes, so neither does its side.
    again = is_for_judge(split.hashes(frame[1_000:], np.arange(1_000, 4_000)))
    assert again.tolist() == held_out[1_000:].tolist()


def change(monkeypatch, *columns) -> None:
    monkeypatch.setattr(dataset, "columns", dataset.columns + columns)
    for name in ("names", "numeric", "categorical", "defaults"):  # they are cached
        monkeypatch.delitem(dataset.__dict__, name)


def card_of(split: Split) -> Card:
    card = Card(
        model_id=1, rows=1, hyper="", evaluations=1, experiment="", seed=1, parameters={},
        features=list(dataset.names),
    )  # fmt: skip
    split.note(card, 3)
    return card


def test_a_successor_is_judged_by_the_columns_that_decided_for_the_champion(monkeypatch):
    split = Split.of_today(BY_VALUES, list(dataset.names))
    champion = card_of(split)
    assert Split.after(champion) == Split.of(champion) == split
    change(monkeypatch, Numeric("height", default=170))
    assert Split.after(champion) == split


def test_another_default_is_another_split(monkeypatch):
    with monkeypatch.context() as patched:
        change(patched, Numeric("height", default=170))
        champion = card_of(Split.of_today(BY_VALUES, list(dataset.names)))
        assert Split.after(champion) == Split.of(champion)
    change(monkeypatch, Numeric("height", default=180))
    assert Split.after(champion) != Split.of(champion)


def test_a_column_that_is_gone_is_another_split(monkeypatch):
    champion = card_of(Split.of_today(BY_VALUES, list(dataset.names)))
    monkeypatch.setattr(dataset, "columns", dataset.columns[1:])
    change(monkeypatch)
    assert Split.after(champion).columns == list(dataset.names)
    assert Split.after(champion) != Split.of(champion)


def test_a_card_without_columns_is_split_by_all_of_its_model(monkeypatch):
    champion = card_of(Split(BY_VALUES, [], {}))
    assert Split.after(champion) == Split.of(champion)


def test_a_card_of_an_earlier_version_has_todays_defaults(monkeypatch):
    change(monkeypatch, Numeric("height", default=170))
    champion = card_of(Split.of_today(BY_VALUES, list(dataset.names)))
    champion.split_defaults = None
    assert Split.after(champion) == Split.of(champion)


def test_where_observations_turn_out_to_have_few_values_the_rule_changes():
    split = Split(BY_VALUES, ["zone"], {})
    assert split.for_rows(zones(15)) == split
    assert split.for_rows(zones(4_000)) == Split(BY_ROWS, ["zone"], {})
