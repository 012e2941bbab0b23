"""A number as target, no categorical column; outcomes come a second later."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.datasets.base import Dataset, Numeric
from utils.datasets.targets import Number


class Rents(Dataset):
    """Made rows: the rent is 10 per square meter, more or less."""

    columns = (Numeric("area"), Numeric("floor"))
    target = Number("rent")
    outcome_delay = 1.0

    def read_training(self, folder: Path) -> pd.DataFrame:
        """Return 400 rows."""
        return _made(400, seed=1)

    def read_test(self, folder: Path) -> pd.DataFrame:
        """Return 100 other rows."""
        return _made(100, seed=2)


def _made(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    area = rng.integers(20, 200, rows)
    rent = (10 * area + rng.normal(0, 50, rows)).round(2)
    return pd.DataFrame({"area": area, "floor": rng.integers(0, 9, rows), "rent": rent})


dataset = Rents()
