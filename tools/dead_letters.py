"""Looks at the messages that could not be understood, and sends them again after a fix.

    python -m tools.dead_letters list
    python -m tools.dead_letters show 7       # the letter at offset 7, its bytes as they are
    python -m tools.dead_letters replay       # every letter that was not replayed yet, once

A replayed message goes to the partition it came from, with its key, in one transaction with the
note that it was replayed: killed in between, each letter is still replayed exactly once. What is
wrong still comes back as a new letter.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from utils.console import say, warn
from utils.kafka_client.batch import Batch
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import all_partitions, assign_all, records_up_to_now
from utils.kafka_client.records import Unreadable
from utils.kafka_client.topics import APP_MESSAGES, DEAD_LETTER_TOPIC, prepare_topics
from utils.kafka_client.transactions import TransactionalStream
from utils.process import stop_on_signals
from utils.script import run
from utils.settings import settings

REPLAY_GROUP = settings.topic_prefix + "dead-letter-replay"


def letters() -> Iterator[ConsumerRecord]:
    """Yield all dead letters up to now, oldest first."""
    with closing(make_consumer()) as consumer:
        consumer.seek_to_beginning(*assign_all(consumer, DEAD_LETTER_TOPIC))
        yield from records_up_to_now(consumer)


def facts(letter: ConsumerRecord) -> dict[str, str]:
    """Return a letter's headers: where it came from and why, size and digest of one too large."""
    if isinstance(letter.value, Unreadable):
        return {"reason": letter.value.reason}
    return {name: (value or b"").decode(errors="replace") for name, value in letter.headers}


def content(letter: ConsumerRecord) -> bytes:
    """Return the message that was put aside; empty if the letter does not hold it."""
    return letter.value if isinstance(letter.value, bytes) else b""


def is_whole(letter: ConsumerRecord) -> bool:
    """True if the letter holds the message itself, and not only where it is."""
    about = facts(letter)
    return "sha256" not in about and not about.get("reason", "").startswith("the record can't be")


def printable(text: str | None) -> str:
    """Return a text as printable ASCII that neither a terminal nor rich takes for commands."""
    return escape(ascii(text or "")[1:-1])


def show_list() -> None:
    """Print one line for each letter."""
    table = Table("offset", "from", "bytes", "reason")
    for letter in letters():
        about = facts(letter)
        origin = f"{about.get('topic')}-{about.get('partition')} at {about.get('offset')}"
        size = about.get("size") or str(len(content(letter)))
        table.add_row(str(letter.offset), *map(printable, (origin, size, about.get("reason"))))
    Console().print(table)


def show(offset: int) -> None:
    """Print a letter's headers to stderr and its bytes, unchanged, to stdout.

    On a terminal a newline follows them.
    """
    for letter in letters():
        if letter.offset == offset:
            for name, value in facts(letter).items():
                print(f"{name}: {ascii(value)[1:-1]}", file=sys.stderr)
            sys.stdout.buffer.write(content(letter) + b"\n" * sys.stdout.isatty())
            return
    raise SystemExit(f"There is no letter at offset {offset}: see list")


def replay() -> None:
    """Send again what was not replayed yet, up to the last letter there is now."""
    stop, partition = stop_on_signals(), TopicPartition(DEAD_LETTER_TOPIC, 0)
    last, replayed = max((letter.offset for letter in letters()), default=-1), 0
    with closing(make_consumer()) as consumer:
        targets = {str(each.partition) for each in all_partitions(consumer, APP_MESSAGES)}
    writes = (APP_MESSAGES,)
    with closing(TransactionalStream(DEAD_LETTER_TOPIC, REPLAY_GROUP, "replay", writes)) as stream:
        while not stop.is_set() and not stream.has_committed(partition, last):
            batch = stream.poll()
            sent = sum(send_again(letter, batch, targets) for letter in batch.records)
            replayed += sent if stream.commit(batch) else 0
    say(f"Replayed {replayed} letters.", "bold")


def send_again(letter: ConsumerRecord, batch: Batch, partitions: set[str]) -> bool:
    """Put a letter's message into the batch, as it was; False, and said why, if that can't be."""
    about, name = facts(letter), f"The letter at offset {letter.offset}"
    if about.get("topic") != APP_MESSAGES or about.get("partition") not in partitions:
        warn(f"{name} did not come from a partition of {APP_MESSAGES}: left alone.")
        return False
    place = f"{APP_MESSAGES}-{about['partition']} at offset {ascii(about.get('offset'))}"
    if not is_whole(letter):
        warn(f"{name} is empty; the message is in {place}.")
        return False
    message = {"topic": APP_MESSAGES, "value": letter.value, "key": letter.key}
    if not batch.fits(message):
        warn(f"{name} is too large to be sent again as it is; the message is in {place}.")
        return False
    batch.send(**message, partition=int(about["partition"]))
    return True


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.dead_letters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one line for each letter")
    commands.add_parser("show", help="one letter").add_argument("offset", type=int)
    commands.add_parser("replay", help="send again what was not replayed yet")
    arguments = parser.parse_args()
    writes = (APP_MESSAGES,) if arguments.command == "replay" else ()
    prepare_topics(read=(DEAD_LETTER_TOPIC,), write=writes)
    if arguments.command == "show":
        show(arguments.offset)
    else:
        {"list": show_list, "replay": replay}[arguments.command]()


if __name__ == "__main__":
    run(main)
