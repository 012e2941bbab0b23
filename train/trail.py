"""The trail: every trial that Hyperopt has ever made, one JSON object a line.

An optimisation begins with the best points of all compatible past ones. What is compatible:

- **Same experiment** (`experiment`, a digest): the same features in the same order, the same
  categorical ones, objective and metric, way of evaluating, and search space. Anything else is
  another experiment, and nothing is taken over from it.
- **Same data** (`data`, the digest of all rows and outcomes): if it has changed, an old loss says
  nothing exact about the new data. The old best points are evaluated again.

A line is appended in one write under a lock, and synced. A crash in the middle of it leaves at most
one broken last line, which readers skip and the next writer ends.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

TRAIL = "trail"  # the folder below the data folder
FILE = "hyperopt.jsonl"


class Trail:
    """The trail in this folder, which is made when the first trial is appended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def append(self, trial: dict) -> None:
        """Add one trial, with the time; OSError where the disk refuses."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, **trial}).encode() + b"\n"
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of when the file is closed
            end = file.seek(0, os.SEEK_END)
            broken_off = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
            file.write(b"\n" + line if broken_off else line)
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict]:
        """Return all trials, oldest first; broken lines are left out."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            return [trial for line in file if (trial := _decode(line))]


def _decode(line: bytes) -> dict | None:
    try:
        trial = json.loads(line)
        return trial if {"experiment", "data", "params", "loss"} <= trial.keys() else None
    except (ValueError, AttributeError):
        return None


def best_points(trials: Iterable[dict], data: str) -> list[dict]:
    """Return the points of one experiment's trials that are worth trying, the best first.

    Losses compare only among trials on the same data: first come all those on `data`, from the
    best to the worst, then the best one on each other data, the newest first.
    """
    by_data: dict[str, list[dict]] = {data: []}
    for trial in trials:
        if not trial.get("pruned"):
            by_data.setdefault(trial["data"], []).append(trial)
    same = sorted(by_data.pop(data), key=lambda trial: trial["loss"])
    others = [min(group, key=lambda trial: trial["loss"]) for group in by_data.values()]
    return [trial["params"] for trial in (*same, *reversed(others))]
