"""How good the answers of each model are: exact totals, and figures of its newest observations."""

import msgspec
import numpy as np

from monitoring.figures.decoding import NO_MODEL
from monitoring.figures.exact import mean, to_integers
from monitoring.figures.join import OUTPUTS, Answer, Observation
from monitoring.figures.newest import Newest
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

    def add_answers(self, replies: list[int]) -> None:
        """Add predictions; replies : their times in ms."""
        self.totals.answers += len(replies)
        self.totals.first_answer = min(self.totals.first_answer, *replies)
        self.totals.last_answer = max(self.totals.last_answer, *replies)

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


class AllModels:
    """The newest models, by id, and the few that have ids from nowhere."""

    def __init__(self) -> None:
        self.by_id: dict[int, ModelFigures] = {}
        self.changed: set[int] = set()
        self.gone: set[int] = set()
        self.below = NO_MODEL  # models with lower ids are not followed any more
        self.newest_known = -1  # the largest id that the trainer has given out

    def add(self, answers: list[Answer], seen: list[Observation], losses: np.ndarray) -> None:
        """Add predictions and observations; losses : see losses_of()."""
        replies: dict[int, list[int]] = {}
        for answer in answers:
            if answer.is_prediction:
                replies.setdefault(answer.model_id, []).append(answer.time + answer.latency)
        for model_id, times in replies.items():
            if model := self._of(model_id):
                model.add_answers(times)
        self._add_observations(seen, losses)
        self._forget()

    def _of(self, model_id: int) -> ModelFigures | None:
        if model_id < self.below:
            return None
        self.changed.add(model_id)
        self.gone.discard(model_id)
        return self.by_id.setdefault(model_id, ModelFigures())

    def _add_observations(self, seen: list[Observation], losses: np.ndarray) -> None:
        places: dict[int, list[int]] = {}
        for place, observation in enumerate(seen):
            places.setdefault(observation.model_id, []).append(place)
        for model_id, chosen in places.items():
            if model := self._of(model_id):
                model.loss += sum(to_integers(losses[0, chosen])) - sum(
                    to_integers(losses[1, chosen])
                )
                model.totals.outcomes += sum(seen[i].before != seen[i].before for i in chosen)
                rows = [
                    (o.time, o.partition, o.offset, o.outcome, o.scores)
                    for o in map(seen.__getitem__, chosen)
                ]
                model.window.add(np.array(rows, model.window.dtype))

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


def losses_of(seen: list[Observation]) -> np.ndarray:
    """Return the losses with the outcomes, and with those before (0 if there was none): (2, n)."""
    losses = np.zeros((2, len(seen)))
    if seen:
        scores = dataset.target.as_scores(np.array([each.scores for each in seen]))
        losses[0] = dataset.target.losses(np.array([each.outcome for each in seen]), scores)
        before = np.array([each.before for each in seen])
        known = ~np.isnan(before)
        if known.any():
            losses[1, known] = dataset.target.losses(before[known], scores[known])
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
