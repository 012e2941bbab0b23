"""A candidate's predictions beside the answers that were given, and the outcomes when they come.

The join is the monitor's: see join.py for what belongs together when ids repeat. What waits for its
answer or its outcome is in a temporary file of SQLite's, which nobody else can open and which is
gone with the process; memory and file are bounded as the monitor's are.
"""

import msgspec
import numpy as np

from monitoring.figures.database import Database
from monitoring.figures.decoding import REQUEST, Event, decode
from monitoring.figures.join import Join
from monitoring.figures.joined import Answers, Observations
from monitoring.figures.model_figures import decided
from monitoring.figures.newest import Newest
from monitoring.figures.rows import OUTPUTS, is_known, is_waiting, lacks_a_part
from monitoring.figures.sample import Sample
from monitoring.figures.state import Records
from monitoring.figures.table import Table
from monitoring.hashes import hash_of
from utils.datasets import dataset
from utils.model_store.model import Model

WINDOW = 50_000 if OUTPUTS <= 10 else 5_000  # observations
MOST_UNSAVED = 100_000  # rows; more are written to the temporary file
_FIELDS = [("model_id", np.int64), ("outcome", np.float64)]
_FIELDS += [("given", np.float64, (OUTPUTS,)), ("own", np.float64, (OUTPUTS,))]


class Shadow:
    """What a candidate would have answered, for as long as this object lives.

    requests : read; compared : of them, answered by both. equal : of these, the same class.
    distance : their sum of |difference| of two probabilities or numbers; of several classes, half
    the sum over the classes (the total variation distance, which is the same for two classes).
    observations : answers of both whose outcome is known. sample : the newest requests' data.
    """

    def __init__(self, candidate: Model) -> None:
        self._candidate, self._database = candidate, Database("")
        self._waiting = Table(self._database, "waiting", is_waiting, lambda row: True)
        self._known = Table(self._database, "known", is_known, lacks_a_part)
        self._scores = Table(self._database, "scores", bool, lambda row: True)
        self._join = Join(self._waiting, self._known)
        self._newest = Newest(WINDOW, _FIELDS)
        self.sample = Sample()
        self.requests = self.compared = self.equal = self.observations = 0
        self.distance = 0.0

    def add(self, records: Records, now: float) -> None:
        """Add what one poll has returned; now : seconds since 1970."""
        decoded = decode(records, now)
        messages, outcomes = decoded.messages, decoded.outcomes
        self._predict([each for each in messages if each[0] == REQUEST])
        self._join.load(messages, outcomes)
        joined = self._join.join(messages, outcomes)
        self._compare(joined.answers)
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
        data = [msgspec.to_builtins(content) for *_, content, _ in requests]
        scores = np.asarray(self._candidate.predict(data), np.float64).reshape(-1, OUTPUTS)
        for (_, _, _, *place, _, _), own in zip(requests, scores, strict=True):
            self._scores.put(_key(*place), own.tobytes())
        self.requests += len(requests)
        self.sample.add(requests)

    def _own(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of these answers the candidate's are known for, and its scores of them."""
        places = zip(answers["partition"].tolist(), answers["offset"].tolist(), strict=True)
        keys = [_key(*place) for place in places]
        self._scores.load(keys)
        found = [self._scores.get(key) for key in keys]
        known = np.array([each is not None for each in found], bool)
        return known, np.frombuffer(b"".join(filter(None, found))).reshape(-1, OUTPUTS)

    def _compare(self, answers: Answers) -> None:
        chosen = answers.rows[answers.are_predictions]
        known, own = self._own(chosen)
        given = chosen["scores"][known]
        self.compared += len(own)
        self.distance += float(np.abs(own - given).sum()) / (2 if OUTPUTS > 1 else 1)
        if dataset.target.kind == "classes":
            classes = [decided(dataset.target.as_scores(each)) for each in (own, given)]
            self.equal += int((classes[0] == classes[1]).sum())

    def _observe(self, seen: Observations) -> None:
        known, own = self._own(seen.rows)
        self.observations += int(np.isnan(seen.before[known]).sum())
        rows = seen.rows[known]
        self._newest.add(rows, outcome=seen.outcomes[known], given=rows["scores"], own=own)

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


def _key(partition: int, offset: int) -> int:
    """Return the key of a request's place in its topic; no request has the offset -1."""
    return hash_of(f"{partition}/{offset}")
