"""One categorical column and no numeric one; two classes, and a simulation of its own."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from utils.datasets.base import Categorical, Dataset
from utils.datasets.targets import Label, TwoClasses


class Colors(Dataset):
    """Made rows: red is hot in nine of ten cases, blue in one of ten."""

    columns = (Categorical("color"),)
    target = TwoClasses("heat", negative="cold", positive="hot")

    def read_training(self, folder: Path) -> pd.DataFrame:
        """Return 400 rows."""
        return _made(400, seed=1)

    def read_test(self, folder: Path) -> pd.DataFrame:
        """Return 100 other rows."""
        return _made(100, seed=2)

    def visitors(self, folder: Path, drift_at: int | None = None) -> Iterator[dict]:
        """Yield made rows, each with the probability that only the simulation knows."""
        for seed in count(3):
            [row] = _made(1, seed).to_dict("records")
            yield row | {"probability": 0.9 if row["color"] == "red" else 0.1}

    def action(self, prediction: Label, probability: float | None) -> str:
        """Return whether somebody is warned."""
        return "warn" if prediction == "hot" else "wait"


def _made(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    is_red = rng.random(rows) < 0.5
    is_hot = rng.random(rows) < np.where(is_red, 0.9, 0.1)
    return pd.DataFrame(
        {"color": np.where(is_red, "red", "blue"), "heat": np.where(is_hot, "hot", "cold")}
    )


dataset = Colors()
