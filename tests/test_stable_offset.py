"""An open transaction of another client is reported by those whom it stops."""

from contextlib import closing

import pytest
from kafka import KafkaProducer

from tests.harness.pipeline import wait_until
from utils.kafka_client import stable_offset
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import assign_all


@pytest.fixture
def foreign_producer(pipeline):
    """A transactional producer that is no part of the pipeline."""
    name = f"{pipeline.prefix}foreign"
    with KafkaProducer(
        bootstrap_servers=pipeline.host, transactional_id=name, transaction_timeout_ms=60_000
    ) as producer:
        producer.init_transactions()
        yield producer


def open_transaction(pipeline, producer: KafkaProducer) -> None:
    producer.begin_transaction()
    producer.send(f"{pipeline.prefix}app_messages", b"in a transaction")
    producer.flush()


def test_it_is_reported_once_and_so_is_its_end(pipeline, foreign_producer, monkeypatch, capsys):
    monkeypatch.setattr(stable_offset, "BLOCKED_AFTER", 0.3)
    monkeypatch.setattr(stable_offset, "INTERVAL", 0.1)
    pipeline.create_topic("app_messages")
    open_transaction(pipeline, foreign_producer)
    pipeline.send(b"behind it")
    pipeline.producer.flush()
    said = []

    def poll_until(text: str) -> list[bytes]:
        values = []

        def polled() -> bool:
            for records in consumer.poll(timeout_ms=50).values():
                values.extend(record.value for record in records)
            said.append(" ".join(capsys.readouterr().out.split()))
            return text in said[-1]

        wait_until(polled, what=text)
        return values

    with closing(make_consumer()) as consumer:
        assign_all(consumer, f"{pipeline.prefix}app_messages")
        assert poll_until("docs/operations.md says what to do") == []
        foreign_producer.abort_transaction()
        assert b"behind it" in poll_until("app_messages-0 can be read again.")
    assert "".join(said).count("says what to do") == 1
    sentence = f"-0 can't be read beyond offset 0: producer {identity(foreign_producer)} ("
    assert f"{sentence}transactional id {pipeline.prefix}foreign, timeout 60 s) has" in "".join(
        said
    )


def identity(producer: KafkaProducer) -> int:
    return producer._transaction_manager.producer_id_and_epoch.producer_id


@pytest.mark.slow
def test_predictor_and_trainer_say_what_they_wait_for(pipeline, foreign_producer):
    scripts = [pipeline.predictor(), pipeline.trainer()]
    open_transaction(pipeline, foreign_producer)
    pipeline.requests(3)
    for script in scripts:
        pipeline.wait_for_output(script, f"transactional id {pipeline.prefix}foreign, timeout 60 s")
    foreign_producer.commit_transaction()
    pipeline.wait_for_replies(3)
    for script in scripts:
        pipeline.wait_for_output(script, "app_messages-0 can be read again.")
