"""Which rows are held out for the judge: no model is trained on them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from train.row_hash import has_few_values, hash_frame, shuffle
from utils.datasets import dataset
from utils.model_store.card import Card

if TYPE_CHECKING:
    import pandas as pd

JUDGE_ONE_IN = 10
BY_VALUES, BY_ROWS = "values", "rows"
OBSERVED = 2**40  # the place of the first observation, behind all original rows


@dataclass(frozen=True)
class Split:
    """How it is decided which rows are for the judge.

    rule : BY_VALUES: the values of a row decide, not its outcome. So equal rows are on the same
        side, in every training: what judges a model, or what its early stopping watches, is never
        what it was trained on. BY_ROWS: the place of a row decides. This is for data with few
        possible rows: a value that is for the judge would never be learned.
    columns : whose values count.
    defaults : of those of them that a row may lack.
    """

    rule: str
    columns: list[str]
    defaults: dict[str, Any]

    @classmethod
    def of_today(cls, rule: str, columns: list[str]) -> Self:
        """Return a split by those of these columns that the data set has, as they are today."""
        columns = [name for name in columns if name in dataset.names] or list(dataset.names)
        return cls(rule, columns, _defaults_of(columns))

    @classmethod
    def of_first_model(cls, original: "pd.DataFrame") -> Self:
        """Return the split for a model of the original rows, which is to have successors."""
        return cls.of_today(BY_VALUES, list(dataset.names)).for_rows(original)

    @classmethod
    def of(cls, card: Card) -> Self:
        """Return the split that was made for a model."""
        columns, defaults = card.split_columns or card.features, card.split_defaults
        if defaults is None:  # the card of an earlier version: nobody has changed them since
            defaults = _defaults_of(columns)
        return cls(card.split, columns, defaults)

    @classmethod
    def after(cls, champion: Card) -> Self:
        """Return the split for a successor: the champion's, as far as the data set still has it.

        So what judges the champion is not what it was trained on, although the data set has got
        more columns since.
        """
        before = cls.of(champion)
        return cls.of_today(before.rule or BY_VALUES, before.columns)

    def for_rows(self, frame: "pd.DataFrame") -> Self:
        """Return this split, or one by rows where these rows have few different values."""
        return replace(self, rule=BY_ROWS) if has_few_values(frame) else self

    def note(self, card: Card, held_out: int) -> None:
        """Write the split into the card of a model made with it; held_out : rows for the judge."""
        card.judge_rows_held_out = held_out
        card.split, card.split_columns, card.split_defaults = self.rule, self.columns, self.defaults

    def hashes(self, frame: "pd.DataFrame", places: np.ndarray) -> np.ndarray:
        """Return a hash of each row; places, of shape (n,), never change and are different."""
        if self.rule == BY_ROWS:
            return shuffle(places.astype(np.uint64), seed=0)
        return hash_frame(frame[self.columns])


def _defaults_of(columns: list[str]) -> dict[str, Any]:
    return {name: value for name, value in dataset.defaults.items() if name in columns}


def is_for_judge(hashes: np.ndarray) -> np.ndarray:
    """Return which rows are for the judge, by the hashes of a Split; shape (n,)."""
    return hashes % np.uint64(JUDGE_ONE_IN) == 0
