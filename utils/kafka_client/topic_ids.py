"""The identity of a topic: each has an id beside its name, and no id is used twice (KIP-516).

A topic that was deleted and created again has the same name, the same partitions and the same
leader epochs, so a fetch by name at an old offset returns records of the new topic without an
error. kafka-python 3.0.12 fetches by name. From version 13 on a fetch names each topic by its id,
and the broker refuses it (UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID) if the topic is another one.

Invariant: every record that a consumer with a TopicIdentity returns is of the topic that `id_of`
names at that time.

- A request has the ids that are known when it is sent, and the broker answers for these or refuses.
- Only follow() changes an id. It drops what was fetched, and the response to a request that is
  under way then: a response without a fetch session is ignored, and the next session of a node
  begins after that response (Fetcher._nodes_with_pending_fetch_requests).
- An id that was left is never taken again: it comes from a broker that is late.

The client learns a new id from the metadata, which it asks for as soon as a fetch is refused.
Brokers before Kafka 3.1 have no fetch by id: records of a new topic may be returned until the next
metadata arrive. Brokers before Kafka 2.8 have no ids: a new topic is not noticed at all.
"""

from collections.abc import Mapping
from functools import partial
from uuid import UUID

from kafka.protocol.consumer import FetchRequest, FetchResponse

from utils.kafka_client.consumer import Consumer

FETCH_BY_ID = 13  # version of the request


class TopicIdentity:
    """Makes a consumer read topics by their ids; make it before the consumer's first poll().

    topics : all that the consumer reads; their metadata must be known.
    """

    def __init__(self, consumer: Consumer, *topics: str) -> None:
        self._cluster, self._fetcher = consumer._cluster, consumer._fetcher
        self._topics = topics
        self._ids: dict[str, UUID] = {}
        self._left: set[UUID] = set()
        self._ids = self._current()
        self._manager = self._fetcher._manager
        self._send = self._manager.send
        self._manager.send = self._send_by_id

    def id_of(self, topic: str) -> str | None:
        """Return the id of the topic that is read; None if Kafka has no ids."""
        return str(self._ids[topic]) if topic in self._ids else None

    def has_changed(self) -> bool:
        """Return True if one of the names belongs to another topic now; sends no request."""
        return self._current() != self._ids

    def follow(self) -> set[str]:
        """Read the topics that have the names now, and return the names of those that changed.

        If there are any, everything that was fetched is forgotten. Seek in those that changed.
        """
        if not self.has_changed():
            return set()
        return self._manager.run(self._switch)  # in the client's thread, which handles responses

    async def _switch(self) -> set[str]:
        before, self._ids = self._ids, self._current()
        changed = {topic for topic, each in before.items() if each != self._ids[topic]}
        self._left |= {before[topic] for topic in changed}
        fetcher = self._fetcher
        fetcher._completed_fetches.clear()
        fetcher._paused_completed_fetches.clear()
        fetcher._paused_partition_records.clear()
        fetcher._next_partition_records = None
        fetcher._next_in_line_exception_metadata = None
        fetcher._session_handlers.clear()
        return changed

    def _current(self) -> dict[str, UUID]:
        """Return the ids that the names have now; of a topic that is being deleted the last one."""
        found = {topic: self._cluster.topic_id(topic) for topic in self._topics}
        return self._ids | {t: each for t, each in found.items() if each and each not in self._left}

    def _send_by_id(self, request: object, *arguments, **options):
        if not isinstance(request, FetchRequest) or len(self._ids) < len(self._topics):
            return self._send(request, *arguments, **options)
        request._max_version = FETCH_BY_ID
        for topic in (*request.topics, *request.forgotten_topics_data):
            topic.topic_id = self._ids[topic.topic]
        names = {each: topic for topic, each in self._ids.items()}
        future = self._send(request, *arguments, **options)
        return future.add_callback(partial(_add_names, names))  # before the fetcher's own callbacks


def _add_names(names: Mapping[UUID, str], response: FetchResponse) -> None:
    if response.API_VERSION >= FETCH_BY_ID:
        for topic in response.responses:
            topic.topic = names[topic.topic_id]
