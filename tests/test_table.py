"""The monitor's table against a plain dict, whatever is put, removed, saved and rolled back."""

from contextlib import closing, suppress
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.figures import table
from monitoring.figures.database import Database
from monitoring.figures.table import Table

# Some share their upper halves, which is all that the index knows of a key.
KEYS = [upper << 32 | lower for upper in (-7, -1, 0, 5) for lower in range(6)]
keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=8)
steps = st.tuples(st.sampled_from(["put", "pop", "save", "save in vain", "reopen", "clean"]), keys)


def open_table(database: Database) -> Table:
    return Table(database, "rows", is_row=bool, is_open=lambda row: True, in_memory=2)


def change(rows: Table, expected: dict, what: str, some: list[int], content: bytes) -> None:
    rows.load(some)
    for key in some:
        if what == "put":
            rows.put(key, content)
            expected[key] = content
        else:
            rows.pop(key)
            expected.pop(key, None)


class Interrupted(Exception):
    """The transaction did not come to its end."""


def save(database: Database, rows: Table, in_vain: bool = False, now: float = 1) -> None:
    with suppress(Interrupted):
        with database.transaction():
            rows.save(now)
            if in_vain:
                raise Interrupted
        rows.confirm()


def clean(database: Database, rows: Table) -> None:
    """Delete the generations that are empty, which nobody can notice."""
    old = rows.old_generations(since=0)
    with database.transaction():
        assert rows.delete(old) == 0
    rows.forget(old)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40))
def test_it_is_a_dict(all_steps):
    with patch.multiple(table, CHUNK=3, GENERATION=6):
        compare(all_steps)


def compare(all_steps: list[tuple[str, list[int]]]) -> None:
    expected: dict[int, bytes] = {}
    with closing(Database(":memory:")) as database:
        rows = open_table(database)
        for number, (what, some) in enumerate(all_steps):
            if what in ("put", "pop"):
                change(rows, expected, what, some, b"%d" % number)
            elif what in ("save", "save in vain"):
                save(database, rows, in_vain=what != "save")
            elif what == "clean":
                clean(database, rows)
            else:
                save(database, rows)
                rows = open_table(database)
            rows.load(some)
            assert [rows.get(key) for key in some] == [expected.get(key) for key in some]
        save(database, rows)
        rows = open_table(database)
        rows.load(KEYS)
        assert {key: rows.get(key) for key in KEYS} == {key: expected.get(key) for key in KEYS}
        in_file = [key for g in rows._began for _, own in rows._chunks.of(g) for key in own]
        assert sorted(in_file) == sorted(expected)  # no removed row, and none twice


def test_rows_that_leave_soon_leave_nothing_behind():
    with closing(Database(":memory:")) as database:
        rows = open_table(database)
        rows.put(-1, b"never leaves")
        for now in range(100):
            some = [now << 40 | number for number in range(100)]
            rows.put_all((key, b"row") for key in some)
            save(database, rows, now=1_000 * now)
            rows.load(some)
            for key in some:
                rows.pop(key)
        save(database, rows, now=100_000)
        assert sum(map(rows._index.size_of, rows._began)) == 1
        assert len(rows._began) == 2  # a generation ends after a day
        assert rows.old_generations(since=90_000) == [1]
        assert rows.delete([1]) == 1
