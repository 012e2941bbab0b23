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
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

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

OUTPUTS = dataset.target.outputs
MOST_OF_ONE_ID = 20  # requests and answers of one id that are known one by one

# A row of `waiting` is the number of further requests, then the known ones: time, offset, outcome.
_MORE, _REQUEST = struct.Struct("<q"), struct.Struct("<qqd")
# A row of `known` is the outcome, its rank and its time, then the answers: model, time, partition
# and offset of the request, and the scores.
_OUTCOME, _ANSWER = struct.Struct("<dqq"), struct.Struct(f"<qqiq{OUTPUTS}d")
_NO_OUTCOME = _OUTCOME.pack(UNKNOWN, -(2**63), 0)
_MOST = 2**53  # no time, offset or model id is that large
_LOWEST = -math.inf if dataset.target.kind == "number" else 0  # outcome or score
_HIGHEST = math.inf if dataset.target.kind == "number" else max(len(dataset.target.labels) - 1, 1)
_IN_REQUEST = 2**62  # is taken from the rank of an outcome that a request contains


class Answer(NamedTuple):
    """A reply to a request."""

    time: int  # of the request, ms
    latency: int  # ms
    is_prediction: bool
    was_valid: bool  # the request
    partition: int = 0
    offset: int = 0  # of the request; -1 if it is not known
    model_id: int = 0
    scores: tuple = ()


class Observation(NamedTuple):
    """An answer with its outcome, or with a new one."""

    model_id: int
    time: int
    partition: int
    offset: int
    scores: tuple
    outcome: float
    before: float  # the outcome until now, NaN if there was none
    delay: int  # ms from the request to the reported outcome; -1: the request contained it


class Joined(NamedTuple):
    """What the events of one step lead to."""

    answers: list[Answer]
    observations: list[Observation]
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
            if event.kind in (REQUEST, INVALID):
                key = event.key ^ masks[event.partition, event.kind]
                self._ask(key, event)
                joined.outcomes += event.outcome == event.outcome
            elif event.kind in (PREDICTION, ERROR):
                self._answer(event, masks, joined)
            elif event.kind == UNREADABLE:
                joined.unexpected += 1
        for each in outcomes:
            self._learn(each.key, each.outcome, each.rank, each.time, joined)
        joined.outcomes += len(outcomes)
        return joined.result()

    def load(self, events: list[Event], outcomes: list[ReportedOutcome]) -> None:
        """Read the rows that join() will need; see Table for the errors."""
        masks = _masks(events)
        self._known.load(each.key for each in outcomes)
        self._known.load(event.key for event in events if event.kind == PREDICTION)
        for kind in (REQUEST, INVALID):
            # A reply to a message of the other kind is rare, but possible.
            self._waiting.load(event.key ^ masks[event.partition, kind] for event in events)

    def _ask(self, key: int, event: Event) -> None:
        row = self._waiting.rows.get(key, _MORE.pack(0))
        if len(row) < _MORE.size + MOST_OF_ONE_ID * _REQUEST.size and row[: _MORE.size] == _ZERO:
            row += _REQUEST.pack(event.time, event.offset, event.outcome)
        else:
            [more] = _MORE.unpack_from(row)
            row = _MORE.pack(more + 1) + row[_MORE.size :]
        self._waiting.put(key, row)

    def _answer(self, event: Event, masks: dict, joined: "_Builder") -> None:
        own = INVALID if event.kind == ERROR else REQUEST
        for kind in (own, REQUEST + INVALID - own):
            key = event.key ^ masks[event.partition, kind]
            if (row := self._waiting.rows.get(key)) is not None:
                break
        else:
            joined.unexpected += 1
            return
        time, offset, outcome = self._take(key, row, event)
        latency, partition = event.time - time, event.partition
        if event.kind == ERROR:
            joined.answers.append(Answer(time, latency, False, kind == REQUEST, partition, offset))
            return
        model_id, scores = event.content
        scores = tuple(scores) if OUTPUTS > 1 else (scores,)
        place = model_id, time, partition, offset, scores
        joined.answers.append(
            Answer(time, latency, True, kind == REQUEST, partition, offset, model_id, scores)
        )
        if offset >= 0:
            self._note_answer(event.key, place, joined)
        if outcome == outcome:
            rank = rank_of(partition, offset) - _IN_REQUEST
            self._learn(event.key, outcome, rank, -1, joined)

    def _take(self, key: int, row: bytes, reply: Event) -> tuple[int, int, float]:
        """Remove the earliest request of a row, and return its time, offset and outcome."""
        [more] = _MORE.unpack_from(row)
        if len(row) > _MORE.size:
            first = _REQUEST.unpack_from(row, _MORE.size)
            row = row[: _MORE.size] + row[_MORE.size + _REQUEST.size :]
        else:  # it came when there were MOST_OF_ONE_ID of its id
            first, more, row = (reply.time, -1, UNKNOWN), more - 1, _MORE.pack(more - 1)
        if more or len(row) > _MORE.size:
            self._waiting.put(key, row)
        else:
            self._waiting.pop(key)
        return first

    def _note_answer(self, key: int, answer: tuple, joined: "_Builder") -> None:
        row = self._known.rows.get(key, _NO_OUTCOME)
        if len(row) >= _OUTCOME.size + MOST_OF_ONE_ID * _ANSWER.size:
            return
        outcome, _, time = _OUTCOME.unpack_from(row)
        if outcome == outcome:
            joined.unmatched -= len(row) == _OUTCOME.size
            joined.observe(answer, outcome, UNKNOWN, time)
        *place, scores = answer
        self._known.put(key, row + _ANSWER.pack(*place, *scores))

    def _learn(self, key: int, outcome: float, rank: int, time: int, joined: "_Builder") -> None:
        row = self._known.rows.get(key, _NO_OUTCOME)
        before, known_rank, _ = _OUTCOME.unpack_from(row)
        if rank <= known_rank:
            return
        joined.unmatched += before != before and len(row) == _OUTCOME.size
        answers = row[_OUTCOME.size :]
        self._known.put(key, _OUTCOME.pack(outcome, rank, time) + answers)
        for answer in _unpacked(answers):
            joined.observe(answer, outcome, before, time)


class _Builder:
    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.observations: list[Observation] = []
        self.unexpected = self.outcomes = self.unmatched = 0

    def observe(self, answer: tuple, outcome: float, before: float, time: int) -> None:
        """Add an observation; answer : the first fields of Observation."""
        delay = -1 if time < 0 else max(time - answer[1], 0)
        self.observations.append(Observation(*answer, outcome, before, delay))

    def result(self) -> Joined:
        counts = self.unexpected, self.outcomes, self.unmatched
        return Joined(self.answers, self.observations, *counts)


_ZERO = _MORE.pack(0)


def _unpacked(answers: bytes) -> Iterator[tuple]:
    """Yield the answers of a row of `known` as the first fields of Observation."""
    for found in _ANSWER.iter_unpack(answers):
        yield *found[:4], found[4:]


def _masks(events: list[Event]) -> dict[tuple[int, int], int]:
    partitions = {event.partition for event in events}
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
    answers = _unpacked(row[_OUTCOME.size :])
    return (
        _is_outcome(outcome)
        and _are_numbers(time)
        and all(_are_numbers(*found) and all(map(_is_score, scores)) for *found, scores in answers)
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
