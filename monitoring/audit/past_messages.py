"""What was said about a request: its messages, from the archive and from Kafka."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError
from tqdm import tqdm

from monitoring.audit.kept_messages import KeptMessages
from monitoring.audit.message_archive import message_of
from monitoring.audit.message_blocks import MOST_MESSAGES, Message, has_data, request_id_of
from utils.console import warn
from utils.kafka_client.connection import is_reachable
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import assign_all
from utils.kafka_client.reader import Positions, Reader
from utils.kafka_client.records import Position
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, existing_topics
from utils.settings import settings

MOST_REQUESTS = 100_000  # in a range of time: their messages are in memory
DAY_MS = 86_400_000  # that the clock of whoever reports outcomes may be behind
MOST_SILENCE = 30.0  # seconds without a record; after CHECK_AFTER, Kafka has to answer at least
CHECK_AFTER = 5.0


class PastMessages:
    """Looks for messages; `looked` says where, in words.

    first : ms since 1970; older messages of Kafka are not read. Long reading shows a progress bar.
    """

    def __init__(self, first: int | None = None) -> None:
        self._first = first
        self._kept = self._open_archive()
        self.looked = [] if self._kept is None else ["the archive"]
        self._topics = self._find_topics()

    def _open_archive(self) -> KeptMessages | None:
        try:
            return KeptMessages()
        except FileNotFoundError:
            return None
        except OSError as error:
            warn(f"{error}: only Kafka is searched.")
            return None

    def _find_topics(self) -> list[str]:
        problem = f"No Kafka answers at {settings.kafka_host}"
        try:
            if is_reachable():
                found = existing_topics((APP_MESSAGES, OUTCOMES_TOPIC))
                self.looked.append("Kafka")
                return found
        except KafkaError as error:
            problem = f"Kafka can't be read: {error}"
        warn(f"{problem}: only the archive is searched.")
        return []

    def ids_between(self, first: int, last: int) -> list[str]:
        """Return the ids of the requests whose time is in this range, the first ones first.

        SystemExit if they are more than MOST_REQUESTS.
        """
        found: dict[str, None] = {}
        kept = self._from_archive(lambda kept: kept.between(first, last))
        for message in chain(kept, self._read(lambda: self._since(first), APP_MESSAGES)):
            if first <= message.time <= last and has_data(message.value):
                found[request_id_of(message.value)] = None
                if len(found) > MOST_REQUESTS:
                    raise SystemExit(f"More than {MOST_REQUESTS:,} requests: take a shorter range")
        found.pop(None, None)
        return list(found)

    def of(self, request_ids: Iterable[str]) -> dict[str, list[Message]]:
        """Return the messages of each of these requests, [] if there are none.

        If one has more than MOST_MESSAGES, the first of them, and one more.
        """
        wanted, found = dict.fromkeys(request_ids), defaultdict(dict)
        for message in self._from_archive(lambda kept: kept.find(wanted)):
            _keep(message, found)
        complete = all(_is_answered(found[each]) for each in wanted)
        behind = self._behind_archive() if complete else {}
        for message in self._read(lambda: behind or self._since(self._first)):
            if request_id_of(message.value) in wanted:
                _keep(message, found)
        return {each: list(found[each]) for each in wanted}

    def _from_archive(self, query: Callable[[KeptMessages], Iterator[Any]]) -> Iterator[Any]:
        try:
            yield from () if self._kept is None else query(self._kept)
        except OSError as error:
            warn(f"{error}: the rest is searched in Kafka only.")
            self._kept = None

    def _behind_archive(self) -> Positions:
        """Return positions from which to read only what the archive does not have; {}: unknown."""
        known = dict(self._from_archive(lambda kept: iter(kept.positions().items())))
        return {
            TopicPartition(*place): Position(offset, -1, topic_id)
            for place, (topic_id, offset) in known.items()
            if place[0] in (APP_MESSAGES, OUTCOMES_TOPIC)
        }

    def _since(self, first: int | None) -> Positions:
        """Return positions behind the messages that are older than this, in ms since 1970."""
        if first is None:
            return {}
        with closing(make_consumer()) as consumer:
            partitions = assign_all(consumer, *self._topics)
            times = {p: first - DAY_MS * (p.topic == OUTCOMES_TOPIC) for p in partitions}
            found = consumer.offsets_for_times({p: max(each, 0) for p, each in times.items()})
            ends = consumer.end_offsets(partitions)
        return {p: Position(found[p].offset if found.get(p) else ends[p]) for p in partitions}

    def _read(self, start: Callable[[], Positions], *topics: str) -> Iterator[Message]:
        """Yield what Kafka has up to now from the positions that `start` returns."""
        if not (there := [topic for topic in self._topics if topic in (topics or self._topics)]):
            return
        try:
            positions = start()
            with closing(Reader(positions, *there)) as reader:
                yield from self._records(reader, positions)
        except KafkaError as error:
            warn(f"Kafka can't be read: {error}. The rest is not searched.")

    def _records(self, reader: Reader, positions: Positions) -> Iterator[Message]:
        ends = reader.ends(stable=True)
        total = sum(ends.values()) - sum(each.offset for each in positions.values())
        options = {"unit": " messages", "unit_scale": True, "leave": False, "delay": 1}
        with tqdm(desc="Kafka", total=total, disable=None, **options) as bar:
            came_at = time.monotonic()
            while not reader.has_read(ends):
                for records in reader.poll().records.values():
                    bar.update(len(records))
                    yield from map(message_of, records)
                    came_at = time.monotonic()
                silence = time.monotonic() - came_at
                if silence > MOST_SILENCE or (silence > CHECK_AFTER and not is_reachable()):
                    warn("Kafka sends no more messages: the rest is not searched.")
                    return


def _keep(message: Message, found: dict[str | None, dict[Message, None]]) -> None:
    same_id = found[request_id_of(message.value)]
    if len(same_id) <= MOST_MESSAGES:
        same_id[message] = None


def _is_answered(messages: Iterable[Message]) -> bool:
    """Return whether there are a request and a reply."""
    found = {has_data(each.value) for each in messages if each.topic == APP_MESSAGES}
    return found == {True, False}
