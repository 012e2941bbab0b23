"""The monitor's file: what is damaged is made anew, and an error that passes deletes nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from monitoring.figures import curves, table
from monitoring.figures.database import Damaged, Database
from monitoring.figures.rows import oldest_request
from monitoring.figures.state import State
from monitoring.observer import READS, Observer
from tests.harness.pipeline import wait_until
from tests.test_monitor_faults import OUTCOMES, Log, pair
from tests.test_observer import NOW, START, look, value_of
from utils.kafka_client.topics import APP_MESSAGES, prepare_topics
from utils.settings import settings

REQUESTS = 2_000


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "monitor.db"


@pytest.fixture
def following(path):
    with closing(Database(path)) as database:
        yield State(database)


def interrupt(database: Database) -> None:
    """Let every query fail, with an error that passes."""
    database._connection.set_progress_handler(lambda: 1, 1)


def mend(database: Database) -> None:
    database._connection.set_progress_handler(None, 1)


def damage(path: Path) -> None:
    """Overwrite every page but those with the schema and the head."""
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT name, rootpage FROM sqlite_master"
        roots = {name: page for name, page in connection.execute(sql)}
        [(size,)] = connection.execute("PRAGMA page_size")
    for page in range(1, len(content) // size):
        if page + 1 != roots["parts"]:
            content[page * size : (page + 1) * size] = b"\xff" * size
    path.write_bytes(content)


def small_generations(monkeypatch, rows: int) -> None:
    monkeypatch.setattr(table, "CHUNK", 1)
    monkeypatch.setattr(table, "GENERATION", rows)


def count(log: Log, first: int = 0) -> None:
    log.send(*(("request", f"{first + n}", n, None) for n in range(REQUESTS)))


def test_damaged_pages_are_found(path):
    with closing(Database(path)) as database:
        following = State(database)
        count(Log(following))
        following.save(NOW)
    damage(path)
    with closing(Database(path)) as database, pytest.raises(Damaged, match="malformed"):
        State(database)


NO_CHUNKS = {
    "null": lambda content: None,
    "number": lambda content: 7,
    "text": lambda content: "text",
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "too long": lambda content: content * 2,
    "rows of text": lambda content: msgspec.msgpack.encode({1: "text"}),
    "a key of 65 bits": lambda content: msgspec.msgpack.encode({2**63: b""}),
    "a key of text": lambda content: msgspec.msgpack.encode({"a": b""}),
    "a list": lambda content: msgspec.msgpack.encode([1]),
}


@pytest.mark.parametrize("damaged", NO_CHUNKS.values(), ids=NO_CHUNKS)
def test_a_chunk_that_is_none_is_found(following, damaged):
    Log(following).send(*pair("a"), ("request", "b", 5, None))
    following.save(NOW)
    database = following.database
    database._connection.create_function("damaged", 1, damaged)
    database.query("UPDATE known SET content = damaged(content)")
    with pytest.raises(Damaged, match="of known: "):
        State(database)
    following.known._changed.clear()
    assert following.known.delete([1]) == 0  # what is too old goes, whatever it was
    assert database.query("SELECT * FROM known") == []


NO_ROWS = {
    "empty": lambda row: b"",
    "cut": lambda row: row[:-1],
    "too long": lambda row: row * 2,
    "large numbers": lambda row: b"\x7f" * len(row),
}


@pytest.mark.parametrize("damaged", NO_ROWS.values(), ids=NO_ROWS)
def test_a_row_that_is_none_is_found(path, damaged):
    with closing(Database(path)) as database:
        Log(following := State(database)).send(*pair("a"), ("request", "b", 5, None))
        following.save(NOW)

        def damage_rows(content: bytes) -> bytes:
            rows = msgspec.msgpack.decode(content, strict=False)
            return msgspec.msgpack.encode({key: damaged(row) for key, row in rows.items()})

        database._connection.create_function("damaged", 1, damage_rows)
        database.query("UPDATE known SET content = damaged(content)")
        database.query("UPDATE waiting SET content = damaged(content)")
    with closing(Database(path)) as database:
        following = State(database)
        with pytest.raises(Damaged, match="of waiting is none"):
            Log(following).send(("prediction", "b", 7, (0, 0.5)))
        with pytest.raises(Damaged, match="of known is none"):
            Log(following, OUTCOMES).send(("outcome", "a", 1, 0))
        following.forget_old(NOW + 1)
        look(following)


@pytest.fixture
def topics(broker):
    """The topics without a prefix, which no other test uses; the value sends to app_messages."""
    prepare_topics(read=READS)
    with closing(KafkaProducer(bootstrap_servers=settings.kafka_host)) as producer:

        def send(number: int) -> None:
            for n in range(number):
                producer.send(APP_MESSAGES, value_of("request", f"{n}", None))
            producer.flush()

        yield send
    with closing(KafkaAdminClient(bootstrap_servers=settings.kafka_host)) as admin:
        admin.delete_topics(list(READS))


def test_an_observer_keeps_what_is_right_and_replaces_what_is_damaged(topics, path, capfd):
    topics(300)
    with closing(Observer(path)) as watching:
        watching.read_all(lambda: False)
    blocked = Path(f"{path}-wal")
    blocked.mkdir()  # "unable to open database file"
    with closing(Observer(path)) as watching:
        assert watching.path == ":memory:"
        assert any("can't be used" in note for note in watching._notes.values())
    blocked.rmdir()
    with closing(Observer(path)) as watching:
        assert watching.counts.requests == 300  # before it reads
        topics(100)
        interrupt(watching._state.database)
        wait_until(lambda: watching.step() and "reading" in watching._notes, what="an error")
        mend(watching._state.database)
        watching.read_all(lambda: False)
        assert "reading" not in watching._notes
        assert watching.counts.requests == 400
        assert watching.counts.missed == 0
    assert "anew" not in (said := "".join(capfd.readouterr()))
    assert said.count("interrupted") == 1
    damage(path)
    with closing(Observer(path)) as watching:
        assert watching.path == path
        assert watching.counts.requests == 0
        watching.read_all(lambda: False)
        assert watching.counts.requests == 400
    assert "malformed" in "".join(capfd.readouterr())


@pytest.mark.parametrize("finds_it", [Observer.step, Observer.save])
def test_pages_that_are_damaged_while_it_runs_are_replaced(topics, path, capfd, finds_it):
    topics(300)
    with closing(Observer(path)) as watching:
        watching.read_all(lambda: False)
    with closing(Observer(path)) as watching:
        for sql in ("PRAGMA cache_size = 0", "PRAGMA shrink_memory"):
            watching._state.database.query(sql)
        damage(path)
        topics(100)  # of ids that are in the file

        def found() -> bool:
            finds_it(watching)
            return "malformed" in "".join(capfd.readouterr())

        wait_until(found, what="a look at damaged pages")
        assert watching.counts.requests == 0
        watching.read_all(lambda: False)
        assert watching.counts.requests == 400
        assert watching.path == path


def test_an_error_that_passes_changes_nothing(following, monkeypatch):
    monkeypatch.setattr(following.known, "_in_memory", 10)
    log, outcomes = Log(following), Log(following, OUTCOMES)
    log.send(*(each for n in range(100) for each in pair(f"{n}")))
    following.save(NOW)
    before = look(following)
    interrupt(following.database)
    report = [("outcome", f"{n}", 1, 0) for n in range(100)]
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        outcomes.send(*report)
    assert look(following) == before
    mend(following.database)
    outcomes.send(*report)
    assert look(following).models[0].figures["accuracy"] == 0.0


def test_a_deletion_that_fails_forgets_nothing(following, monkeypatch):
    small_generations(monkeypatch, 10)
    monkeypatch.setattr(following.known, "_in_memory", 1)
    log, outcomes = Log(following), Log(following, OUTCOMES)
    for first in (0, 20):
        log.send(*(each for n in range(20) for each in pair(f"{first + n}")))
        following.save(NOW)
    connection = following.database._connection
    connection.set_trace_callback(
        lambda sql: sql.startswith("DELETE") and interrupt(following.database)
    )
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        following.forget_old(NOW + 1)
    connection.set_trace_callback(None)
    mend(following.database)
    outcomes.send(*(("outcome", f"{n}", 1, 0) for n in range(40)))
    assert following.models.by_id[0].totals.outcomes == 40
    assert look(following).models[0].figures["accuracy"] == 0.0


def test_what_is_dropped_and_added_again_is_kept(following):
    log = Log(following)
    log.send(*pair("a", model_id=7))
    following.save(NOW)
    following.models._drop(7)
    ring = following.curves.rings["hour"]
    ring.forget(NOW + ring.seconds * curves.INTERVALS)
    log.send(*pair("b", model_id=7))
    following.save(NOW)
    again = State(following.database)
    assert again.models.by_id[7].totals.answers == 1
    assert len(again.curves.rings["hour"].intervals) == 1


def test_the_oldest_request_is_found_wherever_it_is(following, monkeypatch):
    small_generations(monkeypatch, 3)
    monkeypatch.setattr(following.waiting, "_in_memory", 2)
    log = Log(following)

    def oldest() -> float:
        return following.waiting.oldest(100, oldest_request) - START

    log.send(("request", "x", 90, None), ("request", "y", 91, None))
    following.save(NOW)
    assert oldest() == 90
    log.send(("prediction", "x", 95, (0, 0.5)), ("prediction", "y", 95, (0, 0.5)))
    for first in (0, 10, 20):  # three generations
        log.send(*(("request", f"{first + n}", first + n, None) for n in range(5)))
        following.save(NOW)
        assert oldest() == 0
    for answered, then in ((range(5), 10), (range(10, 12), 12), (range(12, 15), 20)):
        log.send(*(("prediction", f"{n}", 50, (0, 0.5)) for n in answered))
        assert oldest() == then  # before these answers are saved
    assert look(following).flow.oldest_unanswered == NOW - (START + 20) / 1000
    log.send(*(("prediction", f"{n}", 50, (0, 0.5)) for n in range(20, 25)))
    assert look(following).flow.oldest_unanswered is None
    following.save(NOW)
    assert State(following.database).waiting.oldest(100, oldest_request) == float("inf")


def test_rows_that_were_joined_are_forgotten_without_a_word(following, monkeypatch):
    small_generations(monkeypatch, 10)
    log, outcomes = Log(following), Log(following, OUTCOMES)
    for first in range(0, 40, 20):
        log.send(*(each for n in range(20) for each in pair(f"{first + n}")))
        following.save(NOW)
    following.forget_old(NOW + 1)
    assert len(following.known._began) == 1
    assert following.counts.forgotten == 0
    log.send(*(("request", f"unanswered {n}", 0, None) for n in range(12)))
    log.send(*(("request", f"no outcome {n}", 0, None) for n in range(6)))
    log.send(*(("prediction", f"no outcome {n}", 0, (0, 0.5)) for n in range(6)))
    outcomes.send(*(("outcome", f"no request {n}", 0, 1) for n in range(5)))
    following.save(NOW)
    log.send(*(each for n in range(20) for each in pair(f"more {n}")), ("request", "x", 0, None))
    following.save(NOW)
    following.forget_old(NOW + 1)
    following.save(NOW)
    again = look(State(following.database))
    assert [note for note in again.following.notes if "too old" in note] == [
        "23 requests or outcomes are too old to be joined"
    ]


def test_a_full_disk_is_said_with_what_it_lost(following, monkeypatch):
    for each in (following.waiting, following.known):
        monkeypatch.setattr(each, "_in_memory", 10)
    log = Log(following)
    log.send(*pair("saved"))
    following.save(NOW)
    log.send(*(each for n in range(20) for each in pair(f"{n}")))
    log.send(*(("request", f"unanswered {n}", 0, None) for n in range(15)))
    following.forget_unsaved()
    assert following.counts.forgotten == 5  # waiting ones; those of `known` are complete


def test_the_size_of_rows_is_bounded(following, monkeypatch):
    small_generations(monkeypatch, 10)
    monkeypatch.setattr(table, "MOST_BYTES", 5_000)
    log = Log(following)
    for first in range(0, 200, 20):
        log.send(*(each for n in range(20) for each in pair(f"{first + n}")))
        following.save(NOW)
        following.forget_old(NOW - 3600)
    [(size,)] = following.database.query("SELECT sum(length(content)) FROM known")
    assert 2_000 < size <= 5_000
