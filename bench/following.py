"""How many messages a second the monitor follows on one core, and how much memory it takes.

    python -m bench.following                        # 1,000,000 requests
    python -m bench.following --requests 5000000

It starts a Kafka of its own, loads its topics with requests, a prediction for each of them and an
outcome for each, and then reads them with the monitor's Observer in a process of its own. A message
is a request, a reply or an outcome. The CPU time includes Kafka's client, the joins, the figures of
a snapshot a second, and the file.
"""

import json
import multiprocessing
import os
import tempfile
import time
import uuid
from pathlib import Path

from tests.harness.brokers import running_broker
from tests.harness.pipeline import memory
from tools import local_kafka
from utils.script import command_line, run

CHUNK = 10_000  # requests, then their replies, then their outcomes
SCORES = 1_000  # different ones


def load(requests: int) -> None:
    """Fill the topics: chunks of requests, of their replies, of their outcomes."""
    from kafka import KafkaProducer

    from monitoring.observer import READS
    from utils.datasets import dataset
    from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC, prepare_topics
    from utils.settings import settings

    dataset.prepare(settings.data_dir)
    prepare_topics(read=READS)
    visitors = dataset.visitors(settings.data_dir)
    rows = [next(visitors) for _ in range(5_000)]
    outcomes = [row.pop(dataset.target.name) for row in rows]
    rows = [json.dumps(row) for row in rows]
    options = {"batch_size": 2**20, "linger_ms": 100, "compression_type": "lz4"}
    producer = KafkaProducer(bootstrap_servers=settings.kafka_host, **options)
    for first in range(0, requests, CHUNK):
        numbers = range(first, min(first + CHUNK, requests))
        ids = [str(uuid.UUID(int=number * 2654435761 % 2**128)) for number in numbers]
        for number, name in zip(numbers, ids, strict=True):
            row = rows[number % len(rows)]
            send(producer, APP_MESSAGES, f'{{"request_id": "{name}", "data": {row}}}')
        for number, name in zip(numbers, ids, strict=True):
            score = (number * 7919 % SCORES + 0.5) / SCORES
            answer = f'"prediction": {float(score > 0.5)}, "probability": {score}, "model_id": 0'
            send(producer, APP_MESSAGES, f'{{"request_id": "{name}", {answer}}}')
        for number, name in zip(numbers, ids, strict=True):
            label = json.dumps(outcomes[number % len(rows)])
            send(producer, OUTCOMES_TOPIC, f'{{"request_id": "{name}", "outcome": {label}}}')
    producer.close()


def send(producer, topic: str, message: str) -> None:
    """Send a message to the only partition."""
    producer.send(topic, message.encode(), partition=0)


def follow(requests: int) -> None:
    """Read everything, and print what that took, a line each million requests."""
    from monitoring.figures.database import FILE
    from monitoring.observer import Observer
    from utils.process import collect_garbage_rarely, return_freed_memory
    from utils.settings import settings

    return_freed_memory()
    observer = Observer(settings.data_dir / FILE)
    collect_garbage_rarely()
    began, shown, seen = time.process_time(), time.monotonic(), 0
    while observer.counts.observations < requests:
        observer.step()
        if time.monotonic() > shown + 1:
            shown = time.monotonic()
            observer.snapshot()
            if observer.counts.observations >= seen + 1_000_000:
                seen = report(observer, began)
    report(observer, began)
    observer.close()


def report(observer, began: float) -> int:
    """Print messages/s of CPU and memory, and return how many observations there are."""
    counts, seconds = observer.counts, time.process_time() - began
    messages = counts.requests + counts.predictions + counts.outcomes
    size = os.path.getsize(observer.path) / 2**20
    print(
        f"{counts.observations:,} observations, {messages:,} messages: "
        f"{messages / seconds:,.0f} messages/s of CPU, {memory(os.getpid()):.0f} MB, "
        f"file {size:.0f} MB",
        flush=True,
    )
    return counts.observations


def measure(requests: int, folder: Path) -> None:
    """Start Kafka, load its topics, follow them."""
    host = f"localhost:{local_kafka.free_port()}"
    os.environ |= {"KAFKA_HOST": host, "DATA_DIR": str(folder), "MODELS_DIR": str(folder)}
    with running_broker(folder / "kafka", host):
        # New processes, which read their settings from this environment.
        context = multiprocessing.get_context("spawn")
        for step in (load, follow):
            child = context.Process(target=step, args=(requests,))
            child.start()
            child.join()


def main() -> None:
    """Measure once."""
    parser = command_line(__doc__, "bench.following")
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many")
    with tempfile.TemporaryDirectory() as folder:
        measure(parser.parse_args().requests, Path(folder))


if __name__ == "__main__":
    run(main)
