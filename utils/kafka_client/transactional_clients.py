"""The consumer and the producer of a stream of transactions: their settings, beginning and end."""

from contextlib import suppress

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.producer.transaction_manager import ProducerIdAndEpoch

from utils.kafka_client.consumer import Consumer, make_consumer
from utils.kafka_client.positions import all_partitions
from utils.kafka_client.producer import make_producer
from utils.kafka_client.transaction_markers import TransactionMarkers

TRANSACTION_TIMEOUT_MS = 10_000  # an open transaction of a dead predictor blocks readers this long
SESSION_TIMEOUT_MS = 6_000  # a dead predictor's partitions are given to others after this long
CONSUMER = {
    "session_timeout_ms": SESSION_TIMEOUT_MS,
    "heartbeat_interval_ms": 300,  # a rebalance waits for the next one
    "max_poll_records": 4_000,
    "max_partition_fetch_bytes": 2**23,
}
PRODUCER = {
    "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
    "batch_size": 2**20,
    "linger_ms": 100,  # the flush before each commit sends at once
    "max_block_ms": 5_000,
}


def new_producer(transactional_id: str, markers: TransactionMarkers) -> KafkaProducer:
    """Return a producer that may begin a transaction; one that was left open is aborted."""
    producer = make_producer(transactional_id=transactional_id, **PRODUCER)
    try:
        markers.complete()
        producer.init_transactions()
        markers.complete(own_id(producer))
    except Exception:
        discard(producer)
        raise
    return producer


def own_id(producer: KafkaProducer) -> ProducerIdAndEpoch:
    """Return what the broker has given to a transactional id, and which of its owners (KIP-98)."""
    return producer._transaction_manager.producer_id_and_epoch


def discard(producer: KafkaProducer) -> None:
    """Close a producer without waiting for what it still wants to send."""
    # close() alone leaves the sender thread running when its flush times out.
    producer._sender.force_close()
    with suppress(KafkaError):
        producer.close(timeout=1)


def join(topic: str, group_id: str, instance_id: str) -> Consumer:
    """Return a static member of a consumer group (KIP-345) that shares a topic's partitions."""
    consumer = make_consumer(group_id=group_id, group_instance_id=instance_id, **CONSUMER)
    consumer.subscribe([topic])
    # Metadata first, then join: a group's leader that does not know the topic yet assigns nobody
    # anything, and if it is killed before it corrects that, its static successor is not the leader
    # and keeps the empty assignment for ever.
    all_partitions(consumer, topic)
    return consumer
