"""The trainer's store on a real PostgreSQL server, which is killed, frozen and cut off."""

import sys
import threading
from contextlib import closing

import psycopg
import pytest
from kafka import TopicPartition
from pydantic import SecretStr

from tests.harness.pipeline import wait_until
from tests.harness.postgres import PASSWORD, QUOTED
from train.store import postgres_connection
from train.store.database import StoreError, StoreReplaced, StoreUnreachable
from train.store.observations import Observations
from train.store.one_trainer import delete_store, no_trainer, only_trainer
from train.store.place import Server, connect, schema_of
from train.store.snapshot import read_snapshot
from utils.kafka_client.records import Position
from utils.settings import load

REQUESTS = TopicPartition("app_messages", 0)


def row(request_id: str, age: int = 1, outcome: float | None = 1.0) -> tuple:
    return request_id, b'{"age":%d,"workclass":"\\u0000"}' % age, outcome


def end_connection(place: Server, database) -> None:
    """Let the server end a store's connection, as it does when the host is gone."""
    with closing(connect(place)) as other:
        pid = database._connection.info.backend_pid
        assert other.query("SELECT pg_terminate_backend(?, 5000)", (pid,)) == [(True,)]


def test_what_was_stored_survives_a_kill_of_the_server(postgres):
    place = postgres.place()
    with closing(Observations(place, segment_rows=3)) as store:
        rows = [row(f"\0{n}", age=n) for n in range(7)]
        store.add([*rows, *rows[:2]], 0, {REQUESTS: Position(9)})
        postgres.kill()
        with pytest.raises(StoreUnreachable, match=r"^OBSERVATIONS_URL \(127.0.0.1:\d+\): "):
            store.add([row("new")], 0, {REQUESTS: Position(10)})
        postgres.start()
        assert store.positions() == {REQUESTS: Position(9)}
        corrected = [("\0000"[:2], None, 0.0), ("\0001"[:2], None, 0.0), ("\0006"[:2], None, 0.0)]
        store.add([row("new"), *corrected, row("waits", outcome=None)], 0, {REQUESTS: Position(12)})
    found = read_snapshot(place)
    assert found.frame["age"].tolist() == [*range(7), 1]
    assert set(found.frame["workclass"]) == {"\0"}
    assert found.outcomes.tolist() == [0, 0, 1, 1, 1, 1, 0, 1]
    assert found.offsets == {"app_messages-0": 12}


def test_a_database_without_an_encoding_will_do(postgres):
    with psycopg.connect(postgres.url, autocommit=True) as database:
        database.execute("CREATE DATABASE ascii ENCODING SQL_ASCII TEMPLATE template0")
    url = postgres.url.replace("/postgres", "/ascii")
    with closing(Observations(place := Server(SecretStr(url), "observations"))) as store:
        store.adapt_target()
        store.add([row("a")], 0, {REQUESTS: Position(1)})
    assert read_snapshot(place).offsets == {"app_messages-0": 1}


def test_a_training_reads_although_the_server_starts_again(postgres):
    place = postgres.place()
    with closing(Observations(place)) as store:
        store.add([row("a")], 0, {REQUESTS: Position(1)})
    postgres.kill()
    starting = threading.Timer(0.5, postgres.start)
    starting.start()
    assert read_snapshot(place).observations == 1
    starting.join()


def test_a_transaction_does_not_go_on_with_another_connection(postgres):
    place = postgres.place()
    with closing(Observations(place)) as store:

        def rows():
            yield row("a")
            end_connection(place, store._db)
            yield row("b")

        with pytest.raises(StoreUnreachable):
            store.add(rows(), 1, {REQUESTS: Position(2)})
        assert (store.count(), store.positions()) == (0, {})


def test_a_trainer_that_was_away_can_not_write(postgres):
    place, ready, end = postgres.place(), threading.Event(), threading.Event()

    def successor():
        with only_trainer(place, end) as store:
            store.add([row("b")], 0, {REQUESTS: Position(2)})
            ready.set()
            end.wait()

    thread = threading.Thread(target=successor)
    with only_trainer(place, threading.Event()) as store:
        store.add([row("a")], 0, {REQUESTS: Position(1)})
        end_connection(place, store._db)
        with pytest.raises(StoreUnreachable):
            store.still_mine()
        store.add([row("a")], 0, {REQUESTS: Position(1)})  # nobody took over meanwhile
        thread.start()
        assert not ready.wait(1)
        end_connection(place, store._db)
        assert ready.wait(20)
        with pytest.raises(StoreUnreachable):
            store.still_mine()
        with pytest.raises(StoreReplaced, match="another trainer took over while"):
            store.still_mine()
        end.set()
        thread.join()
        with pytest.raises(StoreReplaced):  # the other one has ended, but it was there
            store.add([row("c")], 0, {REQUESTS: Position(3)})
    with closing(Observations(place)) as store:
        assert (store.count(), store.positions()) == (2, {REQUESTS: Position(2)})


def test_deleting_waits_for_no_trainer(postgres):
    def refuse():
        raise SystemExit("a trainer is running")

    place = postgres.place()
    with (
        only_trainer(place, threading.Event()),
        pytest.raises(SystemExit),
        no_trainer(place, refuse),
    ):
        pass
    with no_trainer(place, refuse):
        delete_store(place)
    with pytest.raises(StoreError, match="counters"):
        read_snapshot(place)


def test_the_password_is_in_no_text(postgres, monkeypatch):
    wrong = postgres.url.replace(QUOTED, f"not-{QUOTED}")
    invalid = f"postgresql://trainer:{PASSWORD}@localhost/%zz"
    for url in (wrong, invalid, f"postgresql://localhost:1/?password={QUOTED}"):
        place = Server(SecretStr(url), "test")
        with pytest.raises(StoreError) as caught:
            Observations(place)
        for text in (str(caught.value), str(place), repr(place)):
            assert "pa55" not in text
    monkeypatch.setenv("OBSERVATIONS_URL", f"postgresql://trainer:{PASSWORD}@/x@localhost")
    with pytest.raises(SystemExit) as caught:
        load()
    assert "pa55" not in caught.value.code
    assert caught.value.code.startswith("OBSERVATIONS_URL: expected postgresql://user:password@")


def test_without_psycopg_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "train.store.postgres", raising=False)
    with pytest.raises(StoreError, match="psycopg: pip install -r requirements-cluster.txt"):
        Observations(Server(SecretStr("postgresql://localhost"), "test"))


def test_each_topic_prefix_has_a_schema():
    long = [schema_of("x" * 199 + last) for last in "ab"]
    short = [schema_of(prefix) for prefix in ("", "pg_", "shop-", "Shop-")]
    assert len({*long, *short}) == 6
    assert max(map(len, long)) == 63


@pytest.mark.slow
def test_a_frozen_server_is_an_error_in_time(postgres, monkeypatch):
    monkeypatch.setattr(postgres_connection, "ANSWER_TIMEOUT", 2)
    place = postgres.place()
    with only_trainer(place, threading.Event()) as store:
        store.add([row("a")], 0, {REQUESTS: Position(1)})
        postgres.freeze()
        try:
            for _ in range(2):  # the connection that was there, and a new one
                with pytest.raises(StoreUnreachable):
                    store.count()
        finally:
            postgres.resume()

        def is_back() -> bool:
            try:
                return store.count() == 1
            except StoreUnreachable:
                return False

        wait_until(is_back)
        store.add([row("b")], 0, {REQUESTS: Position(2)})
        assert store.count() == 2
