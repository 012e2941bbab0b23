"""What the outcomes in the store mean, and how they follow a change of the data set's classes.

The store keeps an outcome as the position of its class. Where a class was added, or the classes are
in another order, the positions are changed when the trainer starts. A class that observations have
can't be dropped, and a class can't become a number: StoreError says so.
"""

import json
from pathlib import Path

from train.database import Database, StoreError
from utils.datasets import dataset

# The newest observations are rows; there are a few thousand of them at most.
_OUTCOMES = (
    (
        "SELECT rowid, outcome FROM waiting WHERE outcome NOT NULL",
        "UPDATE waiting SET outcome = ? WHERE rowid = ?",
    ),
    ("SELECT position, outcome FROM recent", "UPDATE recent SET outcome = ? WHERE position = ?"),
)
_NEW = "INSERT INTO target VALUES (?, ?, ?)"


def adapt_target(db: Database, path: Path) -> None:
    """Let the outcomes in the store have the positions of today's classes.

    To be called by the trainer alone: another one, of the former classes, must not be running.
    StoreError if that is impossible.
    """
    now = _now()
    with db.transaction():
        # A store of an earlier version knew two classes only.
        before = _stored(db) or (dataset.name, "classes", list(dataset.target.labels[:2]))
        if before != now and _has_outcomes(db):
            _check(path, before, now)
            _move(db, path, before[2], now[2])
        db.query("DELETE FROM target")
        db.query(_NEW, (*now[:2], json.dumps(now[2])))


def check_target(db: Database, path: Path) -> None:
    """Raise StoreError if the data set has changed since the trainer started."""
    if _stored(db) not in (None, _now()):
        raise StoreError(f"{path}: the classes of {_file()} have changed: restart trainer.py")


def _now() -> tuple[str, str, list]:
    return dataset.name, dataset.target.kind, list(dataset.target.labels)


def _file() -> str:
    return f"utils/datasets/{dataset.name}.py"


def _stored(db: Database) -> tuple[str, str, list] | None:
    for name, kind, labels in db.query("SELECT * FROM target"):
        return name, kind, json.loads(labels)
    return None


def _has_outcomes(db: Database) -> bool:
    waiting = "SELECT 1 FROM waiting WHERE outcome NOT NULL"
    complete = "SELECT 1 FROM recent UNION ALL SELECT 1 FROM segments"
    return bool(db.query(f"{waiting} UNION ALL {complete} LIMIT 1"))


def _check(path: Path, before: tuple, now: tuple) -> None:
    if before[0] != now[0]:
        held = f"it holds observations of the data set {before[0]}, DATASET is {now[0]}"
        raise StoreError(f"{path}: {held}: choose another DATA_DIR")
    if before[1] != now[1]:
        problem = f"its outcomes are of the kind {before[1]}, those of {_file()} {now[1]}"
        raise StoreError(f"{path}: {problem}: choose another DATA_DIR")


def _move(db: Database, path: Path, before: list, now: list) -> None:
    """Change the position of each class, wherever an outcome is."""
    gone = {place for place, label in enumerate(before) if label not in now}
    places = [0 if place in gone else now.index(label) for place, label in enumerate(before)]
    for first, outcomes in db.query("SELECT first, outcomes FROM segments"):
        _refuse(path, gone & set(outcomes), before)
        moved = outcomes.translate(bytes(places) + bytes(range(len(places), 256)))
        db.query("UPDATE segments SET outcomes = ? WHERE first = ?", (moved, first))
    for found, change in _OUTCOMES:
        rows = db.query(found)
        _refuse(path, gone & {int(outcome) for _, outcome in rows}, before)
        db.execute_many(change, [(places[int(outcome)], rowid) for rowid, outcome in rows])


def _refuse(path: Path, gone: set[int], before: list) -> None:
    if gone:
        label = before[min(gone)]
        problem = f"observations have the class {label!r}, which {_file()} has no more"
        raise StoreError(f"{path}: {problem}: add it again, or choose another DATA_DIR")
