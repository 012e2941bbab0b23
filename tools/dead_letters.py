"""Shows the messages that could not be understood, and sends them again after a fix.

    python -m tools.dead_letters list
    python -m tools.dead_letters show 7 >FILE # the letter at offset 7, its bytes unchanged
    python -m tools.dead_letters replay       # send every letter that was not replayed yet

A replayed message, a request or the report of an outcome, goes to the partition it came from, with
its key, in one transaction with the offset of its letter: even if the tool is killed, each letter
is replayed exactly once. A message that still can't be understood comes back as a new letter. How
far it has come, replay also writes to the topic of dead letters, as records with an empty value and
a header `checkpoint`: so `list` marks the letters that replay has handled, which are sent or
reported as impossible to send, and nothing is sent again after the offset has expired.
"""

import sys
from collections.abc import Iterator
from contextlib import closing

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from utils import console
from utils.console import say, warn
from utils.kafka_client.batch import Batch
from utils.kafka_client.checkpoints import decode_checkpoint
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.dead_letters import DeadLetter, decode_letter, is_letter
from utils.kafka_client.positions import all_partitions, assign_all, records_up_to_now
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    prepare_topics,
)
from utils.kafka_client.transactions import TransactionalStream
from utils.process import stop_on_signals
from utils.script import command_line, run
from utils.settings import settings

REPLAY_GROUP = settings.topic_prefix + "dead-letter-replay"
SOURCES = (APP_MESSAGES, OUTCOMES_TOPIC)  # of the letters that can be replayed
REPLAY_WRITES = (*SOURCES, DEAD_LETTER_TOPIC)


def read_records() -> Iterator[ConsumerRecord]:
    """Yield all records of the topic of dead letters up to now, oldest first."""
    with closing(make_consumer()) as consumer:
        consumer.seek_to_beginning(*assign_all(consumer, DEAD_LETTER_TOPIC))
        yield from records_up_to_now(consumer)


def read_letters() -> Iterator[DeadLetter]:
    """Yield all dead letters up to now, oldest first."""
    return map(decode_letter, filter(is_letter, read_records()))


def printable(text: str | None) -> str:
    """Return a text as printable ASCII that neither a terminal nor rich takes for commands."""
    return escape(ascii(text or "")[1:-1])


def show_list() -> None:
    """Print one line for each letter; "handled" are those that replay has sent or reported."""
    records = list(read_records())
    checkpoints = filter(None, map(decode_checkpoint, records))
    done = max((c.offset for c in checkpoints if c.group == REPLAY_GROUP), default=0)
    table = Table("offset", "from", "bytes", "handled", "reason")
    for letter in map(decode_letter, filter(is_letter, records)):
        about = letter.facts
        origin = f"{about.get('topic')}-{about.get('partition')} at {about.get('offset')}"
        size = about.get("size") or str(len(letter.value or b""))
        row = (origin, size, "yes" if letter.offset < done else "", about.get("reason"))
        table.add_row(str(letter.offset), *map(printable, row))
    Console().print(table)


def show(offset: int) -> None:
    """Print a letter's headers to stderr and its bytes to stdout.

    The bytes are unchanged, except on a terminal, which could take some of them for commands.
    """
    for letter in read_letters():
        if letter.offset == offset:
            for name, value in letter.facts.items():
                print(console.printable(f"{name}: {value}"), file=sys.stderr)
            value = letter.value or b""
            if sys.stdout.isatty():
                print(console.printable(value.decode(errors="backslashreplace")))
            else:
                sys.stdout.buffer.write(value)
            return
    raise SystemExit(f"There is no letter at offset {offset}: see list")


def replay() -> None:
    """Send again what was not replayed yet, up to the last letter there is now."""
    stop, partition = stop_on_signals(), TopicPartition(DEAD_LETTER_TOPIC, 0)
    last, replayed = max((letter.offset for letter in read_letters()), default=-1), 0
    with closing(make_consumer()) as consumer:
        found = (each for topic in SOURCES for each in all_partitions(consumer, topic))
        targets = {(topic, str(partition)) for topic, partition in found}
    stream = TransactionalStream(
        DEAD_LETTER_TOPIC, REPLAY_GROUP, "replay", REPLAY_WRITES, own_records=True
    )
    with closing(stream):
        while not stop.is_set() and not stream.has_committed(partition, last):
            batch = stream.poll()
            letters = map(decode_letter, filter(is_letter, batch.records))
            sent = sum(send_again(letter, batch, targets) for letter in letters)
            replayed += sent if stream.commit(batch) else 0
    say(f"Replayed {replayed} letters.", "bold")


def send_again(letter: DeadLetter, batch: Batch, targets: set[tuple[str, str]]) -> bool:
    """Put a letter's message into the batch; if that is impossible, say why and return False.

    targets : the topics, and the numbers of their partitions, that messages may be sent to.
    """
    about, name = letter.facts, f"The letter at offset {letter.offset}"
    topic, partition = target = (about.get("topic", ""), about.get("partition", ""))
    if target not in targets:
        sources = " or ".join(SOURCES)
        warn(f"{name} did not come from a partition of {sources}: not replayed.")
        return False
    place = f"{topic}-{partition} at offset {ascii(about.get('offset'))}"
    if letter.is_empty:
        warn(f"{name} is empty: not replayed; the message is in {place}.")
        return False
    message = {"topic": topic, "value": letter.value, "key": letter.key}
    if not batch.fits(message):
        warn(f"{name} is too large for its topic: not replayed; the message is in {place}.")
        return False
    batch.send(**message, partition=int(partition))
    return True


def main() -> None:
    """Do what the command line says."""
    parser = command_line(__doc__, "tools.dead_letters")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="one line for each letter")
    commands.add_parser("show", help="one letter").add_argument("offset", type=int)
    commands.add_parser("replay", help="send again what was not replayed yet")
    arguments = parser.parse_args()
    writes = REPLAY_WRITES if arguments.command == "replay" else ()
    prepare_topics(read=(DEAD_LETTER_TOPIC,), write=writes)
    if arguments.command == "show":
        show(arguments.offset)
    else:
        {"list": show_list, "replay": replay}[arguments.command]()


if __name__ == "__main__":
    run(main)
