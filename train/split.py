"""Which rows a model is fitted on while it is tuned, and which ones measure it."""

import numpy as np

from train.row_hash import shuffle

# A point is measured by holdout, on one of five stratified folds. This was chosen on adult.data
# alone, with 120 random points evaluated on three quarters of it and measured on the last quarter.
# Of 10 points, the best by holdout has a logloss of 0.2795 on average; the best by 3-fold
# cross-validation has 0.2794 in three times the time, and 0.2817 in the same time. (Of 25 points:
# 0.2781, 0.2781 and 0.2800.)
FOLDS = 5  # fewer if a class has fewer rows


def split_rows(
    hashes: np.ndarray, y: np.ndarray, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit on and the rows to measure on, one of `folds` stratified folds.

    Equal rows stay together: a copy of a row that the model was fitted on measures nothing, and
    early stopping would never stop. So groups of equal rows are divided, stratified by the outcome
    of their first row. A group with more rows than a fold is fitted on, if there is another one.
    Where fewer than two groups have an outcome, single rows are divided instead: there is hardly
    anything to learn then, but each part still has both outcomes.

    hashes : of the rows, see train/row_hash.py; y : int8, at least two rows of each outcome; both
    have the shape (n,). The same arguments give the same rows.
    """
    order = np.argsort(shuffle(hashes, seed), kind="stable")  # groups in random order
    in_order = hashes[order]
    first = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    outcomes, sizes = y[order[first]], np.diff(first, append=len(order)).astype(np.int32)
    del in_order, first  # of ten million rows each takes 80 MB
    if min(np.count_nonzero(outcomes == 0), np.count_nonzero(outcomes)) < 2:
        return split_rows(np.arange(len(y), dtype=np.uint64), y, folds, seed)
    measured = np.empty(len(sizes), dtype=bool)
    for outcome in (0, 1):
        measured[outcomes == outcome] = _fill_fold(sizes[outcomes == outcome], folds)
    is_measured = np.repeat(measured, sizes)
    return order[~is_measured], order[is_measured]


def _fill_fold(sizes: np.ndarray, folds: int) -> np.ndarray:
    """Return which of two or more groups with these sizes make up a fold: at least one, not all."""
    size = max(sizes.sum() / folds, sizes.min())
    small = sizes <= size
    total = np.cumsum(sizes * small)
    return small & (2 * total - sizes <= 2 * size)  # the last one is in if half of it is


def number_of_folds(y: np.ndarray) -> int:
    """Return how many stratified folds y allows, at most FOLDS; ValueError if fewer than two."""
    y = np.asarray(y)
    zeros, ones = int(np.count_nonzero(y == 0)), int(np.count_nonzero(y == 1))
    if zeros + ones != len(y):
        raise ValueError("y must hold nothing but 0 and 1")
    if min(zeros, ones) < 2:
        raise ValueError(f"y needs two rows of each class, got {zeros} of 0 and {ones} of 1")
    return min(FOLDS, zeros, ones)
