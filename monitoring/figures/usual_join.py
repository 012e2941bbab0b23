"""Joins the usual requests and predictions of one poll all at once: see join.py for the others.

Usual is a request whose id nobody waits with, and a prediction that answers the only request of its
id, where this poll has no other message with the id, or just these two. Ids do not depend on each
other. So join.py, one by one, would do the same with them, in three times the time.
"""

from collections.abc import Iterable
from itertools import compress

import numpy as np

from monitoring.figures.decoding import PREDICTION, REQUEST, Event, rank_in_request
from monitoring.figures.joined import JUDGED, REPLY, Builder
from monitoring.figures.rows import KNOWN_ROW, NOTHING_LEARNT, WAITING_ROW, has_one_request
from monitoring.figures.table import Table

[_NOTHING_LEARNT] = np.frombuffer(NOTHING_LEARNT, np.dtype(KNOWN_ROW.descr[:3]))


class _Columns:
    """Events as arrays of shape (n,)."""

    def __init__(self, events: list[Event], masks: dict[tuple[int, int], int]) -> None:
        columns = [*zip(*events, strict=True)]
        self.kinds, self.keys, self.times, self.partitions, self.offsets = (
            np.array(column, np.int64) for column in columns[:5]
        )
        self.contents, self.outcomes = columns[5], np.array(columns[6])
        mask_of = [masks[partition, REQUEST] for partition in columns[3]]
        self.waiting_keys = self.keys ^ np.array(mask_of, np.int64)

    def are_usual(self) -> np.ndarray:
        """Return which are requests and predictions that have their id alone, or in this order."""
        order = np.argsort(self.keys, kind="stable")
        begins = np.flatnonzero(np.diff(self.keys[order], prepend=~self.keys[order[0]]))
        number = np.diff(begins, append=len(order))
        first, last = order[begins], order[begins + number - 1]
        is_request, is_prediction = self.kinds == REQUEST, self.kinds == PREDICTION
        are_alone = (number == 1) & (is_request | is_prediction)[first]
        are_two = (number == 2) & is_request[first] & is_prediction[last]
        usual = np.zeros(len(order), bool)
        usual[first] = are_alone | are_two
        usual[last] |= are_two
        return usual


def join_usual(
    events: list[Event],
    masks: dict[tuple[int, int], int],
    waiting: Table,
    known: Table,
    joined: Builder,
) -> Iterable[Event]:
    """Join the usual ones, and return the others, in their order; see Join for the arguments."""
    if not events:
        return ()
    columns = _Columns(events, masks)
    usual = columns.are_usual()
    unusual = _ask(columns, usual, waiting, joined)
    _answer(columns, usual, unusual, waiting, known, joined)
    return compress(events, ~usual)


def _ask(columns: _Columns, usual: np.ndarray, waiting: Table, joined: Builder) -> set[int]:
    """Add requests to `waiting`; return the keys that are not usual, and take them from `usual`."""
    places = np.flatnonzero(usual & (columns.kinds == REQUEST))
    keys = columns.waiting_keys[places].tolist()
    are_free = np.array([waiting.get(key) is None for key in keys], bool)
    usual[places[~are_free]] = False
    places = places[are_free]
    rows = np.zeros(len(places), WAITING_ROW)
    rows["time"], rows["offset"] = columns.times[places], columns.offsets[places]
    rows["outcome"] = columns.outcomes[places]
    waiting.put_all(zip(compress(keys, are_free), _each(rows), strict=True))
    joined.outcomes += int((rows["outcome"] == rows["outcome"]).sum())
    return {*compress(keys, ~are_free)}


def _answer(
    columns: _Columns,
    usual: np.ndarray,
    unusual: set[int],
    waiting: Table,
    known: Table,
    joined: Builder,
) -> None:
    """Let predictions answer what is waiting; take those that are not usual from `usual`."""
    places = np.flatnonzero(usual & (columns.kinds == PREDICTION))
    keys, waiting_keys = columns.keys[places].tolist(), columns.waiting_keys[places].tolist()
    found = [waiting.get(key) for key in waiting_keys]
    fit = [
        row is not None
        and has_one_request(row)
        and waiting_key not in unusual
        and known.get(key) is None
        for row, waiting_key, key in zip(found, waiting_keys, keys, strict=True)
    ]
    usual[places[~np.array(fit, bool)]] = False
    places = places[np.array(fit, bool)]
    asked = np.frombuffer(b"".join(compress(found, fit)), WAITING_ROW)
    for key in compress(waiting_keys, fit):
        waiting.pop(key)
    rows = _known_rows(columns, places, asked)
    known.put_all(zip(compress(keys, fit), _each(rows), strict=True))
    _build(rows, columns.times[places] - asked["time"], joined)


def _known_rows(columns: _Columns, places: np.ndarray, asked: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(places), KNOWN_ROW)
    for name in _NOTHING_LEARNT.dtype.names:
        rows[name] = _NOTHING_LEARNT[name]
    answers, contents = rows["answer"], [columns.contents[place] for place in places.tolist()]
    answers["model_id"] = [model_id for model_id, _ in contents]
    answers["scores"] = np.array([scores for _, scores in contents]).reshape(
        answers["scores"].shape
    )
    answers["partition"] = columns.partitions[places]
    answers["time"], answers["offset"] = asked["time"], asked["offset"]
    learnt = asked["outcome"] == asked["outcome"]
    rows["outcome"][learnt], rows["time"][learnt] = asked["outcome"][learnt], -1
    ranks = rank_in_request(columns.partitions[places], asked["offset"])
    rows["rank"][learnt] = ranks[learnt]
    return rows


def _build(rows: np.ndarray, latencies: np.ndarray, joined: Builder) -> None:
    replies = np.ones(len(rows), REPLY)
    replies["latency"] = latencies
    joined.answers.append(rows["answer"].tobytes())
    joined.replies.append(replies.tobytes())
    seen = rows[rows["outcome"] == rows["outcome"]]
    judged = np.zeros(len(seen), JUDGED)
    judged["outcome"], judged["before"], judged["time"] = seen["outcome"], np.nan, seen["time"]
    joined.seen.append(seen["answer"].tobytes())
    joined.judged.append(judged.tobytes())


def _each(rows: np.ndarray) -> list[bytes]:
    content, size = rows.tobytes(), rows.itemsize
    return [content[place : place + size] for place in range(0, len(content), size)]
