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

    def add(self, rows: np.ndarray) -> None:
        """Add rows of this dtype."""
        self._parts.append(rows)
        self.version += 1
        if sum(map(len, self._parts)) > 2 * self.size:
            self.rows()

    def rows(self) -> np.ndarray:
        """Return the newest rows, oldest first."""
        if len(self._parts) > 1:
            rows = np.concatenate(self._parts)
            rows = rows[np.lexsort((rows["offset"], rows["partition"], rows["time"]))]  # stable
            place = rows[["partition", "offset"]]
            is_last = np.ones(len(rows), bool)
            is_last[:-1] = place[:-1] != place[1:]
            self._parts = [rows[is_last][-self.size :]]
        return self._parts[0]

    def tobytes(self) -> bytes:
        """Return the rows as bytes."""
        return self.rows().tobytes()
