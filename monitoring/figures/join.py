"""Joins requests, replies and outcomes, whenever they come.

A request is a message, and so is its answer: two requests of one id have two answers. A prediction
answers the earliest request of its id in its partition that has no answer, which is what the
predictor promises; an error reply the earliest invalid message of its id. An outcome belongs to
an id: each answer to it is judged by the last outcome, the one with the highest offset. (For
training, only the first request of an id counts.) A reported outcome counts more than one that a
request contains. So the result does not depend on which topic or partition is read first.
"""

import math
import struct
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from monitoring.figures.decoding import (
    ERROR,
    INVALID,
    PREDICTION,
    REQUEST,
    UNKNOWN,
    UNREADABLE,
    Event,
    ReportedOutcome,
    rank_of,
)
from monitoring.figures.table import Table
from utils.datasets import dataset

_REPLIES, _QUESTIONS = frozenset((PREDICTION, ERROR)), frozenset((REQUEST, INVALID))
OUTPUTS = dataset.target.outputs
MOST_OF_ONE_ID = 20  # requests and answers of one id that are known one by one

# A row of `waiting` is the number of further requests, then the known ones: time, offset, outcome.
_MORE, _REQUEST = struct.Struct("<q"), struct.Struct("<qqd")
_ONLY = struct.Struct("<qqqd")  # a row with one request
# A row of `known` is the outcome, its rank and its time, then the answers: model, time, partition
# and offset of the request, and the scores.
_OUTCOME, _ANSWER = struct.Struct("<dqq"), struct.Struct(f"<qqiq{OUTPUTS}d")
_NO_OUTCOME = _OUTCOME.pack(UNKNOWN, -(2**63), 0)
_MOST = 2**53  # no time, offset or model id is that large
_LOWEST = -math.inf if dataset.target.kind == "number" else 0  # outcome or score
_HIGHEST = math.inf if dataset.target.kind == "number" else max(len(dataset.target.labels) - 1, 1)
_IN_REQUEST = 2**62  # is taken from the rank of an outcome that a request contains
_NO_SCORES = (0.0,) * OUTPUTS
ANSWER = np.dtype(
    [
        ("model_id", "<i8"),
        ("time", "<i8"),  # of the request, ms
        ("partition", "<i4"),
        ("offset", "<i8"),  # of the request; -1 if it is not known
        ("scores", "<f8", (OUTPUTS,)),
    ]
)


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


class Join:
    """Joins through two tables; see the comments on their rows.

    waiting : what is to be answered, by partition and key. known : outcomes and answers by key.
    """

    def __init__(self, waiting: Table, known: Table) -> None:
        self._waiting, self._known = waiting, known

    def join(self, events: list[Event], outcomes: list[ReportedOutcome]) -> Joined:
        """Return what these lead to; those of one partition are in order. Call load() before."""
        masks, joined = _masks(events), _Builder()
        for event in events:
            kind, key, time, partition, offset, _, outcome = event
            if kind in _REPLIES:
                self._answer(event, masks, joined)
            elif kind in _QUESTIONS:
                self._ask(key ^ masks[partition, kind], time, offset, outcome)
                joined.outcomes += outcome == outcome
            elif kind == UNREADABLE:
                joined.unexpected += 1
        for key, time, rank, outcome in outcomes:
            self._learn(key, outcome, rank, time, joined)
        joined.outcomes += len(outcomes)
        return joined.result()

    def load(self, events: list[Event], outcomes: list[ReportedOutcome]) -> None:
        """Read the rows that join() will need; see Table for the errors."""
        masks = _masks(events)
        predictions = [event[1] for event in events if event[0] == PREDICTION]
        self._known.load(predictions + [each[0] for each in outcomes])
        keys = np.array([event[1] for event in events], np.int64)
        partitions = np.array([event[3] for event in events], np.int64)
        for partition, kind in masks:
            # A reply to a message of the other kind is rare, but possible.
            self._waiting.load(keys[partitions == partition] ^ masks[partition, kind])

    def _ask(self, key: int, time: int, offset: int, outcome: float) -> None:
        row = self._waiting.get(key)
        if row is None:
            row = _ONLY.pack(0, time, offset, outcome)
        elif len(row) < _MORE.size + MOST_OF_ONE_ID * _REQUEST.size and row.startswith(_ZERO):
            row += _REQUEST.pack(time, offset, outcome)
        else:
            [more] = _MORE.unpack_from(row)
            row = _MORE.pack(more + 1) + row[_MORE.size :]
        self._waiting.put(key, row)

    def _answer(self, event: Event, masks: dict, joined: "_Builder") -> None:
        replied, id_key, reply_time, partition, _, content, _ = event
        own = INVALID if replied == ERROR else REQUEST
        for kind in (own, REQUEST + INVALID - own):
            key = id_key ^ masks[partition, kind]
            if (row := self._waiting.get(key)) is not None:
                break
        else:
            joined.unexpected += 1
            return
        time, offset, outcome = self._take(key, row, reply_time)
        model_id, scores = content or (0, _NO_SCORES)
        place = _ANSWER.pack(model_id, time, partition, offset, *scores)
        joined.answers.append(place)
        joined.replies.append((reply_time - time, replied == PREDICTION, kind == REQUEST))
        if replied == ERROR:
            return
        if offset >= 0:
            self._note_answer(id_key, place, joined)
        if outcome == outcome:
            rank = rank_of(partition, offset) - _IN_REQUEST
            self._learn(id_key, outcome, rank, -1, joined)

    def _take(self, key: int, row: bytes, reply_time: int) -> tuple[int, int, float]:
        """Remove the earliest request of a row, and return its time, offset and outcome."""
        if len(row) == _ONLY.size:
            more, *first = _ONLY.unpack(row)
            left = row[: _MORE.size]
        elif len(row) > _ONLY.size:
            more, *first = _ONLY.unpack_from(row)
            left = row[: _MORE.size] + row[_ONLY.size :]
        else:  # it came when there were MOST_OF_ONE_ID of its id
            [more] = _MORE.unpack(row)
            first, more, left = (reply_time, -1, UNKNOWN), more - 1, _MORE.pack(more - 1)
        if more or len(left) > _MORE.size:
            self._waiting.put(key, left)
        else:
            self._waiting.pop(key)
        return first

    def _note_answer(self, key: int, answer: bytes, joined: "_Builder") -> None:
        row = self._known.get(key)
        if row is None:
            self._known.put(key, _NO_OUTCOME + answer)
        elif len(row) < _OUTCOME.size + MOST_OF_ONE_ID * _ANSWER.size:
            outcome, _, time = _OUTCOME.unpack_from(row)
            if outcome == outcome:
                joined.unmatched -= len(row) == _OUTCOME.size
                joined.observe(answer, outcome, UNKNOWN, time)
            self._known.put(key, row + answer)

    def _learn(self, key: int, outcome: float, rank: int, time: int, joined: "_Builder") -> None:
        row = self._known.get(key) or _NO_OUTCOME
        before, known_rank, _ = _OUTCOME.unpack_from(row)
        if rank <= known_rank:
            return
        answers = row[_OUTCOME.size :]
        self._known.put(key, _OUTCOME.pack(outcome, rank, time) + answers)
        if answers:
            joined.observe(answers, outcome, before, time)
        else:
            joined.unmatched += before != before


class _Builder:
    def __init__(self) -> None:
        self.answers: list[bytes] = []  # as in a row of `known`
        self.replies: list[tuple] = []  # of each of them: latency, is it a prediction, was_valid
        self._seen: list[bytes] = []  # answers
        self._outcomes: list[tuple] = []  # of each of them: outcome, before, its time
        self.unexpected = self.outcomes = self.unmatched = 0

    def observe(self, answers: bytes, outcome: float, before: float, time: int) -> None:
        """Add an observation for each answer of a row of `known`; time : of the outcome."""
        self._seen.append(answers)
        self._outcomes += [(outcome, before, time)] * (len(answers) // _ANSWER.size)

    def result(self) -> Joined:
        counts = self.unexpected, self.outcomes, self.unmatched
        return Joined(self._answers(), self._observations(), *counts)

    def _answers(self) -> Answers:
        latencies, *kinds = np.array(self.replies, np.int64).reshape(-1, 3).T
        return Answers(_rows(self.answers), latencies, *(each.astype(bool) for each in kinds))

    def _observations(self) -> Observations:
        rows = _rows(self._seen)
        outcomes, before, times = zip(*self._outcomes, strict=True) if len(rows) else ((), (), ())
        reported = np.array(times, np.int64)
        delays = np.where(reported < 0, -1, np.maximum(reported - rows["time"], 0))
        return Observations(rows, np.array(outcomes, float), np.array(before, float), delays)


_ZERO = _MORE.pack(0)


def _rows(answers: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(answers), ANSWER)


def _masks(events: list[Event]) -> dict[tuple[int, int], int]:
    partitions = {event[3] for event in events}
    return {(p, kind): _mask(p, kind) for p in partitions for kind in (REQUEST, INVALID)}


def _mask(partition: int, kind: int) -> int:
    """Return what turns the key of an id into that of its messages of a kind in a partition."""
    digest = blake2b(b"%d/%d" % (partition, kind), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def is_waiting(row: bytes) -> bool:
    """Return whether bytes of the file are what a row of `waiting` can be."""
    if not _has_size(row, _MORE, _REQUEST):
        return False
    requests = _REQUEST.iter_unpack(row[_MORE.size :])
    return 0 <= _MORE.unpack_from(row)[0] < _MOST and all(
        _are_numbers(*place) and _is_outcome(outcome) for *place, outcome in requests
    )


def is_known(row: bytes) -> bool:
    """Return whether bytes of the file are what a row of `known` can be."""
    if not _has_size(row, _OUTCOME, _ANSWER):
        return False
    outcome, _, time = _OUTCOME.unpack_from(row)
    answers = _ANSWER.iter_unpack(row[_OUTCOME.size :])
    return (
        _is_outcome(outcome)
        and _are_numbers(time)
        and all(_are_numbers(*one[:4]) and all(map(_is_score, one[4:])) for one in answers)
    )


def _has_size(row: bytes, head: struct.Struct, each: struct.Struct) -> bool:
    number, rest = divmod(len(row) - head.size, each.size)
    return 0 <= number <= MOST_OF_ONE_ID and not rest


def _are_numbers(*found: int) -> bool:
    return all(-1 <= each < _MOST for each in found)


def _is_outcome(value: float) -> bool:
    return value != value or _is_score(value)


def _is_score(value: float) -> bool:
    return _LOWEST <= value <= _HIGHEST and math.isfinite(value)


def oldest_request(row: bytes) -> float:
    """Return the time of the oldest request in a row of `waiting`, ms; infinity if not known."""
    return _REQUEST.unpack_from(row, _MORE.size)[0] if len(row) > _MORE.size else math.inf


def lacks_a_part(row: bytes) -> bool:
    """Return whether a row of `known` has no outcome, or no answer."""
    return len(row) == _OUTCOME.size or row[:8] == _NO_OUTCOME[:8]
