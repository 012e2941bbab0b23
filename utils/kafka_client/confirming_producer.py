"""A transactional producer that waits for the markers of each of its transactions.

See utils/kafka_client/transaction_markers.py for why that is needed.
"""

from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.producer.future import RecordMetadata

from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.open_batch import SentRecord
from utils.kafka_client.producer import TransactionalProducer
from utils.kafka_client.transaction_markers import TIMEOUT, TransactionMarkers
from utils.process import time_limit

CONFIRM_AFTER = 0.02  # seconds without records; a check at once would only slow the commit down
# Seconds to end what was forgotten after init_transactions(): only this process still knows the
# decision, and Kafka may be away for a moment.
BEGIN_TIMEOUT = 20.0
# Seconds to find out the decision before that: longer than Kafka takes to replace a broker (9 s by
# default), as every attempt begins from the start. Both together below the stream's STALL_TIMEOUT.
DECISION_TIMEOUT = 15.0


class ConfirmingProducer(TransactionalProducer):
    """A TransactionalProducer that makes sure that its last transaction is ended everywhere.

    It writes to these topics and commits the offsets of this group. Call confirm() after each
    send(), before the next one.
    """

    def __init__(
        self, transactional_id: str, limits: SizeLimits, group_id: str, topics: tuple[str, ...]
    ) -> None:
        self.markers = TransactionMarkers(transactional_id, group_id, topics)
        self._unconfirmed: dict[TopicPartition, int] = {}  # the last offsets written to
        try:
            super().__init__(transactional_id, limits)
        except Exception:
            self.markers.close()
            raise

    def _begin(self) -> None:
        # Before init_transactions(), which makes Kafka drop it.
        decision = self.markers.last_decision(timeout=DECISION_TIMEOUT)
        self.markers.require_means(decision)
        super()._begin()
        self.markers.end_forgotten(decision, BEGIN_TIMEOUT)

    def _check(self, sent: list[SentRecord]) -> list[RecordMetadata]:
        ends = super()._check(sent)
        # On several brokers nothing may be mended after a commit: what hangs is ended by the next.
        for end in () if self.markers.view.has_several_brokers else ends:
            offset = max(end.offset, self._unconfirmed.get(end.topic_partition, -1))
            self._unconfirmed[end.topic_partition] = offset
        return ends

    def limit_wait(self, seconds: float) -> float:
        """Return how long the caller may wait for records before it calls confirm()."""
        return min(seconds, CONFIRM_AFTER) if self._unconfirmed else seconds

    def confirm(self) -> None:
        """Return when the last transaction has ended on every partition; errors as the markers'."""
        if self._unconfirmed:
            with time_limit(2 * TIMEOUT + 1, KafkaTimeoutError("the broker does not answer")):
                if not self.markers.are_passed(self._unconfirmed, self.identity.producer_id):
                    self.markers.end_forgotten(self.markers.last_decision(self.identity))
            self._unconfirmed = {}

    def close(self) -> None:
        """Close it at once; see TransactionalProducer."""
        super().close()
        self.markers.close()
