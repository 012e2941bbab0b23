"""What the join of requests, replies and outcomes leads to, as columns."""

import struct
from typing import NamedTuple

import numpy as np

from monitoring.figures.rows import ANSWER, ANSWERED
from utils.datasets import dataset

# Of a reply: its latency, whether it is a prediction, and whether it is to a valid request.
REPLY = np.dtype([("latency", "<i8"), ("is_prediction", "?"), ("was_valid", "?")])
# Of an observation: the outcome, the one before, and when it was reported.
JUDGED = np.dtype([("outcome", "<f8"), ("before", "<f8"), ("time", "<i8")])
_REPLY, _JUDGED = struct.Struct("<q??"), struct.Struct("<ddq")


class Answers(NamedTuple):
    """Replies to requests, as columns of shape (n,)."""

    rows: np.ndarray  # ANSWER; an error reply has no model and no scores
    latencies: np.ndarray  # ms
    are_predictions: np.ndarray
    were_valid: np.ndarray  # the requests


class Observations(NamedTuple):
    """Answers with their outcomes, or with new ones, as columns of shape (n,)."""

    rows: np.ndarray  # ANSWER
    outcomes: np.ndarray
    before: np.ndarray  # the outcomes until now, NaN where there was none
    delays: np.ndarray  # ms from request to reported outcome; -1: the request contained it

    @property
    def scores(self) -> np.ndarray:
        """The scores as utils/datasets/target.py wants them."""
        return dataset.target.as_scores(self.rows["scores"])


class Joined(NamedTuple):
    """What the events of one step lead to."""

    answers: Answers
    observations: Observations
    unexpected: int  # replies
    outcomes: int  # reported, or contained in a request
    unmatched: int  # by how many more, or fewer, outcomes have no prediction


class Builder:
    """Collects what belongs together, and how many of it."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []  # as in a row of `known`
        self.replies: list[bytes] = []  # of each of them, as REPLY
        self.seen: list[bytes] = []  # answers
        self.judged: list[bytes] = []  # of each of them, as JUDGED
        self.unexpected = self.outcomes = self.unmatched = 0

    def answer(self, answer: bytes, latency: int, is_prediction: bool, was_valid: bool) -> None:
        """Add a reply to a request; answer : as in a row of `known`."""
        self.answers.append(answer)
        self.replies.append(_REPLY.pack(latency, is_prediction, was_valid))

    def observe(self, answers: bytes, outcome: float, before: float, time: int) -> None:
        """Add an observation for each answer of a row of `known`; time : of the outcome."""
        self.seen.append(answers)
        number = len(answers) // ANSWERED.size
        self.judged.append(_JUDGED.pack(outcome, before, time) * number)

    def result(self) -> Joined:
        """Return all of it."""
        counts = self.unexpected, self.outcomes, self.unmatched
        return Joined(self._answers(), self._observations(), *counts)

    def _answers(self) -> Answers:
        replies = np.frombuffer(b"".join(self.replies), REPLY)
        return Answers(_rows(self.answers), *(replies[name] for name in replies.dtype.names))

    def _observations(self) -> Observations:
        rows = _rows(self.seen)
        judged = np.frombuffer(b"".join(self.judged), JUDGED)
        outcomes, before, reported = (judged[name] for name in judged.dtype.names)
        delays = np.where(reported < 0, -1, np.maximum(reported - rows["time"], 0))
        return Observations(rows, outcomes, before, delays)


def _rows(answers: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(answers), ANSWER)
