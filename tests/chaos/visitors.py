"""Visitors whose true probabilities are known, for tests/chaos/day.py.

The rows of Adult are few: sent again and again, they would be learned by heart. These rows are
drawn around them, and a reference model, which no part of the pipeline sees, gives each row the
probability from which its outcome is drawn. So the least possible loss is known too.
"""

from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import pandas as pd

from utils.datasets import dataset

POOL = 200_000  # rows; each request has a weight (fnlwgt) of its own besides
SWAPPED = 0.05  # of the values of each categorical column are those of another row
MOVED = {"age": (4, 17, 90), "hours_per_week": (4, 1, 99)}  # column: at most by, minimum, maximum
UNUSED = "fnlwgt"  # by the reference model: independent of the outcome


class Visitors:
    """Draws requests and their outcomes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        original, outcomes = dataset.training(folder)
        rows = original.iloc[self._random.integers(len(original), size=POOL)]
        rows = self._vary(rows.reset_index(drop=True))
        self._weights = original[UNUSED].to_numpy(int)
        self._probabilities = _true_probabilities(original, outcomes, rows)
        # As bytes, from the second field on: a request is made 3,000 times a second.
        encoded = map(msgspec.json.encode, rows.drop(columns=UNUSED).to_dict("records"))
        self._rows = [content[1:] for content in encoded]

    def _vary(self, rows: pd.DataFrame) -> pd.DataFrame:
        for column, (most, least, largest) in MOVED.items():
            moved = rows[column] + self._random.integers(-most, most + 1, size=len(rows))
            rows[column] = moved.clip(least, largest)
        for column in dataset.categorical:
            others = rows[column].to_numpy()[self._random.permutation(len(rows))]
            swapped = self._random.random(len(rows)) < SWAPPED
            rows[column] = np.where(swapped, others, rows[column].to_numpy())
        return rows

    def draw(self, first: int, number: int) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Return requests with the ids "first", "first + 1", ..., outcomes, true probabilities."""
        chosen = self._random.integers(POOL, size=number)
        weights = self._random.choice(self._weights, number) + self._random.integers(
            5_000, size=number
        )
        probabilities = self._probabilities[chosen]
        requests = [
            b'{"request_id":"%d","data":{"%s":%d,%s}'
            % (first + n, UNUSED.encode(), weight, self._rows[row])
            for n, (row, weight) in enumerate(zip(chosen.tolist(), weights.tolist(), strict=True))
        ]
        return requests, self._random.random(number) < probabilities, probabilities

    def delays(self, number: int, median: float) -> np.ndarray:
        """Return after how many seconds outcomes are reported: log-normal, a few very late."""
        return median * self._random.lognormal(0, 1, size=number)

    def are_reported(self, number: int, share: float) -> np.ndarray:
        """Return for each outcome whether it is ever reported."""
        return self._random.random(number) < share


def _true_probabilities(
    original: pd.DataFrame, outcomes: np.ndarray, rows: pd.DataFrame
) -> np.ndarray:
    def features(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.drop(columns=UNUSED)
        for column in dataset.categorical:
            frame[column] = pd.Categorical(frame[column], sorted(set(original[column])))
        return frame

    reference = lightgbm.LGBMClassifier(n_estimators=150, learning_rate=0.07, verbose=-1)
    reference.fit(features(original), outcomes)
    return reference.predict_proba(features(rows))[:, 1]
