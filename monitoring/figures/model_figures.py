"""How good the answers of each model are: exact totals, and figures of its newest observations."""

from collections.abc import Iterator

import msgspec
import numpy as np

from monitoring.figures.decoding import NO_MODEL
from monitoring.figures.exact import mean, total_of
from monitoring.figures.joined import Answers, Observations
from monitoring.figures.newest import Newest
from monitoring.figures.rows import OUTPUTS
from monitoring.snapshot import CalibrationBin, Figures
from utils.datasets import dataset

WINDOW = 5_000 if OUTPUTS <= 10 else 1_000  # observations
MOST_MODELS = 30
MOST_UNKNOWN = 10  # with ids that the trainer has not given out: forged, or announced later
LEAST_ROWS, STANDARD_ERRORS = 200, 3  # to say that a model is useless
_BINS = 10
_DTYPE = [("outcome", np.float64), ("scores", np.float64, (OUTPUTS,))]


class Totals(msgspec.Struct):
    """The counts of one model; times in ms."""

    answers: int = 0
    outcomes: int = 0
    loss: str = "0"  # the sum, in the units of monitoring/figures/exact.py
    first_answer: int = 2**62
    last_answer: int = 0


Found = tuple[Figures, float | None, bool, list[CalibrationBin]]


class ModelFigures:
    """One model's answers so far; totals and rows : those of an earlier state."""

    def __init__(self, totals: Totals | None = None, rows: bytes = b"") -> None:
        self.totals = totals or Totals()
        self.window = Newest(WINDOW, _DTYPE, rows)
        self.loss = int(self.totals.loss)
        self._figures: tuple[int, *Found] = -1, {}, None, False, []

    def state(self) -> bytes:
        """Return all of it; see from_state()."""
        self.totals.loss = str(self.loss)
        return msgspec.msgpack.encode((self.totals, self.window.tobytes()))

    @classmethod
    def from_state(cls, content: bytes) -> "ModelFigures":
        """Return what state() was called on; ValueError."""
        return cls(*msgspec.msgpack.decode(content, type=tuple[Totals, bytes]))

    def add_answers(self, replies: np.ndarray) -> None:
        """Add predictions; replies : their times in ms."""
        self.totals.answers += len(replies)
        self.totals.first_answer = min(self.totals.first_answer, int(replies.min()))
        self.totals.last_answer = max(self.totals.last_answer, int(replies.max()))

    def add_observations(self, seen: Observations, losses: np.ndarray) -> None:
        """Add observations; losses : see losses_of()."""
        self.loss += total_of(losses[0]) - total_of(losses[1])
        self.totals.outcomes += int(np.isnan(seen.before).sum())
        self.window.add(seen.rows, outcome=seen.outcomes)

    @property
    def mean_loss(self) -> float | None:
        """The mean loss over all observations; None if there are none."""
        return mean(self.loss, self.totals.outcomes) if self.totals.outcomes else None

    def figures(self) -> Found:
        """Return figures, loss_of_mean, is_useless and calibration of the window."""
        if self._figures[0] != self.window.version:
            rows = self.window.rows()
            found = {}, None, False, []
            if len(rows):
                outcomes, scores = rows["outcome"], dataset.target.as_scores(rows["scores"])
                figures = dataset.target.figures(outcomes, scores)
                of_mean = beside_mean(outcomes, scores)
                found = figures, *of_mean, calibration(outcomes, scores)
            self._figures = (self.window.version, *found)
        return self._figures[1:]


def places_of(values: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """Yield each different one of some integers, and where it is; mostly, all are the same."""
    if not len(values):
        return
    if values[0] == values[-1] and (values == values[0]).all():
        yield int(values[0]), slice(None)
        return
    different, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse)).tolist()
    for value, begin, end in zip(different.tolist(), [0, *ends], ends, strict=False):
        yield value, order[begin:end]


class AllModels:
    """The newest models, by id, and the few that have ids from nowhere."""

    def __init__(self) -> None:
        self.by_id: dict[int, ModelFigures] = {}
        self.changed: set[int] = set()
        self.gone: set[int] = set()
        self.below = NO_MODEL  # models with lower ids are not followed any more
        self.newest_known = -1  # the largest id that the trainer has given out

    def add(self, answers: Answers, seen: Observations, losses: np.ndarray) -> None:
        """Add predictions and observations; losses : see losses_of()."""
        chosen = answers.are_predictions
        replies = (answers.rows["time"] + answers.latencies)[chosen]
        for model_id, own in places_of(answers.rows["model_id"][chosen]):
            if model := self._of(model_id):
                model.add_answers(replies[own])
        for model_id, own in places_of(seen.rows["model_id"]):
            if model := self._of(model_id):
                columns = Observations(*(column[own] for column in seen))
                model.add_observations(columns, losses[:, own])
        self._forget()

    def _of(self, model_id: int) -> ModelFigures | None:
        if model_id < self.below:
            return None
        self.changed.add(model_id)
        self.gone.discard(model_id)
        return self.by_id.setdefault(model_id, ModelFigures())

    def _forget(self) -> None:
        known = sorted(each for each in self.by_id if each <= self.newest_known)
        for model_id in known[: max(len(known) - MOST_MODELS, 0)]:
            self._drop(model_id)
            self.below = max(self.below, model_id + 1)
        unknown = sorted(each for each in self.by_id if each > self.newest_known)
        for model_id in unknown[MOST_UNKNOWN:]:
            self._drop(model_id)

    def _drop(self, model_id: int) -> None:
        del self.by_id[model_id]
        self.changed.discard(model_id)
        self.gone.add(model_id)


def beside_mean(outcomes: np.ndarray, scores: np.ndarray) -> tuple[float, bool]:
    """Return the loss of always predicting the mean outcome, and whether scores are worse.

    Worse: by three standard errors of the mean difference, and of at least LEAST_ROWS rows.
    """
    of_mean = dataset.target.losses(outcomes, dataset.target.constant(outcomes))
    more = dataset.target.losses(outcomes, scores) - of_mean
    chance = STANDARD_ERRORS * more.std() / np.sqrt(len(more))
    return float(of_mean.mean()), bool(len(more) >= LEAST_ROWS and more.mean() > chance)


def losses_of(seen: Observations) -> np.ndarray:
    """Return the losses with the outcomes, and with those before (0 if there was none): (2, n)."""
    losses = np.zeros((2, len(seen.rows)))
    if len(seen.rows):
        scores = seen.scores
        losses[0] = dataset.target.losses(seen.outcomes, scores)
        known = ~np.isnan(seen.before)
        if known.any():
            losses[1, known] = dataset.target.losses(seen.before[known], scores[known])
    return losses


def right(outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return which classes are predicted rightly, shape (n,)."""
    return decided(scores) == outcomes


def decided(scores: np.ndarray) -> np.ndarray:
    """Return the places of the predicted classes, shape (n,)."""
    return scores > 0.5 if scores.ndim == 1 else scores.argmax(axis=1)


def calibration(outcomes: np.ndarray, scores: np.ndarray) -> list[CalibrationBin]:
    """Return what was predicted and what happened.

    Two classes: ten bins of equal width, of the probability. Several: the same, of the predicted
    class and whether it is the right one. A number: ten bins of equally many rows.
    """
    if dataset.target.kind == "number":
        bins = np.argsort(np.argsort(scores, kind="stable"), kind="stable") * _BINS // len(scores)
        predicted, happened = scores, outcomes
    else:
        several = scores.ndim == 2
        predicted = scores.max(axis=1) if several else scores
        happened = right(outcomes, scores) if several else outcomes
        bins = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    return [
        CalibrationBin(float(predicted[own].mean()), float(happened[own].mean()), int(own.sum()))
        for own in (bins == each for each in range(_BINS))
        if own.any()
    ]
