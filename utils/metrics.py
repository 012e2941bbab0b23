"""How good probabilities are, with numpy alone."""

import numpy as np


def log_losses(outcomes: np.ndarray, probabilities: np.ndarray | float) -> np.ndarray:
    """Return the log loss of each row; both arrays of shape (n,), outcomes 0 or 1.

    probabilities may be one number for all rows. The mean over rows is the usual log loss, or
    binary cross-entropy.
    """
    of_outcome = np.where(outcomes == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(of_outcome, 1e-15, 1))


def class_log_losses(outcomes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log loss of each row; outcomes (n,) are classes, probabilities (n, classes)."""
    of_outcome = np.take_along_axis(probabilities, outcomes.astype(np.intp)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(of_outcome, 1e-15, 1))


def area_under_curve(outcomes: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the area under the ROC curve; both arrays of shape (n,), outcomes 0 or 1.

    It is the probability that a row of outcome 1 has a higher probability than one of outcome 0, a
    tie counting half (Hanley and McNeil, Radiology 1982); 0.5 if all outcomes are the same.
    """
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1, of equal ones their mean
    ones = int(np.count_nonzero(outcomes))
    pairs = ones * (len(outcomes) - ones)
    above = float(ranks[outcomes == 1].sum()) - ones * (ones + 1) / 2
    return above / pairs if pairs else 0.5


def calibration_error(outcomes: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error; both arrays of shape (n,), outcomes 0 or 1.

    Rows are put into bins of equal width by their probability. The result is the mean over bins of
    |mean probability - mean outcome|, weighted by their rows (Naeini et al., AAAI 2015).
    """
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=probabilities - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(outcomes))
