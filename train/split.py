"""Which rows a model is fitted on while it is tuned, and which ones measure it."""

import numpy as np

from train.row_hash import shuffle

# A point is measured by holdout, on one of five stratified folds. This was chosen on the
# default data set's training rows alone, with 120 random points evaluated on three quarters of them
# and measured on the last quarter.
# Of 10 points, the best by holdout has a logloss of 0.2795 on average; the best by 3-fold
# cross-validation has 0.2794 in three times the time, and 0.2817 in the same time. (Of 25 points:
# 0.2781, 0.2781 and 0.2800.)
FOLDS = 5  # fewer if a class has fewer rows


def split_rows(
    hashes: np.ndarray, strata: np.ndarray, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit on and the rows to measure on, one of `folds` stratified folds.

    Equal rows stay together: a copy of a row that the model was fitted on measures nothing, and
    early stopping would never stop. So groups of equal rows are divided, stratified by the class of
    their first row. A group with more rows than a fold is fitted on, if there is another one. So
    are classes with a single group. Where fewer than two classes (one, if there is no other) have
    two groups, single rows are divided instead: there is hardly anything to learn then, but each
    part still has two classes.

    hashes : of the rows, see train/row_hash.py; strata : their classes, see Target.strata(), as
    number_of_folds() demands them; both have the shape (n,). The same arguments give the same rows.
    """
    order = np.argsort(shuffle(hashes, seed), kind="stable")  # groups in random order
    in_order = hashes[order]
    first = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1]))
    of_group, sizes = strata[order[first]], np.diff(first, append=len(order)).astype(np.int32)
    del in_order, first  # of ten million rows each takes 80 MB
    divisible = strata_with_two(of_group)
    if len(divisible) < min(len(np.unique(strata)), 2):
        return split_rows(np.arange(len(strata), dtype=np.uint64), strata, folds, seed)
    measured = np.zeros(len(sizes), dtype=bool)
    for stratum in divisible:
        measured[of_group == stratum] = _fill_fold(sizes[of_group == stratum], folds)
    is_measured = np.repeat(measured, sizes)
    return order[~is_measured], order[is_measured]


def _fill_fold(sizes: np.ndarray, folds: int) -> np.ndarray:
    """Return which of two or more groups with these sizes make up a fold: at least one, not all."""
    size = max(sizes.sum() / folds, sizes.min())
    small = sizes <= size
    total = np.cumsum(sizes * small)
    return small & (2 * total - sizes <= 2 * size)  # the last one is in if half of it is


def strata_with_two(strata: np.ndarray) -> np.ndarray:
    """Return which strata have two elements or more."""
    names, counts = np.unique(strata, return_counts=True)
    return names[counts >= 2]


def number_of_folds(strata: np.ndarray, classes: int) -> int:
    """Return how many stratified folds the rows allow, at most FOLDS.

    classes : how many there are, whether a row has them or not; 1 for a number. ValueError if fewer
    than two classes (the only one, of a number) have two rows.
    """
    sizes = np.bincount(strata, minlength=classes)
    second_largest = int(np.sort(sizes)[-min(classes, 2)])
    if second_largest < 2:
        found = ", ".join(f"{size:,} of class {place}" for place, size in enumerate(sizes.tolist()))
        what = f" of each of two classes, got {found[:200]}" if classes > 1 else ""
        raise ValueError(f"a model needs at least two rows{what}")
    return min(FOLDS, second_largest)
