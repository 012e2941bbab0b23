"""A candidate's predictions beside the answers that were given, and the outcomes when they come.

The join is the monitor's: see join.py for what belongs together when ids repeat. What waits for its
answer or its outcome is in a temporary file of SQLite's, which nobody else can open and which is
gone with the process; memory and file are bounded as the monitor's are.
"""

import struct
from collections.abc import Iterable

import numpy as np

from monitoring.figures.database import Database
from monitoring.figures.decoding import REQUEST, Event, events, key_of, reported_outcomes
from monitoring.figures.join import OUTPUTS, Answer, Join, Observation, lacks_a_part
from monitoring.figures.model_figures import decided
from monitoring.figures.newest import Newest
from monitoring.figures.sample import Sample
from monitoring.figures.state import AHEAD, Records
from monitoring.figures.table import Table
from utils.datasets import dataset
from utils.kafka_client.topics import APP_MESSAGES
from utils.model_store.model import Model

WINDOW = 50_000 if OUTPUTS <= 10 else 5_000  # observations
MOST_UNSAVED = 100_000  # rows; more are written to the temporary file
_SCORES = struct.Struct(f"<{OUTPUTS}d")
_FIELDS = [("model_id", np.int64), ("outcome", np.float64)]
_FIELDS += [("given", np.float64, (OUTPUTS,)), ("own", np.float64, (OUTPUTS,))]
_SCHEMA = """CREATE TABLE scores (generation INTEGER, key INTEGER, content BLOB,
    PRIMARY KEY (generation, key)) WITHOUT ROWID"""


class Shadow:
    """What a candidate would have answered, for as long as this object lives.

    requests : read; compared : of them, answered by both. equal : of these, the same class.
    distance : their sum of |difference| of two probabilities or numbers; of several classes, half
    the sum over the classes (the total variation distance, which is the same for two classes).
    observations : answers of both whose outcome is known. sample : the newest requests' data.
    """

    def __init__(self, candidate: Model) -> None:
        self._candidate, self._database = candidate, Database("")
        self._database.query(_SCHEMA)
        self._waiting = Table(self._database, "waiting", lambda row: True)
        self._known = Table(self._database, "known", lacks_a_part)
        self._scores = Table(self._database, "scores", lambda row: True)
        self._join = Join(self._waiting, self._known)
        self._newest = Newest(WINDOW, _FIELDS)
        self.sample = Sample()
        self.requests = self.compared = self.equal = self.observations = 0
        self.distance = 0.0

    def add(self, records: Records, now: float) -> None:
        """Add what one poll has returned; now : seconds since 1970."""
        latest, messages, outcomes = int((now + AHEAD) * 1000), [], []
        for partition, found in records.items():
            if partition.topic == APP_MESSAGES:
                messages += events(found, latest)
            else:
                outcomes += reported_outcomes(found, latest)
        self._predict([each for each in messages if each.kind == REQUEST])
        self._join.load(messages, outcomes)
        joined = self._join.join(messages, outcomes)
        self._compare([each for each in joined.answers if each.is_prediction and each.offset >= 0])
        self._observe(joined.observations)
        self._write(now)

    def rows(self) -> np.ndarray:
        """Return the WINDOW newest observations by their request's time.

        A structured array with the fields model_id, outcome, given (the answer's scores) and own
        (the candidate's), both of shape (outputs,).
        """
        return self._newest.rows()

    def close(self) -> None:
        """Delete the temporary file."""
        self._database.close()

    def _predict(self, requests: list[Event]) -> None:
        if not requests:
            return
        scores = self._candidate.predict([each.content for each in requests])
        for request, own in zip(requests, scores.reshape(-1, OUTPUTS).tolist(), strict=True):
            self._scores.put(_key(request), _SCORES.pack(*own))
        self.requests += len(requests)
        self.sample.add(requests)

    def _own(self, found: Iterable[Answer | Observation]) -> dict[tuple[int, int], tuple]:
        """Return the candidate's scores by partition and offset, unless they are forgotten."""
        keys = {(each.partition, each.offset): _key(each) for each in found}
        self._scores.load(keys.values())
        known = self._scores.rows
        return {place: _SCORES.unpack(known[k]) for place, k in keys.items() if k in known}

    def _compare(self, answers: list[Answer]) -> None:
        own = self._own(answers)
        both = [
            (own[each.partition, each.offset], each.scores)
            for each in answers
            if (each.partition, each.offset) in own
        ]
        if not both:
            return
        ours, given = np.array(both).transpose(1, 0, 2)
        self.compared += len(both)
        self.distance += float(np.abs(ours - given).sum()) / (2 if OUTPUTS > 1 else 1)
        if dataset.target.kind == "classes":
            classes = [decided(dataset.target.as_scores(each)) for each in (ours, given)]
            self.equal += int((classes[0] == classes[1]).sum())

    def _observe(self, seen: list[Observation]) -> None:
        own, rows = self._own(seen), []
        for each in seen:
            place = each.partition, each.offset
            if place in own:
                self.observations += each.before != each.before
                row = (each.time, *place, each.model_id, each.outcome, each.scores, own[place])
                rows.append(row)
        if rows:
            self._newest.add(np.array(rows, self._newest.dtype))

    def _write(self, now: float) -> None:
        """Write what is in memory only, and forget the oldest rows beyond the tables' limits."""
        tables = self._waiting, self._known, self._scores
        if sum(each.unsaved for each in tables) < MOST_UNSAVED:
            return
        old = [each.old_generations(since=0) for each in tables]
        with self._database.transaction():
            for table, generations in zip(tables, old, strict=True):
                table.save(now)
                table.delete(generations)
        for table, generations in zip(tables, old, strict=True):
            table.confirm()
            table.forget(generations)


def _key(place: Event | Answer | Observation) -> int:
    """Return the key of a request's place in its topic."""
    return key_of(f"{place.partition}/{place.offset}")
