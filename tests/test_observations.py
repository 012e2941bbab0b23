import lzma
import random
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition

from train.store import observations
from train.store.database import StoreError
from train.store.observations import Observations
from train.store.one_trainer import only_trainer
from train.store.snapshot import read_snapshot
from utils.kafka_client.records import Position
from utils.settings import settings

REQUESTS = TopicPartition("app_messages", 0)


def data(age: int) -> bytes:
    """Return the data of a request, told from others by its age."""
    return b'{"age":%d}' % age


def ages(snapshot) -> list:
    return snapshot.frame["age"].tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "observations.db"


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)])
def place(request, path):
    """Where the store is."""
    return path if request.param == "SQLite" else request.getfixturevalue("postgres").place()


in_a_file = pytest.mark.parametrize("place", ["SQLite"], indirect=True)


@pytest.fixture
def store(place):
    store = Observations(place)
    yield store
    store.close()


def test_what_a_poll_brought_survives_with_its_offsets(store, place):
    store.add([("a", b"{}", 1.0), ("b", b"{}", None)], 2, {REQUESTS: Position(7)})
    store.close()
    again = Observations(place)
    assert again.positions() == {REQUESTS: Position(7)}
    assert again.counter("retrain_requests") == 2
    assert again.count() == 1
    again.close()


def test_a_poll_that_can_not_be_stored_moves_no_offset(store):
    store.add([], 0, {REQUESTS: Position(3)})

    def broken():
        yield ("a", b"{}", 1.0)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        store.add(broken(), 1, {REQUESTS: Position(4)})
    assert store.positions() == {REQUESTS: Position(3)}
    assert store.count() == 0
    assert store.counter("retrain_requests") == 0


@in_a_file
def test_a_store_that_can_not_be_read_is_one_sentence_with_its_name(store, path):
    other = path.with_name("other.db")
    other.write_bytes(b"no database" * 100)
    for open_it in (Observations, read_snapshot):
        with pytest.raises(StoreError, match=f"^{other}: file is not a database; move it away"):
            open_it(other)
    with pytest.raises(StoreError, match="unable to open database file"):
        read_snapshot(path.with_name("missing.db"))


@in_a_file
def test_a_locked_store_is_an_error_that_leaves_it_as_it_was(store, path):
    store.add([], 0, {REQUESTS: Position(3)})
    second = Observations(path)
    second._db._connection.execute("PRAGMA busy_timeout = 10")
    with store._db.transaction():
        for refused in (
            lambda: second.add([("a", b"{}", 1.0)], 1, {REQUESTS: Position(4)}),
            lambda: second.expire(seconds=-1),
            second.ask_by_hand,
        ):
            with pytest.raises(StoreError, match=f"^{path}: database is locked$"):
                refused()
        assert second.positions() == {REQUESTS: Position(3)}  # readers do not wait
    second.add([("a", b"{}", 1.0)], 1, {REQUESTS: Position(4)})
    second.close()


@pytest.mark.parametrize(
    ("rows", "observed"),
    [
        ([("a", data(1), None), ("a", None, 1.0)], [(1, 1.0)]),
        ([("a", None, 1.0), ("a", data(1), None)], [(1, 1.0)]),
        ([("a", data(1), 0.0), ("a", data(2), 1.0)], [(1, 1.0)]),  # first request, last outcome
        ([("a", data(1), 0.0), ("a", data(1), None)], [(1, 0.0)]),
        ([("a", data(1), None)], []),
        ([("a", None, 1.0)], []),
    ],
)
def test_request_and_outcome_are_joined_in_any_order(store, place, rows, observed):
    for row in rows:
        store.add([row], 0, {REQUESTS: Position(1)})
    found = read_snapshot(place)
    assert list(zip(ages(found), found.outcomes.tolist(), strict=True)) == observed


@pytest.mark.parametrize(
    ("requests", "observations", "covered", "due"),
    [
        (0, 100, 0, None),
        (1, 9, 0, None),  # waits for outcomes
        (1, 10, 0, 1),
        (3, 25, 0, 2),
        (3, 100, 3, None),
        (4, 30, 3, None),
        (4, 100, 3, 4),
        (2, 100, 3, None),
    ],
)
def test_retraining_waits_for_requests_and_outcomes(store, requests, observations, covered, due):
    rows = [(str(i), b"{}", 0.0) for i in range(observations)]
    store.add(rows, requests, {REQUESTS: Position(1)})
    store.end_training(covered)
    assert store.training_due(retrain_every=10) == due


def test_model_ids_ascend_and_an_unfinished_training_is_remembered(store):
    assert store.unfinished_training() is None
    assert store.begin_training(requests_covered=2, at_least=1) == 1
    assert store.unfinished_training() == (1, 2)
    assert store.begin_training(requests_covered=2, at_least=1) == 2  # killed and started again
    store.end_training(2)
    assert store.unfinished_training() is None
    assert store.begin_training(requests_covered=3, at_least=9) == 9


def test_a_model_beside_the_trainings_has_an_id_of_its_own(store):
    assert store.begin_training(requests_covered=1, at_least=4) == 4
    assert store.new_model_id(at_least=4) == 5  # model 4 is not there yet
    assert store.unfinished_training() == (4, 1)
    assert store.begin_training(requests_covered=1, at_least=5) == 6
    assert store.new_model_id(at_least=9) == 9


def test_a_snapshot_is_of_one_moment_while_the_trainer_writes(store, place):
    store.add([("a", data(1), 1.0)], 0, {REQUESTS: Position(1)})
    seen, stop = [], threading.Event()

    def write():
        writer = Observations(place)
        for i in range(1, 200):
            writer.add([(str(i), data(1), 1.0)], 0, {REQUESTS: Position(1 + i)})
        writer.close()
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not stop.is_set():
        snapshot = read_snapshot(place)
        seen.append((len(snapshot.frame), snapshot.offsets["app_messages-0"]))
    thread.join()
    assert all(rows == offset for rows, offset in seen)


def test_who_asks_by_hand_does_not_wait(store):
    store.ask_by_hand()
    assert store.training_due(retrain_every=10) == 0
    store.begin_training(0, at_least=1)
    store.ask_by_hand()  # once more, while it is trained
    store.end_training(0)
    assert store.training_due(retrain_every=10) == 0
    store.begin_training(0, at_least=1)
    store.end_training(0)
    assert store.training_due(retrain_every=10) is None


def test_a_bulk_of_outcomes_may_repeat_known_ones(store):
    rows = [(f"{n}", data(n), 1.0) for n in range(2_500)]
    store.add(rows[:3], 0, {REQUESTS: Position(1)})
    store.add(rows, 0, {REQUESTS: Position(2)})
    assert store.count() == 2_500
    store.add([(request_id, None, 0.0) for request_id, *_ in rows], 0, {REQUESTS: Position(3)})
    assert store.count() == 2_500


def test_a_step_deletes_a_limited_number_and_the_next_one_goes_on(store, monkeypatch):
    monkeypatch.setattr(observations, "MOST_EXPIRED", 2)
    expired = settings.model_copy(update={"outcome_days": -1})
    monkeypatch.setattr(observations, "settings", expired)
    store.add([(f"{n}", data(n), None) for n in range(5)], 0, {REQUESTS: Position(5)})
    left = []
    for _ in range(4):
        store.clean_up()
        left.append(store.counter("waiting_requests"))
    assert left == [3, 1, 0, 0]


def test_what_never_finds_its_other_half_expires(store):
    store.add(
        [("a", data(1), None), ("b", None, 1.0), ("c", data(1), 1.0)], 0, {REQUESTS: Position(3)}
    )
    assert store.expire(seconds=60) == 0
    assert store.expire(seconds=-1) == 2
    assert store.counter("expired_records") == 2
    store.add([("a", None, 1.0), ("b", data(1), None)], 0, {REQUESTS: Position(5)})
    assert store.count() == 1  # neither half waited any more


def test_a_training_that_brought_nothing_new_does_not_count(store):
    store.add([("a", data(1), 1.0)], 0, {REQUESTS: Position(1)})
    for model_id in (1, 2, 3):
        store.begin_training(1, at_least=model_id)
        store.end_training(1)
    assert store.counter("trainings") == 1


def test_an_observation_belongs_to_the_first_training_that_had_it(store, place):
    for age in (1, 2):
        store.add([(f"{age}", data(age), 1.0)], 0, {REQUESTS: Position(1)})
        store.begin_training(1, at_least=1)
        store.add([(f"late-{age}", data(10 * age), 1.0)], 0, {REQUESTS: Position(1)})
        assert read_snapshot(place).training == age
        store.end_training(1)
    snapshot = read_snapshot(place)
    first = dict(zip(ages(snapshot), snapshot.first_training.tolist(), strict=True))
    assert first == {1: 1, 10: 2, 2: 2, 20: 3}


def test_the_second_trainer_waits_for_the_first(place):
    stop, inside = threading.Event(), threading.Event()

    def second():
        with only_trainer(place, stop):
            inside.set()

    with only_trainer(place, threading.Event()):
        thread = threading.Thread(target=second)
        thread.start()
        assert not inside.wait(0.5)
    assert inside.wait(5)
    thread.join()


# RETRAIN_EVERY may change


def trainings(store, retrain_every: int, batches: int) -> int:
    """Store `batches` batches of requests with outcomes; return how many trainings were due."""
    done = 0
    for _ in range(batches):
        first = store.counter("observations")
        rows = [(str(first + n), data(1), 1.0) for n in range(retrain_every)]
        store.add(rows, 1, {REQUESTS: Position(1)})
        while (covered := store.training_due(retrain_every)) is not None:
            store.begin_training(covered, at_least=1)
            store.end_training(covered)
            done += 1
    return done


@pytest.mark.parametrize(("before", "after"), [(2, 20), (20, 2)])
def test_a_changed_retrain_every_counts_from_then_on(store, before, after):
    assert trainings(store, before, 100) == 100
    assert trainings(store, after, 10) == 10
    assert trainings(store, before, 10) == 10


def test_after_a_smaller_retrain_every_a_training_still_waits_for_outcomes(store):
    trainings(store, 20, 3)
    store.add([(f"late-{n}", data(1), 1.0) for n in range(19)], 0, {REQUESTS: Position(1)})
    assert store.training_due(20) is None
    store.add([], 2, {REQUESTS: Position(1)})
    due = 0
    while (covered := store.training_due(2)) is not None:
        store.end_training(covered)
        due += 1
    assert due <= 2
    store.add([], 1, {REQUESTS: Position(1)})
    assert store.training_due(2) is None  # its outcomes are not known


# The store has bounds


@in_a_file
def test_counts_are_kept_and_not_made(store, path):
    """The time of a poll must not depend on the rows: no statement scans a table."""
    trainings(store, 10, 3)
    plans = []
    store._db._connection.set_trace_callback(plans.append)
    store.training_due(10)
    store.count()
    assert plans
    assert all("FROM counters WHERE name" in plan for plan in plans)


def keep(monkeypatch, kept: str) -> None:
    changed = settings.model_copy(update={"observations_keep": kept})
    monkeypatch.setattr("train.store.observations.settings", changed)


def test_the_newest_rows_are_kept_and_the_file_shrinks(path, monkeypatch):
    keep(monkeypatch, "1000")
    with closing(Observations(path, segment_rows=100)) as store:
        rows = [(f"{n}", data(n), 1.0) for n in range(30_000)]
        store.add(rows, 0, {REQUESTS: Position(1)})
        large = store._db.query("PRAGMA page_count")[0][0]
        while store.count() > 1_100:
            before = store.count()
            store.clean_up()
            assert before - store.count() == 100  # a step is bounded
        store._cleaned_up = -1e9
        store.clean_up()
        assert store._db.query("PRAGMA page_count")[0][0] < large / 2
        assert store.counter("observations") == 30_000
        found = read_snapshot(path)
        assert found.observations == len(found.frame) == store.count()
        assert ages(found) == list(range(30_000 - store.count(), 30_000))
        store.add([("29999", None, 0.0), ("0", None, 0.0)], 0, {REQUESTS: Position(1)})
        assert read_snapshot(path).outcomes.tolist() == [1.0] * (store.count() - 1) + [0.0]


def test_observations_older_than_some_days_are_deleted(place, monkeypatch):
    keep(monkeypatch, "2d")
    with closing(Observations(place, segment_rows=2)) as store:
        store.add([(f"{n}", data(n), 1.0) for n in range(3)], 0, {REQUESTS: Position(1)})
        store._clock._begin += 3 * 86_400
        store.add([("new", data(9), 1.0)], 0, {REQUESTS: Position(1)})
        for _ in range(3):
            store.clean_up()
        assert 9 in ages(read_snapshot(place))
        assert 0 not in ages(read_snapshot(place))
        assert store.count() == len(ages(read_snapshot(place)))


def test_what_waits_is_counted(store, place):
    """Requests and outcomes in any order, repeated, expired; the counters of a store without."""
    chance = random.Random(1)

    def counted() -> tuple[int, int]:
        return store.counter("waiting_requests"), store.counter("waiting_outcomes")

    def there() -> tuple[int, int]:
        return store._db.query("SELECT count(data), count(outcome) FROM waiting")[0]

    for _ in range(80):
        both = [(data(1), None), (None, 1.0), (data(1), 0.0)]
        rows = [(str(chance.randrange(25)), *chance.choice(both)) for _ in range(4)]
        store.add(rows, 0, {REQUESTS: Position(1)})
        assert counted() == there()
        if chance.random() < 0.1:
            store.expire(seconds=chance.choice((-1, 60)))
            assert counted() == there()
    store.add([("new", data(1), None), ("late", None, 1.0)], 0, {REQUESTS: Position(1)})
    store._db.query("DELETE FROM counters WHERE name LIKE 'waiting%'")
    with closing(Observations(place)):  # as after an upgrade
        assert counted() == there() != (0, 0)


def test_waiting_records_expire_without_a_training(store):
    store.add([("a", data(1), None)], 0, {REQUESTS: Position(1)})
    store._clock._begin += settings.outcome_days * 86_400 + 1
    store.clean_up()
    assert store.counter("expired_records") == 1


@pytest.mark.parametrize("wrong", [365 * 86_400, -365 * 86_400], ids=["ahead", "behind"])
def test_a_wrong_clock_makes_nothing_old_or_ageless(place, monkeypatch, wrong):
    """The system's clock is a year wrong in one run of the trainer; it is started daily."""
    now = [1e9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for day, error in enumerate([0, wrong, 0, *[0] * 100]):
        now[0] = 1e9 + day * 86_400 + error
        with closing(Observations(place)) as store:
            store.add([("a", data(1), None)] if day < 2 else [], 0, {REQUESTS: Position(day)})
            store.clean_up()
            if day == 80:
                assert store.counter("expired_records") == 0
    with closing(Observations(place)) as store:
        assert store.counter("expired_records") == 1


@pytest.fixture
def version_2(path):
    """A store that version 2 of the code made, with three trainings of ten observations each."""
    packed = Path(__file__).parent / "stores" / "observations_v2.db.xz"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def test_a_store_of_version_2_becomes_one_of_today(version_2, capsys):
    with closing(Observations(version_2)) as store:
        assert (
            "Converting the observations of an earlier version: 33 rows" in capsys.readouterr().out
        )
        assert store.positions() == {REQUESTS: Position(40), ("outcomes_topic", 0): Position(7)}
        counters = ("trainings", "retrain_requests", "missed_records", "announced_model_id")
        assert [store.counter(name) for name in counters] == [2, 3, 4, 2]
        assert store.training_due(10) == 3
        found = read_snapshot(version_2)
        assert ages(found) == [*range(30), 99]
        assert found.outcomes.tolist() == [0.0, 1.0] * 15 + [1.0]
        assert found.first_training.tolist() == [1] * 10 + [2] * 10 + [3] * 11
        assert set(found.frame["workclass"]) == {"Private"}
        store.add([("3", data(1), 0.0), ("outcome", data(98), None)], 0, {REQUESTS: Position(41)})
        found = read_snapshot(version_2)
        assert ages(found) == [*range(30), 99, 98]  # known ids are known, what waited still waits
        assert found.outcomes[3] == 0  # corrected
        assert store.expire(20 * 365 * 86_400) == 1  # "seen" in 2001
        assert store._db.query("PRAGMA auto_vacuum") == [(2,)]
    Observations(version_2).close()
    assert "Converting" not in capsys.readouterr().out


def test_a_store_of_version_3_becomes_one_of_today(path):
    packed = Path(__file__).parent / "stores" / "observations_v3.db.xz"
    path.write_bytes(lzma.decompress(packed.read_bytes()))
    with closing(Observations(path)) as store:
        assert store.training_due(10) == 3
        found = read_snapshot(path)
        assert ages(found) == [*range(30), 99]
        assert found.outcomes.tolist() == [0.0, 1.0] * 15 + [1.0]
        assert found.first_training.tolist() == [1] * 10 + [2] * 10 + [3] * 11
        store.add([("3", None, 0.0), ("outcome", data(98), None)], 0, {REQUESTS: Position(41)})
        found = read_snapshot(path)
        assert ages(found) == [*range(30), 99, 98]  # known ids are known, what waited still waits
        assert found.outcomes[3] == 0
        assert "for_judge" not in str(store._db.query("SELECT sql FROM sqlite_master"))


def test_an_upgrade_that_is_killed_leaves_the_store_as_it_was(version_2, monkeypatch):
    before = version_2.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("train.store.upgrade.add_positions", killed)
        with pytest.raises(KeyboardInterrupt):
            Observations(version_2)
    connection = sqlite3.connect(version_2)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert connection.execute("SELECT count(*) FROM observations").fetchone() == (33,)
    connection.close()
    assert len(before) == len(version_2.read_bytes())
    with closing(Observations(version_2)) as store:
        assert store.count() == 31


def test_a_drift_asks_for_a_training_without_waiting(store):
    store.add([], 0, {REQUESTS: Position(1)}, asked=2)
    assert store.training_due(25) == 0
    store.begin_training(0, at_least=1)
    store.end_training(0)
    assert store.training_due(25) is None
