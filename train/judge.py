"""Champion or challenger: does the new model deserve to replace the running one?

Both predict rows that neither was trained on. The difference of their log losses, row by row, is
resampled (the paired bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993): the
challenger is promoted unless it is worse beyond noise.
"""

import numpy as np

from train.fit import score
from train.rows import Rows
from utils.model_store import Model

RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)  # percentiles: worse beyond noise means that all between them is worse


def judge(champion: Model, challenger: Model, rows: Rows, observed: int, seed: int = 1) -> dict:
    """Return the decision, in words too, and the figures; a part of the challenger's card.

    rows : at least two, of both outcomes; observed : how many of them are not original ones.
    """
    probabilities = [model.predict(rows.frame) for model in (champion, challenger)]
    before, after = (log_losses(rows.outcomes, each) for each in probabilities)
    low, high = interval(after - before, seed)
    worse = low > 0
    figures = [score(rows.outcomes, each) for each in probabilities]
    return {
        "decision": "rejected" if worse else "promoted",
        "why": (
            f"logloss {figures[1]['logloss']:.4f} against the champion's "
            f"{figures[0]['logloss']:.4f} on {len(rows)} held-out rows: "
            f"{'worse beyond noise' if worse else 'not worse beyond noise'} "
            f"(difference {low:+.4f} to {high:+.4f})"
        ),
        "judge": {
            "rows": len(rows),
            "observed": observed,
            "champion": figures[0],
            "challenger": figures[1],
            "difference": [low, high],
        },
    }


def log_losses(outcomes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log loss of each row; both arrays of shape (n,), outcomes 0.0 or 1.0."""
    of_truth = np.where(outcomes == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(of_truth, 1e-15, 1))


def interval(differences: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the mean of these differences, shape (n,)."""
    chance, n = np.random.default_rng(seed), len(differences)
    means = [differences[chance.integers(0, n, n)].mean() for _ in range(RESAMPLES)]
    return tuple(float(value) for value in np.percentile(means, INTERVAL))
