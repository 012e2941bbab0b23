"""What the outcomes in the store mean, and how they follow a change of the data set's classes.

The store keeps an outcome as the position of its class. Where a class was added, or the classes are
in another order, the positions are changed when the trainer starts. A class that observations have
can't be dropped, and a class can't become a number: StoreError says so.
"""

import json
from pathlib import Path

from train.store.database import Database, StoreError
from utils.datasets import dataset
from utils.settings import DATASETS

_OUTCOMES = (
    (
        "SELECT DISTINCT outcome FROM waiting WHERE outcome IS NOT NULL",
        "UPDATE waiting SET outcome = (SELECT now FROM moved WHERE before = outcome)",
    ),
    (
        "SELECT DISTINCT outcome FROM recent",
        "UPDATE recent SET outcome = (SELECT now FROM moved WHERE before = outcome)",
    ),
)
_NEW = "INSERT INTO target VALUES (?, ?, ?)"


def adapt_target(db: Database, path: Path) -> None:
    """Let the outcomes in the store have the positions of today's classes.

    To be called by the trainer alone: another one, of the former classes, must not be running.
    StoreError if that is impossible.
    """
    now = _now()
    with db.transaction():
        # A store of an earlier version knew the default data set only, with two classes.
        before = _stored(db) or (DATASETS[0], "classes", list(dataset.target.labels[:2]))
        if before != now and _has_outcomes(db):
            _check(path, before, now)
            if before[2] != now[2]:
                _move(db, path, before[2])
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
    if not db.has_table("target"):
        return None  # the store of an earlier version whose trainer is still running
    for name, kind, labels in db.query("SELECT * FROM target"):
        return name, kind, json.loads(labels)
    return None


def _has_outcomes(db: Database) -> bool:
    waiting = "SELECT 1 FROM waiting WHERE outcome IS NOT NULL"
    complete = "SELECT 1 FROM recent UNION ALL SELECT 1 FROM segments"
    return bool(db.query(f"{waiting} UNION ALL {complete} LIMIT 1"))


def _check(path: Path, before: tuple, now: tuple) -> None:
    if before[0] != now[0]:
        held = f"it holds observations of the data set {before[0]}, DATASET is {now[0]}"
        raise StoreError(f"{path}: {held}: choose another DATA_DIR")
    if before[1] != now[1]:
        problem = f"its outcomes are of the kind {before[1]}, those of {_file()} {now[1]}"
        raise StoreError(f"{path}: {problem}: choose another DATA_DIR")


def _move(db: Database, path: Path, before: list) -> None:
    """Change the position of each class, wherever an outcome is."""
    known = dataset.target.outcomes
    gone = {place for place, label in enumerate(before) if label not in known}
    places = [int(known.get(label, 0)) for label in before]
    for first, outcomes in db.query("SELECT first, outcomes FROM segments"):
        _refuse(path, gone & set(outcomes), before)
        moved = outcomes.translate(bytes(places) + bytes(range(len(places), 256)))
        db.query("UPDATE segments SET outcomes = ? WHERE first = ?", (moved, first))
    db.query("CREATE TEMP TABLE moved (before REAL PRIMARY KEY, now REAL)")
    db.execute_many("INSERT INTO moved VALUES (?, ?)", list(enumerate(places)))
    for found, change in _OUTCOMES:
        _refuse(path, gone & {int(outcome) for (outcome,) in db.query(found)}, before)
        db.query(change)
    db.query("DROP TABLE moved")


def _refuse(path: Path, gone: set[int], before: list) -> None:
    if gone:
        label = before[min(gone)]
        problem = f"observations have the class {label!r}, which {_file()} does not have"
        raise StoreError(f"{path}: {problem}: add it again, or choose another DATA_DIR")
