"""How requests and outcomes become observations, whatever order they are read in."""

from collections.abc import Iterable

from train.store.database import Database
from train.store.keys import key_of
from train.store.schema import add_positions
from train.store.segments import correct_outcomes, seal

# Of several requests with the same id the first one counts, of several outcomes the last one.
_WAIT = """
INSERT INTO waiting VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    data = coalesce(waiting.data, excluded.data),
    outcome = coalesce(excluded.outcome, waiting.outcome)
"""

# The counters of what waits, for a store that has none yet.
COUNT_WAITING = """
INSERT INTO counters SELECT 'waiting_requests', (SELECT count(data) FROM waiting)
    WHERE NOT EXISTS (SELECT 1 FROM counters WHERE name = 'waiting_requests');
INSERT INTO counters SELECT 'waiting_outcomes', (SELECT count(outcome) FROM waiting)
    WHERE NOT EXISTS (SELECT 1 FROM counters WHERE name = 'waiting_outcomes');
"""


class Join:
    """One poll's requests and outcomes; everything happens in the caller's transaction."""

    def __init__(self, db: Database, now: float) -> None:
        self._db, self._now = db, now
        self.more_waiting = {"waiting_requests": 0, "waiting_outcomes": 0}

    def add(self, observed: Iterable[tuple[str, bytes | None, float | None]], first: int) -> int:
        """Store (request_id, data, outcome); return how many observations became complete.

        first : the position of the first of them.
        """
        new = self._merged(observed)
        known = self._db.find("SELECT key, position FROM positions WHERE key IN", new)
        corrected = {position: new.pop(key)[1] for key, position in known}
        correct_outcomes(self._db, {at: out for at, out in corrected.items() if out is not None})
        found = self._add_waiting(new)
        done = [(rowid,) for key, rowid in found.items() if None not in new[key]]
        complete = [(key, *row, self._now) for key, row in new.items() if None not in row]
        waiting = [(key, *row, self._now) for key, row in new.items() if None in row]
        for key, data, *_ in waiting:
            if key not in found:
                self._count(data, 1)
        self._db.execute_many("DELETE FROM waiting WHERE rowid = ?", done)
        self._db.execute_many(_WAIT, waiting)
        rows = [(position, *row) for position, row in enumerate(complete, first)]
        self._db.execute_many("INSERT INTO recent VALUES (?, ?, ?, ?, ?)", rows)
        add_positions(self._db, rows)
        return len(rows)

    def seal(self, segment_rows: int) -> None:
        """Turn the oldest rows into segments, as long as there are enough of them."""
        while seal(self._db, segment_rows):
            pass

    def _merged(self, observed: Iterable) -> dict[bytes, list]:
        """Return key -> [data, outcome], in the order of their first appearance."""
        merged: dict[bytes, list] = {}
        for request_id, data, outcome in observed:
            row = merged.setdefault(key_of(request_id), [None, None])
            row[0] = data if row[0] is None else row[0]
            row[1] = row[1] if outcome is None else outcome
        return merged

    def _add_waiting(self, new: dict[bytes, list]) -> dict[bytes, int]:
        """Add to these rows what waits for them; return key -> rowid of what did."""
        sql, found = "SELECT rowid, key, data, outcome FROM waiting WHERE key IN", {}
        for rowid, key, data, outcome in self._db.find(sql, new):
            row = new[key]
            row[0] = row[0] if data is None else data
            row[1] = outcome if row[1] is None else row[1]
            if None not in row:
                self._count(data, -1)  # it waits no more
            found[key] = rowid
        return found

    def _count(self, data: bytes | None, step: int) -> None:
        self.more_waiting["waiting_outcomes" if data is None else "waiting_requests"] += step
