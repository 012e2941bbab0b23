"""The identity of a topic: each has an id beside its name, and no id is used twice (KIP-516).

A topic that was deleted and created again has the same name, the same partitions and the same
leader epochs, so a fetch by name at an old offset returns records of the new topic without an
error. kafka-python 3.0.12 fetches by name. From version 13 on a fetch names the topic by its id,
and the broker refuses it (UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID) if the topic is another one.
"""

from uuid import UUID

from kafka.consumer.fetcher import FetchRequest

from utils.kafka_client.consumer import Consumer

FETCH_BY_ID = 13  # version of the request


class TopicIdentity:
    """Makes a consumer read one topic by its id; every record it returns is of the topic `id`.

    Brokers before Kafka 2.8 have no ids, and before 3.1 no fetch by id: such a topic is read by its
    name, and `id` is None where there is none.
    """

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._cluster, self._fetcher = consumer._cluster, consumer._fetcher
        self._topic = topic
        self.id: UUID | None = self._current()
        self._manager = self._fetcher._manager
        self._send = self._manager.send
        self._manager.send = self._send_by_id

    def has_changed(self) -> bool:
        """Return True if the topic's name belongs to another topic now.

        Sends no request: the client asks for metadata as soon as a fetch is refused.
        """
        return self._current() not in (None, self.id)

    def follow(self) -> None:
        """Read the topic that has the name now, and forget what was fetched of the former one."""
        self._manager.run(self._switch)  # in the client's thread, which handles responses

    async def _switch(self) -> None:
        self.id = self._current()
        fetcher = self._fetcher
        fetcher._completed_fetches.clear()
        fetcher._next_partition_records = None
        # A session is about the former topic; the client drops responses that belong to none.
        fetcher._session_handlers.clear()

    def _current(self) -> UUID | None:
        return self._cluster.topic_id(self._topic)

    def _send_by_id(self, request: object, *arguments, **options):
        if self.id is None or not isinstance(request, FetchRequest):
            return self._send(request, *arguments, **options)
        request._max_version = FETCH_BY_ID
        for topic in (*request.topics, *request.forgotten_topics_data):
            topic.topic_id = self.id
        future = self._send(request, *arguments, **options)
        return future.add_callback(self._add_name)  # before the fetcher's own callbacks

    def _add_name(self, response: object) -> None:
        for topic in response.responses:
            topic.topic = self._topic
