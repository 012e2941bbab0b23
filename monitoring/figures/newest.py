"""The newest rows of something, whatever the order in which they come."""

import numpy as np

ORDER = [("time", np.int64), ("partition", np.int32), ("offset", np.int64)]  # of the request


class Newest:
    """The `size` newest rows by time, partition and offset, as a structured array.

    A row of a partition and an offset that are there replaces the earlier one. So the rows depend
    on what was added, not on when: rows only leave when `size` newer ones are there.
    """

    def __init__(self, size: int, dtype: list, content: bytes = b"") -> None:
        """content : what tobytes() returned."""
        self.size, self.dtype = size, np.dtype(ORDER + dtype)
        self._parts = [np.frombuffer(content, self.dtype)]
        self.version = 0  # increases with each change

    def add(self, rows: np.ndarray, **columns: np.ndarray) -> None:
        """Add rows; their fields are those of this dtype, but for further columns."""
        if not len(rows):
            return
        added = np.empty(len(rows), self.dtype)
        for name in self.dtype.names:
            added[name] = columns[name] if name in columns else rows[name]
        self._parts.append(added)
        self.version += 1
        if sum(map(len, self._parts)) > 2 * self.size:
            self.rows()

    def rows(self) -> np.ndarray:
        """Return the newest rows, oldest first."""
        if len(self._parts) > 1:
            rows = np.concatenate(self._parts)
            self._parts = [_in_order(rows)[-self.size :].copy()]
        return self._parts[0]

    def tobytes(self) -> bytes:
        """Return the rows as bytes."""
        return self.rows().tobytes()


def _in_order(rows: np.ndarray) -> np.ndarray:
    """Return rows sorted, the last one of each place; as they mostly come, they are."""
    time, partition, offset = (np.diff(rows[name]) for name, _ in ORDER)
    follows = (partition > 0) | ((partition == 0) & (offset > 0))
    if ((time > 0) | ((time == 0) & follows)).all():
        return rows
    rows = rows[np.lexsort((rows["offset"], rows["partition"], rows["time"]))]  # stable
    place = rows[["partition", "offset"]]
    is_last = np.ones(len(rows), bool)
    is_last[:-1] = place[:-1] != place[1:]
    return rows[is_last]
