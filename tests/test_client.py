"""The request/reply client: everybody gets the answer to their own request, or an error in time."""

import asyncio
import json
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from kafka.errors import KafkaError

from examples.client import ClientClosed, PredictionClient, RequestRefused, TooManyRequests
from tests.harness.pipeline import wait_until
from tools import local_kafka
from utils.datasets import dataset
from utils.settings import settings

ROWS = 40


@pytest.fixture
def client(pipeline):
    """A client of the pipeline, whose topic has three partitions."""
    pipeline.create_topic("app_messages", partitions=3)
    client = PredictionClient(topic=f"{pipeline.prefix}app_messages")
    yield client
    client.close()


@pytest.fixture
def thread():
    """A thread in which a test calls what waits."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def row(pipeline, number):
    return {name: v for name, v in pipeline.rows[number].items() if name != dataset.target.name}


def expected_answers(pipeline) -> list[dict]:
    """Return the replies to the first rows, asked for without the client."""
    request_ids = pipeline.requests(ROWS)
    replies = {reply["request_id"]: reply for reply in pipeline.wait_for_replies(ROWS)}
    return [replies[each]["probability"] for each in request_ids]


def sent_request(pipeline, *known: str) -> str:
    """Return the request_id of a request that is not among the known ones, when it is there."""

    def found():
        messages = [m for m in pipeline.messages("app_messages") if "data" in m]
        return [m["request_id"] for m in messages if m["request_id"] not in known]

    return wait_until(found, what="a request")[0]


def reply(pipeline, request_id, **fields):
    """Answer by hand."""
    pipeline.send(json.dumps({"request_id": request_id, **fields}).encode(), partition=0)
    pipeline.producer.flush()


def test_threads_and_tasks_at_once_get_their_own_answers(pipeline, client):
    pipeline.predictor()
    expected = expected_answers(pipeline)

    async def ask_all() -> list:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(20) as pool:
            in_threads = [
                loop.run_in_executor(pool, client.predict, row(pipeline, n), 30)
                for n in range(ROWS)
            ]
            tasks = [client.predict_async(row(pipeline, n), 30) for n in range(ROWS)]
            return await asyncio.gather(*in_threads, *tasks)

    answers = asyncio.run(ask_all())
    assert [answer.probability for answer in answers] == expected * 2
    assert len({answer.request_id for answer in answers}) == 2 * ROWS


def test_an_invalid_request_raises_the_predictors_reason(pipeline, client):
    pipeline.predictor()
    with pytest.raises(RequestRefused, match="data.age: is missing"):
        client.predict({}, timeout=30)
    with pytest.raises(RequestRefused, match="data.age: is missing"):
        asyncio.run(client.predict_async({}, timeout=30))


def test_a_late_reply_is_given_to_nobody(pipeline, client, thread):
    with pytest.raises(TimeoutError):
        client.predict(row(pipeline, 0), timeout=0.01)
    late = sent_request(pipeline)
    second = thread.submit(client.predict, row(pipeline, 1), 30)
    request_id = sent_request(pipeline, late)
    reply(pipeline, late, prediction=0.0, model_id=1)
    reply(pipeline, request_id, prediction=1.0, model_id=2)
    answer = second.result(30)
    assert (answer.request_id, answer.prediction) == (request_id, 1.0)


def test_no_reply_is_a_timeout_also_in_asyncio(pipeline, client):
    with pytest.raises(TimeoutError):
        asyncio.run(client.predict_async(row(pipeline, 0), timeout=0.01))


def test_the_first_of_two_replies_counts_and_foreign_or_invalid_ones_do_not(
    pipeline, client, thread
):
    asked = thread.submit(client.predict, row(pipeline, 0), 30)
    request_id = sent_request(pipeline)
    reply(pipeline, str(uuid.uuid4()), prediction=1.0)  # to another program
    reply(pipeline, request_id, prediction="<script>")
    pipeline.send(b"\xff not a message", partition=0)
    reply(pipeline, request_id, prediction=0.0, model_id=7)
    reply(pipeline, request_id, prediction=1.0, model_id=8)
    reply(pipeline, request_id, error="too late")
    assert asked.result(30).model_id == 7
    again = thread.submit(client.predict, row(pipeline, 0), 30)
    reply(pipeline, sent_request(pipeline, request_id), error="a reason")
    with pytest.raises(RequestRefused, match="^a reason$"):
        again.result(30)


def test_close_ends_all_waiting_at_once(pipeline, client, thread):
    in_thread = thread.submit(client.predict, row(pipeline, 0), 600)
    first = sent_request(pipeline)

    async def ask_and_close():
        asked = asyncio.create_task(client.predict_async(row(pipeline, 1), 600))
        await asyncio.to_thread(sent_request, pipeline, first)
        await asyncio.to_thread(client.close)
        with pytest.raises(ClientClosed):
            await asked

    asyncio.run(ask_and_close())
    with pytest.raises(ClientClosed):
        in_thread.result(30)
    with pytest.raises(ClientClosed):
        client.predict(row(pipeline, 0))


def test_the_number_of_waiting_requests_is_bounded(pipeline):
    pipeline.create_topic("app_messages")
    client = PredictionClient(max_requests=2, topic=f"{pipeline.prefix}app_messages")

    async def ask_three_times():
        first = [asyncio.create_task(client.predict_async({}, 600)) for _ in range(2)]
        known = [await asyncio.to_thread(sent_request, pipeline)]
        known.append(await asyncio.to_thread(sent_request, pipeline, *known))
        with pytest.raises(TooManyRequests):
            await client.predict_async({}, 600)
        first[0].cancel()
        await asyncio.wait(first[:1])
        third = asyncio.create_task(client.predict_async({}, 600))
        # The reply to the cancelled one must not disturb those that wait.
        known.append(await asyncio.to_thread(sent_request, pipeline, *known))
        for number, request_id in enumerate(known):
            reply(pipeline, request_id, prediction=1.0, model_id=number)
        answers = await asyncio.gather(*first, third, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert {answer.model_id for answer in answers[1:]} == {1, 2}

    asyncio.run(ask_three_times())
    client.close()


def signal_broker(broker, number):
    os.kill(int((broker / "broker.pid").read_text()), number)


@pytest.mark.slow
def test_it_goes_on_after_kafka_was_frozen_for_longer_than_a_request_is_kept(
    broker, pipeline, client
):
    pipeline.predictor()
    expected = client.predict(row(pipeline, 0), timeout=30).probability
    signal_broker(broker, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            client.predict(row(pipeline, 0), timeout=1)
        with pytest.raises(KafkaError):  # after the producer's delivery timeout
            client.predict(row(pipeline, 0), timeout=90)
    finally:
        signal_broker(broker, signal.SIGCONT)
    answer = wait_until(lambda: answer_or_none(client, row(pipeline, 0)), 120, "an answer")
    assert answer.probability == expected


@pytest.mark.slow
def test_it_goes_on_after_kafka_was_killed_and_started_again(broker, pipeline, client):
    pipeline.predictor()
    expected = client.predict(row(pipeline, 0), timeout=30).probability
    signal_broker(broker, signal.SIGKILL)
    local_kafka.stop(broker)
    with pytest.raises(TimeoutError):
        client.predict(row(pipeline, 0), timeout=1)
    local_kafka.start(settings.kafka_host, broker)
    answer = wait_until(lambda: answer_or_none(client, row(pipeline, 0)), 120, "an answer")
    assert answer.probability == expected


def answer_or_none(client, data):
    try:
        return client.predict(data, timeout=5)
    except (TimeoutError, KafkaError):
        return None


@pytest.mark.slow
def test_the_script_prints_a_prediction_or_says_what_is_missing(pipeline):
    pipeline.predictor()
    assert b'"prediction"' in pipeline.run("examples.client").stdout
    pipeline.stop_all()
    ended = pipeline.run("examples.client", "--timeout", "0.1", code=1)
    assert b"No answer within 0.1 s. Is predictor.py running" in ended.stderr
