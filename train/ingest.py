"""From the topics into the trainer's store."""

import time
from collections import Counter

from kafka.consumer.fetcher import ConsumerRecord

from train.observations import Observations
from utils.console import warn
from utils.kafka_client.dead_letters import encode_letter
from utils.kafka_client.reader import Polled, Reader
from utils.kafka_client.sender import Sender
from utils.kafka_client.topics import APP_MESSAGES, DEAD_LETTER_TOPIC, OUTCOMES_TOPIC, RETRAIN_TOPIC
from utils.messages import decode_control, decode_outcome, decode_requests, encode, outcome_problem

Observed = tuple[str, bytes | None, float | None]  # request_id, data, outcome
READS = (APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC)
WRITES = (RETRAIN_TOPIC, DEAD_LETTER_TOPIC)  # announcements are written by the trainer itself
REPORT_INTERVAL = 60.0  # seconds between two reports of the same problem


class Ingest:
    """Moves what the topics bring into the store, with the positions behind it.

    A reported outcome that can't be understood becomes a dead letter. Letters are sent before the
    positions are stored: none is lost, and after a crash between the two some are sent again, with
    the same topic, partition and offset in their headers.
    """

    def __init__(self, store: Observations, sender: Sender) -> None:
        self._store, self._sender = store, sender
        self._reader = Reader(store.positions(), *READS)
        self._reasons: Counter[str] = Counter()  # why outcomes were not understood, since a report
        self._report_at = 0.0
        self._problem, self._problem_at = "", 0.0  # the kind of the last error reported, and when

    def step(self) -> None:
        """Poll once, and store what came and the positions behind it in one transaction.

        KafkaError or StoreError if that fails; then call retry() before the next step().
        """
        polled = self._reader.poll()
        if polled.positions:
            self._store_polled(polled)
        self._report()

    def retry(self, error: Exception) -> None:
        """Report an error, one of a kind in a minute, and go back to the stored positions.

        What was polled and not stored is read again.
        """
        kind, now = type(error).__name__, time.monotonic()
        if kind != self._problem or now >= self._problem_at + REPORT_INTERVAL:
            what = str(error) if kind in str(error) else f"{kind}: {error}"
            warn(f"{what}. Trying again.")
            self._problem, self._problem_at = kind, now
        self._reader.return_to(self._store.positions())

    def close(self) -> None:
        """Close the consumer."""
        self._reader.close()

    def _store_polled(self, polled: Polled) -> None:
        by_topic: dict[str, list[ConsumerRecord]] = {}
        for partition, records in polled.records.items():
            by_topic.setdefault(partition.topic, []).extend(records)
        observed = _requests(by_topic.get(APP_MESSAGES, []))
        observed += self._outcomes(by_topic.get(OUTCOMES_TOPIC, []))
        control = [decode_control(record.value) for record in by_topic.get(RETRAIN_TOPIC, [])]
        announced = [m.model_id for m in control if m and m.training_completed]
        self._store.add(
            observed,
            sum(message.retrain for message in control if message),
            polled.positions,
            announced[-1] if announced else None,
            polled.missed,
        )

    def _outcomes(self, records: list[ConsumerRecord]) -> list[Observed]:
        outcomes = [decode_outcome(record.value) for record in records]
        invalid = [record for record, each in zip(records, outcomes, strict=True) if each is None]
        reasons = [outcome_problem(record.value) for record in invalid]
        if invalid:
            self._sender.send(*map(self._letter, invalid, reasons))
            self._reasons.update(reasons)
        return [(request_id, None, outcome) for request_id, outcome in filter(None, outcomes)]

    def _letter(self, record: ConsumerRecord, reason: str) -> dict:
        return encode_letter(record, DEAD_LETTER_TOPIC, reason, self._sender.fits)

    def _report(self) -> None:
        """Report outcomes that could not be understood, the first at once, then once a minute."""
        if not self._reasons or time.monotonic() < self._report_at:
            return
        [(reason, _)] = self._reasons.most_common(1)
        what = f"{self._reasons.total()} reported outcomes could not be understood"
        warn(f"{what} and are dead letters now. The commonest reason: {reason}")
        self._reasons.clear()
        self._report_at = time.monotonic() + REPORT_INTERVAL


def _requests(records: list[ConsumerRecord]) -> list[Observed]:
    requests, _ = decode_requests(records)  # the predictor deals with the invalid ones
    return [(request.request_id, encode(request.data), request.outcome) for _, request in requests]
