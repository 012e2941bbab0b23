"""Sends hostile messages among valid requests to a running predictor, and checks every result.

    python -m tests.chaos.hostile --messages 100000 --requests 10000 --seed 7

The messages are those of tests/chaos/hostile_messages.py: its list, random bytes and mutated
requests. Every valid request must get one prediction. Every hostile message must get one dead
letter, identical byte for byte, and one error reply if its request_id can be read. The predictor
must keep running, and its memory must not grow.
"""

import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from tests.chaos.hostile_messages import HOSTILE, mutations
from tests.harness.brokers import QUICK, own_pipeline
from tests.harness.pipeline import Pipeline, memory
from utils.console import say
from utils.messages import InvalidMessage, decode_request
from utils.script import command_line

STALLED = 60  # seconds without a new dead letter after which the run ends


@dataclass
class Sent:
    """What was sent."""

    hostile: Counter  # how often each message was sent
    readable: int  # hostile messages whose request_id can be read
    valid: int  # requests


def messages(chance: random.Random, row: dict, number: int) -> Iterator[bytes | None]:
    """Yield this number of hostile messages, one in a thousand of them from the list."""
    for n, mutated in enumerate(mutations(chance, row, number)):
        # More of the large ones in the list would make the log gigabytes.
        yield HOSTILE[n // 1_000 % len(HOSTILE)] if n % 1_000 == 0 else mutated


def send(pipeline: Pipeline, number: int, valid: int, seed: int) -> Sent:
    """Send the hostile messages, and the valid requests evenly among them."""
    chance, sent = random.Random(seed), Sent(Counter(), 0, valid)
    producer = KafkaProducer(bootstrap_servers=pipeline.host, linger_ms=20)
    topic, each = f"{pipeline.prefix}app_messages", max(number // valid, 1)
    hostile = messages(chance, pipeline.rows[0], number)
    for n, value in enumerate(tqdm(hostile, total=number, desc="sending", disable=None)):
        producer.send(topic, value, key=b"k", partition=0)  # a tombstone needs a key
        sent.hostile[value] += 1
        sent.readable += has_readable_id(value)
        if n % each == 0 and n // each < valid:
            pipeline.request(n, request_id=f"valid-{n // each}", partition=0)
    producer.close()
    pipeline.producer.flush()
    return sent


def has_readable_id(value: bytes | None) -> bool:
    """True if the message must get an error reply."""
    try:
        decode_request(value)
    except InvalidMessage as error:
        return error.request_id is not None
    return False


def read_letters(pipeline: Pipeline, number: int) -> Counter:
    """Return how often each value is on the dead letter topic, once it has `number` letters."""
    topic, letters = f"{pipeline.prefix}dead_letter_topic", Counter()
    patience = {"consumer_timeout_ms": STALLED * 1_000}  # ends the loop if nothing comes
    consumer = KafkaConsumer(
        topic, bootstrap_servers=pipeline.host, auto_offset_reset="earliest", **patience
    )
    for record in tqdm(consumer, total=number, desc="dead letters", disable=None):
        letters[record.value] += 1
        if letters.total() == number:
            break
    consumer.close()
    return letters


@contextmanager
def sampled_memory(pid: int) -> Iterator[list[float]]:
    """Sample a process's memory each second; the value is the list of samples, in MB."""
    samples, stop = [memory(pid)], threading.Event()

    def sample() -> None:
        while not stop.wait(1):
            samples.append(memory(pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        stop.set()
        sampler.join()


def attack(pipeline: Pipeline, number: int, valid: int, seed: int) -> tuple[Table, bool]:
    """Send everything to a predictor; return the table, and whether all promises were kept."""
    predictor = pipeline.predictor()
    with sampled_memory(predictor.pid) as samples:
        sent = send(pipeline, number, valid, seed)
        letters = read_letters(pipeline, sent.hostile.total())
    replies = pipeline.replies()
    predicted = Counter(reply["request_id"] for reply in replies if "prediction" in reply)
    errors = sum("error" in reply for reply in replies)
    every_request = Counter(f"valid-{n}" for n in range(valid))
    running = predictor.poll() is None
    rows = (
        ("valid requests: predictions", valid, predicted.total(), predicted == every_request),
        ("readable ids: error replies", sent.readable, errors, errors == sent.readable),
        ("dead letters, byte for byte", number, letters.total(), letters == sent.hostile),
        ("the predictor still runs", 1, int(running), running),
    )
    table = Table("hostile input", "expected", "found", "as promised")
    for name, expected, found, kept in rows:
        table.add_row(name, f"{expected:,}", f"{found:,}", "yes" if kept else "NO")
    fifths = [samples[len(samples) * n // 5] for n in range(1, 5)] + [samples[-1]]
    table.add_row("its MB after each fifth of the time", "", " ".join(f"{mb:.0f}" for mb in fifths))
    return table, all(kept for *_, kept in rows)


def main() -> int:
    """Do one run; return 1 if a promise was broken."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    parser = command_line(__doc__, "tests.chaos.hostile")
    parser.add_argument("--messages", type=int, default=100_000, help="hostile ones (100000)")
    parser.add_argument("--requests", type=int, default=10_000, help="valid ones (10000)")
    parser.add_argument("--seed", type=int, default=7, help="of the messages (7)")
    chosen = parser.parse_args()
    say(f"Hostile input: seed {chosen.seed}.")
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as folder,
        own_pipeline(Path(folder), "hostile-", *QUICK) as pipeline,
    ):
        table, kept = attack(pipeline, chosen.messages, chosen.requests, chosen.seed)
    Console().print(table)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
