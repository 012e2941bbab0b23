"""Finds drift: of the requests and the scores against the champion's card, and of the loss.

Requests and scores: the population stability index (Siddiqi, Credit Risk Scorecards, 2006) between
the newest n rows and m rows of the card's histogram, sum((p - q) * ln(p / q)) over the bins. If
nothing has changed it is distributed as (1/n + 1/m) times chi-square with bins - 1 degrees of
freedom (Yurdakul, 2018), whatever the sizes of the samples: fixed thresholds would cry wolf.

Loss: where ADWIN (Bifet and Gavalda, SDM 2007) would cut the sequence of losses. It is applied to
the newest observations as a whole, not to a stream: the same observations then give the same result
in whatever order their outcomes come, and there is no state to keep, so no library is needed.
"""

from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np

from monitoring.snapshot import Drift
from utils.datasets import dataset
from utils.model_store.card import Card, Histogram

LEAST_ROWS = 100
LEAST_EXPECTED = 5.0  # rows of a bin in each sample; the rule of thumb for chi-square
FALSE_ALARMS = 1e-5  # of one look at all columns, and of one at the loss; an hour has 720 looks
_CUT_EVERY = 16  # observations between two places where the losses may be cut


def independent_share(rows: Sequence[dict], card: Card) -> float:
    """Return which share of the data of requests counts as independent observations of a column.

    A visitor who comes twenty times says no more about all visitors than one who comes once. Where
    the training set has few different rows too, equal rows are different visitors.
    """
    distinct = len({msgspec.json.encode(row) for row in rows}) / max(len(rows), 1)
    return min(distinct / max(card.reference.distinct, 1e-9), 1.0)


def drift_of_columns(rows: Sequence[dict], card: Card) -> list[Drift]:
    """Return the drift of each column of the card's histograms in the data of requests."""
    share = independent_share(rows, card)
    columns = {name: each for name, each in card.reference.columns.items() if name in dataset.names}
    found = []
    for name, histogram in columns.items():
        values = [row.get(name, dataset.defaults.get(name)) for row in rows]
        counts = _counts(values, histogram)
        found.append(_drift(name, counts, histogram, len(columns) + 1, share))
    return [each for each in found if each]


def drift_of_scores(scores: np.ndarray, card: Card, share: float = 1.0) -> Drift | None:
    """Return the drift of the newest scores, of shape (n, outputs); None if it can't be told.

    share : see independent_share().
    """
    histogram = card.reference.score
    if histogram is None:
        return None
    values: list = scores[:, 0].tolist()
    if histogram.categories is not None:
        values = [str(dataset.target.labels[place]) for place in scores.argmax(axis=1)]
    columns = len(card.reference.columns) + 1
    return _drift("score", _counts(values, histogram), histogram, columns, share)


def _counts(values: list, histogram: Histogram) -> np.ndarray:
    """Return how many values are in each bin of a histogram; one of another type is a null."""
    null = max(len(histogram.counts) - 1, 0)
    if histogram.categories is None:
        numbers = np.array([v if isinstance(v, int | float) else np.nan for v in values], float)
        bins = np.searchsorted(histogram.edges, numbers, side="right")
        bins = np.where(np.isnan(numbers), null, bins)
    else:
        places = {name: place for place, name in enumerate(histogram.categories)} | {None: null}
        bins = np.array([places.get(value, null - 1) for value in values], int)
    return np.bincount(bins, minlength=null + 1)


def _drift(
    name: str, counts: np.ndarray, histogram: Histogram, columns: int, share: float
) -> Drift | None:
    known = np.array(histogram.counts, float)
    n, m = int(counts.sum()), int(known.sum())
    if share * n < LEAST_ROWS or m < LEAST_ROWS or len(known) != len(counts) or len(counts) < 2:
        return None
    counts, known = _merge_rare(counts.astype(float), known)
    p, q = (counts + 0.5) / (n + 0.5 * len(counts)), (known + 0.5) / (m + 0.5 * len(known))
    value = float(np.sum((p - q) * np.log(p / q)))
    threshold = _chi_square(FALSE_ALARMS / columns, len(counts) - 1) * (1 / (share * n) + 1 / m)
    return Drift(name, value, threshold, n, drifted=value > threshold)


def _merge_rare(counts: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both with one bin instead of those in which few rows are expected."""
    pooled = (counts + known) / (counts.sum() + known.sum())
    rare = pooled * min(counts.sum(), known.sum()) < LEAST_EXPECTED
    if rare.sum() < 2:
        return counts, known
    return tuple(np.append(each[~rare], each[rare].sum()) for each in (counts, known))


@cache
def _chi_square(share: float, freedom: int) -> float:
    """Return what a chi-square variable exceeds with this probability."""
    from scipy.special import chdtri  # scipy.stats would take 50 MB

    return float(chdtri(freedom, share)) if freedom else 0.0


def drift_of_loss(times: np.ndarray, losses: np.ndarray) -> Drift | None:
    """Return whether the loss has risen; times, in ms, and losses in the order of the requests.

    Its value is the mean of the newer part minus that of the older part, at the last place where
    they differ beyond chance, or where they differ most. `since`: the first request of the newer
    part. A rise that a fall has ended is over.
    """
    if len(losses) < LEAST_ROWS:
        return None
    begin, found = 0, None
    while cut := _best_cut(losses[begin:]):
        place, difference, threshold = cut
        significant = abs(difference) > threshold
        if found is None or significant:
            found = place + begin, difference, threshold
        if not significant:
            break
        begin += place
    if found is None:
        return None
    place, difference, threshold = found
    risen = difference > threshold
    since = float(times[place]) / 1000 if risen else None
    return Drift("loss", difference, threshold, len(losses), drifted=risen, since=since)


def _best_cut(losses: np.ndarray) -> tuple[int, float, float] | None:
    """Return where two parts differ most: place, newer minus older mean, what chance explains."""
    n = len(losses)
    places = np.arange(_CUT_EVERY, n - _CUT_EVERY + 1, _CUT_EVERY)
    if not len(places):
        return None
    # ADWIN is for values from 0 to 1. A few losses are much larger than the others.
    largest = max(float(np.quantile(losses, 0.99)), 1e-12)
    values = np.minimum(losses / largest, 1)
    sums = np.cumsum(values)
    older, newer = sums[places - 1] / places, (sums[-1] - sums[places - 1]) / (n - places)
    # Of section 3.2 of the paper; the variance is that of both parts together.
    reciprocal = 1 / places + 1 / (n - places)
    confidence = np.log(2 * np.log(n) / FALSE_ALARMS)
    limits = np.sqrt(2 * reciprocal * values.var() * confidence) + 2 / 3 * reciprocal * confidence
    best = int(np.argmax(np.abs(newer - older) / limits))
    difference = float(newer[best] - older[best])
    return int(places[best]), difference * largest, float(limits[best]) * largest
