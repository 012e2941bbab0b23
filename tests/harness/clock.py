"""Runs a script whose clock can be set wrong, as an operator or a time server may do.

    python tests/harness/clock.py FILE trainer.py --max-evals 1

The script's time.time() is wrong by the number of seconds that is in FILE, 0 if there is no file.
"""

import os
import runpy
import sys
import time
from pathlib import Path

LOOK_EVERY = 0.05  # seconds
_true_time = time.time


class Clock:
    """A replacement of time.time()."""

    def __init__(self, file: Path) -> None:
        self._file, self._wrong_by, self._looked_at = file, 0.0, float("-inf")

    def time(self) -> float:
        """Return seconds since 1970, more or less."""
        if time.monotonic() - self._looked_at > LOOK_EVERY:
            self._looked_at = time.monotonic()
            self._wrong_by = float(self._file.read_text()) if self._file.exists() else 0.0
        return _true_time() + self._wrong_by


def set_wrong(file: Path, seconds: float) -> None:
    """Make the clocks that read this file wrong by this many seconds."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(file)


if __name__ == "__main__":
    time.time = Clock(Path(sys.argv[1])).time
    sys.argv[:] = sys.argv[2:]
    sys.path[0] = os.getcwd()
    runpy.run_path(sys.argv[0], run_name="__main__")
