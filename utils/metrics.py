"""How good probabilities are; numpy alone."""

import numpy as np


def log_losses(outcomes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log loss of each row; both arrays of shape (n,), outcomes 0 or 1.

    The mean over rows is the usual log loss, or binary cross-entropy.
    """
    of_outcome = np.where(outcomes == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(of_outcome, 1e-15, 1))


def calibration_error(outcomes: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error; both arrays of shape (n,), outcomes 0 or 1.

    Rows are put into bins of equal width by their probability. The result is the mean over bins of
    |mean probability - mean outcome|, weighted by their rows (Naeini et al., AAAI 2015).
    """
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=probabilities - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(outcomes))
