"""Sends hostile messages among valid requests to a live predictor, then checks each one's fate.

    python -m tests.chaos.hostile --messages 100000 --requests 10000 --seed 7

The messages are the list of tests/chaos/hostile_messages.py, and noise and mutated requests
by chance (the seed is printed). Every valid request must have one prediction, every message one dead letter that is the
same to the byte, and one error reply if its request_id can be read; nothing may end or grow.
"""

import argparse
import random
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from tests.chaos.hostile_messages import HOSTILE, mutations
from tests.chaos.run import Chaos, Options
from tests.chaos.soak import memory
from tests.harness.brokers import free_port
from tests.harness.pipeline import Pipeline
from utils.console import say
from utils.messages import InvalidMessage, decode_request

STALLED = 60  # seconds without progress after which the predictor is given up


def messages(chance: random.Random, row: dict, number: int) -> Iterator[bytes | None]:
    """Yield so many hostile messages, those of the list in between."""
    for n, mutated in enumerate(mutations(chance, row, number)):
        # The huge ones of the list would make the log gigabytes: they come once in a thousand.
        yield HOSTILE[n // 1_000 % len(HOSTILE)] if n % 1_000 == 0 else mutated


def send(pipeline: Pipeline, hostile: int, valid: int, seed: int) -> tuple[Counter, int]:
    """Send everything; return how often each hostile message was sent, and the readable ids."""
    chance, sent, readable = random.Random(seed), Counter(), 0
    producer = KafkaProducer(bootstrap_servers=pipeline.host, linger_ms=20)
    topic, each = f"{pipeline.prefix}app_messages", max(hostile // valid, 1)
    shown = tqdm(
        messages(chance, pipeline.rows[0], hostile), total=hostile, desc="sending", disable=None
    )
    for number, value in enumerate(shown):
        producer.send(topic, value, key=b"k", partition=0)  # a tombstone needs a key
        sent[value] += 1
        readable += has_readable_id(value)
        if number % each == 0 and number // each < valid:
            pipeline.request(number, request_id=f"valid-{number // each}", partition=0)
    producer.close()
    pipeline.producer.flush()
    return sent, readable


def has_readable_id(value: bytes | None) -> bool:
    """True if an error reply is due."""
    try:
        decode_request(value)
    except InvalidMessage as error:
        return error.request_id is not None
    return False


def read_letters(pipeline: Pipeline, number: int) -> Counter:
    """Return how often each value is on the dead letter topic, when there are so many letters."""
    topic, letters = f"{pipeline.prefix}dead_letter_topic", Counter()
    patience = {"consumer_timeout_ms": STALLED * 1_000}  # ends the loop when nothing comes
    consumer = KafkaConsumer(
        topic, bootstrap_servers=pipeline.host, auto_offset_reset="earliest", **patience
    )
    for record in tqdm(consumer, total=number, desc="dead letters", disable=None):
        letters[record.value] += 1
        if letters.total() == number:
            break
    consumer.close()
    return letters


def sample(pid: int, stop: threading.Event, samples: list[float]) -> None:
    """Note a process's memory, MB, each second."""
    while not stop.wait(1):
        samples.append(memory(pid))


def main() -> int:
    """Do one run; exit code 1 when a message did not meet its fate."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--messages", type=int, default=100_000, help="hostile ones (100000)")
    parser.add_argument("--requests", type=int, default=10_000, help="valid ones (10000)")
    parser.add_argument("--seed", type=int, default=7, help="of the messages (7)")
    chosen = parser.parse_args()
    say(f"Hostile input: seed {chosen.seed}.")
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    chaos = Chaos(Options(partitions=1), folder, f"localhost:{free_port()}")
    try:
        chaos.prepare()
        predictor, stop, samples = chaos.pipeline.predictor(), threading.Event(), []
        sampler = threading.Thread(target=sample, args=(predictor.pid, stop, samples))
        sampler.start()
        try:
            sent, readable = send(chaos.pipeline, chosen.messages, chosen.requests, chosen.seed)
            letters = read_letters(chaos.pipeline, sent.total())
        finally:
            stop.set()
            sampler.join()
        replies = chaos.pipeline.replies()
        predicted = Counter(r["request_id"] for r in replies if "prediction" in r)
        errors = sum("error" in r for r in replies)
        valid = {f"valid-{n}": 1 for n in range(chosen.requests)}
        good = (predicted == valid, errors == readable, letters == sent, predictor.poll() is None)
    finally:
        chaos.close()
        shutil.rmtree(folder)
    table = Table("", "sent", "found", "as promised")
    table.add_row(
        "valid requests: predictions", f"{len(valid):,}", f"{predicted.total():,}", str(good[0])
    )
    table.add_row("readable ids: error replies", f"{readable:,}", f"{errors:,}", str(good[1]))
    table.add_row(
        "hostile: dead letters, byte for byte",
        f"{sent.total():,}",
        f"{letters.total():,}",
        str(good[2]),
    )
    table.add_row("the predictor still runs", "", "", str(good[3]))
    fifths = [samples[len(samples) * n // 5] for n in range(1, 5)] + [samples[-1]]
    table.add_row(
        "its MB after each fifth of the time", "", " ".join(f"{mb:.0f}" for mb in fifths), ""
    )
    Console().print(table)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
