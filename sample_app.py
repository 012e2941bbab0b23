"""Plays the company: sends one request per visitor to Kafka, and acts on the predictions.

    python sample_app.py                                # 200 messages, two seconds apart
    python sample_app.py --messages 1000 --interval 0.1
    python sample_app.py --outcome-delay 30             # outcomes are known later; 0: at once
    python sample_app.py --outcome-delay 2 --drift --messages 60000 --interval 0

Three threads stand for three services of a company: start_producing() sends rows that no model was
trained on as requests, start_consuming() receives the predictions, start_reporting_outcomes()
reports the true outcomes. Ends when every request is answered and every outcome reported.
"""

import time
import uuid
from itertools import chain, islice

from kafka.errors import KafkaError

from monitoring.metrics.serve import serve_metrics
from utils.answers import text_of
from utils.company import Company, action, visitors
from utils.console import say, status_line, warn
from utils.datasets import dataset
from utils.datasets.base import DatasetError
from utils.kafka_client.connection import is_reachable
from utils.kafka_client.positions import read_from_now_on
from utils.kafka_client.producer import make_producer, send_and_wait
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, prepare_topics
from utils.messages import ErrorReply, Prediction, decode_reply, encode
from utils.process import stop_on_signals
from utils.script import command_line, run
from utils.settings import settings

HINT_AFTER = 10  # seconds without any answer
ANSWER_TIMEOUT = 60  # seconds without any answer, after the last request
SHORTEST_INTERVAL = 0.05  # seconds; with less, single answers are not printed


def start_producing(company: Company) -> None:
    """Send the data of visitors as requests, each with its own request_id (step 1a)."""
    drift_at = company.messages // 2 if company.drift else None
    producer = make_producer()
    while not company.listening.wait(0.2):
        if company.stop.is_set():
            return
    for data, label in islice(visitors(drift_at), company.messages):
        if company.stop.wait(company.interval if company.sent else 0):
            break
        request_id = str(uuid.uuid4())
        company.ask(request_id, data)
        if not company.delay:  # requests contain outcomes: the tutorial's shortcut to learn soon
            data[dataset.target.name] = label
            company.add_outcome(request_id, label)
        request = encode({"request_id": request_id, "data": data})
        # Sending only puts the request into a buffer; this waits until Kafka has stored it.
        send_and_wait(producer, APP_MESSAGES, request)
        if company.delay:
            company.report_later(request_id, label)
        company.sent += 1
    producer.close(timeout=10)
    company.all_sent.set()


def start_consuming(company: Company) -> None:
    """Receive the predictions, and act on each one (step 2)."""
    # Replies come on the topic of the requests; we read it from its end. Only committed records are
    # returned: a reply becomes visible when its transaction commits, and never if that is aborted.
    consumer = read_from_now_on(APP_MESSAGES)
    company.listening.set()  # a request sent before would be answered unnoticed
    heard, silence = time.monotonic(), 0.0
    while company.is_waiting():
        # {partition: records that have arrived}, or {} after 200 ms without any.
        polled = consumer.poll(timeout_ms=200)
        replies = [decode_reply(record.value) for record in chain(*polled.values())]
        received = [receive(company, reply) for reply in replies if reply]  # None: a request
        if any(received) or not company.unanswered:
            heard = time.monotonic()
        before, silence = silence, time.monotonic() - heard
        if before < HINT_AFTER <= silence:
            where = f"KAFKA_HOST={settings.kafka_host}, TOPIC_PREFIX={settings.topic_prefix!r}"
            warn(f"No answer for {HINT_AFTER} s. Is predictor.py running, with {where}?")
        if company.all_sent.is_set() and silence > ANSWER_TIMEOUT:
            break
    consumer.close()


def start_reporting_outcomes(company: Company) -> None:
    """Report true outcomes as they become known: late, out of order, some twice, some never (6)."""
    producer = make_producer()
    for request_id, label in company.outcomes_due():
        report = encode({"request_id": request_id, "outcome": label})
        send_and_wait(producer, OUTCOMES_TOPIC, report)
        company.add_outcome(request_id, label)
    producer.close(timeout=10)


def receive(company: Company, reply: Prediction | ErrorReply) -> bool:
    """Act on the reply to one of our requests; False for one to another program's request."""
    if (visitor := company.take(reply.request_id)) is None:
        return False
    if isinstance(reply, Prediction):
        act_on(company, reply, visitor)
    else:
        company.errors += 1
        if company.errors <= 20:  # the others are only counted
            say(f"{visitor} -> error: {reply.error[:300]} (request {reply.request_id})", "bold red")
    return True


def act_on(company: Company, reply: Prediction, visitor: str) -> None:
    """Do what the data set says about such a prediction; here, print it."""
    does = action(reply)
    verdict = company.add_prediction(reply)
    if company.interval >= SHORTEST_INTERVAL:
        style = {"right": "green", "wrong": "yellow"}.get(verdict, "")
        answer = f"{text_of(reply)}, {does}" if does else text_of(reply)
        say(f"{visitor} -> {answer}; {verdict}", style)


def main() -> None:
    """Send all requests and wait for all answers; exit code 1 if one is missing."""
    parser, delay = command_line(__doc__), dataset.outcome_delay
    parser.add_argument("--messages", type=int, default=200, help="requests to send (200)")
    parser.add_argument("--interval", type=float, default=2, help="seconds between them (2)")
    parser.add_argument("--outcome-delay", type=float, default=delay, help=f"seconds ({delay:g})")
    parser.add_argument("--drift", action="store_true", help="other outcomes in the second half")
    chosen = parser.parse_args()
    if chosen.messages < 1 or min(chosen.interval, chosen.outcome_delay) < 0:
        parser.error("--messages must be above 0, the other numbers must not be negative")
    serve_metrics("sample_app")
    stop = stop_on_signals()
    company = Company(chosen.messages, chosen.interval, chosen.outcome_delay, chosen.drift, stop)
    prepare_topics(read=(APP_MESSAGES,), write=(APP_MESSAGES, OUTCOMES_TOPIC))
    try:
        with status_line() as show:
            company.run(start_producing, start_consuming, start_reporting_outcomes, show=show)
    except DatasetError as error:
        raise SystemExit(str(error)) from None
    except KafkaError as error:
        gone = f"Kafka does not answer at {settings.kafka_host} any more"
        problem = f"Kafka: {error}" if is_reachable() else gone
        raise SystemExit(f"{problem}; {company.progress()}.") from None
    if company.unanswered and company.all_sent.is_set():
        raise SystemExit(f"{len(company.unanswered)} requests were not answered.")
    say(f"{company.progress()}.", "bold")


if __name__ == "__main__":
    run(main)
