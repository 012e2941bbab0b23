"""Sends single records, and goes on after every error of its producer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.connection import require_reachable
from utils.kafka_client.producer import ACKNOWLEDGED_TIMEOUT, close_at_once, flush, make_producer
from utils.kafka_client.rights import Rights


class Sender:
    """Sends records and waits until Kafka has them; makes a new producer after each error.

    An idempotent producer (KIP-98) numbers its batches. After an error such as a delivery timeout
    or InvalidTimestampError the numbers of client and broker may differ, and kafka-python's
    producer then refuses all further records. A record whose acknowledgement was lost may be in
    Kafka nevertheless: who sends it again must be able to bear it twice.
    """

    def __init__(self, check: Callable[[], object] | None = None) -> None:
        """check : called before each send(); raises if this process must not send any more."""
        self._check = check or (lambda: None)
        self._producer: KafkaProducer | None = None
        self._limits = SizeLimits()

    def fits(self, record: dict) -> bool:
        """Return True if the record's topic has rejected no record of its size or smaller."""
        return self._limits.allow(record)

    def send(self, *records: dict) -> None:
        """Send records, the arguments of KafkaProducer.send.

        KafkaError if one of them may not have arrived; Refused if the right to send is missing; or
        what the check raises.
        """
        self._check()
        with Rights(write={record["topic"] for record in records}).translate_errors():
            try:
                self._send(records)
            except BaseException:
                self.close()
                raise

    def _send(self, records: tuple[dict, ...]) -> None:
        if self._producer is None:
            require_reachable()
            self._producer = make_producer()
        futures = []
        for record in records:
            with self._learn_limits(record):
                futures.append(self._producer.send(**record))
        flush(self._producer, ACKNOWLEDGED_TIMEOUT)
        for record, future in zip(records, futures, strict=True):
            with self._learn_limits(record):
                future.get(timeout=ACKNOWLEDGED_TIMEOUT)

    @contextmanager
    def _learn_limits(self, record: dict) -> Iterator[None]:
        try:
            yield
        except MessageSizeTooLargeError:
            self._limits.learn(record)
            raise

    def close(self) -> None:
        """Close the producer at once; the next send() makes another one."""
        if self._producer:
            close_at_once(self._producer)
        self._producer = None
