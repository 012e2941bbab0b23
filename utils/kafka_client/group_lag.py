"""How many records of a topic a consumer group has still to read, as Kafka's own tools count them.

Kafka answers after 35 to 100 ms, so a thread asks now and then.
"""

import threading
from contextlib import closing

from kafka import KafkaAdminClient

from utils.kafka_client.connection import is_reachable, make_admin
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import all_partitions

ASK_EVERY = 10.0  # seconds


class GroupLag:
    """Asks Kafka in a thread; `records` is the last answer, None while there is none.

    A partition without a committed offset counts as a whole. None too if the right to describe the
    group is missing.
    """

    def __init__(self, topic: str, group_id: str) -> None:
        self._topic, self._group_id = topic, group_id
        self._end = threading.Event()
        self.records: int | None = None
        self._thread = threading.Thread(target=self._run, name="group lag", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                if is_reachable():  # a client that finds no broker leaks a thread
                    self._ask_again_and_again()
            except Exception:  # whatever the client raises, the next try may succeed
                self.records = None
            self._end.wait(ASK_EVERY)

    def _ask_again_and_again(self) -> None:
        with closing(make_admin()) as admin, closing(make_consumer()) as consumer:
            while True:
                self.records = self._ask(admin, consumer)
                if self._end.wait(ASK_EVERY):
                    return

    def _ask(self, admin: KafkaAdminClient, consumer) -> int:
        partitions = all_partitions(consumer, self._topic)
        committed = admin.list_group_offsets(self._group_id)[self._group_id]
        begins = consumer.beginning_offsets(partitions)
        ends = consumer.end_offsets(partitions)
        done = {p: committed[p].offset for p in partitions if p in committed}
        return sum(max(ends[p] - max(done.get(p, 0), begins[p]), 0) for p in partitions)

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        self._thread.join(timeout=5)
