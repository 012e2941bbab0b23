"""Joins the events of each session into one request per item that was viewed, exactly once.

    DATASET=shop python -m examples.journey.aggregator
    DATASET=shop python -m examples.journey.aggregator --name aggregator-1  # one more: they share

Reads the topic `events`, writes requests to app_messages and, when a visitor has reacted or has
left, outcomes to outcomes_topic. Requests, outcomes, the sessions' new states and the offsets of
the events are one Kafka transaction: killed anywhere, it goes on where it was. An event that it
can't understand goes to dead_letter_topic.
"""

import re
import time
from contextlib import closing, suppress

from kafka import KafkaProducer
from kafka.errors import KafkaError

from examples.client import PRODUCER
from examples.journey.catalog import require_shop
from examples.journey.events import EVENTS, SESSIONS, TOPICS, Tick, decode_event
from examples.journey.sessions import Sessions
from examples.journey.states import encode_state, restore
from utils.console import say
from utils.kafka_client.batch import Batch
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import all_partitions
from utils.kafka_client.producer import make_producer
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    prepare_topics,
)
from utils.kafka_client.transactions import TransactionalStream
from utils.messages import Outcome, Request, encode
from utils.process import stop_on_signals
from utils.script import command_line, run
from utils.settings import settings

GROUP = settings.topic_prefix + "aggregators"
WRITES = (EVENTS, SESSIONS, APP_MESSAGES, OUTCOMES_TOPIC, DEAD_LETTER_TOPIC)
ALL = 2**62  # Batch.count() has nothing else to do than count
TICK_INTERVAL = 5.0  # seconds, or less if outcomes are due sooner


class Aggregator:
    """The sessions of the partitions that this process has."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._sessions: dict[int, Sessions] = {}
        self._counts: dict[int, int] = {}  # events counted when these states were committed

    def join(self, batch: Batch) -> None:
        """Put what the events of a batch make due into the batch."""
        for partition, records in batch.by_partition.items():
            sessions = self._known(partition.partition, batch.counts[partition])
            for record in records:
                if record.value == b"":  # a checkpoint
                    continue
                try:
                    sessions.apply(decode_event(record.value), record.timestamp / 1000)
                except ValueError as error:
                    batch.dead_letter(record, DEAD_LETTER_TOPIC, str(error))
            _send(batch, partition.partition, sessions)
        if batch.outgoing:
            batch.count(batch.records, ALL)

    def _known(self, partition: int, count: int) -> Sessions:
        """Return a partition's sessions as they are after `count` events.

        Every transaction that changes a state counts its events. So another count means that
        another process has had the partition meanwhile, or that this one has just started.
        """
        if self._counts.get(partition) != count:
            self._sessions[partition] = Sessions(restore(partition), self._patience)
            self._counts[partition] = count
        return self._sessions[partition]

    def conclude(self, batch: Batch, committed: bool) -> None:
        """Keep the sessions as they are now, or forget them if the batch is read again."""
        if not committed:
            self._sessions.clear()
            self._counts.clear()
            return
        for partition in batch.by_partition:
            self._sessions[partition.partition].clear()
            self._counts[partition.partition] = batch.counts[partition]

    def partitions_to_tick(self, batch: Batch) -> list[int]:
        """Return the partitions of this process that have sessions, or may have some.

        Forgets those that it has no more.
        """
        owned = {each.partition for each in batch.counts}
        for partition in self._sessions.keys() - owned:
            del self._sessions[partition], self._counts[partition]
        known = self._sessions
        return [each for each in owned if each not in known or known[each].by_id]


def _send(batch: Batch, partition: int, sessions: Sessions) -> None:
    for name, request_id, data in sessions.requests:
        batch.send(APP_MESSAGES, encode(Request(request_id, data)), key=name.encode())
    for name, request_id, outcome in sessions.outcomes:
        batch.send(OUTCOMES_TOPIC, encode(Outcome(request_id, outcome)), key=name.encode())
    for name in sorted(sessions.changed):
        state = encode_state(sessions.by_id.get(name))
        batch.send(SESSIONS, state, key=name.encode(), partition=partition)


class Clock:
    """Sends ticks to partitions, so that time passes for silent visitors too.

    Time comes with the events, as all else does. A tick that is lost does no harm.
    """

    def __init__(self, producer: KafkaProducer, interval: float) -> None:
        self._producer, self._interval = producer, interval
        self._next, self._sent = time.monotonic(), []

    def tick(self, partitions: list[int]) -> None:
        """Send a tick to each of these partitions, if it is time for it."""
        if time.monotonic() < self._next or not all(each.is_done for each in self._sent):
            return
        self._next = time.monotonic() + self._interval
        with suppress(KafkaError):
            self._sent = [
                self._producer.send(EVENTS, encode(Tick()), partition=partition)
                for partition in partitions
            ]


def check_partitions() -> None:
    """SystemExit if the topic of states has other partitions than the topic of events."""
    with closing(make_consumer()) as consumer:
        events, states = (len(all_partitions(consumer, topic)) for topic in (EVENTS, SESSIONS))
    if events != states:
        raise SystemExit(
            f"{EVENTS} has {events} partitions, {SESSIONS} has {states}: both need as many."
        )


def main() -> None:
    """Join events until Ctrl-C or SIGTERM."""
    parser = command_line(__doc__, "examples.journey.aggregator")
    parser.add_argument("--name", default="aggregator-0", help="unique (aggregator-0)")
    parser.add_argument(
        "--patience",
        type=float,
        default=120,
        help="seconds until the outcome of a view is reported as it is then (120)",
    )
    chosen = parser.parse_args()
    if chosen.patience <= 0:
        parser.error("--patience must be above 0")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", chosen.name):
        parser.error("--name: expected letters, digits, '.', '_' and '-' only")
    require_shop()
    stop = stop_on_signals()
    prepare_topics(read=(EVENTS, SESSIONS), write=WRITES, others=TOPICS)
    check_partitions()
    stream = TransactionalStream(EVENTS, GROUP, chosen.name, WRITES, own_records=True)
    aggregator = Aggregator(chosen.patience)
    with closing(stream), closing(make_producer(**PRODUCER)) as producer:
        clock = Clock(producer, min(TICK_INTERVAL, chosen.patience / 2))
        say(f"{chosen.name} joins the events of {EVENTS}.", "bold")
        while not stop.is_set():
            batch = stream.poll()
            aggregator.join(batch)
            aggregator.conclude(batch, stream.commit(batch))
            clock.tick(aggregator.partitions_to_tick(batch))


if __name__ == "__main__":
    run(main, restart=True)
