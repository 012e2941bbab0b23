"""Producers: one that any script uses, and one that sends a batch as one transaction."""

import time
from contextlib import suppress

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, UnknownError
from kafka.producer.future import RecordMetadata
from kafka.producer.transaction_manager import ProducerIdAndEpoch
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.connection import connection
from utils.kafka_client.coordinators import retry_coordinators
from utils.kafka_client.open_batch import SentRecord, append_to_open_batch
from utils.kafka_client.rights import Rights
from utils.process import time_limit

ACKNOWLEDGED_TIMEOUT = 30  # seconds for Kafka to acknowledge a record
# An open transaction of a dead process blocks readers of committed records for this time.
TRANSACTION_TIMEOUT_MS = 10_000
# Both together are below the transaction timeout. A broker that ends or is killed costs less than
# that where Kafka notices it soon: then a transaction goes on, and need not be begun again.
SEND_TIMEOUT = 8  # seconds for a transaction
LEAST_COMMIT_TIMEOUT = 1  # seconds that are left for its commit at least
TRANSACTIONAL = {  # settings of a transactional producer
    "transaction_timeout_ms": TRANSACTION_TIMEOUT_MS,
    "batch_size": 2**20,
    "linger_ms": 100,  # the flush before each commit sends at once
    "max_block_ms": 5_000,
    "request_timeout_ms": 4_000,  # of a broker that hangs; another one leads the partition by then
}

Offsets = dict[TopicPartition, OffsetAndMetadata]


def make_producer(**options) -> KafkaProducer:
    """Return an idempotent producer (transactional if the options have a transactional_id)."""
    defaults = {
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "delivery_timeout_ms": 30_000,
        "max_block_ms": 10_000,
        "max_request_size": 2**23,
        "metrics_enabled": False,
    }
    return KafkaProducer(**connection() | defaults | options)


def send_and_wait(producer: KafkaProducer, topic: str, value: bytes, **options) -> None:
    """Send a record, and wait until Kafka has acknowledged it.

    options : as for KafkaProducer.send. KafkaError if it does not arrive; Refused if the right to
    send it is missing.
    """
    with Rights(write=[topic]).translate_errors():
        producer.send(topic, value, **options).get(timeout=ACKNOWLEDGED_TIMEOUT)


def flush(producer: KafkaProducer, seconds: float) -> None:
    """Wait until all records are acknowledged or have failed; KafkaTimeoutError.

    When a batch is larger than its topic allows, kafka-python 3.0.12 splits it and sends the parts,
    but flush() reports the batch as not done: its parts have to be waited for.
    """
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            return producer.flush(left)
        except UnknownError:
            time.sleep(0.001)  # the client is just splitting it
    raise KafkaTimeoutError("the records were not acknowledged in time")


def close_at_once(producer: KafkaProducer) -> None:
    """Close a producer without waiting for Kafka; what was not sent or committed is lost."""
    # close() alone leaves the sender thread running when its flush times out.
    producer._sender.force_close()
    with suppress(KafkaError):
        producer.close(timeout=1)


class TransactionalProducer:
    """Sends records and the offsets of a group as one transaction (KIP-98).

    After any error close it, and make another one with the same transactional id: that aborts the
    transaction that this one left open.
    """

    def __init__(self, transactional_id: str, limits: SizeLimits) -> None:
        self.limits = limits
        self.client = make_producer(transactional_id=transactional_id, **TRANSACTIONAL)
        retry_coordinators(self.client)
        try:
            self._begin()
        except Exception:
            self.close()
            raise

    def _begin(self) -> None:
        """Abort what an earlier producer of this transactional id left open, and fence that one."""
        self.client.init_transactions()

    @property
    def identity(self) -> ProducerIdAndEpoch:
        """The id that Kafka gave to the transactional id, and which of its owners this is."""
        return self.client._transaction_manager.producer_id_and_epoch

    def send(self, records: list[dict], offsets: Offsets, group: ConsumerGroupMetadata) -> None:
        """Send records (the arguments of KafkaProducer.send) and offsets in one transaction.

        KafkaError if any of it failed, or may have failed.
        """
        deadline = time.monotonic() + SEND_TIMEOUT
        self.client.begin_transaction()
        sent = self.put(records)
        flush(self.client, max(deadline - time.monotonic(), LEAST_COMMIT_TIMEOUT))
        self._check(sent)
        left = max(deadline - time.monotonic(), LEAST_COMMIT_TIMEOUT)
        with time_limit(left, KafkaTimeoutError("the broker did not answer a commit")):
            self.client.send_offsets_to_transaction(offsets, group)
            self.client.commit_transaction()

    def put(self, records: list[dict]) -> list[SentRecord]:
        """Hand records to the client, which sends them in the background."""
        sent: list[SentRecord] = []
        while len(sent) < len(records):
            record = records[len(sent)]
            try:
                future = self.client.send(**record)
            except MessageSizeTooLargeError:  # larger than max_request_size
                self.limits.learn(record)
                raise
            sent.append(SentRecord(record, future))
            partition = TopicPartition(record["topic"], record.get("partition"))
            sent += append_to_open_batch(self.client, partition, records, start=len(sent))
        return sent

    def _check(self, sent: list[SentRecord]) -> list[RecordMetadata]:
        """Raise the first error of a record; learn from all that were too large.

        Returns where the last record of each batch is.
        """
        # A batch succeeds or fails as a whole (sender.py, _complete_batch).
        ends = [each.result() for each in {each.future: each for each in sent}.values()]
        if all(end.succeeded() for end in ends):
            return [end.value for end in ends]
        for each in sent:
            too_large = isinstance(each.result().exception, MessageSizeTooLargeError)
            if too_large and not each.was_aborted():
                self.limits.learn(each.record)
        failed = next(end for end in ends if not end.succeeded())
        raise failed.exception or KafkaTimeoutError("a record was not acknowledged")

    def close(self) -> None:
        """Close it at once; what was not sent or committed is lost."""
        close_at_once(self.client)
