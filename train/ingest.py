"""From the topics into the trainer's store."""

import time

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError

from train.store.database import StoreError, StoreReplaced
from train.store.observations import Observations
from utils.console import say, warn
from utils.kafka_client.connection import is_reachable
from utils.kafka_client.dead_letter_notice import DeadLetterNotice
from utils.kafka_client.dead_letters import encode_letter
from utils.kafka_client.reader import Polled, Reader
from utils.kafka_client.sender import Sender
from utils.kafka_client.topics import APP_MESSAGES, DEAD_LETTER_TOPIC, OUTCOMES_TOPIC, RETRAIN_TOPIC
from utils.messages import decode_control, decode_outcome, decode_requests, encode, outcome_problem
from utils.model_store.storage import StorageAway
from utils.process import health, restart_process
from utils.telemetry import telemetry

Observed = tuple[str, bytes | None, float | None]  # request_id, data, outcome
READS = (APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC)
WRITES = (RETRAIN_TOPIC, DEAD_LETTER_TOPIC)  # announcements are written by the trainer itself
OVER_AFTER = 5.0  # seconds without an error
RECOVERY_TIMEOUT = 60.0  # seconds of one error, while Kafka answers, until a restart
# Counters of the store that are metrics too.
SHOWN = (
    "waiting_requests",
    "waiting_outcomes",
    "retrain_requests",
    "retrain_requests_covered",
    "missed_records",
)
STUCK_AFTER = 300.0  # seconds from one step to the next: more than all time limits between them


class Ingest:
    """Moves what the topics bring into the store, with the positions behind it.

    First the store is adapted to the data set, whose classes may have changed.

    A reported outcome that can't be understood becomes a dead letter. Letters are sent before the
    positions are stored: none is lost, and after a crash between the two some are sent again, with
    the same topic, partition and offset in their headers.
    """

    def __init__(self, store: Observations, sender: Sender) -> None:
        self._store, self._sender = store, sender
        store.adapt_target()
        self._reader = Reader(store.positions(), *READS)
        self._notice = DeadLetterNotice()
        self._is_behind = False  # what was polled was not stored, and has to be read again
        # By partition, and id of its topic: the offset of the last record that has a dead letter.
        self._put_aside: dict[tuple[TopicPartition, str], int] = {}
        self._stepped_at = self._reads_until = 0.0
        # The kind of the present error, when it began, and when the last error was.
        self._problem, self._problem_at, self._failed_at = "", 0.0, 0.0
        self._went_on = False  # the last round of the trainer's loop has succeeded

    def step(self) -> None:
        """Poll once, and store what came and the positions behind it in one transaction.

        KafkaError or StoreError if that fails; then call retry() before the next step().
        """
        health.beat(within=STUCK_AFTER)
        self._note_recovery()
        if self._is_behind:
            self._reader.return_to(self._store.positions())
            self._is_behind = False
        polled = self._reader.poll()
        if polled.positions:
            self._store_polled(polled)
        self._notice.add(())
        self._note_counters()
        health.ready = True
        self._stepped_at = time.monotonic()

    def has_priority(self) -> bool:
        """Return True for three times as long as the last wait for an object store took.

        Work that needs the store is put off meanwhile: a publication that fails may take a minute.
        """
        self._went_on = time.monotonic() >= self._reads_until
        return not self._went_on

    def _note_recovery(self) -> None:
        """Say that a problem is over, once the trainer's loop has worked for some seconds."""
        if self._problem and self._went_on and time.monotonic() > self._failed_at + OVER_AFTER:
            self._problem = ""
            say("The trainer works again.")

    def _note_counters(self) -> None:
        telemetry.trainer.observations = self._store.count()
        for name in SHOWN:
            setattr(telemetry.trainer, name, self._store.counter(name))

    def retry(self, error: Exception) -> None:
        """Report an error once; the next step goes back to the stored positions.

        What was polled and not stored is read again. An error of Kafka that lasts although Kafka
        answers restarts the process: a topic may have to be created again, for example. So does a
        store that was replaced: the positions of this process belong to another file.
        """
        health.ready = self._went_on = False
        telemetry.trainer.failures += 1
        if isinstance(error, StoreReplaced):
            restart_process(str(error))
        kind, now = type(error).__name__, time.monotonic()
        if kind != self._problem or now > self._failed_at + RECOVERY_TIMEOUT:
            self._problem, self._problem_at = kind, now
            is_sentence = kind in str(error) or isinstance(error, StoreError | StorageAway)
            warn(f"{error if is_sentence else f'{kind}: {error}'}. Trying again.")
        elif not is_reachable():
            self._problem_at = now
        elif now > self._problem_at + RECOVERY_TIMEOUT and isinstance(error, KafkaError):
            restart_process(f"{kind} for {RECOVERY_TIMEOUT:.0f} s, although Kafka answers")
        self._failed_at = now
        self._is_behind = True
        if isinstance(error, StorageAway):  # step() does not use it: it is what came after
            self._reads_until = self._failed_at = now + 3 * (now - self._stepped_at)

    def close(self) -> None:
        """Close the consumer."""
        self._reader.close()

    def _store_polled(self, polled: Polled) -> None:
        by_topic: dict[str, list[ConsumerRecord]] = {}
        outcomes: list[Observed] = []
        for partition, records in polled.records.items():
            by_topic.setdefault(partition.topic, []).extend(records)
            if partition.topic == OUTCOMES_TOPIC:
                place = partition, polled.positions[partition].topic_id
                outcomes += self._outcomes(records, place)
        control = [decode_control(record.value) for record in by_topic.get(RETRAIN_TOPIC, [])]
        announced = [m.model_id for m in control if m and m.training_completed]
        requests = _requests(by_topic.get(APP_MESSAGES, []))
        self._store.add(
            requests + outcomes,
            sum(message.retrain and not message.now for message in control if message),
            polled.positions,
            announced[-1] if announced else None,
            polled.missed,
            sum(message.retrain and message.now for message in control if message),
        )
        telemetry.trainer.requests += len(requests)
        telemetry.trainer.outcomes += len(outcomes)

    def _outcomes(
        self, records: list[ConsumerRecord], place: tuple[TopicPartition, str]
    ) -> list[Observed]:
        """Return the valid outcomes; put the others aside."""
        decoded = [decode_outcome(record.value) for record in records]
        done = self._put_aside.get(place, -1)  # this is a retry if there are any
        found = [
            (record, outcome_problem(record.value))
            for record, outcome in zip(records, decoded, strict=True)
            if outcome is None and record.offset > done
        ]
        if found:
            self._sender.send(*(self._letter(*each) for each in found))
            self._put_aside[place] = found[-1][0].offset
            self._notice.add(reason for _, reason in found)
            telemetry.trainer.dead_letters += len(found)
        return [(request_id, None, outcome) for request_id, outcome in filter(None, decoded)]

    def _letter(self, record: ConsumerRecord, reason: str) -> dict:
        return encode_letter(record, DEAD_LETTER_TOPIC, reason, self._sender.fits)


def _requests(records: list[ConsumerRecord]) -> list[Observed]:
    requests, _ = decode_requests(records)  # the predictor deals with the invalid ones
    return [(request.request_id, encode(request.data), request.outcome) for _, request in requests]
