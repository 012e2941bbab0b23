"""A coordinator that can't be reached any more is looked for again."""

import pytest
from kafka.errors import KafkaConnectionError
from kafka.protocol.metadata.find_coordinator import CoordinatorType

from tests.harness.pipeline import answer, next_batch
from tools import local_kafka
from utils.kafka_client import producer
from utils.kafka_client.coordinators import forget_coordinator

GONE = 99  # the number of a broker where nothing listens


def add_a_broker_that_is_gone(cluster) -> None:
    (broker, *_) = cluster.brokers()
    gone = type(broker)(GONE, "localhost", local_kafka.free_port(), None)
    cluster._coordinator_brokers[GONE] = gone


def move_the_coordinator(stream) -> None:
    """Leave the producer with a coordinator that refuses connections, as after a kill -9."""
    client = stream._producer.client
    add_a_broker_that_is_gone(client._sender._client._manager.cluster)
    client._transaction_manager._transaction_coordinator = GONE


def test_without_our_cover_the_request_is_dropped(stream, pipeline, monkeypatch):
    monkeypatch.setattr(producer, "SEND_TIMEOUT", 1)
    del stream._producer.client._sender._client.await_ready
    pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    move_the_coordinator(stream)
    assert not stream.commit(batch)  # after SEND_TIMEOUT; without that it would hang


def test_the_transaction_goes_on_with_the_coordinator_that_is_found(stream, pipeline):
    request_id = pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    move_the_coordinator(stream)
    assert stream.commit(batch)
    assert [reply["request_id"] for reply in pipeline.wait_for_replies(1)] == [request_id]


def test_the_state_of_a_transaction_is_asked_at_the_coordinator_that_is_found(stream):
    view = stream._producer.markers.view
    state = view.describe().state
    cluster = view.admin._manager.cluster
    add_a_broker_that_is_gone(cluster)
    cluster._coordinators[CoordinatorType.TRANSACTION, view.transactional_id] = GONE
    with pytest.raises(KafkaConnectionError):
        view.describe()
    assert view.describe().state == state
    forget_coordinator(view.admin, "never known")  # is no error
