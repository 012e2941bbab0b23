"""How requests and outcomes become observations, whatever order they are read in."""

from collections.abc import Iterable

from train.database import Database
from train.keys import is_for_judge, key_of
from train.schema import add_positions
from train.segments import correct_outcome, seal

# Of several requests with the same id the first one counts, of several outcomes the last one.
_WAIT = """
INSERT INTO waiting VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    data = coalesce(waiting.data, excluded.data),
    outcome = coalesce(excluded.outcome, waiting.outcome)
"""


class Join:
    """One poll's requests and outcomes; everything happens in the caller's transaction."""

    def __init__(self, db: Database, now: float) -> None:
        self._db, self._now = db, now

    def add(self, observed: Iterable[tuple[str, bytes | None, float | None]], first: int) -> int:
        """Store (request_id, data, outcome); return how many observations became complete.

        first : the position of the first of them.
        """
        complete, waiting, done = [], [], []
        for key, row in self._merged(observed).items():
            if found := self._db.query("SELECT position FROM positions WHERE key = ?", (key,)):
                if row[2] is not None:
                    correct_outcome(self._db, found[0][0], row[2])
                continue
            if None in row and self._complete(key, row):
                done.append((key,))
            (waiting if None in row else complete).append((key, *row, self._now))
        self._db.execute_many("DELETE FROM waiting WHERE key = ?", done)
        self._db.execute_many(_WAIT, waiting)
        rows = [(position, *row) for position, row in enumerate(complete, first)]
        self._db.execute_many("INSERT INTO recent VALUES (?, ?, ?, ?, ?, ?)", rows)
        add_positions(self._db, rows)
        return len(rows)

    def seal(self, segment_rows: int) -> None:
        """Turn the oldest rows into segments, as long as there are enough of them."""
        while seal(self._db, segment_rows):
            pass

    def _merged(self, observed: Iterable) -> dict[bytes, list]:
        """Return key -> [for_judge, data, outcome], in the order of their first appearance."""
        merged: dict[bytes, list] = {}
        for request_id, data, outcome in observed:
            row = merged.setdefault(key_of(request_id), [is_for_judge(request_id), None, None])
            row[1] = data if row[1] is None else row[1]
            row[2] = row[2] if outcome is None else outcome
        return merged

    def _complete(self, key: bytes, row: list) -> bool:
        """Add what waits for this key to the row; return True if that makes it complete."""
        for data, outcome in self._db.query(
            "SELECT data, outcome FROM waiting WHERE key = ?", (key,)
        ):
            row[1] = row[1] if data is None else data
            row[2] = outcome if row[2] is None else row[2]
        return None not in row
