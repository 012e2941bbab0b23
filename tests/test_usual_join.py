"""What is joined all at once is joined as one by one, whatever the messages and the rows are."""

from contextlib import closing
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.figures import join
from monitoring.figures.database import Database
from monitoring.figures.decoding import (
    ERROR,
    INVALID,
    NAMELESS,
    PREDICTION,
    REQUEST,
    UNKNOWN,
    UNREADABLE,
)
from monitoring.figures.join import Join
from monitoring.figures.rows import OUTPUTS
from monitoring.figures.table import Table

KINDS = st.sampled_from([REQUEST, PREDICTION] * 4 + [INVALID, ERROR, UNREADABLE, NAMELESS])
EVENTS = st.lists(
    st.tuples(
        KINDS,
        st.integers(1, 4),  # key
        st.integers(0, 50),  # time
        st.integers(0, 1),  # partition
        st.sampled_from([UNKNOWN, 0.0, 1.0]),
    ),
    max_size=12,
)
OUTCOMES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 50), st.sampled_from([0.0, 1.0])))


def polls_of(drawn: list) -> list[tuple[list, list]]:
    """Return polls of events and outcomes, with offsets as a log has them."""
    offset, polls = 0, []
    for events, outcomes in drawn:
        found = []
        for kind, key, time, partition, outcome in sorted(events, key=lambda event: event[3]):
            content = (3, (0.25,) * OUTPUTS) if kind == PREDICTION else None
            known = outcome if kind in (REQUEST, INVALID) else UNKNOWN
            found.append((kind, key, time, partition, offset, content, known))
            offset += 1
        polls.append((found, [(key, time, offset << 12, each) for key, time, each in outcomes]))
    return polls


def joined(polls: list[tuple[list, list]]) -> list:
    """Return all that they lead to, and the rows that are left."""
    with closing(Database(":memory:")) as database:
        tables = [Table(database, name, bool, lambda row: True) for name in ("waiting", "known")]
        both, found = Join(*tables), []
        for events, outcomes in polls:
            both.load(events, outcomes)
            answers, seen, *counts = both.join(events, outcomes)
            found.append((lines_of(answers), lines_of(seen), counts))
        return [found, *(table.rows for table in tables)]


def lines_of(columns: tuple[np.ndarray, ...]) -> list[str]:
    return sorted(str(line) for line in zip(*(each.tolist() for each in columns), strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(EVENTS, OUTCOMES), max_size=5))
def test_both_ways_lead_to_the_same(drawn):
    polls = polls_of(drawn)
    with patch.object(join, "MOST_OF_ONE_ID", 1):
        all_at_once = joined(polls)
        with patch.object(join, "join_usual", lambda events, *_: events):
            assert joined(polls) == all_at_once
