"""Three classes that are integers, with an optional column."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.datasets.base import Categorical, Dataset, Numeric
from utils.datasets.targets import Classes


class Levels(Dataset):
    """Made rows: the level is in most cases the size's thousands."""

    columns = (Numeric("size"), Numeric("weight", default=1), Categorical("color"))
    target = Classes("level", (0, 1, 2))

    def read_training(self, folder: Path) -> pd.DataFrame:
        """Return 400 rows."""
        return _made(400, seed=1)

    def read_test(self, folder: Path) -> pd.DataFrame:
        """Return 100 other rows, without the optional column."""
        return _made(100, seed=2).drop(columns="weight")


def _made(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    size, noise = rng.uniform(0, 3000, rows), rng.normal(0, 100, rows)
    return pd.DataFrame(
        {
            "size": size.round(),
            "weight": rng.integers(1, 9, rows),
            "color": rng.choice(["red", "green", "blue"], rows),
            "level": ((size + noise) // 1000).clip(0, 2).astype(int),
        }
    )


dataset = Levels()
