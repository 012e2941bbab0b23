"""Joins requests, replies and outcomes, whenever they come.

A request is a message, and so is its answer: two requests of one id have two answers. A prediction
answers the earliest request of its id in its partition that has no answer, which is what the
predictor promises; an error reply the earliest invalid message of its id. An outcome belongs to
an id: each answer to it is judged by the last outcome, the one with the highest offset. (For
training, only the first request of an id counts.) A reported outcome counts more than one that a
request contains. So the result does not depend on which topic or partition is read first. Most
messages are joined all at once (usual_join.py); the others here, one by one.
"""

from hashlib import blake2b

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
    rank_in_request,
)
from monitoring.figures.joined import Builder, Joined
from monitoring.figures.rows import (
    ANSWERED,
    ASKED,
    FURTHER,
    LEARNT,
    MOST_OF_ONE_ID,
    NO_FURTHER,
    NOTHING_LEARNT,
    ONE_ASKED,
    OUTPUTS,
    has_one_request,
)
from monitoring.figures.table import Table
from monitoring.figures.usual_join import join_usual

_REPLIES, _QUESTIONS = frozenset((PREDICTION, ERROR)), frozenset((REQUEST, INVALID))
_NO_SCORES = (0.0,) * OUTPUTS


class Join:
    """Joins through two tables; see the comments on their rows.

    waiting : what is to be answered, by partition and key. known : outcomes and answers by key.
    """

    def __init__(self, waiting: Table, known: Table) -> None:
        self._waiting, self._known = waiting, known

    def join(self, events: list[Event], outcomes: list[ReportedOutcome]) -> Joined:
        """Return what these lead to; those of one partition are in order. Call load() before."""
        masks, joined = _masks(events), Builder()
        for event in join_usual(events, masks, self._waiting, self._known, joined):
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
            row = ONE_ASKED.pack(0, time, offset, outcome)
        elif len(row) < FURTHER.size + MOST_OF_ONE_ID * ASKED.size and row.startswith(NO_FURTHER):
            row += ASKED.pack(time, offset, outcome)
        else:
            [more] = FURTHER.unpack_from(row)
            row = FURTHER.pack(more + 1) + row[FURTHER.size :]
        self._waiting.put(key, row)

    def _answer(self, event: Event, masks: dict, joined: Builder) -> None:
        replied, id_key, reply_time, partition, _, content, _ = event
        own = INVALID if replied == ERROR else REQUEST
        for kind in (own, REQUEST + INVALID - own):
            key = id_key ^ masks[partition, kind]
            if (row := self._waiting.get(key)) is not None:
                break
        else:
            joined.unexpected += 1
            return
        if has_one_request(row):
            _, time, offset, outcome = ONE_ASKED.unpack(row)
            self._waiting.pop(key)
        else:
            time, offset, outcome = self._take(key, row, reply_time)
        model_id, scores = content or (0, _NO_SCORES)
        place = ANSWERED.pack(model_id, time, partition, offset, *scores)
        joined.answer(place, reply_time - time, replied == PREDICTION, kind == REQUEST)
        if replied == ERROR:
            return
        if offset >= 0:
            self._note_answer(id_key, place, joined)
        if outcome == outcome:
            self._learn(id_key, outcome, rank_in_request(partition, offset), -1, joined)

    def _take(self, key: int, row: bytes, reply_time: int) -> tuple[int, int, float]:
        """Remove the earliest request of a row, and return its time, offset and outcome."""
        if len(row) >= ONE_ASKED.size:
            more, *first = ONE_ASKED.unpack_from(row)
            left = row[: FURTHER.size] + row[ONE_ASKED.size :]
        else:  # it came when there were MOST_OF_ONE_ID of its id
            [more] = FURTHER.unpack(row)
            first, more, left = (reply_time, -1, UNKNOWN), more - 1, FURTHER.pack(more - 1)
        if more or len(left) > FURTHER.size:
            self._waiting.put(key, left)
        else:
            self._waiting.pop(key)
        return first

    def _note_answer(self, key: int, answer: bytes, joined: Builder) -> None:
        row = self._known.get(key)
        if row is None:
            self._known.put(key, NOTHING_LEARNT + answer)
        elif len(row) < LEARNT.size + MOST_OF_ONE_ID * ANSWERED.size:
            outcome, _, time = LEARNT.unpack_from(row)
            if outcome == outcome:
                joined.unmatched -= len(row) == LEARNT.size
                joined.observe(answer, outcome, UNKNOWN, time)
            self._known.put(key, row + answer)

    def _learn(self, key: int, outcome: float, rank: int, time: int, joined: Builder) -> None:
        row = self._known.get(key) or NOTHING_LEARNT
        before, known_rank, _ = LEARNT.unpack_from(row)
        if rank <= known_rank:
            return
        answers = row[LEARNT.size :]
        self._known.put(key, LEARNT.pack(outcome, rank, time) + answers)
        if answers:
            joined.observe(answers, outcome, before, time)
        else:
            joined.unmatched += before != before


def _masks(events: list[Event]) -> dict[tuple[int, int], int]:
    partitions = {event[3] for event in events}
    return {(p, kind): _mask(p, kind) for p in partitions for kind in (REQUEST, INVALID)}


def _mask(partition: int, kind: int) -> int:
    """Return what turns the key of an id into that of its messages of a kind in a partition."""
    digest = blake2b(b"%d/%d" % (partition, kind), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
