"""Plays the company: sends requests to Kafka, one a visitor, and acts on the predictions.

    python sample_app.py                                # 200 messages, two seconds apart
    python sample_app.py --messages 1000 --interval 0.02
    python sample_app.py --outcome-delay 30             # what really happened is known later
    python sample_app.py --outcome-delay 2 --drift --messages 60000 --interval 0

Three threads, as three services of a company would be: start_producing() sends rows of adult.test
as requests, start_consuming() receives the predictions, and start_reporting_outcomes() tells what
really happened. Ends when every request is answered and every outcome is reported.
"""

import argparse
import time
import uuid

from utils.company import Company
from utils.console import say
from utils.datasets import dataset
from utils.kafka_client.positions import read_from_now_on
from utils.kafka_client.producer import make_producer, send_and_wait
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, prepare_topics
from utils.messages import ErrorReply, Prediction, decode_reply, encode
from utils.process import stop_on_signals
from utils.script import run
from utils.settings import settings

ANSWER_TIMEOUT = 60  # seconds without any answer after which the last ones are given up


def start_producing(company: Company) -> None:
    """Send the rows of adult.test as requests, each with a request_id of its own: 1a.

    A row brings its outcome along, unless outcomes are known later.
    """
    rows = dataset.read_test_requests(settings.data_dir)
    producer = make_producer()
    while not company.listening.wait(0.2):
        if company.stop.is_set():
            return
    for number in range(company.messages):
        if company.stop.wait(company.interval if number else 0):
            break
        request_id, data = str(uuid.uuid4()), dict(rows[number % len(rows)])
        if company.drift and number >= company.messages // 2:
            data = dataset.turned_upside_down(data)
        if company.delay:
            company.expect_outcome(request_id, data.pop(dataset.TARGET))
        company.unanswered.add(request_id)
        request = encode({"request_id": request_id, "data": data})
        send_and_wait(producer, APP_MESSAGES, request)
        company.sent += 1
        say(f" -> request {request_id}", "blue")
    producer.close(timeout=10)
    company.all_sent.set()


def start_consuming(company: Company) -> None:
    """Receive the predictions, and act on each one of a high income: 2."""
    consumer = read_from_now_on(APP_MESSAGES)  # an answer can't come before we listen
    company.listening.set()
    heard = time.monotonic()
    while not company.stop.is_set() and (company.unanswered or not company.all_sent.is_set()):
        for records in consumer.poll(timeout_ms=200).values():
            heard = time.monotonic()
            for record in records:
                receive(company, record.value)
        if company.all_sent.is_set() and time.monotonic() - heard > ANSWER_TIMEOUT:
            break
    consumer.close()


def start_reporting_outcomes(company: Company) -> None:
    """Tell what really happened: later, out of order, some twice, some never: 6."""
    producer = make_producer()
    for request_id, outcome in company.outcomes():
        report = encode({"request_id": request_id, "outcome": outcome})
        send_and_wait(producer, OUTCOMES_TOPIC, report)
    producer.close(timeout=10)


def receive(company: Company, value: bytes) -> None:
    """Take note of a reply to one of our requests; other messages are none of our business."""
    reply = decode_reply(value)
    if reply is None or reply.request_id not in company.unanswered:
        return
    company.unanswered.discard(reply.request_id)
    if isinstance(reply, ErrorReply):
        say(f" <- error for {reply.request_id}: {reply.error}", "bold red")
    else:
        act_on(company, reply)


def act_on(company: Company, reply: Prediction) -> None:
    """Act at once, and once for each request: an offer to whoever is likely to earn over 50K."""
    text = f" <- prediction {reply.prediction} for {reply.request_id} by model {reply.model_id}"
    if reply.prediction == 1.0 and reply.request_id not in company.offers:
        company.offers.add(reply.request_id)
        say(f"{text}: an offer goes out", "bold green")
    else:
        say(text, "green")


def main() -> None:
    """Send all requests and wait for all answers; exit 1 when one does not come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200, help="requests to send (200)")
    parser.add_argument("--interval", type=float, default=2, help="seconds between them (2)")
    parser.add_argument("--outcome-delay", type=float, default=0, help="seconds (0: none)")
    parser.add_argument("--drift", action="store_true", help="half-way the opposite becomes true")
    chosen = parser.parse_args()
    if chosen.messages < 1 or min(chosen.interval, chosen.outcome_delay) < 0:
        parser.error("--messages takes a number above 0, the others one that is not negative")
    delay, stop = chosen.outcome_delay, stop_on_signals()
    company = Company(chosen.messages, chosen.interval, delay, chosen.drift, stop)
    prepare_topics(read=(APP_MESSAGES,), write=(APP_MESSAGES, OUTCOMES_TOPIC))
    company.run(start_producing, start_consuming, start_reporting_outcomes)
    if company.failure:
        raise SystemExit(company.failure)
    if company.unanswered and company.all_sent.is_set():
        raise SystemExit(f"{len(company.unanswered)} requests were not answered.")
    answered = company.sent - len(company.unanswered)
    say(f"{company.sent} requests, {answered} answers, {len(company.offers)} offers.", "bold")


if __name__ == "__main__":
    run(main)
