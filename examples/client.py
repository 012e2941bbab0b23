"""A request/reply client: sends a visitor's data to Kafka and returns the prediction for it.

    python -m examples.client                  # one request of the data set in use

    client = PredictionClient()
    prediction = client.predict(data, timeout=2.0)              # in any thread
    prediction = await client.predict_async(data, timeout=2.0)  # in any event loop

Needs Kafka, and a predictor.py with the same TOPIC_PREFIX.
"""

import asyncio
import threading
import uuid
from concurrent.futures import Future
from contextlib import closing
from itertools import chain

from utils.console import say, warn
from utils.datasets import dataset
from utils.kafka_client.consumer import Consumer
from utils.kafka_client.positions import read_from_now_on
from utils.kafka_client.producer import close_at_once, make_producer
from utils.kafka_client.security import Refused
from utils.kafka_client.topics import APP_MESSAGES, prepare_topics
from utils.kafka_client.transactions import CLIENT_ERRORS
from utils.messages import Prediction, decode_reply, encode
from utils.script import command_line, run
from utils.settings import settings

RETRY_INTERVAL = 1.0  # seconds between attempts to read the replies again
# With idempotence the producer may refuse all records after an outage, see kafka_client/sender.py.
# Without, a request may arrive twice: then the first of its two answers counts.
PRODUCER = {"enable_idempotence": False, "max_block_ms": 1_000}


class RequestRefused(Exception):
    """The predictor answered with an error reply; the text is its reason."""


class TooManyRequests(Exception):
    """As many requests as are allowed wait for their answers, or for Kafka to take them."""


class ClientClosed(Exception):
    """The client is closed: it can't receive the answer."""


class PredictionClient:
    """Sends requests and gives each reply to the caller who waits for it, and to nobody else.

    max_requests : how many may wait at once; topic : of requests and replies. One thread reads all
    replies and knows its own by their request_id, a random UUID. Replies that nobody waits for
    (late ones, second ones, those to other programs) are dropped. Partitions that are added to the
    topic are used by a new client only. KafkaError if Kafka or the topic
    is not there; Refused if a right is missing.
    """

    def __init__(self, max_requests: int = 1_000, topic: str = APP_MESSAGES) -> None:
        self._max_requests, self._topic = max_requests, topic
        self._lock = threading.Lock()  # of the next three
        self._waiting: dict[str, Future[Prediction]] = {}
        self._unsent = 0
        self._closed = False
        self._stop = threading.Event()
        consumer = read_from_now_on(topic)  # before the first request: no reply is missed
        self._partitions = sorted(each.partition for each in consumer.assignment())
        self._producer = make_producer(**PRODUCER)
        self._producer.partitions_for(topic)  # now, so that no send() waits for it
        self._reader = threading.Thread(target=self._read, args=[consumer], daemon=True)
        self._reader.start()

    def predict(self, data: dict, timeout: float = 5.0) -> Prediction:
        """Return the prediction for a row of data.

        TimeoutError after `timeout` seconds without a reply, RequestRefused if the data is invalid,
        TooManyRequests, ClientClosed; KafkaError if the request can't be sent.
        """
        request_id = str(uuid.uuid4())
        answer = self.expect(request_id)
        try:
            self._send(request_id, data)
            return answer.result(timeout)
        finally:
            answer.cancel()  # nobody waits any more; no effect on one that is there

    async def predict_async(self, data: dict, timeout: float = 5.0) -> Prediction:
        """Return the prediction for a row of data without blocking the event loop; see predict."""
        request_id = str(uuid.uuid4())
        answer = self.expect(request_id)
        try:
            self._send(request_id, data)
            return await asyncio.wait_for(asyncio.wrap_future(answer), timeout)
        finally:
            answer.cancel()

    def expect(self, request_id: str) -> Future[Prediction]:
        """Return the future of the reply to a request that another program sends.

        Cancel it when the reply is not wanted any more. TooManyRequests, ClientClosed, and
        ValueError if somebody waits for it already.
        """
        answer: Future[Prediction] = Future()
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed")
            if max(len(self._waiting), self._unsent) >= self._max_requests:
                raise TooManyRequests(f"{self._max_requests} requests wait for an answer")
            if request_id in self._waiting:
                raise ValueError(f"request_id {request_id!r} waits for its answer already")
            self._waiting[request_id] = answer
        answer.add_done_callback(lambda _: self._forget(request_id, answer))
        return answer

    def _send(self, request_id: str, data: dict) -> None:
        # All partitions in turn, but only those that are read: the reply comes on the same one.
        partition = self._partitions[uuid.UUID(request_id).int % len(self._partitions)]
        request = encode({"request_id": request_id, "data": data})
        sent = self._producer.send(self._topic, request, partition=partition)
        with self._lock:
            self._unsent += 1
        sent.add_both(self._note_sent)
        sent.add_errback(lambda error: self._resolve(request_id, error))

    def _note_sent(self, _: object) -> None:
        with self._lock:
            self._unsent -= 1

    def _forget(self, request_id: str, answer: Future[Prediction]) -> None:
        with self._lock:
            if self._waiting.get(request_id) is answer:
                del self._waiting[request_id]

    def _resolve(self, request_id: str, result: Prediction | Exception) -> None:
        with self._lock:
            answer = self._waiting.pop(request_id, None)
        if answer is None or not answer.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def _read(self, consumer: Consumer) -> None:
        """Read replies until the client is closed; also while Kafka is away."""
        try:
            while not self._stop.is_set():
                try:
                    self._receive(consumer)
                except CLIENT_ERRORS as error:
                    warn(f"Replies can't be read, trying again: {error}")
                    self._stop.wait(RETRY_INTERVAL)
        except Refused as refused:
            warn(f"The client is closed: {refused}")
        finally:
            with self._lock:
                self._closed = True
            for request_id in list(self._waiting):
                self._resolve(request_id, ClientClosed("the client was closed"))
            consumer.close(timeout_ms=1_000)

    def _receive(self, consumer: Consumer) -> None:
        for record in chain(*consumer.poll(timeout_ms=200).values()):
            reply = decode_reply(record.value)
            if isinstance(reply, Prediction):
                self._resolve(reply.request_id, reply)
            elif reply is not None:
                self._resolve(reply.request_id, RequestRefused(reply.error))

    def close(self) -> None:
        """Stop; ClientClosed for everybody who waits. What is not sent yet is dropped."""
        self._stop.set()
        self._reader.join()
        close_at_once(self._producer)


def main() -> None:
    """Ask for one prediction and print it."""
    parser = command_line(__doc__, "examples.client")
    parser.add_argument("--timeout", type=float, default=5, help="seconds to wait (5)")
    timeout = parser.parse_args().timeout
    prepare_topics(read=[APP_MESSAGES], write=[APP_MESSAGES])
    data = dict(next(dataset.visitors(settings.data_dir)))
    del data[dataset.target.name]
    say(f"request: {data}")
    with closing(PredictionClient()) as client:
        try:
            prediction = client.predict(data, timeout)
        except RequestRefused as refused:
            raise SystemExit(f"The request was refused: {refused}") from None
        except TimeoutError:
            hint = f"Is predictor.py running, with TOPIC_PREFIX={settings.topic_prefix!r}?"
            raise SystemExit(f"No answer within {timeout:g} s. {hint}") from None
    say(f"reply: {encode(prediction).decode()}", "bold")


if __name__ == "__main__":
    run(main)
