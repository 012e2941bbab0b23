"""Counts where utils/kafka_client/transaction_markers.py would write a marker, and writes none.

    python -m tests.chaos.marker_watch chaos-predictors predictor-0 chaos-app_messages

Looks at the transactions of some predictors again and again, as fast as Kafka answers. What it
would act on is a transaction that is open on a partition before and after the coordinator has said
that it is complete. Prints a line of JSON for each: topic, partition, first offset, and whether the
marker would commit. tests/chaos/audit.py compares that with what became of the record there.
"""

import json
import time
from contextlib import suppress
from pathlib import Path

from kafka.errors import KafkaError

from utils.kafka_client.security import Refused
from utils.kafka_client.transaction_view import COMPLETE, Decision, TransactionView
from utils.process import stop_on_signals
from utils.script import command_line, run


def would_act_on(view: TransactionView) -> tuple[set, bool]:
    """Return the open transactions that would get a marker, and whether that would commit."""
    view.find_partitions()
    last = view.describe()
    if last.state not in COMPLETE:
        return set(), False
    decision = Decision(last, view.open_transactions(last.producer_id))
    if not decision.was_open or view.describe() != last:
        return set(), False
    hanging = view.open_transactions(last.producer_id)
    return {each for each in hanging if decision.covers(each)}, decision.is_commit


def compare(log: Path, records: list) -> str:
    """Say how often a marker would have been written, and how often not as Kafka ended it.

    records : all that are committed in app_messages; a record that is not among them was aborted.
    Of the group's offsets and of other topics nothing can be said.
    """
    seen = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("[")]
    committed = {(r.topic, r.partition, r.offset) for r in records}
    topics = {topic for topic, _, _ in committed}
    known = [each for each in seen if each[0] in topics]
    wrong = sum((tuple(place) in committed) != commits for *place, commits, _ in known)
    return f"{len(seen)}; {len(known)} of them in app_messages, {wrong} of these wrong"


def main() -> None:
    """Watch until Ctrl-C or SIGTERM."""
    parser = command_line(__doc__, "tests.chaos.marker_watch")
    parser.add_argument("group")
    parser.add_argument("predictors", help="names, separated by commas")
    parser.add_argument("topics", nargs="+")
    arguments = parser.parse_args()
    stop, seen = stop_on_signals(), set()
    names = arguments.predictors.split(",")
    views: list[TransactionView] = []
    while not stop.wait(0.02):
        with suppress(KafkaError, Refused, OSError, ValueError):
            while len(views) < len(names):
                name = f"{arguments.group}-{names[len(views)]}"
                views.append(TransactionView(name, arguments.group, tuple(arguments.topics)))
            for view in views:
                hanging, is_commit = would_act_on(view)
                for each in hanging - seen:
                    place = (*each.partition, each.producer.current_transaction_start_offset)
                    print(json.dumps([*place, is_commit, round(time.time(), 2)]), flush=True)
                seen |= hanging


if __name__ == "__main__":
    run(main)
